//! A loaded module: initialised once, shared by its tokens, initialised anew as the last resort.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use cryptoki_sys::{
    CKR_ARGUMENTS_BAD, CKR_CANT_LOCK, CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_NEED_TO_CREATE_THREADS,
};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::codes;
use super::ffi::RawModule;
use super::native::{Arguments, Error};
use super::reinitialization::{Schedule, User};
use crate::limits::{MAX_LOGIN_WAIT, MAX_SLOTS};

/// The modules of this process: C_Initialize is a process's, not a caller's. They stay loaded, as
/// a module may have left threads behind.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = LazyLock::new(Mutex::default);

/// One PKCS#11 module.
pub struct Module {
    /// Where it was loaded from.
    pub path: PathBuf,
    /// For all calls.
    pub raw: Arc<RawModule>,
    initialize_parameters: Option<String>,
    /// Every call into the module holds this for reading; C_Initialize and C_Finalize hold it
    /// for writing. C_Finalize never waits for it: with a call outstanding its effect is
    /// undefined (PKCS#11 v2.40, 5.4), and an outstanding call may hang.
    gate: RwLock<Initialization>,
    /// Another part of this process initialised it; then it is not ours to finalise.
    is_foreign: AtomicBool,
    live_sessions: AtomicUsize,
    users: AtomicUsize,
    /// Users so far.
    next_user: AtomicU64,
    schedule: Mutex<Schedule>,
}

/// Which C_Initialize handles belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

#[derive(Debug)]
struct Initialization {
    generation: Generation,
    is_initialized: bool,
}

/// The permission to call into the module; while one is held there is no C_Finalize.
pub struct Entry<'a> {
    initialization: RwLockReadGuard<'a, Initialization>,
}

impl Entry<'_> {
    /// Which initialisation it is that was entered.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.initialization.generation
    }
}

impl Module {
    /// Loads the module, or finds it loaded. Does not initialise it.
    ///
    /// # Errors
    /// It is not a PKCS#11 module; the text says which and why.
    pub fn load(path: &Path, initialize_parameters: Option<&str>) -> Result<Arc<Self>, String> {
        let mut modules = MODULES.lock();
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(module) = modules.get(&canonical) {
            module.users.fetch_add(1, Ordering::Relaxed);
            return Ok(Arc::clone(module));
        }
        let context = |what: String| {
            format!("{} (PKCS11_HSM_MODULE): not a PKCS#11 module: {what}", path.display())
        };
        let raw = RawModule::load(path).map_err(context)?;
        let module = Arc::new(Self {
            path: path.to_owned(),
            raw: Arc::new(raw),
            initialize_parameters: initialize_parameters.map(str::to_owned),
            gate: RwLock::new(Initialization { generation: Generation(0), is_initialized: false }),
            is_foreign: AtomicBool::new(false),
            live_sessions: AtomicUsize::new(0),
            users: AtomicUsize::new(1),
            next_user: AtomicU64::new(0),
            schedule: Mutex::default(),
        });
        modules.insert(canonical, Arc::clone(&module));
        Ok(module)
    }

    /// Permission to make calls that are not a session's: initialises the module if need be.
    ///
    /// # Errors
    /// C_Initialize failed, or another thread is at it and takes its time.
    pub fn enter(&self) -> Result<Entry<'_>, String> {
        let busy = || "the module is being initialised".to_owned();
        {
            let initialization = self.gate.try_read_for(MAX_LOGIN_WAIT).ok_or_else(busy)?;
            if initialization.is_initialized {
                return Ok(Entry { initialization });
            }
        }
        let mut initialization = self.gate.try_write_for(MAX_LOGIN_WAIT).ok_or_else(busy)?;
        if !initialization.is_initialized {
            self.initialize(&mut initialization)?;
        }
        drop(initialization);
        let initialization = self.gate.try_read_for(MAX_LOGIN_WAIT).ok_or_else(busy)?;
        if initialization.is_initialized { Ok(Entry { initialization }) } else { Err(busy()) }
    }

    /// Permission to make a call on a session of that generation. Never waits.
    #[must_use]
    pub fn enter_session(&self, generation: Generation) -> Option<Entry<'_>> {
        let initialization = self.gate.try_read()?;
        (initialization.is_initialized && initialization.generation == generation)
            .then_some(Entry { initialization })
    }

    fn initialize(&self, initialization: &mut Initialization) -> Result<(), String> {
        let result = match self.initialize_parameters.as_deref() {
            None => self.initialize_as_it_likes(),
            Some(parameters) => self.raw.initialize(Arguments::Parameters(parameters)),
        };
        let is_foreign = match result {
            Ok(()) => false,
            Err(Error { code: Some(CKR_CRYPTOKI_ALREADY_INITIALIZED), .. }) => true,
            Err(error) => return Err(codes::describe_error(&error)),
        };
        self.is_foreign.store(is_foreign, Ordering::Release);
        initialization.is_initialized = true;
        initialization.generation.0 += 1;
        Ok(())
    }

    /// With the locks of the operating system; a module that cannot use them is not thread-safe, and
    /// may take no arguments at all.
    fn initialize_as_it_likes(&self) -> Result<(), Error> {
        let is_about_arguments = |error: &Error| {
            matches!(
                error.code,
                Some(CKR_CANT_LOCK | CKR_ARGUMENTS_BAD | CKR_NEED_TO_CREATE_THREADS)
            )
        };
        self.raw.set_serial(false);
        let refusal = match self.raw.initialize(Arguments::OsLocking) {
            Err(error) if is_about_arguments(&error) => error,
            result => return result,
        };
        match self.raw.initialize(Arguments::NoLocking) {
            Err(error) if is_about_arguments(&error) => self.raw.initialize(Arguments::Null)?,
            result => result?,
        }
        self.raw.set_serial(true);
        tracing::warn!(
            module = %self.path.display(),
            reason = codes::describe_error(&refusal),
            "the PKCS#11 module is not thread-safe: its calls are made one at a time, so more \
             sessions do no more work, and one call that hangs holds up all"
        );
        Ok(())
    }

    /// A session was opened.
    pub fn session_opened(&self) {
        self.live_sessions.fetch_add(1, Ordering::AcqRel);
    }

    /// A session was closed or given up.
    pub fn session_gone(&self) {
        self.live_sessions.fetch_sub(1, Ordering::AcqRel);
    }

    /// Numbers a user.
    pub fn enlist(&self) -> User {
        User(self.next_user.fetch_add(1, Ordering::Relaxed))
    }

    /// A token of the module works.
    pub fn works(&self, user: User) {
        self.schedule.lock().works(user, Instant::now());
    }

    /// A token of the module does not work.
    pub fn fails(&self, user: User) {
        self.schedule.lock().fails(user);
    }

    /// Whether [`Self::reinitialize`] may come to something for that user, sooner or later: no other
    /// token of the module works, and the module is ours to finalise.
    #[must_use]
    pub fn may_be_reinitialized(&self, user: User) -> bool {
        !self.is_foreign.load(Ordering::Acquire) && !self.schedule.lock().does_another_work(user)
    }

    /// C_Finalize and C_Initialize, if no session is left, no call is outstanding, and it is due
    /// (see [`Schedule`]). Returns whether it was done.
    pub fn reinitialize(&self) -> bool {
        let Some(mut initialization) = self.gate.try_write() else { return false };
        // No session can be opened now: that takes an entry.
        // One that others initialised is theirs to finalise.
        let may = initialization.is_initialized && !self.is_foreign.load(Ordering::Acquire);
        if self.live_sessions.load(Ordering::Acquire) != 0 || !may {
            return false;
        }
        let slots = self.raw.slots(MAX_SLOTS).ok();
        if !self.schedule.lock().is_due(Instant::now(), slots) {
            return false;
        }
        // It may fail: the module may have lost its initialisation by itself.
        let _ = self.raw.finalize();
        initialization.is_initialized = false;
        let result = self.initialize(&mut initialization);
        self.schedule.lock().done(Instant::now());
        result.is_ok()
    }

    /// One user less. The last one finalises the module, if it may.
    pub fn release(&self) {
        // The registry is locked so that nobody takes the module up while it is finalised.
        let _modules = MODULES.lock();
        if self.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let Some(mut initialization) = self.gate.try_write() else { return };
        if initialization.is_initialized && !self.is_foreign.load(Ordering::Acquire) {
            let _ = self.raw.finalize();
            initialization.is_initialized = false;
        }
    }
}

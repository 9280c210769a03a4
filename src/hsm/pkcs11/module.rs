//! A loaded module, which is initialised once, shared by its tokens, and initialised again only as
//! a last resort.

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
use super::native::{Arguments, Error, LoadError};
use super::reinitialization::{Schedule, User};
use super::softhsm_hint;
use crate::hsm::backend::OpenError;
use crate::limits::{MAX_INITIALIZE_TURN_WAIT, MAX_LOGIN_WAIT, MAX_SLOTS};
use crate::observe::redaction::shown_path;

/// The modules of this process, since C_Initialize affects the whole process. They stay loaded,
/// because a module may have left threads running.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Arc<Module>>>> = LazyLock::new(Mutex::default);

/// Locked while a module is being initialised: one that shows the tokens of other modules, such as
/// p11-kit-proxy, initialises those too, and SoftHSM2 crashes if two threads do so at once.
static INITIALIZING: Mutex<()> = Mutex::new(());

/// One PKCS#11 module.
pub struct Module {
    /// Path from which it was loaded.
    pub path: PathBuf,
    /// The functions through which all calls are made.
    pub raw: Arc<RawModule>,
    initialize_parameters: Option<String>,
    /// Locked for reading during every call into the module, and for writing during C_Initialize
    /// and C_Finalize. C_Finalize never waits for it: its effect is undefined while a call is
    /// outstanding (PKCS#11 v2.40, 5.4), and that call may hang.
    gate: RwLock<Initialization>,
    /// True if another part of this process initialised the module, and so must finalise it.
    is_foreign: AtomicBool,
    live_sessions: AtomicUsize,
    users: AtomicUsize,
    /// Identity of the next user.
    next_user: AtomicU64,
    schedule: Mutex<Schedule>,
}

/// Identifies one C_Initialize. Handles are valid within a single generation only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u64);

#[cfg(test)]
impl Generation {
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[derive(Debug)]
struct Initialization {
    generation: Generation,
    is_initialized: bool,
}

/// Permission to call into the module. C_Finalize is not called while any is held.
pub struct Entry<'a> {
    initialization: RwLockReadGuard<'a, Initialization>,
}

impl Entry<'_> {
    /// Returns the module's generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.initialization.generation
    }
}

impl Module {
    /// Loads the module unless it is already loaded, without initialising it.
    ///
    /// # Errors
    /// Returns [`LoadError`], which names the file and the reason, if the file is not a PKCS#11
    /// module.
    pub fn load(path: &Path, initialize_parameters: Option<&str>) -> Result<Arc<Self>, LoadError> {
        let mut modules = MODULES.lock();
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(module) = modules.get(&canonical) {
            module.users.fetch_add(1, Ordering::Relaxed);
            return Ok(Arc::clone(module));
        }
        let context = |LoadError(error)| {
            let shown = shown_path(path);
            // The system's loader begins its messages with the file's name.
            let error = error.replace(&*path.to_string_lossy(), &shown);
            LoadError(format!("{shown} (PKCS11_HSM_MODULE): not a PKCS#11 module: {error}"))
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

    /// Enters the module for calls outside a session, initialising it if necessary.
    ///
    /// # Errors
    /// Returns [`OpenError`] if C_Initialize failed, or another thread has been calling it for too
    /// long.
    pub fn enter(&self) -> Result<Entry<'_>, OpenError> {
        let busy = || OpenError::Unavailable("the module is being initialised".to_owned());
        {
            let initialization = self.gate.try_read_for(MAX_LOGIN_WAIT).ok_or_else(busy)?;
            if initialization.is_initialized {
                return Ok(Entry { initialization });
            }
        }
        let mut initialization = self.gate.try_write_for(MAX_LOGIN_WAIT).ok_or_else(busy)?;
        if !initialization.is_initialized {
            self.initialize(&mut initialization).map_err(|error| {
                let hint = softhsm_hint::hint(&self.path, &error);
                OpenError::Unavailable(codes::describe_error(&error) + &hint)
            })?;
        }
        drop(initialization);
        let initialization = self.gate.try_read_for(MAX_LOGIN_WAIT).ok_or_else(busy)?;
        if initialization.is_initialized { Ok(Entry { initialization }) } else { Err(busy()) }
    }

    /// Enters the module for calls on a session of that generation, without waiting. Returns `None`
    /// if the module is being initialised, or has been initialised again.
    #[must_use]
    pub fn enter_session(&self, generation: Generation) -> Option<Entry<'_>> {
        let initialization = self.gate.try_read()?;
        (initialization.is_initialized && initialization.generation == generation)
            .then_some(Entry { initialization })
    }

    fn initialize(&self, initialization: &mut Initialization) -> Result<(), Error> {
        // One that hangs in C_Initialize delays the others, but does not keep them from starting.
        let _turn = INITIALIZING.try_lock_for(MAX_INITIALIZE_TURN_WAIT);
        let result = match self.initialize_parameters.as_deref() {
            None => self.initialize_as_it_likes(),
            Some(parameters) => self.raw.initialize(Arguments::Parameters(parameters)),
        };
        let is_foreign = match result {
            Ok(()) => false,
            Err(Error { code: Some(CKR_CRYPTOKI_ALREADY_INITIALIZED), .. }) => true,
            Err(error) => return Err(error),
        };
        self.is_foreign.store(is_foreign, Ordering::Release);
        initialization.is_initialized = true;
        initialization.generation.0 += 1;
        Ok(())
    }

    /// Calls C_Initialize with OS locking. A module that refuses this is not thread-safe, and may
    /// accept no arguments at all.
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
             sessions do not raise throughput, and one call that hangs blocks all others"
        );
        Ok(())
    }

    /// Records that a session was opened.
    pub fn session_opened(&self) {
        self.live_sessions.fetch_add(1, Ordering::AcqRel);
    }

    /// Records that a session was closed or abandoned.
    pub fn session_closed(&self) {
        self.live_sessions.fetch_sub(1, Ordering::AcqRel);
    }

    /// Returns the identity of a new user.
    pub fn add_user(&self) -> User {
        User(self.next_user.fetch_add(1, Ordering::Relaxed))
    }

    /// Records that a token of the module works.
    pub fn works(&self, user: User) {
        self.schedule.lock().works(user, Instant::now());
    }

    /// Records that a token of the module does not work.
    pub fn fails(&self, user: User) {
        self.schedule.lock().fails(user);
    }

    /// Returns whether [`Self::reinitialize`] can eventually take effect for that user: no other
    /// token of the module works, and the proxy itself initialised the module.
    #[must_use]
    pub fn may_be_reinitialized(&self, user: User) -> bool {
        !self.is_foreign.load(Ordering::Acquire) && !self.schedule.lock().does_another_work(user)
    }

    /// Calls C_Finalize and C_Initialize if no session is left, no call is outstanding and the
    /// [`Schedule`] permits it. Returns whether the module was initialised again.
    pub fn reinitialize(&self) -> bool {
        let Some(mut initialization) = self.gate.try_write() else { return false };
        // No session can be opened while the gate is locked for writing.
        let may = initialization.is_initialized && !self.is_foreign.load(Ordering::Acquire);
        if self.live_sessions.load(Ordering::Acquire) != 0 || !may {
            return false;
        }
        let slots = self.raw.slots(MAX_SLOTS).ok();
        if !self.schedule.lock().is_due(Instant::now(), slots) {
            return false;
        }
        // This fails if the module has already lost its initialisation.
        let _ = self.raw.finalize();
        initialization.is_initialized = false;
        let result = self.initialize(&mut initialization);
        self.schedule.lock().done(Instant::now());
        result.is_ok()
    }

    /// Removes a user. If it is the last one, finalises the module, provided that the proxy
    /// initialised it.
    pub fn release(&self) {
        // The registry is locked so that no other user gets the module while it is finalised.
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

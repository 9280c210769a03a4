//! The single instance of this library, and the handling of a call before it is forwarded.

use std::fs::File;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CKR_BUFFER_TOO_SMALL,
    CKR_DEVICE_REMOVED, CKR_SESSION_HANDLE_INVALID, CKR_TOKEN_NOT_PRESENT,
};

use crate::calls::Calls;
use crate::environment::{self, Environment};
use crate::fault::{About, Action, Fault};
use crate::functions::Function;
use crate::gate::{Gate, Permit};
use crate::gcm::MadeIvs;
use crate::keys::{self, Label, Labels};
use crate::latency;
use crate::marks;
use crate::oddities::{Asked, Numbers, Strays};
use crate::sessions::Sessions;
use crate::settings::Settings;

/// Maximum time for which a hung call waits before it checks the settings again.
const HANG_LOOK: Duration = Duration::from_secs(60);
/// Purposes of delay draws begin here, so that delays are independent of whether faults act.
const DELAY_PURPOSE: u64 = 1 << 32;

/// The object that a call is about.
#[derive(Clone, Copy)]
pub enum Target {
    Module,
    Slot(CK_SLOT_ID),
    Session(CK_SESSION_HANDLE),
    /// A session, and the key of the operation that is about to begin in it.
    Key(CK_SESSION_HANDLE, CK_OBJECT_HANDLE),
}

impl Target {
    fn session(self) -> Option<CK_SESSION_HANDLE> {
        match self {
            Self::Module | Self::Slot(_) => None,
            Self::Session(session) | Self::Key(session, _) => Some(session),
        }
    }
}

/// The state of this copy of the library.
pub struct Interposer {
    pub real: &'static CK_FUNCTION_LIST,
    pub environment: Environment,
    pub sessions: Sessions,
    pub made_ivs: MadeIvs,
    pub asked: Asked,
    pub strays: Strays,
    pub numbers: Numbers,
    pub labels: Labels,
    pub calls: Calls,
    pub settings: ArcSwap<Settings>,
    /// Number of times settings were read. `error` is the mistake in the latest ones, if refused.
    pub reads: AtomicU64,
    pub error: Mutex<String>,
    pub hung: AtomicUsize,
    pub watched_by: AtomicU32,
    changed: (Mutex<()>, Condvar),
}

/// A call on its way to the real module.
#[derive(Default)]
pub struct Call {
    /// Set if one bit of its output is to be flipped.
    pub flip_bit: bool,
    /// The key of the operation that it begins, if faults depend on keys.
    pub begins_with: Option<Label>,
    /// Held until the call returns.
    _permit: Option<Permit>,
}

/// Uses memory and a descriptor until the process ends, as a module with a leak does.
fn leak(bytes: usize) {
    std::mem::forget(vec![1_u8; bytes]);
    if let Ok(file) = File::open("/dev/null") {
        std::mem::forget(file);
    }
}

static INTERPOSER: OnceLock<Result<Interposer, String>> = OnceLock::new();

/// Returns this copy's instance, made at the first call.
///
/// # Errors
/// Mistake in the environment, the real module or the settings.
pub fn start() -> Result<&'static Interposer, &'static str> {
    let made = INTERPOSER.get_or_init(|| {
        let environment = Environment::read()?;
        let real = environment::load(&environment.module)?;
        let settings = Settings::parse(&environment.settings_text()?, environment.default_seed)?;
        Ok(Interposer {
            real,
            environment,
            sessions: Sessions::default(),
            made_ivs: MadeIvs::default(),
            asked: Asked::default(),
            strays: Strays::default(),
            numbers: Numbers::default(),
            labels: Labels::default(),
            calls: Calls::new(),
            settings: ArcSwap::from_pointee(settings),
            reads: AtomicU64::new(1),
            error: Mutex::default(),
            hung: AtomicUsize::new(0),
            watched_by: AtomicU32::new(0),
            changed: (Mutex::default(), Condvar::new()),
        })
    });
    made.as_ref().map_err(String::as_str)
}

/// The instance, if it was made.
pub fn get() -> Option<&'static Interposer> {
    INTERPOSER.get().and_then(|made| made.as_ref().ok())
}

impl Interposer {
    /// Counts a call and applies the settings to it.
    ///
    /// # Errors
    /// The return code of a call that must not be forwarded.
    pub fn begin(&self, function: Function, target: Target) -> Result<Call, CK_RV> {
        self.calls.count(function);
        marks::mark(function);
        let settings = self.settings.load();
        if settings.is_passive && !self.sessions.any_doomed() {
            return Ok(Call::default());
        }
        self.act(&settings, function, target)
    }

    /// Returns the real module's handle of an object; `None` if the session has no such object.
    pub fn real_handle(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
    ) -> Option<CK_OBJECT_HANDLE> {
        match self.settings.load().odd.handles_of_sessions {
            true => self.numbers.real(session, object),
            false => Some(object),
        }
    }

    /// Replaces the real module's handles by those that the application gets.
    pub fn given_handles(&self, session: CK_SESSION_HANDLE, handles: &mut [CK_OBJECT_HANDLE]) {
        if self.settings.load().odd.handles_of_sessions {
            self.numbers.number(session, handles);
        }
    }

    /// Returns whether a call is forwarded, given whether it has a buffer for its output.
    pub fn may_go_on(
        &self,
        function: Function,
        session: CK_SESSION_HANDLE,
        has_buffer: bool,
    ) -> bool {
        !self.settings.load().odd.wants_length_first
            || self.asked.may_go_on(function, session, has_buffer)
    }

    /// Puts other settings in force and has hung calls check them.
    pub fn change(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.labels.settings_changed();
        let _guard = self.changed.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.1.notify_all();
    }

    fn act(&self, settings: &Settings, function: Function, target: Target) -> Result<Call, CK_RV> {
        let mut flip_bit = false;
        let mut delay = Duration::ZERO;
        let (about, age) = if settings.faults.is_empty() {
            (About { function, slot: None, key: None }, Duration::ZERO)
        } else {
            (self.about(settings, function, target), settings.read_at.elapsed())
        };
        for (index, fault) in settings.faults.iter().enumerate() {
            if !fault.fits(&about, age) {
                continue;
            }
            let Some(number) = fault.strike(settings.seed, index) else {
                continue;
            };
            match &fault.action {
                Action::Return(code) => return Err(self.fail(fault, &about, target, *code)),
                Action::Hang { time, code } => {
                    self.hang(&about, *time);
                    if let Some(code) = code {
                        return Err(self.fail(fault, &about, target, *code));
                    }
                }
                Action::Delay(latency) => {
                    delay += latency.draw(settings.seed, DELAY_PURPOSE + index as u64, number);
                }
                Action::CloseSession => self.close(target),
                Action::RemoveToken(code) => return Err(self.remove(about.slot, target, *code)),
                Action::FlipBit => flip_bit = true,
                Action::Leak(bytes) => leak(*bytes),
            }
        }
        if let Some(session) = target.session()
            && self.sessions.any_doomed()
            && self.sessions.is_doomed(session)
        {
            self.close(target);
            return Err(CKR_SESSION_HANDLE_INVALID);
        }
        if let Some(code) = settings.emulation.refuses(function) {
            return Err(code);
        }
        let gate = settings.gate.as_ref().filter(|_| settings.is_capped(function));
        let permit = gate.map(Gate::enter);
        delay += settings.draw_latency(function);
        latency::sleep(delay);
        let begins_with = about.key.filter(|_| matches!(target, Target::Key(..)));
        Ok(Call { flip_bit, begins_with, _permit: permit })
    }

    fn about(&self, settings: &Settings, function: Function, target: Target) -> About {
        let slot = self.slot_of(target);
        let key = match (target, slot) {
            _ if !settings.asks_for_keys => None,
            (Target::Key(session, key), Some(slot)) => {
                Some(self.labels.of(self.real, slot, session, key))
            }
            (Target::Session(session), _) => self.labels.in_use(function, session),
            _ => None,
        };
        About { function, slot, key }
    }

    /// Records the real module's return code for a call that begins an operation.
    pub fn began(&self, function: Function, session: CK_SESSION_HANDLE, call: Call, code: CK_RV) {
        if let Some(label) = call.begins_with {
            let slot = self.sessions.slot_of(session);
            self.labels.began(function, session, slot, label, code);
        }
    }

    /// Forgets a session that is about to be closed. (Not afterwards: the real module may give the
    /// same handle to another thread at once.)
    pub fn closing(&self, session: CK_SESSION_HANDLE) {
        self.labels.sessions_closed(self.sessions.slot_of(session), |closed| closed == session);
        self.sessions.closed(session);
        self.made_ivs.forget(session);
        self.numbers.forget(session);
    }

    /// Forgets all sessions of a slot, or of all slots.
    pub fn all_closed(&self, slot: Option<CK_SLOT_ID>) {
        self.sessions.all_closed(slot);
        self.labels.sessions_closed(slot, |session| self.sessions.slot_of(session).is_none());
    }

    /// Returns the slot that a call is about.
    pub fn slot_of(&self, target: Target) -> Option<CK_SLOT_ID> {
        match target {
            Target::Module => None,
            Target::Slot(slot) => Some(slot),
            Target::Session(session) | Target::Key(session, _) => self.sessions.slot_of(session),
        }
    }

    /// Waits until no hang in the settings in force fits the call, or for this time.
    fn hang(&self, about: &About, time: Duration) {
        let started = Instant::now();
        self.hung.fetch_add(1, Ordering::Relaxed);
        let mut guard = self.changed.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let settings = self.settings.load_full();
            let age = settings.read_at.elapsed();
            // While one fits, only the end of its time or new settings change that.
            let ends = settings.faults.iter().filter_map(|fault| {
                let is_hang = matches!(fault.action, Action::Hang { .. });
                (is_hang && fault.fits(about, age)).then(|| fault.until.saturating_sub(age))
            });
            let left = time.saturating_sub(started.elapsed());
            let Some(end) = ends.min().filter(|_| !left.is_zero()) else {
                break;
            };
            guard = self
                .changed
                .1
                .wait_timeout(guard, end.min(left).min(HANG_LOOK))
                .map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
        }
        drop(guard);
        self.hung.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns a fault's code for a call that is not forwarded. A call failed by a fault of a key
    /// counts as having reached the token, and so ends the operation (PKCS#11 v2.40, 5.8.2).
    fn fail(&self, fault: &Fault, about: &About, target: Target, code: CK_RV) -> CK_RV {
        if let Some(session) = target.session()
            && fault.keys.is_some()
            && code != CKR_BUFFER_TOO_SMALL
        {
            keys::end_operation(self.real, about.function, session);
            self.made_ivs.forget(session);
        }
        code
    }

    /// Removes the token together with everything that was open on it.
    fn remove(&self, slot: Option<CK_SLOT_ID>, target: Target, code: Option<CK_RV>) -> CK_RV {
        if let Some(slot) = slot {
            self.sessions.doom(slot);
        }
        self.close(target);
        code.unwrap_or(match target {
            Target::Session(_) | Target::Key(..) => CKR_DEVICE_REMOVED,
            _ => CKR_TOKEN_NOT_PRESENT,
        })
    }

    /// Closes a session behind the application's back.
    #[expect(unsafe_code, reason = "calls the real module")]
    fn close(&self, target: Target) {
        let Some(session) = target.session() else {
            return;
        };
        self.closing(session);
        if let Some(close_session) = self.real.C_CloseSession {
            // SAFETY: the real module checks the handle. The thread that makes the call is the one
            // that uses the session, provided that the application uses each session in one thread
            // only.
            unsafe { close_session(session) };
        }
    }
}

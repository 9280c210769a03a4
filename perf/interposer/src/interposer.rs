//! The one instance of this library: what happens to a call before it is forwarded.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CKR_DEVICE_REMOVED,
    CKR_SESSION_HANDLE_INVALID, CKR_TOKEN_NOT_PRESENT,
};

use crate::counts::Calls;
use crate::environment::{self, Environment};
use crate::fault::Action;
use crate::functions::Function;
use crate::gate::{Gate, Permit};
use crate::gcm::MadeIvs;
use crate::latency;
use crate::sessions::Sessions;
use crate::settings::Settings;
use crate::watcher;

/// How often a hung call looks whether its time is over.
const HANG_LOOK: Duration = Duration::from_millis(20);
/// The delays of faults are drawn apart from whether they act.
const DELAY_PURPOSE: u64 = 1 << 32;

/// What a call is about.
#[derive(Clone, Copy)]
pub enum Target {
    Module,
    Slot(CK_SLOT_ID),
    Session(CK_SESSION_HANDLE),
}

/// The state of this copy of the library.
pub struct Interposer {
    pub real: &'static CK_FUNCTION_LIST,
    pub environment: Environment,
    pub sessions: Sessions,
    pub made_ivs: MadeIvs,
    pub calls: Calls,
    pub settings: ArcSwap<Settings>,
    /// How often settings were read, and what was wrong with those that weren't taken.
    pub reads: AtomicU64,
    pub error: Mutex<String>,
    pub hung: AtomicUsize,
    pub watched_by: AtomicU32,
    changed: (Mutex<()>, Condvar),
}

/// A call on its way through.
#[derive(Default)]
pub struct Call {
    /// Its output is to be made wrong.
    pub flip_bit: bool,
    /// Held until it is back.
    _permit: Option<Permit>,
}

static INTERPOSER: OnceLock<Result<Interposer, String>> = OnceLock::new();

/// This copy's instance, made at the first call.
///
/// # Errors
/// What is wrong with environment, real module or settings.
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
            calls: Calls::new(),
            settings: ArcSwap::from_pointee(settings),
            reads: AtomicU64::new(1),
            error: Mutex::default(),
            hung: AtomicUsize::new(0),
            watched_by: AtomicU32::new(0),
            changed: (Mutex::default(), Condvar::new()),
        })
    });
    let interposer = made.as_ref().map_err(String::as_str)?;
    watcher::ensure(interposer);
    Ok(interposer)
}

/// The instance, if there is one.
pub fn get() -> Option<&'static Interposer> {
    INTERPOSER.get().and_then(|made| made.as_ref().ok())
}

impl Interposer {
    /// Counts a call and does to it what the settings say.
    ///
    /// # Errors
    /// The call is not to be forwarded but to return this.
    pub fn begin(&self, function: Function, target: Target) -> Result<Call, CK_RV> {
        self.calls.count(function);
        let settings = self.settings.load();
        if settings.is_passive && !self.sessions.any_doomed() {
            return Ok(Call::default());
        }
        self.act(&settings, function, target)
    }

    /// Puts other settings in force and has hung calls look at them.
    pub fn change(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
        self.reads.fetch_add(1, Ordering::Relaxed);
        let _guard = self.changed.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.1.notify_all();
    }

    fn act(&self, settings: &Settings, function: Function, target: Target) -> Result<Call, CK_RV> {
        let mut flip_bit = false;
        let mut delay = Duration::ZERO;
        let (slot, age) = if settings.faults.is_empty() {
            (None, Duration::ZERO)
        } else {
            (self.slot_of(target), settings.read_at.elapsed())
        };
        for (index, fault) in settings.faults.iter().enumerate() {
            if !fault.fits(function, slot, age) {
                continue;
            }
            let Some(number) = fault.strike(settings.seed, index) else {
                continue;
            };
            match &fault.action {
                Action::Return(code) => return Err(*code),
                Action::Hang(code) => {
                    self.hang(function, slot);
                    if let Some(code) = code {
                        return Err(*code);
                    }
                }
                Action::Delay(latency) => {
                    delay += latency.draw(settings.seed, DELAY_PURPOSE + index as u64, number);
                }
                Action::CloseSession => self.close(target),
                Action::RemoveToken(code) => return Err(self.remove(slot, target, *code)),
                Action::FlipBit => flip_bit = true,
            }
        }
        if let Target::Session(session) = target
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
        Ok(Call { flip_bit, _permit: permit })
    }

    fn slot_of(&self, target: Target) -> Option<CK_SLOT_ID> {
        match target {
            Target::Module => None,
            Target::Slot(slot) => Some(slot),
            Target::Session(session) => self.sessions.slot_of(session),
        }
    }

    /// Waits until the settings in force have no hang that fits.
    fn hang(&self, function: Function, slot: Option<CK_SLOT_ID>) {
        self.hung.fetch_add(1, Ordering::Relaxed);
        let mut guard = self.changed.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let settings = self.settings.load_full();
            let age = settings.read_at.elapsed();
            let is_hung = settings.faults.iter().any(|fault| {
                matches!(fault.action, Action::Hang(_)) && fault.fits(function, slot, age)
            });
            if !is_hung {
                break;
            }
            guard = self
                .changed
                .1
                .wait_timeout(guard, HANG_LOOK)
                .map_or_else(|poisoned| poisoned.into_inner().0, |(guard, _)| guard);
        }
        drop(guard);
        self.hung.fetch_sub(1, Ordering::Relaxed);
    }

    /// The token is gone, and what it had open with it.
    fn remove(&self, slot: Option<CK_SLOT_ID>, target: Target, code: Option<CK_RV>) -> CK_RV {
        if let Some(slot) = slot {
            self.sessions.doom(slot);
        }
        self.close(target);
        code.unwrap_or(match target {
            Target::Session(_) => CKR_DEVICE_REMOVED,
            _ => CKR_TOKEN_NOT_PRESENT,
        })
    }

    /// Closes a session behind the application's back.
    #[expect(unsafe_code, reason = "calls the real module")]
    fn close(&self, target: Target) {
        let Target::Session(session) = target else {
            return;
        };
        self.sessions.closed(session);
        if let Some(close_session) = self.real.C_CloseSession {
            // SAFETY: the real module checks the handle. The thread that makes the call is the
            // one that uses the session, as far as the application keeps to one thread a session.
            unsafe { close_session(session) };
        }
    }
}

//! The PINs that tokens have refused. They are remembered as long as the process lives, across
//! reloads and recoveries, since HSMs lock after a few wrong PINs.
//!
//! Only a keyed digest of a PIN is kept.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::{Condvar, Mutex};
use sha2::Sha256;

use crate::hsm::inventory::SlotInventory;
use crate::limits::{MAX_LOGIN_WAIT, MAX_OTHER_LOGIN_REFUSALS};
use crate::random;

/// All tries made by this process.
static TRIES: LazyLock<Mutex<Tries>> = LazyLock::new(Mutex::default);
/// Notified when a C_Login has returned.
static ENDED: Condvar = Condvar::new();

/// The identity of one PIN on one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinId([u8; 32]);

impl PinId {
    /// Identifies a PIN by the token and the PIN itself. A token counts as the same one in every
    /// module that shows it, unless it has no serial number or one of zeros (NSS softokn), which
    /// tokens of different modules may share. Returns `None` if the system returns no random bytes
    /// for the digest's key.
    #[must_use]
    pub fn of(module: &Path, token: &SlotInventory, pin: &str) -> Option<Self> {
        static KEY: LazyLock<Option<[u8; 32]>> = LazyLock::new(|| {
            let mut key = [0; 32];
            random::fill(&mut key).ok().map(|()| key)
        });
        let mut digest = Hmac::<Sha256>::new_from_slice(KEY.as_ref()?).ok()?;
        let has_serial = token.serial.chars().any(|c| !matches!(c, '0' | ' '));
        let module = if has_serial { &[][..] } else { module.as_os_str().as_encoded_bytes() };
        let SlotInventory { manufacturer, model, label, serial, .. } = token;
        let names = [manufacturer, model, label, serial].map(|name| name.as_bytes());
        for part in [module].into_iter().chain(names).chain([pin.as_bytes()]) {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Some(Self(digest.finalize().into_bytes().into()))
    }
}

/// The state of a token's user PIN (CK_TOKEN_INFO.flags).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinFlags {
    /// CKF_USER_PIN_LOCKED
    pub is_locked: bool,
    /// CKF_USER_PIN_FINAL_TRY
    pub is_final_try: bool,
    /// CKF_USER_PIN_COUNT_LOW
    pub is_count_low: bool,
}

/// The outcome of a failed C_Login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The login must not be repeated: the code is about the PIN, or another try would fail the
    /// same way.
    Final,
    /// The login must not be repeated, but the token works without a login.
    NotNeeded,
    /// The login may be repeated once.
    Other,
    /// The login failed before the PIN was checked.
    BeforeTheCheck,
}

/// Reason why C_Login must not be called now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Another thread's C_Login with the same PIN has not returned.
    Busy,
    /// The PIN is not tried until an operator permits it or the token is unlocked. The text gives
    /// the reason.
    Spent(String),
    /// Like [`Self::Spent`], but a login showed that the token works without one.
    NotNeeded(String),
}

/// The history of one PIN on one token.
#[derive(Debug, Default)]
struct Try {
    /// True while a C_Login with this PIN has not returned.
    is_under_way: bool,
    /// Reason why the PIN is not tried again.
    spent: Option<String>,
    /// True if that reason is [`Refusal::NotNeeded`].
    is_not_needed: bool,
    /// Number of [`Refusal::Other`] since the last success.
    others: u32,
    /// True if CKF_USER_PIN_LOCKED was set.
    was_locked: bool,
    /// True if an operator has permitted one more try.
    is_granted: bool,
    /// True if the PIN is not tried because of CKF_USER_PIN_FINAL_TRY.
    waits_for_grant: bool,
    /// The permissions that the current login used: an operator's, and that of an unlocking. They
    /// are restored if the PIN was not checked.
    owes: (bool, bool),
}

#[derive(Default)]
struct Tries(HashMap<PinId, Try>);

impl Tries {
    fn begin(&mut self, id: PinId, flags: PinFlags) -> Result<(), Denied> {
        let known = self.0.entry(id).or_default();
        if known.is_under_way {
            return Err(Denied::Busy);
        }
        if flags.is_locked {
            known.was_locked = true;
        }
        let is_unlocked = known.was_locked && !flags.is_locked;
        if let Some(reason) = &known.spent
            && !known.is_granted
            && !is_unlocked
        {
            let denied = if known.is_not_needed { Denied::NotNeeded } else { Denied::Spent };
            return Err(denied(reason.clone()));
        }
        if flags.is_final_try && !known.is_granted {
            known.waits_for_grant = true;
            return Err(Denied::Spent(
                "one more wrong PIN locks the token (CKF_USER_PIN_FINAL_TRY), so none is tried: make \
                sure that the PIN is right, then run `xks-proxy hsm retry-login`"
                    .to_owned(),
            ));
        }
        known.owes = (known.is_granted, is_unlocked);
        known.is_under_way = true;
        known.is_granted = false;
        known.waits_for_grant = false;
        known.was_locked = flags.is_locked;
        Ok(())
    }

    fn end(&mut self, id: PinId, outcome: Option<(Refusal, &str)>) {
        let known = self.0.entry(id).or_default();
        known.is_under_way = false;
        let is_final = match outcome {
            None => {
                *known = Try::default();
                return;
            }
            Some((Refusal::BeforeTheCheck, _)) => {
                // No try was used up, since the PIN was not checked.
                let (is_granted, was_locked) = std::mem::take(&mut known.owes);
                known.is_granted |= is_granted;
                known.was_locked |= was_locked;
                return;
            }
            Some((Refusal::Final | Refusal::NotNeeded, _)) => true,
            Some((Refusal::Other, _)) => {
                known.others += 1;
                known.spent.is_some() || known.others >= MAX_OTHER_LOGIN_REFUSALS
            }
        };
        if is_final {
            known.is_not_needed = matches!(outcome, Some((Refusal::NotNeeded, _)));
            known.spent = outcome.map(|(_, reason)| reason.to_owned());
        }
    }

    fn grant(&mut self) -> usize {
        let waiting = self.0.values_mut().filter(|it| it.spent.is_some() || it.waits_for_grant);
        waiting.map(|it| it.is_granted = true).count()
    }
}

/// Permission for one C_Login. Dropping it records a failure that occurred before the PIN was
/// checked.
pub struct LoginAttempt {
    id: PinId,
    is_told: bool,
}

impl LoginAttempt {
    /// Records a success.
    pub fn succeeded(mut self) {
        self.tell(None);
    }

    /// Records a failure. If the PIN is not tried again, `reason` is the message of later refusals.
    pub fn refused(mut self, refusal: Refusal, reason: &str) {
        self.tell(Some((refusal, reason)));
    }

    fn tell(&mut self, outcome: Option<(Refusal, &str)>) {
        self.is_told = true;
        TRIES.lock().end(self.id, outcome);
        ENDED.notify_all();
    }
}

impl Drop for LoginAttempt {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(Some((Refusal::BeforeTheCheck, "")));
        }
    }
}

/// Returns permission to call C_Login with that PIN once. Waits up to [`MAX_LOGIN_WAIT`] while
/// another thread calls it with the same PIN.
///
/// # Errors
/// Returns [`Denied`] if C_Login must not be called now.
pub fn begin(id: PinId, flags: PinFlags) -> Result<LoginAttempt, Denied> {
    let end = Instant::now() + MAX_LOGIN_WAIT;
    let mut tries = TRIES.lock();
    loop {
        match tries.begin(id, flags) {
            Err(Denied::Busy) if !ENDED.wait_until(&mut tries, end).timed_out() => {}
            may => return may.map(|()| LoginAttempt { id, is_told: false }),
        }
    }
}

/// Permits one more try of each PIN that is no longer tried. Returns the number of such PINs.
pub fn grant_one_more() -> usize {
    TRIES.lock().grant()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const WELL: PinFlags = PinFlags { is_locked: false, is_final_try: false, is_count_low: false };
    const LOCKED: PinFlags = PinFlags { is_locked: true, ..WELL };
    const FINAL: PinFlags = PinFlags { is_final_try: true, ..WELL };

    fn id_by(module: &str, serial: &str, pin: &str) -> PinId {
        let token = SlotInventory { serial: serial.to_owned(), ..SlotInventory::default() };
        PinId::of(Path::new(module), &token, pin).unwrap()
    }

    fn id(token: &str, pin: &str) -> PinId {
        id_by("/lib/module.so", token, pin)
    }

    /// Tries the PIN until permission is denied. Returns the number of tries.
    fn tries(tries: &mut Tries, id: PinId, flags: PinFlags, refusal: Refusal) -> usize {
        (0..20)
            .take_while(|_| {
                let may = tries.begin(id, flags).is_ok();
                if may {
                    tries.end(id, Some((refusal, "no")));
                }
                may
            })
            .count()
    }

    /// The identity of a PIN depends on the token and the PIN, and these parts are delimited. It
    /// depends on the module only if the token has no serial number, or one of zeros.
    #[test]
    fn ids() {
        assert_eq!(id("a", "1234"), id("a", "1234"));
        let others = [id("b", "1234"), id("a", "4321"), id("a1", "234")];
        assert!(others.iter().all(|other| *other != id("a", "1234")));
        let is_same = |serial| id(serial, "1234") == id_by("/lib/module.so2", serial, "1234");
        assert_eq!(["a", "100", "", "0000"].map(is_same), [true, true, false, false]);
    }

    /// A refusal about the PIN is final, any other refusal allows a second try, and a failure
    /// before the check does not count.
    #[test]
    fn how_often() {
        let mut all = Tries::default();
        assert_eq!(tries(&mut all, id("a", "1"), WELL, Refusal::Final), 1);
        assert_eq!(tries(&mut all, id("b", "1"), WELL, Refusal::Other), 2);
        assert_eq!(tries(&mut all, id("c", "1"), WELL, Refusal::BeforeTheCheck), 20);
        // Each PIN is counted separately.
        assert_eq!(tries(&mut all, id("a", "2"), WELL, Refusal::Final), 1);
        // A success shows that the PIN is right.
        all.begin(id("d", "1"), WELL).unwrap();
        all.end(id("d", "1"), Some((Refusal::Other, "no")));
        all.begin(id("d", "1"), WELL).unwrap();
        all.end(id("d", "1"), None);
        assert_eq!(tries(&mut all, id("d", "1"), WELL, Refusal::Other), 2);
        assert_eq!(tries(&mut all, id("e", "1"), WELL, Refusal::NotNeeded), 1);
        let is_not_needed = all.begin(id("e", "1"), FINAL);
        assert_eq!(is_not_needed, Err(Denied::NotNeeded("no".to_owned())));
    }

    /// An operator's permission allows one more try, and so does unlocking the token.
    #[test]
    fn one_more() {
        let mut all = Tries::default();
        let pin = id("a", "1");
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 1);
        assert_eq!(all.grant(), 1);
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Other), 1);
        assert_eq!(tries(&mut all, pin, LOCKED, Refusal::Final), 0);
        all.grant();
        assert_eq!(tries(&mut all, pin, WELL, Refusal::BeforeTheCheck), 20, "no try was used up");
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 1);
        assert_eq!(tries(&mut all, pin, LOCKED, Refusal::Final), 0);
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 1);
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 0);
    }

    /// The last try before the token locks requires an operator's permission.
    #[test]
    fn the_final_try() {
        let mut all = Tries::default();
        let pin = id("a", "1");
        assert_eq!(tries(&mut all, pin, FINAL, Refusal::Final), 0);
        assert_eq!(all.grant(), 1);
        assert_eq!(tries(&mut all, pin, FINAL, Refusal::Final), 1);
        // A permission given when no PIN needs it is not kept for later.
        let mut all = Tries::default();
        assert_eq!(all.grant(), 0);
        assert_eq!(tries(&mut all, pin, FINAL, Refusal::Final), 0);
        // No permission is needed unless this is the last try.
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 1);
    }

    /// A thread waits for the outcome of another thread's login.
    #[test]
    fn waits_for_the_other() {
        let pin = id("of two threads", "1");
        let first = begin(pin, WELL).unwrap();
        let second = std::thread::spawn(move || begin(pin, WELL).map(LoginAttempt::succeeded));
        std::thread::sleep(std::time::Duration::from_millis(50));
        first.refused(Refusal::Final, "no");
        assert_eq!(second.join().unwrap(), Err(Denied::Spent("no".to_owned())));
    }

    /// Two threads do not try the same PIN at once.
    #[test]
    fn one_at_a_time() {
        let mut all = Tries::default();
        all.begin(id("a", "1"), WELL).unwrap();
        assert_eq!(all.begin(id("a", "1"), WELL), Err(Denied::Busy));
        all.begin(id("b", "1"), WELL).unwrap();
        all.end(id("a", "1"), Some((Refusal::BeforeTheCheck, "")));
        all.begin(id("a", "1"), WELL).unwrap();
    }
}

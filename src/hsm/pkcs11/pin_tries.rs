//! Which PINs a token has refused: remembered for as long as the process lives, across reloads and
//! recoveries, since HSMs lock after a few wrong ones.
//!
//! A PIN is known here by a keyed digest alone.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Instant;

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::{Condvar, Mutex};
use sha2::Sha256;

use crate::limits::{MAX_LOGIN_WAIT, MAX_OTHER_LOGIN_REFUSALS};
use crate::random;

/// The process's memory.
static TRIES: LazyLock<Mutex<Tries>> = LazyLock::new(Mutex::default);
/// A C_Login has returned.
static ENDED: Condvar = Condvar::new();

/// One PIN on one token of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinId([u8; 32]);

impl PinId {
    /// Of the module at that path, and the token of that serial number, or of that label where it
    /// has none. `None` if the system gives no random bytes for the digest's key.
    #[must_use]
    pub fn of(module: &Path, token: &str, pin: &str) -> Option<Self> {
        static KEY: LazyLock<Option<[u8; 32]>> = LazyLock::new(|| {
            let mut key = [0; 32];
            random::fill(&mut key).ok().map(|()| key)
        });
        let mut digest = Hmac::<Sha256>::new_from_slice(KEY.as_ref()?).ok()?;
        for part in [module.as_os_str().as_encoded_bytes(), token.as_bytes(), pin.as_bytes()] {
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

/// How a C_Login ended that did not log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not to be repeated: the code speaks of the PIN, or nothing would be another time.
    Final,
    /// It may be repeated once.
    Other,
    /// No PIN was looked at.
    BeforeTheCheck,
}

/// Why there is no C_Login now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// Another thread is at it with the same PIN, and does not return.
    Busy,
    /// It takes an operator, or a token that is unlocked; why.
    Spent(String),
}

/// The history of one PIN on one token.
#[derive(Debug, Default)]
struct Try {
    /// A C_Login with it has not returned.
    is_under_way: bool,
    /// Why it is not tried again.
    spent: Option<String>,
    /// Refusals of another kind, with no success since.
    others: u32,
    /// CKF_USER_PIN_LOCKED was seen.
    was_locked: bool,
    /// An operator has asked for one more.
    is_granted: bool,
    /// CKF_USER_PIN_FINAL_TRY keeps it from being tried.
    waits_for_grant: bool,
    /// Why the login under way was permitted: a grant, or a lock that has gone.
    owes: (bool, bool),
}

#[derive(Default)]
struct Tries(HashMap<PinId, Try>);

impl Tries {
    fn begin(&mut self, id: PinId, flags: PinFlags) -> Result<(), NotNow> {
        let known = self.0.entry(id).or_default();
        if known.is_under_way {
            return Err(NotNow::Busy);
        }
        if flags.is_locked {
            known.was_locked = true;
        }
        let is_unlocked = known.was_locked && !flags.is_locked;
        if let Some(reason) = &known.spent
            && !known.is_granted
            && !is_unlocked
        {
            return Err(NotNow::Spent(reason.clone()));
        }
        if flags.is_final_try && !known.is_granted {
            known.waits_for_grant = true;
            return Err(NotNow::Spent(
                "one more wrong PIN locks the token (CKF_USER_PIN_FINAL_TRY), so none is tried: make \
                 sure that the PIN is right, then say `xks-proxy hsm retry-login`"
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
                // No PIN was spent.
                let (is_granted, was_locked) = std::mem::take(&mut known.owes);
                known.is_granted |= is_granted;
                known.was_locked |= was_locked;
                return;
            }
            Some((Refusal::Final, _)) => true,
            Some((Refusal::Other, _)) => {
                known.others += 1;
                known.spent.is_some() || known.others >= MAX_OTHER_LOGIN_REFUSALS
            }
        };
        if is_final {
            known.spent = outcome.map(|(_, reason)| reason.to_owned());
        }
    }

    fn grant(&mut self) -> usize {
        let waiting = self.0.values_mut().filter(|it| it.spent.is_some() || it.waits_for_grant);
        waiting.map(|it| it.is_granted = true).count()
    }
}

/// A C_Login that is under way. Dropping it says that it failed before the PIN was looked at.
pub struct UnderWay {
    id: PinId,
    is_told: bool,
}

impl UnderWay {
    /// It has logged in.
    pub fn succeeded(mut self) {
        self.tell(None);
    }

    /// It has not; `reason` is what is said from then on if it is not repeated.
    pub fn refused(mut self, refusal: Refusal, reason: &str) {
        self.tell(Some((refusal, reason)));
    }

    fn tell(&mut self, outcome: Option<(Refusal, &str)>) {
        self.is_told = true;
        TRIES.lock().end(self.id, outcome);
        ENDED.notify_all();
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(Some((Refusal::BeforeTheCheck, "")));
        }
    }
}

/// The permission to call C_Login with that PIN once. Waits for a call with it that is under way,
/// [`MAX_LOGIN_WAIT`] at most.
///
/// # Errors
/// [`NotNow`]
pub fn begin(id: PinId, flags: PinFlags) -> Result<UnderWay, NotNow> {
    let end = Instant::now() + MAX_LOGIN_WAIT;
    let mut tries = TRIES.lock();
    loop {
        match tries.begin(id, flags) {
            Err(NotNow::Busy) if !ENDED.wait_until(&mut tries, end).timed_out() => {}
            may => return may.map(|()| UnderWay { id, is_told: false }),
        }
    }
}

/// Lets each PIN that is not tried again be tried once more. Says how many there are.
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

    fn id(token: &str, pin: &str) -> PinId {
        PinId::of(Path::new("/lib/module.so"), token, pin).unwrap()
    }

    /// Tries until it may not any more; how often it was tried.
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

    /// A PIN is one on one token of one module, and no part runs into the next.
    #[test]
    fn ids() {
        assert_eq!(id("a", "1234"), id("a", "1234"));
        let module = PinId::of(Path::new("/lib/module.so2"), "a", "1234").unwrap();
        let others = [id("b", "1234"), id("a", "4321"), id("a1", "234"), module];
        assert!(others.iter().all(|other| *other != id("a", "1234")));
    }

    /// A refusal that speaks of the PIN is the last, any other may come twice, and a failure before
    /// the check does not count.
    #[test]
    fn how_often() {
        let mut all = Tries::default();
        assert_eq!(tries(&mut all, id("a", "1"), WELL, Refusal::Final), 1);
        assert_eq!(tries(&mut all, id("b", "1"), WELL, Refusal::Other), 2);
        assert_eq!(tries(&mut all, id("c", "1"), WELL, Refusal::BeforeTheCheck), 20);
        // Another PIN, or the same on another token, is another matter.
        assert_eq!(tries(&mut all, id("a", "2"), WELL, Refusal::Final), 1);
        // A success shows that the PIN is right.
        all.begin(id("d", "1"), WELL).unwrap();
        all.end(id("d", "1"), Some((Refusal::Other, "no")));
        all.begin(id("d", "1"), WELL).unwrap();
        all.end(id("d", "1"), None);
        assert_eq!(tries(&mut all, id("d", "1"), WELL, Refusal::Other), 2);
    }

    /// An operator's word is good for one more, and so is a token that was locked and is not.
    #[test]
    fn one_more() {
        let mut all = Tries::default();
        let pin = id("a", "1");
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 1);
        assert_eq!(all.grant(), 1);
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Other), 1);
        assert_eq!(tries(&mut all, pin, LOCKED, Refusal::Final), 0);
        all.grant();
        assert_eq!(tries(&mut all, pin, WELL, Refusal::BeforeTheCheck), 20, "none was spent");
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 1);
        assert_eq!(tries(&mut all, pin, LOCKED, Refusal::Final), 0);
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 1);
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 0);
    }

    /// The last try before the lock is an operator's.
    #[test]
    fn the_final_try() {
        let mut all = Tries::default();
        let pin = id("a", "1");
        assert_eq!(tries(&mut all, pin, FINAL, Refusal::Final), 0);
        assert_eq!(all.grant(), 1);
        assert_eq!(tries(&mut all, pin, FINAL, Refusal::Final), 1);
        // A grant that finds nothing to do is not kept for later.
        let mut all = Tries::default();
        assert_eq!(all.grant(), 0);
        assert_eq!(tries(&mut all, pin, FINAL, Refusal::Final), 0);
        // Nor is one on a token that is not at its last try needed, or used up.
        assert_eq!(tries(&mut all, pin, WELL, Refusal::Final), 1);
    }

    /// A thread waits for another's outcome.
    #[test]
    fn waits_for_the_other() {
        let pin = id("of two threads", "1");
        let first = begin(pin, WELL).unwrap();
        let second = std::thread::spawn(move || begin(pin, WELL).map(UnderWay::succeeded));
        std::thread::sleep(std::time::Duration::from_millis(50));
        first.refused(Refusal::Final, "no");
        assert_eq!(second.join().unwrap(), Err(NotNow::Spent("no".to_owned())));
    }

    /// Two threads do not try the same PIN at once.
    #[test]
    fn one_at_a_time() {
        let mut all = Tries::default();
        all.begin(id("a", "1"), WELL).unwrap();
        assert_eq!(all.begin(id("a", "1"), WELL), Err(NotNow::Busy));
        all.begin(id("b", "1"), WELL).unwrap();
        all.end(id("a", "1"), Some((Refusal::BeforeTheCheck, "")));
        all.begin(id("a", "1"), WELL).unwrap();
    }
}

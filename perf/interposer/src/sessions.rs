//! The slot of each session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

use cryptoki_sys::{CK_SESSION_HANDLE, CK_SLOT_ID};

/// The sessions that are open.
#[derive(Default)]
pub struct Sessions {
    sessions: RwLock<HashMap<CK_SESSION_HANDLE, Session>>,
    doomed: AtomicUsize,
}

struct Session {
    slot: CK_SLOT_ID,
    /// Set once the session's token is removed. The session is closed at its next call, by the
    /// thread that makes it, since modules may not support closing a session that another thread
    /// uses.
    is_doomed: bool,
}

impl Sessions {
    pub fn opened(&self, session: CK_SESSION_HANDLE, slot: CK_SLOT_ID) {
        self.change(|sessions| {
            sessions.insert(session, Session { slot, is_doomed: false });
        });
    }

    pub fn closed(&self, session: CK_SESSION_HANDLE) {
        self.change(|sessions| {
            sessions.remove(&session);
        });
    }

    pub fn all_closed(&self, slot: Option<CK_SLOT_ID>) {
        self.change(|sessions| {
            sessions.retain(|_, session| slot.is_some_and(|slot| slot != session.slot));
        });
    }

    pub fn slot_of(&self, session: CK_SESSION_HANDLE) -> Option<CK_SLOT_ID> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&session).map(|session| session.slot)
    }

    /// Marks the sessions of a removed token: each is closed at its next call.
    pub fn doom(&self, slot: CK_SLOT_ID) {
        self.change(|sessions| {
            for session in sessions.values_mut().filter(|session| session.slot == slot) {
                session.is_doomed = true;
            }
        });
    }

    pub fn any_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed) > 0
    }

    pub fn is_doomed(&self, session: CK_SESSION_HANDLE) -> bool {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&session).is_some_and(|session| session.is_doomed)
    }

    fn change(&self, work: impl FnOnce(&mut HashMap<CK_SESSION_HANDLE, Session>)) {
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        work(&mut sessions);
        let doomed = sessions.values().filter(|session| session.is_doomed).count();
        self.doomed.store(doomed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removing a token closes its own sessions, but not those of other tokens or later ones.
    #[test]
    fn doom_is_of_one_slot() {
        let sessions = Sessions::default();
        sessions.opened(1, 10);
        sessions.opened(2, 20);
        sessions.doom(10);
        sessions.opened(3, 10);
        assert_eq!([1, 2, 3].map(|session| sessions.is_doomed(session)), [true, false, false]);
        assert!(sessions.any_doomed());
        sessions.closed(1);
        assert!(!sessions.any_doomed());
        sessions.all_closed(Some(10));
        assert_eq!([2, 3].map(|session| sessions.slot_of(session)), [Some(20), None]);
        sessions.all_closed(None);
        assert_eq!(sessions.slot_of(2), None);
    }
}

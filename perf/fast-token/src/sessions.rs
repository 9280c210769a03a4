//! The sessions: a fixed array, each with its own state.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use cryptoki_sys::*;

use crate::gcm::IV_BYTES;
use crate::keys::Key;

/// Number of sessions that can be open at once.
pub const MAX_SESSIONS: usize = 1024;

/// State of a session. Its buffers keep their memory from one operation to the next.
pub struct State {
    /// The operation that C_EncryptInit or C_DecryptInit began.
    pub operation: Option<Operation>,
    /// Additional authenticated data of the operation.
    pub aad: Vec<u8>,
    /// Input of the operation, which its result replaces.
    pub text: Vec<u8>,
    /// Handles that a search has yet to return; `None` if there is no search.
    pub found: Option<std::vec::IntoIter<CK_OBJECT_HANDLE>>,
}

/// An operation that has begun.
#[derive(Clone, Copy)]
pub struct Operation {
    /// Its key.
    pub key: &'static Key,
    /// True if it decrypts.
    pub is_decrypt: bool,
    /// Its IV.
    pub iv: [u8; IV_BYTES],
}

/// A place for a session, on cache lines of its own: the adjacent line is often fetched too.
#[repr(align(128))]
struct Place {
    is_open: AtomicBool,
    is_in_use: AtomicBool,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is accessed in `with` alone, by the one thread that has set `is_in_use`.
unsafe impl Sync for Place {}

static PLACES: [Place; MAX_SESSIONS] = [const {
    Place {
        is_open: AtomicBool::new(false),
        is_in_use: AtomicBool::new(false),
        state: UnsafeCell::new(State {
            operation: None,
            aad: Vec::new(),
            text: Vec::new(),
            found: None,
        }),
    }
}; MAX_SESSIONS];

static OPEN: AtomicUsize = AtomicUsize::new(0);

fn place(session: CK_SESSION_HANDLE) -> Option<&'static Place> {
    PLACES.get(usize::try_from(session).ok()?.checked_sub(1)?)
}

/// Opens a session. Returns `None` if all are open.
pub fn open() -> Option<CK_SESSION_HANDLE> {
    let (handle, _) =
        (1..).zip(&PLACES).find(|(_, place)| !place.is_open.swap(true, Ordering::AcqRel))?;
    OPEN.fetch_add(1, Ordering::Relaxed);
    Some(handle)
}

/// Closes a session, and ends what it was doing.
pub fn close(session: CK_SESSION_HANDLE) -> CK_RV {
    let ended = with(session, |state| {
        state.operation = None;
        state.found = None;
        CKR_OK
    });
    if ended == CKR_OK
        && place(session).is_some_and(|place| place.is_open.swap(false, Ordering::AcqRel))
    {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
    ended
}

/// Closes all sessions.
pub fn close_all() {
    for (handle, _) in (1..).zip(&PLACES) {
        close(handle);
    }
}

/// Returns the number of open sessions.
pub fn open_count() -> usize {
    OPEN.load(Ordering::Relaxed)
}

/// Returns the result of `work` on the session's state, or the code for a session that is not open
/// or in use by another thread.
pub fn with(session: CK_SESSION_HANDLE, work: impl FnOnce(&mut State) -> CK_RV) -> CK_RV {
    let Some(place) = place(session).filter(|place| place.is_open.load(Ordering::Acquire)) else {
        return CKR_SESSION_HANDLE_INVALID;
    };
    // Always free for an application that keeps to PKCS#11: this thread alone writes to the line.
    if place.is_in_use.swap(true, Ordering::Acquire) {
        return CKR_OPERATION_ACTIVE;
    }
    // SAFETY: `is_in_use` was false, and no other thread gets past the swap until it is again.
    let code = work(unsafe { &mut *place.state.get() });
    place.is_in_use.store(false, Ordering::Release);
    code
}

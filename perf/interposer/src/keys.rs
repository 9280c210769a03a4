//! The keys that a fault is limited to, and the key that a call is about.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BYTE, CK_FUNCTION_LIST, CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE,
    CK_SLOT_ID, CK_ULONG, CKA_LABEL, CKR_KEY_HANDLE_INVALID, CKR_OBJECT_HANDLE_INVALID, CKR_OK,
};

use crate::functions::Function;

/// Functions that are about a key: those that name it, and those that continue an operation begun
/// with it.
pub const KEYED: [Function; 4] =
    [Function::C_EncryptInit, Function::C_Encrypt, Function::C_DecryptInit, Function::C_Decrypt];

/// The longest label that is read.
const MAX_LABEL_BYTES: usize = 256;

/// A key's CKA_LABEL; empty if it has none, or none that can be read.
pub type Label = Arc<[u8]>;

/// The keys that a fault is limited to.
#[derive(Debug, Default)]
pub struct KeySet {
    pub labels: BTreeSet<Vec<u8>>,
    pub prefix: Option<Vec<u8>>,
}

impl KeySet {
    /// Returns whether the key with this label is one of them.
    pub fn contains(&self, label: &[u8]) -> bool {
        self.labels.contains(label)
            || self.prefix.as_ref().is_some_and(|prefix| label.starts_with(prefix))
    }
}

/// Labels of the keys that calls are about. They are read only while a fault depends on keys.
#[derive(Default)]
pub struct Labels {
    /// Labels by handle. Handles belong to a token, and become stale: see [`Labels::forget`].
    by_handle: RwLock<HashMap<(CK_SLOT_ID, CK_OBJECT_HANDLE), Label>>,
    /// Key of the operation that each session last began, by the function that continues it.
    in_use: Mutex<HashMap<(CK_SESSION_HANDLE, Function), Label>>,
}

impl Labels {
    /// Returns the label of a key, asking the token the first time.
    pub fn of(
        &self,
        real: &CK_FUNCTION_LIST,
        slot: CK_SLOT_ID,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Label {
        let known = self.by_handle.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(label) = known.get(&(slot, key)) {
            return Arc::clone(label);
        }
        drop(known);
        let Some(label) = read_label(real, session, key) else {
            return Label::default();
        };
        let mut known = self.by_handle.write().unwrap_or_else(PoisonError::into_inner);
        known.insert((slot, key), Arc::clone(&label));
        label
    }

    /// Records the real module's return code for the function that names an operation's key.
    pub fn began(
        &self,
        function: Function,
        session: CK_SESSION_HANDLE,
        slot: Option<CK_SLOT_ID>,
        label: Label,
        code: CK_RV,
    ) {
        match code {
            CKR_OK => {
                let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
                in_use.insert((session, operation(function)), label);
            }
            CKR_KEY_HANDLE_INVALID | CKR_OBJECT_HANDLE_INVALID => self.forget(slot),
            _ => {}
        }
    }

    /// Returns the key of the session's current operation.
    pub fn in_use(&self, function: Function, session: CK_SESSION_HANDLE) -> Option<Label> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.get(&(session, function)).cloned()
    }

    /// Forgets the handles of a slot, or of all slots: each may now refer to another object.
    pub fn forget(&self, slot: Option<CK_SLOT_ID>) {
        let mut known = self.by_handle.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(of, _), _| slot.is_some_and(|slot| slot != *of));
    }

    /// Forgets the operations of this slot's closed sessions, and with them the slot's handles,
    /// since the sessions' own objects are gone.
    pub fn sessions_closed(
        &self,
        slot: Option<CK_SLOT_ID>,
        is_closed: impl Fn(CK_SESSION_HANDLE) -> bool,
    ) {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|(session, _), _| !is_closed(*session));
        drop(in_use);
        self.forget(slot);
    }

    /// Forgets all operations. Those that begin while no fault depends on keys are not recorded, so
    /// earlier records may no longer be true.
    pub fn settings_changed(&self) {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Returns the function that continues the operation begun by this one.
fn operation(function: Function) -> Function {
    match function {
        Function::C_EncryptInit => Function::C_Encrypt,
        Function::C_DecryptInit => Function::C_Decrypt,
        other => other,
    }
}

/// Returns CKA_LABEL, if the token reveals it.
fn read_label(
    real: &CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
) -> Option<Label> {
    let mut bytes: [CK_BYTE; MAX_LABEL_BYTES] = [0; MAX_LABEL_BYTES];
    let mut attribute = CK_ATTRIBUTE {
        type_: CKA_LABEL,
        pValue: bytes.as_mut_ptr().cast(),
        ulValueLen: bytes.len() as CK_ULONG,
    };
    // SAFETY: the template has one attribute, whose buffer has the stated length; both
    // outlive the call. The thread that calls is the one that uses the session.
    let code = unsafe { real.C_GetAttributeValue?(session, key, &raw mut attribute, 1) };
    if code != CKR_OK {
        return None;
    }
    bytes.get(..usize::try_from(attribute.ulValueLen).ok()?).map(Label::from)
}

/// Ends an operation by continuing it with dummy data, if this function continues one.
pub fn end_operation(real: &CK_FUNCTION_LIST, function: Function, session: CK_SESSION_HANDLE) {
    let goes_on = match function {
        Function::C_Encrypt => real.C_Encrypt,
        Function::C_Decrypt => real.C_Decrypt,
        _ => return,
    };
    let mut data: [CK_BYTE; 16] = [0; 16];
    // Room for more than a tag: a request for the length alone would not end the operation.
    let mut output: [CK_BYTE; 64] = [0; 64];
    let mut output_bytes = output.len() as CK_ULONG;
    if let Some(goes_on) = goes_on {
        // SAFETY: the buffers have the lengths that are given, and outlive the call. The thread
        // that calls is the one that uses the session.
        unsafe {
            let data_bytes = data.len() as CK_ULONG;
            goes_on(
                session,
                data.as_mut_ptr(),
                data_bytes,
                output.as_mut_ptr(),
                &raw mut output_bytes,
            )
        };
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        Label::from(text.as_bytes())
    }

    /// A set contains the labels that it lists, compared in full, and those with its prefix.
    #[test]
    fn sets() {
        let named = KeySet { labels: ["bad", "worse"].map(Into::into).into(), prefix: None };
        let found =
            ["bad", "worse", "ba", "bade", ""].map(|label| named.contains(label.as_bytes()));
        assert_eq!(found, [true, true, false, false, false]);
        let prefixed = KeySet { labels: BTreeSet::new(), prefix: Some(b"bad".to_vec()) };
        let found = ["bad", "bad-1", "ba", "abad"].map(|label| prefixed.contains(label.as_bytes()));
        assert_eq!(found, [true, true, false, false]);
    }

    /// An operation has the key named by the function that began it in its direction, if that
    /// succeeded.
    #[test]
    fn operations() {
        let labels = Labels::default();
        let began = |function, name, code| labels.began(function, 1, Some(7), label(name), code);
        began(Function::C_EncryptInit, "a", CKR_OK);
        began(Function::C_DecryptInit, "b", CKR_OK);
        began(Function::C_EncryptInit, "c", CKR_KEY_HANDLE_INVALID);
        assert_eq!(labels.in_use(Function::C_Encrypt, 1), Some(label("a")));
        assert_eq!(labels.in_use(Function::C_Decrypt, 1), Some(label("b")));
        assert_eq!(labels.in_use(Function::C_Encrypt, 2), None);
        labels.sessions_closed(Some(7), |session| session == 1);
        assert_eq!(labels.in_use(Function::C_Encrypt, 1), None);
        began(Function::C_EncryptInit, "a", CKR_OK);
        labels.settings_changed();
        assert_eq!(labels.in_use(Function::C_Encrypt, 1), None);
    }

    /// A handle that was refused, or may now refer to another object, is looked up again; those of
    /// other slots are not.
    #[test]
    fn stale_handles() {
        let labels = Labels::default();
        let know = || {
            for slot in [7, 8] {
                labels.by_handle.write().unwrap().insert((slot, 1), label("a"));
            }
        };
        let known = || {
            let known = labels.by_handle.read().unwrap();
            [7, 8].map(|slot| known.contains_key(&(slot, 1)))
        };
        know();
        labels.began(Function::C_EncryptInit, 1, Some(7), label("a"), CKR_OBJECT_HANDLE_INVALID);
        assert_eq!(known(), [false, true]);
        know();
        labels.sessions_closed(Some(8), |session| session == 1);
        assert_eq!(known(), [true, false]);
        labels.forget(None);
        assert_eq!(known(), [false, false]);
    }
}

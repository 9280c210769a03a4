//! The keys and their attributes.

use std::env;
use std::sync::OnceLock;

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use cryptoki_sys::*;

const LABELS: &str = "XKS_FAST_TOKEN_LABELS";
const DEFAULT_LABELS: &str = "foo";
const KEY_BYTES: CK_ULONG = 32;

/// An AES-256 key.
pub struct Key {
    label: String,
    /// The key, expanded.
    pub cipher: LessSafeKey,
}

impl Key {
    /// Makes the key of a label: its SHA-256. Returns `None` if the cipher refuses the key.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        let value = digest(&SHA256, label.as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, value.as_ref()).ok()?;
        Some(Self { label: label.to_owned(), cipher: LessSafeKey::new(key) })
    }

    /// Returns the value of an attribute as PKCS#11 represents it, or `None` if the key has no such
    /// attribute or does not reveal it.
    #[must_use]
    pub fn attribute(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
        let number = |value: CK_ULONG| Some(value.to_ne_bytes().to_vec());
        let flag = |value: CK_BBOOL| Some(vec![value]);
        match kind {
            CKA_CLASS => number(CKO_SECRET_KEY),
            CKA_KEY_TYPE => number(CKK_AES),
            CKA_VALUE_LEN => number(KEY_BYTES),
            CKA_LABEL => Some(self.label.clone().into_bytes()),
            CKA_ID | CKA_START_DATE | CKA_END_DATE => Some(Vec::new()),
            CKA_TOKEN
            | CKA_PRIVATE
            | CKA_SENSITIVE
            | CKA_ALWAYS_SENSITIVE
            | CKA_NEVER_EXTRACTABLE
            | CKA_ENCRYPT
            | CKA_DECRYPT => flag(CK_TRUE),
            CKA_EXTRACTABLE | CKA_LOCAL | CKA_MODIFIABLE | CKA_SIGN | CKA_VERIFY | CKA_WRAP
            | CKA_UNWRAP | CKA_DERIVE => flag(CK_FALSE),
            _ => None,
        }
    }
}

/// Returns all keys. The handle of a key is its place among them, counted from 1.
pub fn all() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let labels = env::var(LABELS).unwrap_or_else(|_| DEFAULT_LABELS.to_owned());
        labels.split(',').filter_map(Key::of_label).collect()
    })
}

/// Returns the key with this handle.
pub fn get(handle: CK_OBJECT_HANDLE) -> Option<&'static Key> {
    all().get(usize::try_from(handle).ok()?.checked_sub(1)?)
}

/// Returns the handles of the keys that have all of these attribute values.
#[must_use]
pub fn find(template: &[(CK_ATTRIBUTE_TYPE, &[u8])]) -> Vec<CK_OBJECT_HANDLE> {
    let fits = |key: &Key| {
        template.iter().all(|(kind, value)| key.attribute(*kind).as_deref() == Some(*value))
    };
    (1..).zip(all()).filter(|(_, key)| fits(key)).map(|(handle, _)| handle).collect()
}

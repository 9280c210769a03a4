//! The table of all return codes (`CK_RV`): their names and their meaning for this proxy.

use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys::*;

use super::native::Error;
use crate::job::{NamedCode, ReturnCode};

/// Meaning of a code, which decides how the proxy reacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The ciphertext or its tag, IV or AAD is wrong.
    BadCiphertext,
    /// If C_Decrypt returned it: a bad ciphertext or a failing device, depending on the module. If
    /// any other function did: the token is failing.
    Ambiguous,
    /// If C_Decrypt returned it: possibly a bad ciphertext. If any other function did: as for
    /// [`Self::Request`].
    AmbiguousRequest,
    /// The session is closed or unusable, and is replaced.
    Session,
    /// The login is lost, for all sessions of the token.
    Login,
    /// The cached object handle is stale.
    KeyHandle,
    /// The key's attributes forbid this use.
    KeyUsage,
    /// The token, or the connection to it, is failing.
    Token,
    /// The module must be initialised again.
    Module,
    /// There are too many calls or too little memory; the same call may succeed soon.
    Busy,
    /// The PIN was refused, and is not tried again.
    Pin,
    /// This token, or any token, cannot serve the request. Retrying does not help.
    Request,
}

type Row = (NamedCode, Class);

macro_rules! table {
    ($($code:ident => $class:ident,)*) => {
        &[$((NamedCode { code: $code, name: stringify!($code) }, Class::$class),)*]
    };
}

/// The codes of PKCS#11 v2.40 and v3.2 (section 5.1 and pkcs11t.h), in numerical order.
const TABLE: &[Row] = table! {
    CKR_CANCEL => Busy,
    CKR_HOST_MEMORY => Busy,
    CKR_SLOT_ID_INVALID => Token,
    CKR_GENERAL_ERROR => Ambiguous,
    CKR_FUNCTION_FAILED => Ambiguous,
    CKR_ARGUMENTS_BAD => AmbiguousRequest,
    CKR_NO_EVENT => Request,
    CKR_NEED_TO_CREATE_THREADS => Module,
    CKR_CANT_LOCK => Module,
    CKR_ATTRIBUTE_READ_ONLY => Request,
    CKR_ATTRIBUTE_SENSITIVE => Request,
    CKR_ATTRIBUTE_TYPE_INVALID => Request,
    CKR_ATTRIBUTE_VALUE_INVALID => Request,
    CKR_ACTION_PROHIBITED => Request,
    CKR_DATA_INVALID => AmbiguousRequest,
    CKR_DATA_LEN_RANGE => Request,
    CKR_DEVICE_ERROR => Ambiguous,
    CKR_DEVICE_MEMORY => Busy,
    CKR_DEVICE_REMOVED => Token,
    CKR_ENCRYPTED_DATA_INVALID => BadCiphertext,
    CKR_ENCRYPTED_DATA_LEN_RANGE => BadCiphertext,
    CKR_AEAD_DECRYPT_FAILED => BadCiphertext,
    CKR_FUNCTION_CANCELED => Busy,
    CKR_FUNCTION_NOT_PARALLEL => Session,
    CKR_FUNCTION_NOT_SUPPORTED => Request,
    CKR_KEY_HANDLE_INVALID => KeyHandle,
    CKR_KEY_SIZE_RANGE => Request,
    CKR_KEY_TYPE_INCONSISTENT => KeyHandle,
    CKR_KEY_NOT_NEEDED => Request,
    CKR_KEY_CHANGED => Request,
    CKR_KEY_NEEDED => Request,
    CKR_KEY_INDIGESTIBLE => Request,
    CKR_KEY_FUNCTION_NOT_PERMITTED => KeyUsage,
    CKR_KEY_NOT_WRAPPABLE => Request,
    CKR_KEY_UNEXTRACTABLE => Request,
    CKR_MECHANISM_INVALID => Request,
    CKR_MECHANISM_PARAM_INVALID => Request,
    CKR_OBJECT_HANDLE_INVALID => KeyHandle,
    CKR_OPERATION_ACTIVE => Session,
    CKR_OPERATION_NOT_INITIALIZED => Session,
    CKR_PIN_INCORRECT => Pin,
    CKR_PIN_INVALID => Pin,
    CKR_PIN_LEN_RANGE => Pin,
    CKR_PIN_EXPIRED => Pin,
    CKR_PIN_LOCKED => Pin,
    CKR_SESSION_CLOSED => Session,
    CKR_SESSION_COUNT => Busy,
    CKR_SESSION_HANDLE_INVALID => Session,
    CKR_SESSION_PARALLEL_NOT_SUPPORTED => Request,
    CKR_SESSION_READ_ONLY => Request,
    CKR_SESSION_EXISTS => Request,
    CKR_SESSION_READ_ONLY_EXISTS => Request,
    CKR_SESSION_READ_WRITE_SO_EXISTS => Token,
    CKR_SIGNATURE_INVALID => AmbiguousRequest,
    CKR_SIGNATURE_LEN_RANGE => AmbiguousRequest,
    CKR_TEMPLATE_INCOMPLETE => Request,
    CKR_TEMPLATE_INCONSISTENT => Request,
    CKR_TOKEN_NOT_PRESENT => Token,
    CKR_TOKEN_NOT_RECOGNIZED => Token,
    CKR_TOKEN_WRITE_PROTECTED => Request,
    CKR_UNWRAPPING_KEY_HANDLE_INVALID => Request,
    CKR_UNWRAPPING_KEY_SIZE_RANGE => Request,
    CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT => Request,
    CKR_USER_ALREADY_LOGGED_IN => Request,
    CKR_USER_NOT_LOGGED_IN => Login,
    CKR_USER_PIN_NOT_INITIALIZED => Token,
    CKR_USER_TYPE_INVALID => Request,
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN => Login,
    CKR_USER_TOO_MANY_TYPES => Token,
    CKR_WRAPPED_KEY_INVALID => Request,
    CKR_WRAPPED_KEY_LEN_RANGE => Request,
    CKR_WRAPPING_KEY_HANDLE_INVALID => Request,
    CKR_WRAPPING_KEY_SIZE_RANGE => Request,
    CKR_WRAPPING_KEY_TYPE_INCONSISTENT => Request,
    CKR_RANDOM_SEED_NOT_SUPPORTED => Request,
    CKR_RANDOM_NO_RNG => Token,
    CKR_DOMAIN_PARAMS_INVALID => Request,
    CKR_CURVE_NOT_SUPPORTED => Request,
    CKR_BUFFER_TOO_SMALL => Session,
    CKR_SAVED_STATE_INVALID => Request,
    CKR_INFORMATION_SENSITIVE => Request,
    CKR_STATE_UNSAVEABLE => Request,
    CKR_CRYPTOKI_NOT_INITIALIZED => Module,
    CKR_CRYPTOKI_ALREADY_INITIALIZED => Request,
    CKR_MUTEX_BAD => Module,
    CKR_MUTEX_NOT_LOCKED => Module,
    CKR_NEW_PIN_MODE => Pin,
    CKR_NEXT_OTP => Pin,
    CKR_EXCEEDED_MAX_ITERATIONS => Request,
    CKR_FIPS_SELF_TEST_FAILED => Token,
    CKR_LIBRARY_LOAD_FAILED => Module,
    CKR_PIN_TOO_WEAK => Pin,
    CKR_PUBLIC_KEY_INVALID => Request,
    CKR_FUNCTION_REJECTED => Token,
    CKR_TOKEN_RESOURCE_EXCEEDED => Busy,
    CKR_OPERATION_CANCEL_FAILED => Session,
    CKR_KEY_EXHAUSTED => Request,
    CKR_PENDING => Session,
    CKR_SESSION_ASYNC_NOT_SUPPORTED => Request,
    CKR_SEED_RANDOM_REQUIRED => Token,
    CKR_OPERATION_NOT_VALIDATED => Request,
    CKR_TOKEN_NOT_INITIALIZED => Token,
    CKR_PARAMETER_SET_NOT_SUPPORTED => Request,
};

/// Number of times that each code was returned. All codes outside the standard share one counter.
pub struct Counts {
    /// In the order of [`TABLE`]; the last one counts all other codes.
    counts: [AtomicU64; TABLE.len() + 1],
}

impl Default for Counts {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; TABLE.len() + 1] }
    }
}

impl Counts {
    /// Counts a code.
    pub fn count(&self, code: CK_RV) {
        let place = TABLE.binary_search_by_key(&code, |row| row.0.code).unwrap_or(TABLE.len());
        self.counts[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the codes that were counted, by name, with their counts.
    #[must_use]
    pub fn seen(&self) -> Vec<(&'static str, u64)> {
        let names = TABLE.iter().map(|row| row.0.name).chain(["other"]);
        names
            .zip(&self.counts)
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

fn row(code: CK_RV) -> Option<&'static Row> {
    TABLE.binary_search_by_key(&code, |row| row.0.code).ok().map(|at| &TABLE[at])
}

/// Returns the meaning of a code. Vendor-defined codes are ambiguous.
#[must_use]
pub fn class(code: CK_RV) -> Class {
    row(code).map_or(Class::Ambiguous, |row| row.1)
}

/// Returns the meaning of a code from C_Decrypt. `bad_tag_codes` are the ambiguous codes that the
/// HSM returns for a bad tag; with `None`, any ambiguous code may mean one.
#[must_use]
pub fn class_of_decrypt(code: CK_RV, bad_tag_codes: Option<&[CK_RV]>) -> Class {
    match (class(code), bad_tag_codes) {
        (Class::BadCiphertext, _) => Class::BadCiphertext,
        (_, Some(codes)) if codes.contains(&code) => Class::Ambiguous,
        (Class::Ambiguous, Some(_)) => Class::Token,
        (Class::AmbiguousRequest, Some(_)) => Class::Request,
        (class, _) => class,
    }
}

/// Returns the code with its name.
#[must_use]
pub fn return_code(code: CK_RV) -> ReturnCode {
    row(code).map_or(ReturnCode::Other(code), |row| ReturnCode::Standard(&row.0))
}

/// Returns the code's name and number, for logs and messages.
#[must_use]
pub fn describe(code: CK_RV) -> String {
    return_code(code).to_string()
}

/// Returns the failed function and the code's name, for logs and messages.
#[must_use]
pub fn describe_error(error: &Error) -> String {
    match error.code {
        Some(code) => format!("{}: {}", error.function, describe(code)),
        None => format!("{}: the module has no such function", error.function),
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::error::{Rv, RvError};

    use super::*;
    use crate::job::Failure;

    /// The table is sorted, as the binary search requires.
    #[test]
    fn table_is_in_order() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0.code < pair[1].0.code));
    }

    /// Every code that the bindings name has a row, so that none is classified by default.
    #[test]
    fn every_code_that_the_bindings_name_is_in_the_table() {
        for code in CKR_OK + 1..CKR_VENDOR_DEFINED.min(0x1000) {
            if !matches!(Rv::from(code), Rv::Error(RvError::UnknownErrorCode(_))) {
                assert!(
                    TABLE.iter().any(|row| row.0.code == code),
                    "{code:#x} is not in the table"
                );
            }
        }
    }

    /// A description names the function, even if the module lacks it.
    #[test]
    fn errors_are_described() {
        let error = Error { function: "C_Login", code: Some(CKR_PIN_LOCKED) };
        assert_eq!(describe_error(&error), "C_Login: CKR_PIN_LOCKED (0x000000a4)");
        let error = Error { code: None, ..error };
        assert_eq!(describe_error(&error), "C_Login: the module has no such function");
    }

    /// Standard codes are counted by name; all vendor-defined codes are counted together.
    #[test]
    fn counts() {
        let counts = Counts::default();
        assert!(counts.seen().is_empty());
        for code in [CKR_GENERAL_ERROR, 0x8000_0001, CKR_DEVICE_ERROR, 0x8000_0002, CKR_CANCEL] {
            counts.count(code);
        }
        assert_eq!(
            counts.seen(),
            [("CKR_CANCEL", 1), ("CKR_GENERAL_ERROR", 1), ("CKR_DEVICE_ERROR", 1), ("other", 2)]
        );
    }

    /// The meanings of codes that the XKS specification and vendors' documentation name.
    #[test]
    fn classes() {
        assert_eq!(class(CKR_ENCRYPTED_DATA_INVALID), Class::BadCiphertext);
        assert_eq!(class(CKR_AEAD_DECRYPT_FAILED), Class::BadCiphertext);
        for code in [CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED, CKR_DEVICE_ERROR] {
            assert_eq!(class(code), Class::Ambiguous);
        }
        assert_eq!(class(CKR_KEY_FUNCTION_NOT_PERMITTED), Class::KeyUsage);
        assert_eq!(class(CKR_USER_NOT_LOGGED_IN), Class::Login);
        assert_eq!(class(CKR_CRYPTOKI_NOT_INITIALIZED), Class::Module);
        assert_eq!(class(0x8000_0001), Class::Ambiguous, "vendor-defined");
        assert_eq!(describe(CKR_DEVICE_ERROR), "CKR_DEVICE_ERROR (0x00000030)");
        assert_eq!(
            Failure::Pkcs11(return_code(0x32)).to_string(),
            "CKR_DEVICE_REMOVED (0x00000032)"
        );
        assert_eq!(Failure::Pkcs11(return_code(0x8000_0001)).to_string(), "code 0x80000001");
    }

    /// A profile narrows down the meaning of ambiguous codes, and never reinterprets a code that
    /// definitely means a bad ciphertext.
    #[test]
    fn profiles_narrow_down() {
        let nshield = Some(&[CKR_FUNCTION_FAILED][..]);
        assert_eq!(class_of_decrypt(CKR_FUNCTION_FAILED, nshield), Class::Ambiguous);
        assert_eq!(class_of_decrypt(CKR_GENERAL_ERROR, nshield), Class::Token);
        assert_eq!(class_of_decrypt(0x8000_0001, nshield), Class::Token);
        assert_eq!(class_of_decrypt(CKR_DATA_INVALID, nshield), Class::Request);
        for codes in [None, Some(&[][..]), nshield] {
            let class = class_of_decrypt(CKR_ENCRYPTED_DATA_INVALID, codes);
            assert_eq!(class, Class::BadCiphertext);
            assert_eq!(class_of_decrypt(CKR_SESSION_CLOSED, codes), Class::Session);
        }
        assert_eq!(class_of_decrypt(CKR_GENERAL_ERROR, None), Class::Ambiguous);
        assert_eq!(class_of_decrypt(CKR_ARGUMENTS_BAD, None), Class::AmbiguousRequest);
    }
}

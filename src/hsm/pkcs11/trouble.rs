//! The conversion of return codes into [`Fault`]s, which state the failure and the party to blame.

use cryptoki_sys::{
    CK_RV, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_SESSION_CLOSED, CKR_SESSION_HANDLE_INVALID,
};

use super::codes::{self, Class};
use super::native::Error;
use crate::hsm::backend::{Blame, Fault};
use crate::job::{Failure, NamedCode, ReturnCode};

/// The fault of a session whose module has been, or is being, initialised again.
pub(super) const NO_SESSION: Fault = Fault {
    failure: Failure::Pkcs11(ReturnCode::Standard(&NamedCode {
        code: CKR_CRYPTOKI_NOT_INITIALIZED,
        name: "CKR_CRYPTOKI_NOT_INITIALIZED",
    })),
    blame: Blame::Session,
};

/// A failed operation. A stale key handle is distinguished, since looking the key up again may
/// help.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    StaleHandle(CK_RV),
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Returns whether the proxy reconnects to the token after this failure, so that the token's
/// handles may change.
pub(super) fn is_reconnection(fault: &Fault) -> bool {
    let Failure::Pkcs11(code) = fault.failure else { return false };
    let code = code.number();
    matches!(code, CKR_SESSION_HANDLE_INVALID | CKR_SESSION_CLOSED)
        || matches!(codes::class(code), Class::Login | Class::Token | Class::Module)
}

/// Returns the fault of a module that violated PKCS#11: an operation may still be active in the
/// session.
pub(super) const fn malformed() -> Fault {
    Fault { failure: Failure::Malformed, blame: Blame::Session }
}

pub(super) fn fault_of(code: CK_RV, blame: Blame) -> Fault {
    Fault { failure: Failure::Pkcs11(codes::return_code(code)), blame }
}

/// Returns the fault for a code from any function except C_Decrypt.
pub(super) fn fault_of_class(code: CK_RV) -> Fault {
    let blame = match codes::class(code) {
        Class::Ambiguous | Class::Token | Class::Module | Class::Pin => Blame::Token,
        Class::Session | Class::Login | Class::KeyHandle => Blame::Session,
        Class::Busy => Blame::Busy,
        Class::BadCiphertext | Class::AmbiguousRequest | Class::Request | Class::KeyUsage => {
            Blame::Request
        }
    };
    fault_of(code, blame)
}

pub(super) fn fault_of_error(error: &Error) -> Fault {
    error.code.map_or(malformed(), fault_of_class)
}

pub(super) fn trouble_of(code: CK_RV, may_not: Failure) -> Trouble {
    match codes::class(code) {
        Class::KeyHandle => Trouble::StaleHandle(code),
        Class::KeyUsage => Trouble::Fault(Fault::answer(may_not)),
        _ => Trouble::Fault(fault_of_class(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki_sys::*;

    /// The blame for standard codes from any function except C_Decrypt.
    #[test]
    fn blames() {
        for (code, blame) in [
            (CKR_SESSION_HANDLE_INVALID, Blame::Session),
            (CKR_SESSION_CLOSED, Blame::Session),
            (CKR_USER_NOT_LOGGED_IN, Blame::Session),
            (CKR_OPERATION_ACTIVE, Blame::Session),
            (CKR_DEVICE_ERROR, Blame::Token),
            (CKR_DEVICE_REMOVED, Blame::Token),
            (CKR_TOKEN_NOT_PRESENT, Blame::Token),
            (CKR_CRYPTOKI_NOT_INITIALIZED, Blame::Token),
            (CKR_FUNCTION_FAILED, Blame::Token),
            (CKR_GENERAL_ERROR, Blame::Token),
            (CKR_HOST_MEMORY, Blame::Busy),
            (CKR_DEVICE_MEMORY, Blame::Busy),
            (CKR_DATA_LEN_RANGE, Blame::Request),
            (CKR_MECHANISM_INVALID, Blame::Request),
        ] {
            assert_eq!(fault_of_class(code), fault_of(code, blame), "{}", codes::describe(code));
        }
    }

    /// The failures after which handles may belong to other keys.
    #[test]
    fn reconnections() {
        for code in [CKR_SESSION_CLOSED, CKR_DEVICE_REMOVED, CKR_USER_NOT_LOGGED_IN] {
            assert!(is_reconnection(&fault_of_class(code)));
        }
        for code in [CKR_OPERATION_ACTIVE, CKR_HOST_MEMORY, CKR_DATA_LEN_RANGE] {
            assert!(!is_reconnection(&fault_of_class(code)));
        }
    }
}

//! What to do if a token does not make a key, by the code of C_GenerateKey.

use cryptoki_sys::*;

use super::codes::{self, Class};

/// The remedy for a token that is write-protected.
pub const WRITE_PROTECTED: &str = "the token is write-protected, or this user may only read: lift the \
    protection with the vendor's tool, or use the PIN of a role that may make keys (on a Luna the \
    Crypto Officer, not the Crypto User)";
const TEMPLATE: &str = "the token does not accept the key's attributes: a private, sensitive AES \
    key of 32 bytes with a label and a CKA_ID, for encryption and decryption alone. Leave out \
    options (--id, --end-date, --extractable, --wrap-with-trusted), or make the key with the \
    vendor's tool under this label";
const NO_MECHANISM: &str = "the token makes no AES-256 keys for this user (CKM_AES_KEY_GEN): allow \
    it in the token's policy, or make or import the key with the vendor's tool under this label";
const POLICY: &str = "the HSM's policy does not let this user make keys: ask the HSM's \
    administrator to allow it (roles, partition policies, quorum), or make the key with the \
    vendor's tool under this label";
const LOGIN: &str = "making a key takes a login that the session does not have: check user_pin, \
    and whether the HSM wants more, such as a smart card or a quorum (a FIPS 140 level 3 nShield \
    security world wants a card)";
const NO_ROOM: &str = "the token has no room for another key: destroy objects that nobody needs, \
    or enlarge the partition";
const NOT_NOW: &str = "the token or the connection to it is in trouble: see `xks-proxy check \
    --hsm`, then try again";
const ELSE: &str = "make the key with the vendor's tool under this label, or look the code up in \
    the vendor's manual";

/// Returns the likely cause and the remedy, for the operator.
#[must_use]
pub fn remedy(code: Option<CK_RV>) -> &'static str {
    match code {
        Some(CKR_TOKEN_WRITE_PROTECTED | CKR_SESSION_READ_ONLY | CKR_SESSION_READ_ONLY_EXISTS) => {
            WRITE_PROTECTED
        }
        Some(
            CKR_ATTRIBUTE_TYPE_INVALID
            | CKR_ATTRIBUTE_VALUE_INVALID
            | CKR_ATTRIBUTE_READ_ONLY
            | CKR_TEMPLATE_INCONSISTENT
            | CKR_TEMPLATE_INCOMPLETE,
        ) => TEMPLATE,
        None
        | Some(
            CKR_MECHANISM_INVALID
            | CKR_MECHANISM_PARAM_INVALID
            | CKR_FUNCTION_NOT_SUPPORTED
            | CKR_KEY_SIZE_RANGE,
        ) => NO_MECHANISM,
        Some(CKR_FUNCTION_REJECTED | CKR_ACTION_PROHIBITED) => POLICY,
        Some(CKR_DEVICE_MEMORY | CKR_TOKEN_RESOURCE_EXCEEDED) => NO_ROOM,
        Some(code) => match codes::class(code) {
            Class::Login | Class::Pin => LOGIN,
            Class::Token | Class::Module | Class::Session | Class::Busy => NOT_NOW,
            _ => ELSE,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes by which tokens refuse to make keys each lead to their own remedy.
    #[test]
    fn remedies() {
        for (code, expected) in [
            (CKR_TOKEN_WRITE_PROTECTED, WRITE_PROTECTED),
            (CKR_SESSION_READ_ONLY, WRITE_PROTECTED),
            (CKR_ATTRIBUTE_TYPE_INVALID, TEMPLATE),
            (CKR_ATTRIBUTE_VALUE_INVALID, TEMPLATE),
            (CKR_TEMPLATE_INCONSISTENT, TEMPLATE),
            (CKR_MECHANISM_INVALID, NO_MECHANISM),
            (CKR_FUNCTION_REJECTED, POLICY),
            (CKR_ACTION_PROHIBITED, POLICY),
            (CKR_USER_NOT_LOGGED_IN, LOGIN),
            (CKR_DEVICE_MEMORY, NO_ROOM),
            (CKR_DEVICE_REMOVED, NOT_NOW),
            (CKR_SESSION_CLOSED, NOT_NOW),
            (CKR_GENERAL_ERROR, ELSE),
            (CKR_VENDOR_DEFINED, ELSE),
        ] {
            assert_eq!(remedy(Some(code)), expected, "{}", codes::describe(code));
        }
        assert_eq!(remedy(None), NO_MECHANISM);
    }
}

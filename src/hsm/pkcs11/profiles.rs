//! The profiles that `[hsm_capabilities] profile` names: rules for each make of HSM.
//!
//! The rules come from vendors' documentation or from `xks-proxy probe-hsm` run on the module.
//! Where neither is available, a rule has a conservative default. What is known of each vendor, with
//! its source, is at the head of the settings file in `configuration/`; "(?)" marks what is not.

use cryptoki_sys::{CKR_DEVICE_ERROR, CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR};

use crate::hsm::config::{GcmForm, IvMode, Rules};

/// One make of HSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Name in the settings.
    pub name: &'static str,
    /// Source of IVs.
    pub iv_mode: IvMode,
    /// All other rules.
    pub rules: Rules,
}

/// Rules for an HSM about which only the source of IVs is known.
const CAREFUL: Rules = Rules {
    bad_tag_codes: None,
    max_operation_bytes: None,
    is_read_write_only: false,
    form: GcmForm { asks_length: false, has_no_iv_bits: false },
    appended_iv_bits: 0,
    makes_deterministic_ivs: false,
    has_handles_of_sessions: false,
};

/// All profiles, in alphabetical order.
pub const PROFILES: [Profile; 11] = [
    Profile {
        name: "cloudhsm",
        iv_mode: IvMode::ZeroedBuffer,
        // The codes for a bad tag are not documented, and CKR_FUNCTION_FAILED may mean throttling,
        // so each ambiguous code is followed by a known-good operation.
        rules: Rules { max_operation_bytes: Some(16 * 1024), is_read_write_only: true, ..CAREFUL },
    },
    Profile {
        name: "fortanix",
        // (?) The service takes a caller's IV or makes one; the library is not known to be able to
        // pass on the latter.
        iv_mode: IvMode::Random,
        rules: CAREFUL,
    },
    Profile {
        name: "kryoptic",
        iv_mode: IvMode::Random,
        rules: Rules { bad_tag_codes: Some(&[]), ..CAREFUL },
    },
    Profile {
        name: "luna",
        iv_mode: IvMode::Appended,
        // With this setting, firmware 7.9.3 and later appends 12 bytes; earlier firmware ignores
        // it.
        rules: Rules { appended_iv_bits: 96, ..CAREFUL },
    },
    Profile {
        name: "nshield",
        iv_mode: IvMode::ZeroedBuffer,
        rules: Rules { bad_tag_codes: Some(&[CKR_FUNCTION_FAILED]), ..CAREFUL },
    },
    Profile {
        name: "nss",
        iv_mode: IvMode::Random,
        // NSS returns this code for any failure.
        rules: Rules { bad_tag_codes: Some(&[CKR_DEVICE_ERROR]), ..CAREFUL },
    },
    Profile {
        name: "opencryptoki",
        iv_mode: IvMode::Random,
        rules: Rules { bad_tag_codes: Some(&[]), ..CAREFUL },
    },
    Profile {
        name: "primus",
        // (?) The vendor's pages do not say who makes the IV; other products use CKM_AES_GCM with an
        // IV of their own.
        iv_mode: IvMode::Random,
        rules: CAREFUL,
    },
    Profile {
        name: "softhsm2",
        iv_mode: IvMode::Random,
        // SoftHSM2 up to version 2.6.1 returns this code.
        rules: Rules { bad_tag_codes: Some(&[CKR_GENERAL_ERROR]), ..CAREFUL },
    },
    Profile {
        name: "utimaco",
        // (?) The vendor's manuals are not public; other products use CKM_AES_GCM with an IV of
        // their own.
        iv_mode: IvMode::Random,
        rules: CAREFUL,
    },
    Profile {
        name: "vault",
        // From version 0.1.3 of the library on; before, it was a zeroed buffer.
        iv_mode: IvMode::Random,
        rules: Rules { has_handles_of_sessions: true, ..CAREFUL },
    },
];

/// Returns the profile with that name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each profile is found by name, and the names are in alphabetical order.
    #[test]
    fn names() {
        assert!(PROFILES.windows(2).all(|pair| pair[0].name < pair[1].name));
        for profile in &PROFILES {
            assert_eq!(by_name(profile.name), Some(profile));
        }
        assert_eq!(by_name("yubihsm2"), None);
    }
}

//! The rules of HSMs, by the names that `[hsm_capabilities] profile` takes.
//!
//! What stands here was read in vendors' documentation or tried on the module itself
//! (`xks-proxy probe-hsm`). Where neither tells, the rule is left at its careful default.

use cryptoki_sys::{CKR_DEVICE_ERROR, CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR};

use crate::hsm::config::{GcmForm, IvMode, Rules};

/// One make of HSM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// As the settings name it.
    pub name: &'static str,
    /// Where IVs come from.
    pub iv_mode: IvMode,
    /// All else.
    pub rules: Rules,
}

/// Nothing is known but where IVs come from.
const CAREFUL: Rules = Rules {
    bad_tag_codes: None,
    max_operation_bytes: None,
    is_read_write_only: false,
    form: GcmForm { asks_length: false, has_no_iv_bits: false },
    appended_iv_bits: 0,
};

/// In alphabetical order.
pub const PROFILES: [Profile; 7] = [
    Profile {
        name: "cloudhsm",
        iv_mode: IvMode::ZeroedBuffer,
        // CKR_FUNCTION_FAILED may be throttling: which codes mean a bad tag is not documented, so
        // each ambiguous one is looked into.
        rules: Rules { max_operation_bytes: Some(16 * 1024), is_read_write_only: true, ..CAREFUL },
    },
    Profile {
        name: "kryoptic",
        iv_mode: IvMode::Random,
        rules: Rules { bad_tag_codes: Some(&[]), ..CAREFUL },
    },
    Profile {
        name: "luna",
        iv_mode: IvMode::Appended,
        // Firmware from 7.9.3 on then appends 12 bytes; before, it does not look at it.
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
        // Its catch-all.
        rules: Rules { bad_tag_codes: Some(&[CKR_DEVICE_ERROR]), ..CAREFUL },
    },
    Profile {
        name: "opencryptoki",
        iv_mode: IvMode::Random,
        rules: Rules { bad_tag_codes: Some(&[]), ..CAREFUL },
    },
    Profile {
        name: "softhsm2",
        iv_mode: IvMode::Random,
        // Up to 2.6.1.
        rules: Rules { bad_tag_codes: Some(&[CKR_GENERAL_ERROR]), ..CAREFUL },
    },
];

/// The profile of that name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is found by its name, and names are in the order in which they are listed.
    #[test]
    fn names() {
        assert!(PROFILES.windows(2).all(|pair| pair[0].name < pair[1].name));
        for profile in &PROFILES {
            assert_eq!(by_name(profile.name), Some(profile));
        }
        assert_eq!(by_name("yubihsm2"), None);
    }
}

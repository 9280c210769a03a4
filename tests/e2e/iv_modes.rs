//! HSMs that generate the IV themselves, and HSMs that don't: the three modes through the whole
//! proxy, with SoftHSM2 behind a module that imitates those HSMs.

use std::collections::HashSet;

use serde_json::Value;

use crate::calls::four_calls;
use crate::common::{Client, Interposed, Setup, token, xks};

/// Behaviour of an HSM, and the settings for it.
#[derive(Clone, Copy)]
pub struct Hsm {
    /// The interposer's settings.
    pub module: &'static str,
    can_generate_iv: bool,
    is_zero_iv_required: bool,
    iv_bytes: usize,
}

const SOFTHSM2: Hsm =
    Hsm { module: "", can_generate_iv: false, is_zero_iv_required: false, iv_bytes: 12 };

/// Takes the caller's IV too, and has a code used only for bad tags.
const NSS: Hsm = Hsm { module: "bad_tag = \"CKR_ENCRYPTED_DATA_INVALID\"", ..SOFTHSM2 };

/// An nShield in a FIPS 140 level 3 world, without a card.
pub const NSHIELD: Hsm = Hsm {
    module: "iv = \"zeroed_buffer\"\nbad_tag = \"CKR_FUNCTION_FAILED\"\nno_session_keys = true",
    can_generate_iv: true,
    is_zero_iv_required: true,
    iv_bytes: 12,
};

/// A CloudHSM. No source documents the code of CloudHSM and Luna for a bad tag, so the standard's
/// code is used.
pub const CLOUDHSM: Hsm = Hsm {
    module: "iv = \"zeroed_buffer\"\niv_written_by = \"C_Encrypt\"\nneeds_rw = true\n\
             bad_tag = \"CKR_ENCRYPTED_DATA_INVALID\"",
    ..NSHIELD
};

/// A Luna in FIPS mode, with firmware 7.9.3 or later.
pub const LUNA: Hsm = Hsm {
    module: "iv = \"appended\"\nbad_tag = \"CKR_ENCRYPTED_DATA_INVALID\"",
    can_generate_iv: true,
    is_zero_iv_required: false,
    iv_bytes: 12,
};

/// HashiCorp Vault's library, in which each session has handles of its own.
pub const VAULT: Hsm = Hsm { module: "[odd]\nhandles_of_sessions = true", ..SOFTHSM2 };

const OLD_LUNA: Hsm = Hsm {
    module: "iv = \"appended\"\nappended_iv_bytes = 16\nbad_tag = \"CKR_ENCRYPTED_DATA_INVALID\"",
    iv_bytes: 16,
    ..LUNA
};

impl Hsm {
    /// Starts a proxy of this HSM, with the settings that it needs.
    fn start(self) -> Interposed {
        self.start_with(self)
    }

    /// Starts a proxy of this HSM, with another HSM's settings.
    fn start_with(self, other: Self) -> Interposed {
        let setup = Setup::new()
            .set("hsm_capabilities.can_generate_iv", other.can_generate_iv)
            .set("hsm_capabilities.is_zero_iv_required", other.is_zero_iv_required);
        Interposed::with(setup, self.module)
    }

    /// Asserts everything that must hold in each mode.
    #[track_caller]
    fn holds(self) {
        let proxy = self.start();
        four_calls(&proxy, b"");
        let client = proxy.client();
        self.no_iv_comes_twice(&client);
        for key in ["foo", "decrypt_only_key"] {
            bad_tags(&client, key);
        }
        assert_eq!(health_status(&client), "ACTIVE");
    }

    /// Asserts that 1,000 answers are correct and their IVs differ: GCM fails when a key's IV is
    /// reused.
    fn no_iv_comes_twice(self, client: &Client) {
        let mut connection = client.connect();
        let mut ivs = HashSet::new();
        let body = xks::encrypt_with_cdiv(b"the same", Some(b"aad")).to_string();
        let hsm_aad = xks::hsm_aad(Some(b"aad"), b"");
        for _ in 0..1000 {
            client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
            let encrypted = connection.receive().unwrap().ok();
            let plaintext = xks::decrypt_here(&token::FULL, &encrypted, &hsm_aad);
            assert_eq!(plaintext.as_deref(), Some(b"the same".as_slice()), "{encrypted}");
            let cdiv = xks::bytes(&encrypted["ciphertextDataIntegrityValue"]);
            assert_eq!(cdiv, xks::cdiv(Some(b"aad"), &encrypted));
            let iv = xks::bytes(&encrypted["initializationVector"]);
            assert_eq!(iv.len(), self.iv_bytes);
            assert!(ivs.insert(iv));
        }
    }
}

/// Asserts that a ciphertext with any changed part is refused as invalid, and a good one is not.
#[track_caller]
fn bad_tags(client: &Client, key: &str) {
    let decrypt = format!("keys/{key}/decrypt");
    let of_key = if key == "foo" { token::FULL } else { token::DECRYPT_ONLY };
    let good = xks::encrypt_here(&of_key, b"plaintext", Some(b"aad"), b"");
    for member in ["ciphertext", "initializationVector", "authenticationTag"] {
        let mut spoilt = good.clone();
        let mut bytes = xks::bytes(&good[member]);
        bytes[3] ^= 1;
        spoilt[member] = xks::base64(&bytes).into();
        let answer = client.call(&decrypt, &xks::decrypt(&spoilt, Some(b"aad")));
        answer.assert_error(400, "InvalidCiphertextException");
    }
    let other_aad = client.call(&decrypt, &xks::decrypt(&good, Some(b"AAD")));
    other_aad.assert_error(400, "InvalidCiphertextException");
    let decrypted = client.call(&decrypt, &xks::decrypt(&good, Some(b"aad"))).ok();
    assert_eq!(xks::bytes(&decrypted["plaintext"]), b"plaintext");
}

fn health_status(client: &Client) -> Value {
    let health = client.call("health", &xks::health()).ok();
    health["ekmFleetDetails"][0]["healthStatus"].clone()
}

#[test]
fn softhsm2() {
    SOFTHSM2.holds();
}

#[test]
fn nss() {
    NSS.holds();
}

#[test]
fn nshield() {
    NSHIELD.holds();
}

#[test]
fn cloudhsm() {
    CLOUDHSM.holds();
}

#[test]
fn luna() {
    LUNA.holds();
}

#[test]
fn luna_before_firmware_7_9_3() {
    OLD_LUNA.holds();
}

/// A token that refuses to make a session key for the proxy's health checks counts as healthy,
/// whatever code it returns, and bad tags are still distinguished from faults.
#[test]
fn no_session_keys() {
    for code in [
        "CKR_FUNCTION_FAILED",
        "CKR_USER_NOT_LOGGED_IN",
        "CKR_TOKEN_NOT_PRESENT",
        "CKR_DEVICE_ERROR",
    ] {
        eprintln!("{code}");
        let module = format!(
            "iv = \"zeroed_buffer\"\nbad_tag = \"CKR_FUNCTION_FAILED\"\n\
             no_session_keys = \"{code}\""
        );
        let setup = Setup::new()
            .set("hsm_capabilities.can_generate_iv", true)
            .set("hsm_capabilities.is_zero_iv_required", true);
        let mut proxy = Interposed::with(setup, &module);
        let client = proxy.client();
        for _ in 0..20 {
            bad_tags(&client, "decrypt_only_key");
            bad_tags(&client, "foo");
            assert_eq!(health_status(&client), "ACTIVE");
        }
        let counts = proxy.counts();
        proxy.wait_for("a key to have been asked for", |_| counts.calls("C_GenerateKey") > 0);
    }
}

/// A token that allows no read-write session is used through read-only ones.
#[test]
fn read_only_sessions() {
    four_calls(&Interposed::with(Setup::new(), "no_rw_sessions = true"), b"");
}

/// With another HSM's settings no ciphertext is sent out, least of all one with an all-zero IV,
/// which every message would share. Existing ciphertexts can still be decrypted, so health is
/// DEGRADED, which is "can still serve traffic" (XKS specification, GetHealthStatus), and the log
/// says once what to change.
#[test]
fn settings_of_another_hsm() {
    let hsms = [("SoftHSM2", SOFTHSM2), ("nShield", NSHIELD), ("Luna", LUNA)];
    for (name, hsm) in hsms {
        for (other_name, other) in hsms.into_iter().filter(|(other_name, _)| *other_name != name) {
            eprintln!("{name} with the settings of {other_name}");
            let mut proxy = hsm.start_with(other);
            let client = proxy.client();
            proxy.wait_for("health to say DEGRADED", |_| health_status(&client) == "DEGRADED");
            assert_eq!(proxy.get("/readyz").status, 200);
            for body in [xks::encrypt(b"secret", None), xks::encrypt_with_cdiv(b"secret", None)] {
                let refused = client.call("keys/foo/encrypt", &body);
                refused.assert_error(500, "InternalException");
            }
            let encrypted = xks::encrypt_here(&token::FULL, b"plaintext", None, b"");
            client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, None)).ok();
            assert_eq!(health_status(&client), "DEGRADED");
            let advice = "HSM token does not encrypt";
            let log = proxy.log_with(advice);
            assert_eq!(log.matches(advice).count(), 1, "{log}");
            let line = log.lines().find(|line| line.contains(advice)).unwrap();
            for part in ["[hsm_capabilities]", "can_generate_iv = ", "xks-proxy probe-hsm"] {
                assert!(line.contains(part), "{line}");
            }
        }
    }
}

//! SoftHSM2 behind the interposer (perf/interposer): return codes, hangs, removal, corruption.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use xks_proxy::hsm::config::TokenSelector;
use xks_proxy::job::Failure;

use crate::caller::*;
use crate::tokens::*;
use crate::tools;

pub const VALUE: [u8; 32] = [0x42; 32];
pub const LABELS: [&str; 3] = ["key", "other", "absent"];
/// Return codes of a failing token, or of a failing connection to it.
pub const CODES: [&str; 15] = [
    "CKR_GENERAL_ERROR",
    "CKR_FUNCTION_FAILED",
    "CKR_DEVICE_ERROR",
    "CKR_DEVICE_MEMORY",
    "CKR_DEVICE_REMOVED",
    "CKR_TOKEN_NOT_PRESENT",
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_SESSION_CLOSED",
    "CKR_USER_NOT_LOGGED_IN",
    "CKR_KEY_HANDLE_INVALID",
    "CKR_OBJECT_HANDLE_INVALID",
    "CKR_OPERATION_ACTIVE",
    "CKR_CRYPTOKI_NOT_INITIALIZED",
    "CKR_HOST_MEMORY",
    "CKR_OPERATION_NOT_INITIALIZED",
];
/// The functions called for a request.
pub const CRYPTO: &str =
    r#"functions = ["C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt"]"#;

#[derive(Debug, Default, Deserialize)]
pub struct Counts {
    pub name: String,
    pub calls: BTreeMap<String, u64>,
}

/// SoftHSM2 behind the interposer, with tokens "one" and "two".
pub struct Interposed {
    pub directory: PathBuf,
    pub step: u32,
}

impl Interposed {
    pub fn environment(directory: &Path) -> Vec<(&'static str, PathBuf)> {
        let mut environment = softhsm_environment(directory);
        std::fs::write(directory.join("faults.toml"), "").unwrap();
        environment.push(("XKS_INTERPOSER_MODULE", tools::softhsm2_module()));
        environment.push(("XKS_INTERPOSER_CONFIG", directory.join("faults.toml")));
        environment.push(("XKS_INTERPOSER_COUNTS", directory.join("counts.toml")));
        environment
    }

    /// Makes the tokens.
    pub fn new(directory: &Path) -> Self {
        let pkcs11 = initialize(&Self::module());
        for label in ["one", "two"] {
            let slot = make_token(&pkcs11, label);
            let session = login(&pkcs11, slot);
            add_key(&session, "other", &[1; 32], ENCRYPT | DECRYPT, true);
            add_key(&session, "key", &VALUE, ENCRYPT | DECRYPT, true);
        }
        pkcs11.finalize().unwrap();
        Self { directory: directory.to_owned(), step: 0 }
    }

    pub fn module() -> PathBuf {
        tools::interposer().to_owned()
    }

    /// A fleet of these tokens.
    pub fn start(labels: &[&str], pin: &str) -> Caller {
        let tokens = labels
            .iter()
            .map(|label| token(Self::module(), TokenSelector::Label((*label).to_owned()), pin, 4));
        Caller::start(config(tokens.collect(), &LABELS))
    }

    /// The slot of the fleet's token with that index.
    pub fn slot(caller: &Caller, index: usize) -> u64 {
        caller.hsm.inventory()[index].slot.clone().unwrap().id
    }

    /// Puts settings into force.
    pub fn set(&mut self, settings: &str) {
        self.step += 1;
        let name = format!("step {}", self.step);
        replace(&self.directory.join("faults.toml"), &format!("name = \"{name}\"\n{settings}\n"));
        eventually("the settings are in force", || self.counts().name == name);
    }

    pub fn counts(&self) -> Counts {
        std::fs::write(self.directory.join("counts.toml.request"), "").unwrap();
        eventually("counts are written", || !self.directory.join("counts.toml.request").exists());
        let text = std::fs::read_to_string(self.directory.join("counts.toml")).unwrap();
        toml::from_str(&text).unwrap()
    }

    pub fn count(&self, function: &str) -> u64 {
        self.counts().calls.get(function).copied().unwrap_or(0)
    }
}

/// Encrypts with a CDIV, decrypts, and checks that the answers are correct.
pub fn round_trip(caller: &mut Caller, n: u32) -> Result<(), Failure> {
    let plaintext = n.to_be_bytes();
    let (iv, sealed, _) = caller.encrypt_with_cdiv(0, Sha256::new(), &plaintext)?;
    let opened = caller.decrypt(0, iv.as_slice(), &sealed)?;
    assert_eq!(opened, plaintext, "a wrong answer");
    Ok(())
}

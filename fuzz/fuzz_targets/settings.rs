//! Settings files: loading returns settings or an error, and no message shows a secret.
//!
//! The first byte selects how the PIN is then damaged.
#![no_main]

use std::ffi::OsString;
use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use xks_proxy::settings::{Finding, PKCS11_HSM_MODULE, Severity, load};

/// The PIN of the seeds.
const PLACEHOLDER: &str = "\"PIN\"";
const SECRET: &str = "hush-4711-hush";

static DIRECTORY: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a directory"));

fuzz_target!(|data: &[u8]| {
    let [way, text @ ..] = data else { return };
    loaded(text);
    let Ok(text) = std::str::from_utf8(text) else { return };
    // Only a PIN is damaged: a message may show any other value.
    let Ok(table) = text.parse::<toml::Table>() else { return };
    let pin = table.get("pkcs11").and_then(|section| section.get("user_pin"));
    if pin.and_then(|pin| pin.as_str()) != Some("PIN") || text.matches(PLACEHOLDER).count() != 1 {
        return;
    }
    let spoilt = match way % 8 {
        0 => format!("\"{SECRET}\""),
        1 => SECRET.to_owned(),
        2 => format!("\"{SECRET}"),
        3 => format!("{SECRET}\""),
        4 => format!("[\"{SECRET}\"]"),
        5 => format!("{{ pin = \"{SECRET}\" }}"),
        6 => format!("\"\\u00{SECRET}\""),
        _ => format!("\"{SECRET}\" \"{SECRET}\""),
    };
    for finding in loaded(text.replace(PLACEHOLDER, &spoilt).as_bytes()) {
        let shown = format!("{finding} {finding:?}");
        assert!(!shown.contains(&SECRET[..9]), "{shown}");
    }
});

fn loaded(text: &[u8]) -> Vec<Finding> {
    let path = DIRECTORY.path().join("settings.toml");
    fs::write(&path, text).expect("a file");
    // Any existing file serves as the module.
    let module = std::env::current_exe().expect("our own path");
    let environment =
        |name: &str| (name == PKCS11_HSM_MODULE).then(|| OsString::from(module.as_os_str()));
    let is_mistake = |finding: &Finding| finding.severity == Severity::Mistake;
    match load(&path, false, &environment) {
        Ok((settings, findings)) => {
            assert!(!findings.iter().any(is_mistake));
            let service = settings.service();
            assert_eq!(service.stores().len(), settings.stores.len());
            let _ = (settings.hsm_config(&service), settings.server_config());
            assert!(!format!("{settings:?}").contains(SECRET));
            findings
        }
        Err(findings) => {
            assert!(findings.iter().any(is_mistake));
            findings
        }
    }
}

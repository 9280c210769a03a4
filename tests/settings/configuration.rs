//! The files of `configuration/` load, also with their commented-out members enabled.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use xks_proxy::settings::{Severity, locate_by};

use crate::Place;
use crate::tls_files::{is_of_authority, self_signed};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configuration")
}

/// All settings files, with certificates and module substituted.
fn files(place: &Place) -> Vec<(String, String)> {
    let (cert, key) = self_signed(&["xks.example.com"]).write(place, "server");
    let audit_key = place.path("audit_key");
    if !audit_key.exists() {
        std::fs::write(&audit_key, "5a".repeat(32)).unwrap();
        std::fs::set_permissions(&audit_key, Permissions::from_mode(0o400)).unwrap();
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.starts_with("settings") || !name.ends_with(".toml") {
            continue;
        }
        let text = std::fs::read_to_string(directory().join(&name)).unwrap();
        let lines = text.lines().map(|line| match line.split(" = ").next() {
            Some(member @ ("tls_cert_pem" | "#tls_cert_pem")) => format!("{member} = \"{cert}\""),
            Some(member @ ("tls_key_pem" | "#tls_key_pem")) => format!("{member} = \"{key}\""),
            Some("#ca_pem") => format!("#ca_pem = \"{cert}\""),
            Some("#client_ca_pem") => format!("#client_ca_pem = \"{cert}\""),
            Some("#server_ca_pem") => format!("#server_ca_pem = \"{cert}\""),
            Some("mtls_client_ca_pem") => format!("mtls_client_ca_pem = \"{cert}\""),
            Some("PKCS11_HSM_MODULE") => "PKCS11_HSM_MODULE = \"MODULE\"".to_owned(),
            Some("#key_file") => format!("#key_file = \"{}\"", audit_key.display()),
            Some("#module") => "#module = \"MODULE\"".to_owned(),
            _ => line.to_owned(),
        });
        files.push((name, lines.collect::<Vec<_>>().join("\n") + "\n"));
    }
    files.sort();
    files
}

#[test]
fn each_file_loads() {
    let place = Place::new();
    let files = files(&place);
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "settings.toml",
            "settings_cloudhsm.toml",
            "settings_docker.toml",
            "settings_fortanix.toml",
            "settings_kryoptic.toml",
            "settings_luna.toml",
            "settings_nshield.toml",
            "settings_primus.toml",
            "settings_softhsmv2.toml",
            "settings_utimaco.toml",
            "settings_vault.toml",
        ]
    );
    for (name, text) in &files {
        let result = place.load_with(text, true, &|_| None);
        let (_, findings) = result.unwrap_or_else(|it| panic!("{name}: {it:#?}"));
        for warning in findings.iter().filter(|it| it.severity == Severity::Warning) {
            // Left for each administrator to fill in, and a certificate that no authority issued.
            let is_expected =
                warning.member.ends_with(".sigv4_access_key_id") || is_of_authority(warning);
            assert!(is_expected, "{name}: {warning}");
        }
    }
}

/// Commented-out members have valid names and values, consistent with the rest.
#[test]
fn what_is_commented_out_loads_too() {
    let place = Place::new();
    for (name, text) in files(&place) {
        let mut uncommented = 0;
        // A program without the feature refuses the section.
        let refused = if cfg!(feature = "otlp") { None } else { Some("#[otlp]") };
        let mut is_refused = false;
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(section) if section.starts_with('[') && Some(line) == refused => {
                is_refused = true;
                line
            }
            // It is the last section.
            _ if is_refused => line,
            // Alternatives to other members, which `files` tests.
            Some(member)
                if member.contains("_file = ")
                    && !member.starts_with("policy")
                    && !member.starts_with("key_file") =>
            {
                line
            }
            Some(member)
                if member.starts_with(|it: char| it.is_ascii_alphabetic() || it == '[') =>
            {
                uncommented += 1;
                member
            }
            _ => line,
        });
        let text = lines.collect::<Vec<_>>().join("\n") + "\n";
        let text = text.replace("is_mtls_enabled = false", "is_mtls_enabled = true");
        let text = text.replace("is_tls_enabled = false", "is_tls_enabled = true");
        assert!(uncommented > 15, "{name}: {uncommented}");
        let result = place.load_with(&text, true, &|_| None);
        let (settings, _) = result.unwrap_or_else(|it| panic!("{name}: {it:#?}"));
        assert!(settings.tls.unwrap().client_name.unwrap().starts_with("cks.kms."), "{name}");
    }
}

/// Without a path in the environment, the file is found through this repository's bootstrap file.
#[test]
fn bootstrap_names_a_file_that_is_there() {
    let found = locate_by(&|_| None, &directory().join("bootstrap.toml")).unwrap();
    assert!(directory().parent().unwrap().join(found).is_file());
}

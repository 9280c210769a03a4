//! Settings from the environment.

use std::ffi::OsString;

use xks_proxy::settings::locate_by;

use crate::{Place, RIGHT, edited, mistakes, quoted};

fn none(_: &str) -> Option<OsString> {
    None
}

/// The file is named by the environment, or else by the bootstrap file.
#[test]
fn the_file_is_located() {
    let place = Place::new();
    place.write("bootstrap.toml", "XKS_PROXY_SETTINGS_TOML = \"configuration/b.toml\"\n");
    let bootstrap = place.path("bootstrap.toml");
    let named = |name: &str| (name == "XKS_PROXY_SETTINGS_TOML").then(|| "/etc/a.toml".into());
    assert_eq!(locate_by(&named, &bootstrap).unwrap().to_str(), Some("/etc/a.toml"));
    assert_eq!(locate_by(&none, &bootstrap).unwrap().to_str(), Some("configuration/b.toml"));
    let empty = |_: &str| Some(OsString::new());
    assert_eq!(locate_by(&empty, &bootstrap).unwrap().to_str(), Some("configuration/b.toml"));
}

/// If neither names it, the finding lists both places and the remedy.
#[test]
fn what_was_tried_is_said() {
    let place = Place::new();
    let absent = place.path("bootstrap.toml");
    for text in [
        None,
        Some(""),
        Some("XKS_PROXY_SETTINGS_TOML = 1"),
        Some("XKS_PROXY_SETTINGS_TOML = \"\""),
    ] {
        if let Some(text) = text {
            place.write("bootstrap.toml", text);
        }
        let findings = locate_by(&none, &absent).unwrap_err();
        let shown = findings[0].to_string();
        assert!(shown.contains("bootstrap.toml"), "{shown}");
        assert!(shown.contains("not set in the environment"), "{shown}");
        assert!(shown.contains("set XKS_PROXY_SETTINGS_TOML"), "{shown}");
    }
    place.write("bootstrap.toml", "a = 1\nXKS_PROXY_SETTINGS_TOML = \"");
    let findings = locate_by(&none, &absent).unwrap_err();
    assert_eq!(findings[0].position.unwrap().0, 2, "{}", findings[0]);
}

/// `PKCS11_HSM_MODULE` takes precedence over the member, which may then be wrong or absent.
#[test]
fn the_module_is_overridden() {
    let place = Place::new();
    let other = place.write("other.so", "x");
    let environment = |name: &str| (name == "PKCS11_HSM_MODULE").then(|| other.clone().into());
    for text in [
        RIGHT.to_owned(),
        edited("\"MODULE\"", "\"/no/such\""),
        edited("PKCS11_HSM_MODULE = \"MODULE\"\n", ""),
    ] {
        let (settings, _) = place.load_with(&text, false, &environment).unwrap();
        assert_eq!(settings.pkcs11.tokens[0].module.to_str(), Some(other.as_str()));
    }
    let wrong = |name: &str| (name == "PKCS11_HSM_MODULE").then(|| "/no/such".into());
    let findings = place.load_with(RIGHT, false, &wrong).unwrap_err();
    let mistakes = mistakes(&findings);
    assert_eq!(mistakes.len(), 1, "{findings:#?}");
    assert!(mistakes[0].problem.contains("environment variable"), "{}", mistakes[0]);
    let empty = |name: &str| (name == "PKCS11_HSM_MODULE").then(OsString::new);
    let (settings, _) = place.load_with(RIGHT, false, &empty).unwrap();
    assert_eq!(quoted(settings.pkcs11.tokens[0].module.to_str().unwrap()), quoted(&place.module()));
}

/// The logger's variables are set only if the environment does not contain them.
#[test]
fn the_loggers_variables() {
    let place = Place::new();
    let (settings, _) = place.load(RIGHT).unwrap();
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let flags = pair("PKCS11_LOGGER_FLAGS", "0");
    let library = pair("PKCS11_LOGGER_LIBRARY_PATH", "/lib/a.so");
    assert_eq!(settings.pkcs11.environment, [library, flags.clone()]);
    let environment = |name: &str| (name == "PKCS11_LOGGER_LIBRARY_PATH").then(|| "/x".into());
    let (settings, _) = place.load_with(RIGHT, false, &environment).unwrap();
    assert_eq!(settings.pkcs11.environment, [flags]);
}

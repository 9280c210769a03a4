//! Secrets in separate files, and files that others can read.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use xks_proxy::settings::Severity;

use crate::tls_files::self_signed;
use crate::{PIN, Place, RIGHT, SECRET, edited, mistakes, quoted};

const INLINE_PIN: &str = "user_pin = \"hush-4711\"";
const INLINE_SECRET: &str =
    "sigv4_secret_access_key = \"HushHushHushHushHushHushHushHushHushHushHushHush\"";

/// The right file with the PIN and all secret access keys in separate files.
fn with_files(place: &Place, pin: &str, secret: &str) -> String {
    let pin = place.write("pin", pin);
    let secret = place.write("secret", secret);
    let secret_member = format!("sigv4_secret_access_key_file = {}", quoted(&secret));
    edited(INLINE_PIN, &format!("user_pin_file = {}", quoted(&pin)))
        .replace(INLINE_SECRET, &secret_member)
}

/// One trailing line end is removed, as editors add one; blanks are part of a PIN.
#[test]
fn secrets_from_files() {
    let place = Place::new();
    for (end, pin) in [("", PIN), ("\n", PIN), ("\r\n", PIN), (" \n", "hush-4711 ")] {
        let text = with_files(&place, &format!("{PIN}{end}"), &format!("{SECRET}\n"));
        let (settings, findings) = place.load(&text).unwrap();
        assert!(findings.iter().all(|it| it.severity == Severity::Notice), "{findings:#?}");
        assert_eq!(settings.pkcs11.tokens[0].user_pin.expose(), pin);
        for store in &settings.stores {
            let credential = &store.credentials[0];
            assert_eq!(credential.secret_access_key.expose(), SECRET);
        }
    }
}

/// Each mistake names its member and reveals nothing from the file.
#[test]
fn mistakes_with_secret_files() {
    let place = Place::new();
    let pin_file = "pkcs11.user_pin_file";
    let key_file = "external_key_stores[0].sigv4_secret_access_key_file";
    let right = format!("{SECRET}\n");
    for (pin, secret, member, problem) in [
        ("", right.as_str(), pin_file, "is empty"),
        ("\n", &right, pin_file, "is empty"),
        (&format!("{PIN}\n\n"), &right, pin_file, "more than one line"),
        (&"1".repeat(5000), &right, pin_file, "larger than 4096"),
        // Each of these would have cost one of few attempts at the PIN.
        ("\u{feff}hush-4711\n", &right, pin_file, "byte order mark"),
        ("hush\u{feff}-4711", &right, pin_file, "byte order mark"),
        ("h\0u\0s\0h\0\n\0", &right, pin_file, "NUL"),
        (PIN, &format!("\u{feff}{SECRET}"), key_file, "byte order mark"),
        (PIN, &format!("{SECRET}\0"), key_file, "NUL"),
    ] {
        let findings = place.load(&with_files(&place, pin, secret)).unwrap_err();
        let found = mistakes(&findings);
        // Both stores name the same file.
        let stores = if member == key_file { 2 } else { 1 };
        assert_eq!(found.len(), stores, "{findings:#?}");
        assert_eq!(found[0].member, member);
        assert!(found[0].problem.contains(problem), "{}", found[0]);
    }
    let short = with_files(&place, PIN, "HushHush");
    let findings = place.load(&short).unwrap_err();
    let found = mistakes(&findings);
    assert_eq!(found[0].member, key_file);
    assert!(found[0].problem.contains("8 characters"), "{}", found[0]);
    for finding in &findings {
        assert!(!finding.to_string().contains("HushHush"), "{finding}");
    }
    std::fs::write(place.path("pin"), b"hush-4711\xff").unwrap();
    let findings = place.load(&with_files_kept(&place)).unwrap_err();
    assert!(findings.iter().any(|it| it.problem.contains("not UTF-8")), "{findings:#?}");
    assert!(findings.iter().all(|it| !format!("{it:?}").contains("4711")), "{findings:#?}");
    std::fs::remove_file(place.path("pin")).unwrap();
    let findings = place.load(&with_files_kept(&place)).unwrap_err();
    assert!(findings.iter().any(|it| it.problem.contains("cannot be read")), "{findings:#?}");
}

/// The settings that name the PIN's file, in its present state.
fn with_files_kept(place: &Place) -> String {
    let pin = quoted(place.path("pin").to_str().unwrap());
    edited(INLINE_PIN, &format!("user_pin_file = {pin}"))
}

/// Which one of the two to use would be a guess.
#[test]
fn both_forms_are_a_mistake() {
    let place = Place::new();
    let pin = place.write("pin", PIN);
    let secret = place.write("secret", SECRET);
    for (inline, member, path, named) in [
        (INLINE_PIN, "user_pin_file", pin, "pkcs11.user_pin_file"),
        (
            INLINE_SECRET,
            "sigv4_secret_access_key_file",
            secret,
            "external_key_stores[0].sigv4_secret_access_key_file",
        ),
    ] {
        let text = edited(inline, &format!("{inline}\n{member} = {}", quoted(&path)));
        let findings = place.load(&text).unwrap_err();
        let found = mistakes(&findings);
        assert_eq!(found.len(), 1, "{findings:#?}");
        assert_eq!(found[0].member, named);
        assert!(found[0].problem.contains("as well"), "{}", found[0]);
    }
}

/// Settings, PIN, secret access key and TLS key that others can read: a warning, or with
/// `strict_file_permissions` a mistake.
#[test]
fn files_that_others_can_read() {
    let place = Place::new();
    let (cert, key) = self_signed(&["xks.example.com"]).write(&place, "server");
    let apart = with_tls(&with_files(&place, PIN, SECRET), &cert, &key);
    let with = |text: &str, is_strict: bool| {
        let strict = format!("strict_file_permissions = {is_strict}\nis_tls_enabled");
        text.replacen("is_tls_enabled", &strict, 1)
    };
    let open = |path: &str, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    for (name, member) in [
        ("pin", "pkcs11.user_pin_file"),
        ("secret", "external_key_stores[0].sigv4_secret_access_key_file"),
        (key.as_str(), "tls.tls_key_pem"),
    ] {
        let path = place.path(name);
        let path = path.to_str().unwrap();
        let is_one = |it: &&xks_proxy::settings::Finding| {
            it.member == member && it.problem.contains("(mode 0644")
        };
        open(path, 0o644);
        let (_, findings) = place.load(&with(&apart, false)).unwrap();
        let found = findings.iter().find(is_one).unwrap_or_else(|| panic!("{findings:#?}"));
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.remedy.contains("chmod"), "{found}");
        let findings = place.load(&with(&apart, true)).unwrap_err();
        let found = findings.iter().find(is_one).unwrap_or_else(|| panic!("{findings:#?}"));
        assert_eq!(found.severity, Severity::Mistake);
        open(path, 0o400);
        let (_, findings) = place.load(&with(&apart, true)).unwrap();
        assert!(!findings.iter().any(|it| it.problem.contains("(mode")), "{findings:#?}");
    }
}

/// The settings file itself is secret only if it contains a secret: a Kubernetes ConfigMap is
/// readable by everybody.
#[test]
fn settings_that_others_can_read() {
    let place = Place::new();
    let apart = with_files(&place, PIN, SECRET);
    for (text, mode, is_exposed) in [
        (RIGHT, 0o600, false),
        (RIGHT, 0o644, true),
        (&apart, 0o644, false),
        (&apart, 0o664, true),
        (&apart, 0o666, true),
    ] {
        let text = text.replace("\"MODULE\"", &quoted(&place.module()));
        for is_strict in [false, true] {
            let text = text.replacen(
                "is_tls_enabled",
                &format!("strict_file_permissions = {is_strict}\nis_tls_enabled"),
                1,
            );
            let path = place.write("settings.toml", &text);
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let loaded = xks_proxy::settings::load(path.as_ref(), false, &|_| None);
            assert_eq!(loaded.is_err(), is_exposed && is_strict, "{mode:o} {loaded:?}");
            let findings = match loaded {
                Ok((_, findings)) | Err(findings) => findings,
            };
            let found = findings.iter().filter(|it| it.problem.contains("(mode")).count();
            assert_eq!(found, usize::from(is_exposed), "{mode:o} {findings:#?}");
        }
    }
}

/// A Landlock path that is missing is a mistake; paths without `landlock` are a warning.
#[test]
fn landlock_paths() {
    let place = Place::new();
    let directory = quoted(place.path("").to_str().unwrap());
    let with = |members: &str| edited("[[external", &format!("{members}\n\n[[external"));
    let text = with(&format!("landlock = true\nlandlock_read = [{directory}]"));
    let (settings, _) = place.load(&text).unwrap();
    let landlock = settings.confinement.landlock.unwrap();
    assert_eq!(landlock.read, [place.path("")]);
    assert!(landlock.write.is_empty());
    // The directory of the settings file, for reloads.
    assert!(landlock.reload.contains(&place.path("settings.toml").parent().unwrap().to_owned()));

    let (settings, findings) =
        place.load(&with(&format!("landlock_write = [{directory}]"))).unwrap();
    assert!(settings.confinement.landlock.is_none());
    assert!(findings.iter().any(|it| it.member == "security.landlock_write"), "{findings:#?}");

    let findings =
        place.load(&with("landlock = true\nlandlock_read = [\"/no/such/path\"]")).unwrap_err();
    let found = mistakes(&findings);
    assert_eq!((found.len(), found[0].member.as_str()), (1, "security.landlock_read[0]"));
}

/// The same in the settings themselves, where an editor may have left it.
#[test]
fn characters_that_no_secret_has() {
    let place = Place::new();
    for (escape, problem) in [("\\uFEFF", "byte order mark"), ("\\u0000", "NUL")] {
        let inline = [
            ("user_pin = \"", "pkcs11.user_pin"),
            ("sigv4_secret_access_key = \"", "external_key_stores[0].sigv4_secret_access_key"),
        ];
        for (before, member) in inline {
            let text = edited(before, &format!("{before}{escape}"));
            let findings = place.load(&text).unwrap_err();
            let found = mistakes(&findings);
            assert_eq!((found.len(), found[0].member.as_str()), (1, member), "{findings:#?}");
            assert!(found[0].problem.contains(problem), "{}", found[0]);
        }
    }
}

/// The parser would skip the first certificate of such a file.
#[test]
fn a_byte_order_mark_before_a_certificate() {
    let place = Place::new();
    let (cert, key) = self_signed(&["xks.example.com"]).write(&place, "server");
    let text = std::fs::read_to_string(&cert).unwrap();
    std::fs::write(&cert, format!("\u{feff}{text}{text}")).unwrap();
    let findings = place.load(&with_tls(RIGHT, &cert, &key)).unwrap_err();
    let found = mistakes(&findings);
    assert_eq!((found.len(), found[0].member.as_str()), (1, "tls.tls_cert_pem"), "{findings:#?}");
    assert!(found[0].problem.contains("byte order mark"), "{}", found[0]);
}

/// Files that others can change, or replace because they can change a directory on the way: with
/// `strict_file_permissions` a mistake, whatever the file is for.
#[test]
fn files_that_others_can_change_or_replace() {
    let place = Place::new();
    let strict = "strict_file_permissions = true\nis_tls_enabled";
    let (cert, key) = self_signed(&["xks.example.com"]).write(&place, "server");
    let text = with_tls(&with_files(&place, PIN, SECRET), &cert, &key);
    let (ca, _) = self_signed(&["ca.example.com"]).write(&place, "ca");
    let policy = place.write("policy.cedar", "permit (principal, action, resource);");
    let text = text
        .replacen("is_tls_enabled", strict, 1)
        .replacen("is_mtls_enabled = false", "is_mtls_enabled = true", 1)
        .replacen("[tls]\n", &format!("[tls]\nmtls_client_ca_pem = {}\n", quoted(&ca)), 1)
        .replacen("[security]\n", "[security]\nsecondary_auth = \"Cedar\"\n", 1)
        .replacen(
            "[tls]",
            &format!("[security.cedar]\npolicy_file = {}\n[tls]", quoted(&policy)),
            1,
        );
    let admin = format!(
        "{text}\n[admin]\nport = 9\ntls_cert_pem = {}\ntls_key_pem = {}\nclient_ca_pem = {}\n",
        quoted(&cert),
        quoted(&key),
        quoted(&ca)
    );
    let (_, findings) = place.load(&admin).unwrap();
    let is_exposed = |it: &xks_proxy::settings::Finding| it.problem.contains("other users");
    assert!(!findings.iter().any(is_exposed), "{findings:#?}");
    let set = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    let module = place.module();
    for (file, members) in [
        (&module, &["pkcs11.PKCS11_HSM_MODULE"][..]),
        (&cert, &["tls.tls_cert_pem", "admin.tls_cert_pem"]),
        (&ca, &["tls.mtls_client_ca_pem", "admin.client_ca_pem"]),
        (&policy, &["security.cedar.policy_file"]),
    ] {
        for mode in [0o664, 0o646] {
            set(file.as_ref(), mode);
            let findings = place.load(&admin).unwrap_err();
            let found = mistakes(&findings);
            let named: Vec<_> = found.iter().map(|it| it.member.as_str()).collect();
            assert_eq!(named, members, "{findings:#?}");
            assert!(found.iter().all(|it| it.problem.contains("changed by other")), "{found:#?}");
        }
        set(file.as_ref(), 0o600);
    }
    // The directory of all of them: reported once, unless it is sticky.
    let directory = place.path("");
    for (mode, mistakes_expected) in [(0o770, 1), (0o707, 1), (0o1777, 0), (0o755, 0)] {
        set(&directory, mode);
        let findings = match place.load(&admin) {
            Ok((_, findings)) | Err(findings) => findings,
        };
        let found = mistakes(&findings);
        assert_eq!(found.len(), mistakes_expected, "{mode:o} {findings:#?}");
        for finding in found {
            assert!(finding.problem.contains("can be replaced by other users"), "{finding}");
        }
    }
    // Without the switch, a warning.
    set(&directory, 0o777);
    let lax = admin.replacen("strict_file_permissions = true", "", 1);
    let (_, findings) = place.load(&lax).unwrap();
    let warnings = findings.iter().filter(|it| it.severity == Severity::Warning && is_exposed(it));
    assert_eq!(warnings.count(), 1, "{findings:#?}");
}

/// The text with TLS on, and these files.
fn with_tls(text: &str, cert: &str, key: &str) -> String {
    let tls = format!(
        "[tls]\ntls_cert_pem = {}\ntls_key_pem = {}\n[pkcs11]\n",
        quoted(cert),
        quoted(key)
    );
    let on = text.replacen("is_tls_enabled = false", "is_tls_enabled = true", 1);
    on.replacen("[pkcs11]\n", &tls, 1)
}

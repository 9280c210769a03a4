//! Several credentials for one store: which files load, and the line of each mistake.

use xks_proxy::limits::MAX_CREDENTIALS_PER_STORE;
use xks_proxy::settings::Severity;

use crate::{Place, RIGHT, SECRET, edited, line_of, mistakes, quoted};

const OLD_ID: &str = "ABCDEFGHIJKLMNOPQRSTUVWX";
const OLD_FORM: &str = "sigv4_access_key_id = \"ABCDEFGHIJKLMNOPQRSTUVWX\"
sigv4_secret_access_key = \"HushHushHushHushHushHushHushHushHushHushHushHush\"
";
const NEW_ID: &str = "NEWNEWNEWNEWNEWNEWNEW234";
const NEW_SECRET: &str = "NewSecretNewSecretNewSecretNewSecretNewSecret/+=";
const LISTED: &str = "[[external_key_stores.credentials]]
name = \"the new one\"
created = 2026-01-31
sigv4_access_key_id = \"NEWNEWNEWNEWNEWNEWNEW234\"
sigv4_secret_access_key = \"NewSecretNewSecretNewSecretNewSecretNewSecret/+=\"
";

/// The right file with `listed` after the first store's own members, and with `old_form` in place
/// of the store's single credential.
fn with(old_form: &str, listed: &str) -> String {
    let text = edited(OLD_FORM, old_form);
    text.replacen("max_in_flight = 100\n", &format!("max_in_flight = 100\n\n{listed}"), 1)
}

fn number(index: usize) -> String {
    let id = format!("NUMBER{}", "ABCDEFGHIJ".as_bytes()[index] as char).repeat(3);
    format!(
        "[[external_key_stores.credentials]]\nsigv4_access_key_id = \"{id}\"\n\
         sigv4_secret_access_key = \"{}\"\n",
        format!("secret{index}").repeat(7)
    )
}

/// Both forms alone and together; the verifier gets all credentials.
#[test]
fn both_forms() {
    let place = Place::new();
    let empty = "sigv4_access_key_id = \"\"\nsigv4_secret_access_key = \"\"\n";
    for (old_form, listed, ids) in [
        (OLD_FORM, "", &[OLD_ID][..]),
        (OLD_FORM, LISTED, &[OLD_ID, NEW_ID]),
        ("", LISTED, &[NEW_ID]),
        // As in the sample files, unchanged.
        (empty, LISTED, &[NEW_ID]),
    ] {
        let (settings, findings) = place.load(&with(old_form, listed)).unwrap();
        let warnings = findings.iter().filter(|it| it.severity == Severity::Warning).count();
        assert_eq!(warnings, 0, "{findings:#?}");
        let service = settings.service();
        let store = service.store("").unwrap();
        let found: Vec<_> = store.credentials().iter().map(|it| it.access_key_id()).collect();
        assert_eq!(found, ids);
        assert_eq!(service.credentials(), ids.len() + 1, "and the second store's");
    }
    let (settings, _) = place.load(&with(OLD_FORM, LISTED)).unwrap();
    let [old, new] = settings.stores[0].credentials.as_slice() else { panic!() };
    assert_eq!((old.name.as_deref(), old.created_unix_secs), (None, None));
    assert_eq!(new.name.as_deref(), Some("the new one"));
    assert_eq!(new.created_unix_secs, Some(1_769_817_600));
    assert_eq!(old.secret_access_key.expose(), SECRET);
    assert_eq!(new.secret_access_key.expose(), NEW_SECRET);
}

/// The maximum number of credentials, and one more.
#[test]
fn the_maximum() {
    let place = Place::new();
    let listed = |count: usize| (0..count).map(number).collect::<String>();
    let (settings, _) = place.load(&with("", &listed(MAX_CREDENTIALS_PER_STORE))).unwrap();
    assert_eq!(settings.stores[0].credentials.len(), MAX_CREDENTIALS_PER_STORE);
    for (old_form, index) in
        [("", MAX_CREDENTIALS_PER_STORE), (OLD_FORM, MAX_CREDENTIALS_PER_STORE - 1)]
    {
        let findings = place.load(&with(old_form, &listed(index + 1))).unwrap_err();
        let found = mistakes(&findings);
        assert_eq!(found.len(), 1, "{findings:#?}");
        let member = format!("external_key_stores[0].credentials[{index}]");
        assert_eq!(found[0].member, member);
        assert!(found[0].problem.contains("already has 8 credentials"), "{}", found[0]);
        assert!(found[0].remedy.contains("credentials list"), "{}", found[0]);
    }
}

/// Each mistake is the only one found, with its line, its member and a remedy.
#[test]
fn mistakes_in_the_list() {
    let place = Place::new();
    let listed = |from: &str, to: &str| {
        assert!(LISTED.contains(from), "{from}");
        with(OLD_FORM, &LISTED.replacen(from, to, 1))
    };
    let id_line = format!("sigv4_access_key_id = \"{NEW_ID}\"\n");
    let secret_line = format!("sigv4_secret_access_key = \"{NEW_SECRET}\"\n");
    let both_lines = format!("{id_line}{secret_line}");
    let heading = "[[external_key_stores.cred";
    let id = "sigv4_access_key_id";
    let secret = "sigv4_secret_access_key";
    let empty = "sigv4_access_key_id = \"\"\nsigv4_secret_access_key = \"\"\n";
    #[rustfmt::skip]
    let cases = [
        (listed(&id_line, ""), heading, id, "missing", "20 to 30"),
        (listed(NEW_ID, "NEWNEWNEWNEWNEWNEW2"), "NEWNEW2", id, "19 characters", "20 to 30"),
        (listed(NEW_ID, &"A".repeat(31)), "AAAAA", id, "31 characters", "20 to 30"),
        (listed(NEW_ID, "NEWNEWNEWNEWNEWNEWNEW018"), "NEW018", id, "not allowed", "A-Z and 2-7"),
        (listed(NEW_ID, ""), "_id = \"\"", id, "other half", "20 to 30"),
        (listed(&format!("\"{NEW_ID}\""), "7"), "_id = 7", id, "whole number", "20 to 30"),
        (listed(NEW_ID, OLD_ID), "-last id-", id, "already in external_key_stores[0].sigv4_access_key_id", "credentials new"),
        (listed(&secret_line, ""), heading, secret, "missing", "43 to 64"),
        (listed(NEW_SECRET, &"x".repeat(42)), "xxxx", secret, "42 characters", "43 to 64"),
        (listed(NEW_SECRET, &"x".repeat(65)), "xxxx", secret, "65 characters", "43 to 64"),
        (listed(NEW_SECRET, &"-".repeat(43)), "----", secret, "not allowed", "43 to 64"),
        (listed(NEW_SECRET, ""), "key = \"\"", secret, "other half", "43 to 64"),
        (listed(&both_lines, empty), "_id = \"\"", id, "so is the secret", "remove this section"),
        (listed("2026-01-31", "\"2026-01-31\""), "created", "created", "a string, not a date", "without quotes"),
        (listed("2026-01-31", "2026-01-31T10:00:00Z"), "created", "created", "not a day", "2026-11-25"),
        (listed("2026-01-31", "10:00:00"), "created", "created", "not a day", "2026-11-25"),
        (listed("2026-01-31", "1969-12-31"), "created", "created", "after 1969", "2026-11-25"),
        (listed("\"the new one\"", "2026"), "name = 2026", "name", "whole number", "64 characters"),
        (listed("the new one", ""), "name = \"\"", "name", "empty", "64 characters"),
        (listed("the new one", "a\\u001b[2J"), "name = ", "name", "control character", "64 characters"),
        (listed("the new one", &"n".repeat(65)), "name = ", "name", "65 bytes", "64 characters"),
    ];
    for (text, at, member, problem, remedy) in cases {
        let findings = match place.load(&text) {
            Ok(_) => panic!("{at} {problem} loaded"),
            Err(findings) => findings,
        };
        let found = mistakes(&findings);
        let [mistake] = found.as_slice() else { panic!("{at} {problem}: {findings:#?}") };
        assert_eq!(mistake.member, format!("external_key_stores[0].credentials[0].{member}"));
        assert!(mistake.problem.contains(problem), "{mistake}");
        assert!(mistake.remedy.contains(remedy), "{mistake}");
        let line = match at {
            // Second occurrence of the id; the second store, which uses the same id, comes later.
            "-last id-" => line_of(&text, "created = ") + 1,
            at => line_of(&text, at),
        };
        assert_eq!(mistake.position.map(|(line, _)| line), Some(line), "{mistake}");
        assert!(!format!("{findings:?}").contains("NewSecret"), "{findings:?}");
    }
}

/// A store without a credential, in each way of writing that.
#[test]
fn none_at_all() {
    let place = Place::new();
    for (old_form, at) in [("", "[[external_key_stores]]"), ("credentials = []\n", "credentials")] {
        let text = edited(OLD_FORM, old_form);
        let findings = place.load(&text).unwrap_err();
        let found = mistakes(&findings);
        assert_eq!(found.len(), 1, "{findings:#?}");
        assert_eq!(found[0].member, "external_key_stores[0].credentials");
        assert_eq!(found[0].position.map(|(line, _)| line), Some(line_of(&text, at)));
        assert!(found[0].problem.contains("no credential"), "{}", found[0]);
        assert!(found[0].remedy.contains("credentials new"), "{}", found[0]);
    }
    // If signatures are not verified, no credential is needed, and none is checked.
    let off = edited(OLD_FORM, "").replace("auth_enabled = true", "auth_enabled = false");
    let (settings, _) = place.load(&off).unwrap();
    assert!(settings.stores[0].credentials.is_empty());
}

/// A list of the wrong type is explained.
#[test]
fn shapes() {
    let place = Place::new();
    for (line, member, problem) in [
        ("credentials = 1\n", "credentials", "not a list"),
        ("credentials = [1]\n", "credentials[0]", "not a section"),
        ("credentials = \"x\"\n", "credentials", "a string"),
    ] {
        let findings = place.load(&edited(OLD_FORM, &format!("{OLD_FORM}{line}"))).unwrap_err();
        let found = mistakes(&findings);
        assert_eq!(found.len(), 1, "{findings:#?}");
        assert_eq!(found[0].member, format!("external_key_stores[0].{member}"));
        assert!(found[0].problem.contains(problem), "{}", found[0]);
    }
    // With single brackets.
    let single = LISTED.replace("[[", "[").replace("]]", "]");
    let findings = place.load(&with("", &single)).unwrap_err();
    let found = mistakes(&findings);
    assert!(found[0].remedy.contains("[[external_key_stores.credentials]]"), "{findings:#?}");
}

/// Settings that load but are probably not intended.
#[test]
fn warnings() {
    let place = Place::new();
    let same_secret = LISTED.replace(NEW_SECRET, SECRET);
    let misspelt = LISTED.replace("created", "craeted");
    for (listed, member, problem) in [
        (same_secret, "sigv4_secret_access_key", "already the secret of external_key_stores[0]"),
        (LISTED.replace("2026-01-31", "2999-12-31"), "created", "in the future"),
        (misspelt, "craeted", "no such member"),
    ] {
        let (_, findings) = place.load(&with(OLD_FORM, &listed)).unwrap();
        let member = format!("external_key_stores[0].credentials[0].{member}");
        let found: Vec<_> = findings.iter().filter(|it| it.severity == Severity::Warning).collect();
        assert_eq!(found.len(), 1, "{findings:#?}");
        assert_eq!(found[0].member, member);
        assert!(found[0].problem.contains(problem), "{}", found[0]);
        assert!(!format!("{findings:?}").contains("HushHush"), "{findings:?}");
    }
    // For a member of the store that ended up below the list, the finding says where it belongs.
    let slipped = RIGHT.replacen("max_in_flight = 100\n", LISTED, 1).replacen(
        "xks_key_id_set = [\"foo\", \"cat\"]\nmax_requests_per_sec = 1800\n",
        "",
        1,
    );
    let slipped =
        slipped.replacen(NEW_SECRET, &format!("{NEW_SECRET}\"\nxks_key_id_set = [\"foo"), 1);
    let slipped = slipped.replacen("[\"foo\"\n", "[\"foo\"]\n", 1);
    let findings = place.load(&slipped).unwrap_err();
    let found = findings.iter().find(|it| it.member.ends_with("credentials[0].xks_key_id_set"));
    let found = found.unwrap_or_else(|| panic!("{findings:#?}"));
    assert!(found.remedy.contains("[external_key_stores]"), "{found}");
}

/// A secret in a separate file; a file that others can read; a settings file whose only secret is
/// in the list.
#[test]
fn secret_files() {
    let place = Place::new();
    let path = place.write("new-secret", format!("{NEW_SECRET}\n"));
    let secret_line = format!("sigv4_secret_access_key = \"{NEW_SECRET}\"");
    let file_line = format!("sigv4_secret_access_key_file = {}", quoted(&path));
    let text = with("", &LISTED.replace(&secret_line, &file_line));
    let (settings, _) = place.load(&text).unwrap();
    assert_eq!(settings.stores[0].credentials[0].secret_access_key.expose(), NEW_SECRET);
    let both = with("", &LISTED.replace(&secret_line, &format!("{secret_line}\n{file_line}")));
    let findings = place.load(&both).unwrap_err();
    let found = mistakes(&findings);
    assert!(found[0].member.ends_with("credentials[0].sigv4_secret_access_key_file"));

    use std::os::unix::fs::PermissionsExt as _;
    let open = |name: &str| {
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(place.path(name), mode).unwrap();
    };
    open("new-secret");
    let (_, findings) = place.load(&text).unwrap();
    assert!(findings.iter().any(|it| it.problem.contains("(mode 0644")), "{findings:#?}");

    // No secret except the one in the list.
    let pin = place.write("pin", "1234");
    let without = |text: String| {
        text.replace(OLD_FORM, "sigv4_access_key_id = \"\"\nsigv4_secret_access_key = \"\"\n")
            .replace("user_pin = \"hush-4711\"", &format!("user_pin_file = {}", quoted(&pin)))
            .replace("\"MODULE\"", &quoted(&place.module()))
    };
    place.write("new-secret", NEW_SECRET);
    for (listed, is_exposed) in
        [(LISTED.to_owned(), true), (LISTED.replace(&secret_line, &file_line), false)]
    {
        let path = place.write("settings.toml", without(with("", &listed)));
        open("settings.toml");
        let (_, findings) = xks_proxy::settings::load(path.as_ref(), false, &|_| None).unwrap();
        let found = findings.iter().any(|it| it.problem.contains("(mode 0644"));
        assert_eq!(found, is_exposed, "{findings:#?}");
    }
}

//! `[[external_key_stores.keys]]`: external key ids with versions.

use xks_proxy::proto::{Version, VersionedKey};
use xks_proxy::settings::Severity;

use crate::{Place, RIGHT, line_of, mistakes};

/// A key that has been rotated twice.
const ROTATED: &str = r#"
[[external_key_stores.keys]]
id = "rotated"
versions = [
    { version = 3, cka_id = "0A0b" },
    { label = "rotated" },
    { version = 2, label = "rotated 2026-11", retired = true },
]
encrypt_with = 3
"#;

/// [`RIGHT`] with `keys` in its first store.
fn with_keys(keys: &str) -> String {
    let end = "max_in_flight = 100\n";
    assert!(RIGHT.contains(end));
    RIGHT.replacen(end, &format!("{end}{keys}"), 1)
}

fn version(number: u32, key_name: &str, is_retired: bool) -> Version {
    Version { number, key_name: key_name.to_owned(), is_retired }
}

/// Versions become keys of the HSM, and the id stays one external key id.
#[test]
fn a_rotated_key() {
    let (settings, findings) = Place::new().load(&with_keys(ROTATED)).unwrap();
    let severe: Vec<_> = findings.iter().filter(|it| it.severity != Severity::Notice).collect();
    assert!(severe.is_empty(), "{severe:?}");
    let store = &settings.stores[0];
    let versions = vec![
        version(1, "rotated", false),
        version(2, "rotated 2026-11", true),
        version(3, "id:0a0b", false),
    ];
    let expected = VersionedKey { id: "rotated".to_owned(), versions, encrypt_with: 3 };
    assert_eq!(store.versioned_keys(), [expected]);
    assert_eq!(store.key_ids().collect::<Vec<_>>(), ["cat", "foo", "rotated"]);
    let names = ["cat", "foo", "rotated", "rotated 2026-11", "id:0a0b"];
    assert_eq!(store.key_names().collect::<Vec<_>>(), names);

    let service = settings.service();
    let key = service.store("").unwrap().key("rotated").unwrap();
    assert_eq!(key.encrypts.number, 3);
    assert_eq!(service.key_of("id:0a0b"), Some(key.encrypts.key));
    let labels: Vec<&str> = service.labels().iter().map(AsRef::as_ref).collect();
    assert_eq!(labels, ["cat", "foo", "rotated", "rotated 2026-11", "id:0a0b", "bar"]);
    // A key's name is not an external key id.
    assert!(service.store("").unwrap().key("rotated 2026-11").is_none());
}

/// A table with the original version alone does what `xks_key_id_set` does. It needs no
/// `xks_key_id_set` beside it, and may be switched off like any other.
#[test]
fn a_table_without_a_set() {
    let keys = "disabled_keys = [\"k\"]\n[[external_key_stores.keys]]\nid = \"k\"\n\
                versions = [{ version = 1, label = \"of k\" }]\n";
    let text = with_keys(keys).replacen("xks_key_id_set = [\"foo\", \"cat\"]\n", "", 1);
    let (settings, _) = Place::new().load(&text).unwrap();
    let service = settings.service();
    let key = service.store("").unwrap().key("k").unwrap();
    assert!(key.is_disabled && key.is_versioned());
    assert_eq!(service.key_of("of k"), Some(key.encrypts.key));
}

/// Each mistake is found alone, in its line.
#[test]
fn mistakes_name_the_member() {
    let place = Place::new();
    let long = "x".repeat(129);
    let many: String =
        (2..67).map(|n| format!(", {{ version = {n}, label = \"l{n}\" }}")).collect();
    let key = "external_key_stores[0].keys[0]";
    #[rustfmt::skip]
    let cases = [
        ("id = \"rotated\"", "id = \"foo\"", "id = \"foo\"", "id", "in the store's xks_key_id_set"),
        ("id = \"rotated\"", "id = \"a b\"", "a b", "id", "not allowed"),
        ("id = \"rotated\"\n", "", "[[external_key_stores.keys", "id", "missing"),
        ("encrypt_with = 3", "encrypt_with = 2", "encrypt_with = 2", "encrypt_with", "retired"),
        ("encrypt_with = 3", "encrypt_with = 4", "encrypt_with = 4", "encrypt_with", "the versions are 1, 2, 3"),
        ("encrypt_with = 3", "encrypt_with = 0", "encrypt_with = 0", "encrypt_with", "out of range"),
        ("    { label = \"rotated\" },\n", "", "encrypt_with = 3", "", ""),
        ("{ version = 3, cka_id = \"0A0b\" }", "{ version = 2, cka_id = \"0A0b\" }", "rotated 2026", "versions[2].version", "another version 2"),
        ("label = \"rotated 2026-11\"", "label = \"rotated\"", "retired = true", "versions[2].label", "already the key of version 1"),
        ("label = \"rotated 2026-11\"", "cka_id = \"0a0B\"", "retired = true", "versions[2].cka_id", "already the key of version 3"),
        ("label = \"rotated 2026-11\"", "label = \"id:07\"", "retired = true", "versions[2].label", "CKA_ID"),
        ("label = \"rotated 2026-11\"", "label = \"\u{e9}\"", "retired = true", "versions[2].label", "not allowed"),
        ("label = \"rotated 2026-11\"", "label = \"\"", "retired = true", "versions[2].label", "empty"),
        ("rotated 2026-11", &long, "retired = true", "versions[2].label", "129 bytes"),
        ("label = \"rotated 2026-11\", ", "", "retired = true", "versions[2].label", "missing"),
        ("label = \"rotated 2026-11\"", "label = \"a\", cka_id = \"0b\"", "retired = true", "versions[2].cka_id", "label too"),
        ("\"0A0b\"", "\"0A0\"", "0A0", "versions[0].cka_id", "not a CKA_ID"),
        ("\"0A0b\"", "\"0x0A\"", "0x0A", "versions[0].cka_id", "not a CKA_ID"),
        ("\"0A0b\"", "\"\"", "cka_id = \"\"", "versions[0].cka_id", "not a CKA_ID"),
        ("version = 3,", "version = 4294967296,", "4294967296", "versions[0].version", "out of range"),
        ("retired = true }", "retired = 1 }", "retired = 1", "versions[2].retired", "not a boolean"),
    ];
    for (from, to, at, member, problem) in cases {
        assert!(ROTATED.contains(from), "{from}");
        let text = with_keys(&ROTATED.replacen(from, to, 1));
        let result = place.load(&text);
        if member.is_empty() {
            // Without the original version, ciphertexts without a tag are not decrypted any longer.
            assert!(result.is_ok(), "{from} -> {to}");
            continue;
        }
        let findings = result.unwrap_err();
        let [mistake] = mistakes(&findings)[..] else { panic!("{from} -> {to}: {findings:#?}") };
        assert_eq!(mistake.member, format!("{key}.{member}"), "{mistake}");
        assert!(mistake.problem.contains(problem), "{mistake}");
        assert_eq!(mistake.position.unwrap().0, line_of(&text, at), "{mistake}");
    }
    for (versions, problem) in [
        (String::new(), "missing"),
        ("versions = []\n".to_owned(), "empty"),
        ("versions = \"rotated\"\n".to_owned(), "not a list"),
        (format!("versions = [{{ label = \"l\" }}{many}]\n"), "66 versions"),
    ] {
        let text = with_keys(&format!("[[external_key_stores.keys]]\nid = \"k\"\n{versions}"));
        let findings = place.load(&text).unwrap_err();
        let [mistake] = mistakes(&findings)[..] else { panic!("{versions}: {findings:#?}") };
        assert_eq!(mistake.member, format!("{key}.versions"), "{mistake}");
        assert!(mistake.problem.contains(problem), "{mistake}");
    }
    let twice = with_keys(&format!("{ROTATED}{ROTATED}"));
    let findings = place.load(&twice).unwrap_err();
    let [mistake] = mistakes(&findings)[..] else { panic!("{findings:#?}") };
    assert_eq!(mistake.member, "external_key_stores[0].keys[1].id");
    assert!(mistake.problem.contains("already the id of external_key_stores[0].keys[0]"));
    // Without any original version and without `encrypt_with`, the default names none.
    let text = with_keys(
        "[[external_key_stores.keys]]\nid = \"k\"\nversions = [{ version = 2, label = \"l\" }]\n",
    );
    let findings = place.load(&text).unwrap_err();
    assert!(mistakes(&findings)[0].problem.contains("no version 1"), "{findings:?}");
}

/// Configured metadata must not look like a tag, and must leave room for one.
#[test]
fn configured_metadata_beside_versions() {
    let place = Place::new();
    let of = |bytes: &[u8], keys: &str| {
        let base64 = base64_simd::STANDARD.encode_to_string(bytes);
        with_keys(keys).replacen("djEuMC4w", &base64, 1)
    };
    let member = "server.ciphertext_metadata_b64";
    let unrotated = ROTATED
        .replace("    { version = 3, cka_id = \"0A0b\" },\n", "")
        .replace("    { version = 2, label = \"rotated 2026-11\", retired = true },\n", "")
        .replace("encrypt_with = 3\n", "");
    for (length, keys, is_right) in
        [(14, ROTATED, true), (15, ROTATED, false), (20, ROTATED, false), (20, &unrotated, true)]
    {
        let text = of(&vec![7; length], keys);
        let found = match place.load(&text) {
            Ok(_) => Vec::new(),
            Err(findings) => mistakes(&findings).into_iter().cloned().collect(),
        };
        assert_eq!(found.is_empty(), is_right, "{length}: {found:?}");
        if let Some(mistake) = found.first() {
            assert_eq!((mistake.member.as_str(), found.len()), (member, 1));
            assert!(mistake.remedy.contains("14 bytes"), "{mistake}");
            let line = line_of(&text, "ciphertext_metadata_b64");
            assert_eq!(mistake.position.unwrap().0, line);
        }
    }
    for (bytes, is_right) in [
        (&b"\x00\x6b"[..], false),
        (b"\x00\x6b\x00\x00\x00\x02", false),
        (b"\x00", true),
        (b"\x6b\x00", true),
    ] {
        // Whether or not there are versions: they may come later.
        for keys in ["", ROTATED] {
            let found = place.load(&of(bytes, keys));
            assert_eq!(found.is_ok(), is_right, "{bytes:?}");
            if let Err(findings) = found {
                assert_eq!(mistakes(&findings)[0].member, member);
            }
        }
    }
}

/// A key of the HSM that two external key ids share is reported: each decrypts what the other
/// encrypts.
#[test]
fn shared_keys_are_reported() {
    let place = Place::new();
    for name in ["bar", "cat"] {
        let keys = ROTATED.replace("rotated 2026-11", name);
        let (_, findings) = place.load(&with_keys(&keys)).unwrap();
        let warnings: Vec<_> =
            findings.iter().filter(|it| it.severity == Severity::Warning).collect();
        let [warning] = warnings[..] else { panic!("{findings:#?}") };
        assert!(warning.problem.contains(&format!("\"{name}\" and \"rotated\"")), "{warning}");
    }
}

/// The audit log's key may not be a version of a store's key either.
#[test]
fn the_audit_logs_key_is_no_version() {
    let place = Place::new();
    let audit = "\n[audit]\ndirectory = \"/var/log/audit\"\nkey_file = \"/k\"\nhsm_key = \"rotated \
                 2026-11\"\n";
    let findings = place.load(&format!("{}{audit}", with_keys(ROTATED))).unwrap_err();
    let found = mistakes(&findings);
    let mistake = found.iter().find(|it| it.member == "audit.hsm_key").unwrap();
    assert!(mistake.problem.contains("forge checkpoints"), "{mistake}");
}

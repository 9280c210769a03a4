//! Versions behind one external key id: which key encrypts and which decrypts.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use xks_proxy::job::{Failure, HsmAad, KeyAttributes};
use xks_proxy::observe::audit::WhenFull;
use xks_proxy::proto::{ServiceConfig, StoreConfig, Version, VersionedKey};

use crate::audit;
use crate::calls::{b64, call, decrypt, encrypt, metadata, unb64};
use crate::fixed_ciphertexts::FIXED;
use crate::rig::hsm::seal;
use crate::rig::wire::Response;
use crate::rig::{ACCESS_KEY_ID, KEY, PREFIX, Rig, SECRET, options, service_of, store};

const TAG_2: &[u8] = b"\x00\x6b\x00\x00\x00\x02";
const TAG_3: &[u8] = b"\x00\x6b\x00\x00\x00\x03";

/// Members of decrypt's request that the GCM tag covers, or that are the tag.
const PARTS: [&str; 5] = [
    "ciphertext",
    "initializationVector",
    "authenticationTag",
    "ciphertextMetadata",
    "additionalAuthenticatedData",
];

pub fn versioned(id: &str, versions: &[(u32, &str)], encrypt_with: u32) -> VersionedKey {
    let version = |(number, name): &(u32, &str)| Version {
        number: *number,
        key_name: (*name).to_owned(),
        is_retired: false,
    };
    VersionedKey {
        id: id.to_owned(),
        versions: versions.iter().map(version).collect(),
        encrypt_with,
    }
}

/// A store with the usual keys and these.
fn store_with(keys: Vec<VersionedKey>) -> StoreConfig {
    let plain = store(PREFIX, &[(ACCESS_KEY_ID, SECRET)], &[KEY, "key-2", "original"]);
    StoreConfig { versioned_keys: keys, ..plain }
}

/// Two rotated keys. The original of `k` is a key that was there before.
fn keys(encrypt_with: u32) -> Vec<VersionedKey> {
    vec![
        versioned("k", &[(1, "of-k"), (2, "of-k-2"), (3, "of-k-3")], encrypt_with),
        versioned("other", &[(1, "of-other"), (2, "of-other-2")], 2),
    ]
}

fn rig_with(keys: Vec<VersionedKey>, configured: Option<&[u8]>) -> Rig {
    let mut options = options();
    options.ciphertext_metadata = configured.map(<[u8]>::to_vec);
    Rig::new(ServiceConfig::new(options, vec![store_with(keys)], None, None))
}

fn ask_encrypt(rig: &mut Rig, id: &str, aad: Option<&[u8]>) -> Value {
    let answer = rig.ask(&call(&format!("keys/{id}/encrypt"), &encrypt(b"secret", aad)));
    assert_eq!(answer.status, 200);
    answer.json()
}

fn ask_decrypt(rig: &mut Rig, id: &str, body: &Value) -> Response {
    rig.ask(&call(&format!("keys/{id}/decrypt"), body))
}

fn error(status: u16, name: &str) -> (u16, String) {
    (status, format!("{name}Exception"))
}

/// A ciphertext as another proxy would have made it with the key of this name in the HSM, with any
/// metadata.
fn made_with(key_name: &str, metadata: Option<&[u8]>, aad: Option<&[u8]>) -> Value {
    let key: [u8; 32] = Sha256::digest(key_name).into();
    let digest = aad.map(|aad| (u16::try_from(aad.len()).unwrap(), Sha256::digest(aad).into()));
    let digest: Option<(u16, [u8; 32])> = digest;
    let digest = digest.as_ref().map(|(length, digest)| (*length, digest));
    let hsm_aad = HsmAad::new(digest, metadata.unwrap_or_default());
    let iv = [7; 12];
    let sealed = seal(&key, &iv, hsm_aad.as_slice(), b"secret");
    let (ciphertext, tag) = sealed.split_at(sealed.len() - 16);
    let mut made = json!({
        "ciphertext": b64(ciphertext),
        "initializationVector": b64(&iv),
        "authenticationTag": b64(tag),
    });
    if let Some(metadata) = metadata {
        made["ciphertextMetadata"] = b64(metadata).into();
    }
    made
}

/// The version in `encrypt_with` encrypts. Its tag comes before the configured metadata, and the
/// original version has none.
#[test]
fn the_chosen_version_encrypts() {
    for configured in [None, Some(&b""[..]), Some(b"v1"), Some(&[7; 14])] {
        for (number, tag, key) in
            [(1, &b""[..], "of-k"), (2, TAG_2, "of-k-2"), (3, TAG_3, "of-k-3")]
        {
            let mut rig = rig_with(keys(number), configured);
            let encrypted = ask_encrypt(&mut rig, "k", Some(b"aad"));
            let shown = encrypted.get("ciphertextMetadata").map(unb64);
            let expected = [tag, configured.unwrap_or_default()].concat();
            let expected = (number > 1 || configured.is_some()).then_some(expected);
            assert_eq!(shown, expected, "{number} {configured:?}");
            let body = decrypt(&encrypted, Some(b"aad"));
            let answer = ask_decrypt(&mut rig, "k", &body);
            assert_eq!(unb64(&answer.json()["plaintext"]), b"secret");
            assert_eq!(rig.hsm.jobs, 2);
            // By a proxy that was told, and that knows the version's key under another id.
            let mut rig =
                rig_with(vec![versioned("k", &[(1, "-"), (number.max(2), key)], 1)], None);
            let answer = ask_decrypt(&mut rig, "k", &body);
            assert_eq!(answer.status, if number == 1 { 400 } else { 200 });
        }
    }
}

/// Everything that a key without versions has encrypted goes on decrypting once it has versions,
/// whatever its metadata: that of the sample proxy, of earlier releases, and even what begins like
/// a tag without being one. Those who encrypt with another version decrypt it too.
#[test]
fn the_original_decrypts_what_was_before() {
    for configured in [None, Some(&b""[..]), Some(b"v1"), Some(&[9; 20]), Some(b"\x00\x6b\x01")] {
        for aad in [None, Some(&b""[..]), Some(b"aad")] {
            let mut before = rig_with(Vec::new(), configured);
            let by_us = ask_encrypt(&mut before, "original", aad);
            let by_another = made_with("original", configured, aad);
            for encrypt_with in [1, 2] {
                let table = versioned("k", &[(1, "original"), (2, "of-k-2")], encrypt_with);
                let mut rig = rig_with(vec![table], Some(b"new"));
                for made in [&by_us, &by_another] {
                    let answer = ask_decrypt(&mut rig, "k", &decrypt(made, aad));
                    assert_eq!(answer.status, 200, "{configured:?} {aad:?}");
                    assert_eq!(unb64(&answer.json()["plaintext"]), b"secret");
                }
            }
        }
    }
}

/// No metadata makes the path of one external key id decrypt a ciphertext of another.
#[test]
fn a_path_decrypts_with_its_own_versions_only() {
    let mut rig = rig_with(keys(2), None);
    let names = ["of-k", "of-k-2", "of-k-3", "of-other", "of-other-2", KEY];
    let own = |id: &str| match id {
        "k" => &names[..3],
        "other" => &names[3..5],
        _ => &names[5..],
    };
    let tags: Vec<Vec<u8>> = (0_u32..5)
        .map(|number| [&b"\x00\x6b"[..], &number.to_be_bytes()].concat())
        .chain([Vec::new(), b"v1".to_vec(), b"\x00\x6b".to_vec(), b"of-other".to_vec()])
        .collect();
    for id in ["k", "other", KEY] {
        for name in names.iter().filter(|name| !own(id).contains(name)) {
            for tag in &tags {
                let body = decrypt(&made_with(name, Some(tag), None), None);
                let answer = ask_decrypt(&mut rig, id, &body);
                assert!(matches!(answer.status, 400 | 500), "{id} {name} {tag:?}");
                assert!(answer.json().get("plaintext").is_none());
            }
        }
    }
}

/// A version that the settings do not have is an InternalException, which says which version it
/// is: the data is fine, and so is the key.
#[test]
fn an_unknown_version_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let audit = audit::open(&directory, WhenFull::Refuse);
    let only =
        |versions: &[(u32, &str)], encrypt_with| vec![versioned("k", versions, encrypt_with)];
    let told = only(&[(1, "of-k"), (2, "of-k-2")], 2);
    let without_original = only(&[(2, "of-k-2"), (3, "of-k-3")], 2);
    let cases = [
        (told, made_with("of-k-7", Some(b"\x00\x6b\x00\x00\x00\x07v1"), None), 7, "1, 2"),
        (without_original.clone(), made_with("of-k", None, None), 1, "2, 3"),
        (without_original, made_with("of-k", Some(b"v1"), None), 1, "2, 3"),
    ];
    for (keys, made, ..) in &cases {
        let mut rig = rig_with(keys.clone(), None);
        rig.loop_state.access_log.audit = audit.handle();
        let answer = ask_decrypt(&mut rig, "k", &decrypt(made, None));
        assert_eq!(answer.error(), error(500, "Internal"));
        assert_eq!(rig.hsm.jobs, 0, "the HSM is not asked");
    }
    assert!(audit.stop());
    let lines = audit::calls(&directory);
    assert_eq!(lines.len(), cases.len());
    for (line, (.., number, known)) in lines.iter().zip(&cases) {
        let reason = line["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("version {number} of the key")), "{reason}");
        assert!(reason.contains(&format!("the settings list {known}:")), "{reason}");
        assert!(reason.contains("replica has not been told"), "{reason}");
        assert!(reason.contains("taken out too soon"), "{reason}");
        assert_eq!(line["keyVersion"], *number);
    }
}

/// A replica whose settings have no versions for the key: metadata that looks like a tag may be the
/// operator's own, so the HSM decides. If it refuses, the data may still be fine.
#[test]
fn a_replica_that_was_not_told() {
    let own = b"\x00\x6b\x00\x00\x00\x07v1";
    let mut rig = rig_with(Vec::new(), None);
    let body = decrypt(&made_with(KEY, Some(own), None), None);
    assert_eq!(ask_decrypt(&mut rig, KEY, &body).status, 200);
    let body = decrypt(&made_with("version-7", Some(own), None), None);
    assert_eq!(ask_decrypt(&mut rig, KEY, &body).error(), error(500, "Internal"));
    // What is no tag is as before, and so are other failures.
    for metadata in [&b""[..], b"v1", b"\x00\x6b\x00\x00\x07", b"\x00\x6b\x00\x00\x00\x01"] {
        let body = decrypt(&made_with("version-7", Some(metadata), None), None);
        let answer = ask_decrypt(&mut rig, KEY, &body);
        assert_eq!(answer.error(), error(400, "InvalidCiphertext"), "{metadata:?}");
    }
    rig.hsm.failure = Some(Failure::NoToken);
    let body = decrypt(&made_with("version-7", Some(own), None), None);
    assert_eq!(ask_decrypt(&mut rig, KEY, &body).error(), error(503, "DependencyTimeout"));
}

/// A retired version does not decrypt, and says so; the others do. It can be taken back.
#[test]
fn a_retired_version() {
    let mut retired = keys(3);
    for version in &mut retired[0].versions[..2] {
        version.is_retired = true;
    }
    let mut rig = rig_with(retired, None);
    for (name, tag) in [("of-k", &b""[..]), ("of-k", b"v1"), ("of-k-2", TAG_2)] {
        let body = decrypt(&made_with(name, Some(tag), None), None);
        let answer = ask_decrypt(&mut rig, "k", &body);
        assert_eq!(answer.error(), error(400, "InvalidState"), "{name}");
        assert!(String::from_utf8_lossy(&answer.body).contains("is retired"));
    }
    assert_eq!(rig.hsm.jobs, 0);
    let body = decrypt(&made_with("of-k-3", Some(TAG_3), None), None);
    assert_eq!(ask_decrypt(&mut rig, "k", &body).status, 200);
    // Damaged metadata is no evidence of a retired version.
    let body = decrypt(&made_with("of-k-2", Some(&TAG_2[..5]), None), None);
    assert_eq!(ask_decrypt(&mut rig, "k", &body).error(), error(400, "InvalidCiphertext"));
    let mut rig = rig_with(keys(3), None);
    let body = decrypt(&made_with("of-k-2", Some(TAG_2), None), None);
    assert_eq!(ask_decrypt(&mut rig, "k", &body).status, 200);
}

/// The kill switch is that of the external key id: it switches off all its versions.
#[test]
fn a_disabled_key_has_no_version_that_works() {
    let mut store = store_with(keys(2));
    store.disabled_key_ids = vec!["k".to_owned()];
    let mut rig = Rig::new(service_of(vec![store]));
    for (name, tag) in [("of-k", &b""[..]), ("of-k-2", TAG_2), ("of-k-7", b"\x00\x6b\0\0\0\x07")] {
        let body = decrypt(&made_with(name, Some(tag), None), None);
        assert_eq!(ask_decrypt(&mut rig, "k", &body).error(), error(400, "InvalidState"));
    }
    let answer = rig.ask(&call("keys/k/encrypt", &encrypt(b"secret", None)));
    assert_eq!(answer.error(), error(400, "InvalidState"));
    let body = decrypt(&made_with("of-other-2", Some(TAG_2), None), None);
    assert_eq!(ask_decrypt(&mut rig, "other", &body).status, 200);
}

/// Outcome of a decryption whose ciphertext was changed.
fn is_right_refusal(answer: &Response, known: &[u32], metadata: &[u8]) -> bool {
    let tag = metadata.strip_prefix(b"\x00\x6b").and_then(|rest| rest.first_chunk::<4>());
    let number = tag.map(|tag| u32::from_be_bytes(*tag)).filter(|number| *number > 1);
    let expected = match number {
        Some(number) if !known.contains(&number) => error(500, "Internal"),
        _ => error(400, "InvalidCiphertext"),
    };
    answer.error() == expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// With metadata of 0 to 20 bytes (14 beside versions), by any version and with any AAD: the
    /// ciphertext decrypts, under no other id; and no longer once any one bit is changed in
    /// ciphertext, tag, IV, metadata or AAD.
    #[test]
    fn any_changed_bit_is_refused(
        number in 1_u32..4,
        configured in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=20)),
        aad in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..40)),
        place in any::<proptest::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let max = if number == 1 { 20 } else { 14 };
        let configured = configured.map(|it| it[..it.len().min(max)].to_vec());
        prop_assume!(configured.as_ref().is_none_or(|it| !it.starts_with(b"\x00\x6b")));
        let mut rig = rig_with(keys(number), configured.as_deref());
        let encrypted = ask_encrypt(&mut rig, "k", aad.as_deref());
        let body = decrypt(&encrypted, aad.as_deref());
        prop_assert_eq!(ask_decrypt(&mut rig, "k", &body).status, 200);
        prop_assert_ne!(ask_decrypt(&mut rig, "other", &body).status, 200);
        prop_assert_ne!(ask_decrypt(&mut rig, KEY, &body).status, 200);
        for member in PARTS
        {
            let Some(value) = body.get(member) else { continue };
            let mut bytes = unb64(value);
            if bytes.is_empty() { continue }
            let at = place.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut changed = body.clone();
            changed[member] = b64(&bytes).into();
            let answer = ask_decrypt(&mut rig, "k", &changed);
            let metadata = changed.get("ciphertextMetadata").map(unb64).unwrap_or_default();
            prop_assert!(is_right_refusal(&answer, &[1, 2, 3], &metadata), "{member} {answer:?}");
        }
    }
}

/// Ciphertexts of the sample proxy and of an earlier release decrypt through a key with three
/// versions, and with any one bit changed they don't.
#[test]
fn ciphertexts_of_other_proxies() {
    let table = versioned("k", &[(1, "foo"), (2, "of-k-2"), (3, "of-k-3")], 3);
    let mut rig = rig_with(vec![table], Some(b"v1"));
    for fixed in &FIXED {
        let body = decrypt(&fixed.answer(), fixed.aad);
        let answer = ask_decrypt(&mut rig, "k", &body);
        assert_eq!(unb64(&answer.json()["plaintext"]), fixed.plaintext, "{}", fixed.by);
        assert_eq!(ask_decrypt(&mut rig, KEY, &body).error(), error(400, "InvalidCiphertext"));
        let mut bits = 0;
        for member in PARTS {
            let bytes = body.get(member).map(unb64).unwrap_or_default();
            for bit in 0..8 * bytes.len() {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let mut changed = body.clone();
                changed[member] = b64(&bytes).into();
                let answer = ask_decrypt(&mut rig, "k", &changed);
                assert_eq!(answer.error(), error(400, "InvalidCiphertext"), "{member}");
                bits += 1;
            }
        }
        let metadata = fixed.metadata.map_or(0, |_| 13);
        let bytes = fixed.plaintext.len() + 12 + 16 + metadata + fixed.aad.map_or(0, <[u8]>::len);
        assert_eq!(bits, 8 * bytes);
    }
}

/// Each bit of each part, for each version; and metadata cut short, extended or left out.
#[test]
fn every_changed_bit_is_refused() {
    for number in [1, 2, 3] {
        let mut rig = rig_with(keys(number), Some(b"v1"));
        let encrypted = ask_encrypt(&mut rig, "k", Some(b"aad"));
        let body = decrypt(&encrypted, Some(b"aad"));
        let mut refused = 0;
        let mut refuse = |changed: &Value| {
            let answer = ask_decrypt(&mut rig, "k", changed);
            let metadata = changed.get("ciphertextMetadata").map(unb64).unwrap_or_default();
            assert!(
                is_right_refusal(&answer, &[1, 2, 3], &metadata),
                "{number} {changed} {answer:?}"
            );
            refused += 1;
        };
        for member in PARTS {
            let bytes = unb64(&body[member]);
            for bit in 0..8 * bytes.len() {
                let mut bytes = bytes.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let mut changed = body.clone();
                changed[member] = b64(&bytes).into();
                refuse(&changed);
            }
        }
        let metadata = unb64(&body["ciphertextMetadata"]);
        for length in 0..=20 {
            let mut other = metadata.clone();
            other.resize(length, 0);
            if other != metadata {
                let mut changed = body.clone();
                changed["ciphertextMetadata"] = b64(&other).into();
                refuse(&changed);
            }
        }
        let mut changed = body.clone();
        changed.as_object_mut().unwrap().remove("ciphertextMetadata");
        refuse(&changed);
        let bytes = 6 + 12 + 16 + metadata.len() + 3;
        assert_eq!(refused, 8 * bytes + 20 + 1);
    }
}

/// GetKeyMetadata: ENCRYPT by the version that encrypts, DECRYPT by any version that is not
/// retired; and the spec of the version that encrypts. The HSM is asked once if that one decrypts.
#[test]
fn metadata_of_all_versions() {
    let usual = KeyAttributes { bits: 256, ..KeyAttributes::UNREPORTED };
    let encrypts = KeyAttributes { decrypt: false, ..usual };
    let decrypts = KeyAttributes { encrypt: false, bits: 128, ..usual };
    let neither = KeyAttributes { encrypt: false, decrypt: false, ..usual };
    let all = &["ENCRYPT", "DECRYPT"][..];
    for (attributes, retired, usage, jobs) in [
        ([usual, usual, usual], None, all, 1),
        ([usual, encrypts, usual], None, all, 2),
        ([encrypts, encrypts, decrypts], None, all, 3),
        ([encrypts, encrypts, decrypts], Some(2), &all[..1], 2),
        ([encrypts, encrypts, neither], None, &all[..1], 3),
        ([usual, decrypts, usual], None, &all[1..], 1),
        ([usual, neither, usual], None, &all[1..], 2),
        ([neither, neither, neither], None, &[], 3),
    ] {
        let mut keys = keys(2);
        if let Some(place) = retired {
            keys[0].versions[place].is_retired = true;
        }
        let mut rig = rig_with(keys, None);
        let names = ["of-k", "of-k-2", "of-k-3"].map(str::to_owned);
        rig.hsm.attributes_of = names.into_iter().zip(attributes).collect::<HashMap<_, _>>();
        let body = json!({"requestMetadata": metadata()});
        let answer = rig.ask(&call("keys/k/metadata", &body));
        let spec = if attributes[1].bits == 128 { "AES_128" } else { "AES_256" };
        let expected = json!({"keySpec": spec, "keyUsage": usage, "keyStatus": "ENABLED"});
        assert_eq!((answer.json(), rig.hsm.jobs), (expected, jobs), "{attributes:?}");
    }
}

/// If another version's key is missing, it does not decrypt; if the version that encrypts has none,
/// the key is not found. A failure of the HSM on the way is an answer too.
#[test]
fn metadata_with_missing_keys() {
    let body = json!({"requestMetadata": metadata()});
    let usual = KeyAttributes { bits: 256, ..KeyAttributes::UNREPORTED };
    let encrypts = KeyAttributes { decrypt: false, ..usual };
    let table = versioned("k", &[(1, "not-in-hsm"), (2, "of-k-2"), (3, "of-k-3")], 2);
    let mut rig = rig_with(vec![table], None);
    rig.hsm.attributes_of.insert("of-k-2".to_owned(), encrypts);
    let answer = rig.ask(&call("keys/k/metadata", &body));
    assert_eq!(answer.json()["keyUsage"], json!(["ENCRYPT", "DECRYPT"]));
    assert_eq!(rig.hsm.jobs, 3);

    let table = versioned("k", &[(1, "not-in-hsm"), (2, "of-k-2")], 2);
    let mut rig = rig_with(vec![table.clone()], None);
    rig.hsm.attributes_of.insert("of-k-2".to_owned(), encrypts);
    let answer = rig.ask(&call("keys/k/metadata", &body));
    assert_eq!(answer.json()["keyUsage"], json!(["ENCRYPT"]));

    let mut rig = rig_with(vec![table.clone()], None);
    rig.hsm.attributes_of.insert("of-k-2".to_owned(), encrypts);
    rig.hold_jobs = true;
    rig.send(&call("keys/k/metadata", &body));
    assert!(rig.work());
    rig.hsm.failure = Some(Failure::NoToken);
    assert!(rig.work());
    assert_eq!(rig.responses().remove(0).error(), error(503, "DependencyTimeout"));

    let table = VersionedKey { encrypt_with: 1, ..table };
    let mut rig = rig_with(vec![table], None);
    let answer = rig.ask(&call("keys/k/metadata", &body));
    assert_eq!(answer.error(), error(404, "KeyNotFound"));
}

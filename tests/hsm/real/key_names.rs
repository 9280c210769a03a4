//! Keys that are named by their CKA_ID, beside keys that are named by their label.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::Session;
use xks_proxy::hsm::backend::{Evidence, Proof};
use xks_proxy::hsm::config::{Config, TokenConfig, TokenSelector};
use xks_proxy::hsm::witness::Witnesses;
use xks_proxy::job::{Failure, Success};

use crate::caller::*;
use crate::tokens::*;
use crate::tools;

const LABELLED: [u8; 32] = [0x11; 32];
const IDENTIFIED: [u8; 32] = [0x22; 32];
const DECOY: [u8; 32] = [0x33; 32];

const NAMES: [&str; 7] = ["both", "id:0a0b", "id:0c", "id:ff", "absent", "alias", "id:0d"];
const BOTH: u32 = 0;
const BY_ID: u32 = 1;
const TWICE: u32 = 2;
const ABSENT: u32 = 3;

/// Imports an AES key with this CKA_ID.
fn add_key_with_id(session: &Session, label: &str, id: &[u8], value: [u8; 32]) {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Label(label.into()),
        Attribute::Id(id.to_vec()),
        Attribute::Value(value.to_vec()),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    session.create_object(&template).unwrap();
}

fn add_keys(session: &Session) {
    // Its CKA_ID is the beginning of another's.
    add_key_with_id(session, "both", &[0x0a], LABELLED);
    add_key_with_id(session, "no name of ours", &[0x0a, 0x0b], IDENTIFIED);
    // A label that looks like the name of that CKA_ID.
    add_key_with_id(session, "id:0a0b", &[0xdd], DECOY);
    add_key_with_id(session, "first of two", &[0x0c], DECOY);
    add_key_with_id(session, "second of two", &[0x0c], DECOY);
    add_key_with_id(session, "alias", &[0x0d], DECOY);
    // Too long to be a name, and none.
    add_key_with_id(session, "long", &[0x0a; 65], DECOY);
    add_key_with_id(session, "none", &[], DECOY);
}

fn first(module: PathBuf) -> TokenConfig {
    token(module, TokenSelector::First, PIN, 4)
}

/// Asserts that keys are found by both kinds of names, and that missing, ambiguous and equal ones
/// are reported by name.
fn finds_keys(module: PathBuf, label: &str) {
    let pkcs11 = initialize(&module);
    let slot = make_token(&pkcs11, label);
    add_keys(&login(&pkcs11, slot));
    pkcs11.finalize().unwrap();
    let mut caller = Caller::start(config(vec![first(module.clone())], &NAMES));
    assert!(opens_with(&LABELLED, &caller.encrypt(BOTH, b"x").unwrap()));
    let sealed = caller.encrypt(BY_ID, b"x").unwrap();
    assert!(opens_with(&IDENTIFIED, &sealed));
    assert_eq!(caller.decrypt(BY_ID, sealed.0.as_slice(), &sealed.1).unwrap(), b"x");
    assert!(matches!(caller.describe(BY_ID), Ok(Success::Described(it)) if it.bits == 256));
    assert_eq!(caller.encrypt(TWICE, b"x"), Err(Failure::KeyAmbiguous(2)));
    assert_eq!(caller.encrypt(ABSENT, b"x"), Err(Failure::KeyNotFound));

    let inventory = caller.hsm.inventory().remove(0);
    assert_eq!(inventory.trouble, None);
    assert_eq!(inventory.missing, [Box::from("id:ff"), Box::from("absent")]);
    assert_eq!(inventory.ambiguous, [(Box::from("id:0c"), 2)]);
    let names_of = |label: &str| {
        let key = inventory.keys.iter().find(|key| *key.label == *label).unwrap();
        key.names.iter().map(AsRef::as_ref).collect::<Vec<&str>>()
    };
    assert_eq!(names_of("alias"), ["alias", "id:0d"], "one key has two names");
    assert_eq!(names_of("no name of ours"), ["id:0a0b"]);
    assert_eq!(names_of("id:0a0b"), [""; 0], "its label is no name of a CKA_ID");
    assert!(names_of("long").is_empty() && names_of("none").is_empty());

    // A key that comes later is found, and one that was destroyed and made again.
    let pkcs11 = initialize(&module);
    let session = login(&pkcs11, slot_of(&pkcs11, label));
    add_key_with_id(&session, "later", &[0xff], IDENTIFIED);
    eventually("the new key is found", || caller.encrypt(ABSENT, b"x").is_ok());
    let old = session.find_objects(&[Attribute::Id(vec![0x0a, 0x0b])]).unwrap();
    session.destroy_object(old[0]).unwrap();
    add_key_with_id(&session, "again", &[0x0a, 0x0b], IDENTIFIED);
    assert!(opens_with(&IDENTIFIED, &caller.encrypt(BY_ID, b"x").unwrap()));
    assert!(caller.hsm.stop(Duration::from_secs(10)));
}

#[test]
fn keys_by_id_on_softhsm() {
    in_child!("keys_by_id_on_softhsm", softhsm_environment, |_| {
        finds_keys(tools::softhsm2_module(), "first");
    });
}

#[test]
fn keys_by_id_on_kryoptic() {
    in_child!("keys_by_id_on_kryoptic", kryoptic_environment, |_| {
        finds_keys(tools::kryoptic_module(), "first");
    });
}

/// Witnesses are kept by name, so tokens whose keys have the same CKA_ID and different values do
/// not agree.
#[test]
fn witnesses_of_keys_by_id() {
    in_child!("witnesses_of_keys_by_id", softhsm_environment, |_| {
        let module = tools::softhsm2_module();
        let pkcs11 = initialize(&module);
        for (token, same, different) in [("one", "a", IDENTIFIED), ("two", "b", DECOY)] {
            let session = login(&pkcs11, make_token(&pkcs11, token));
            add_key_with_id(&session, same, &[1], LABELLED);
            add_key_with_id(&session, same, &[2], different);
        }
        pkcs11.finalize().unwrap();
        let tokens = ["one", "two"]
            .map(|label| token(module.clone(), TokenSelector::Label(label.to_owned()), PIN, 2));
        let witnesses = Arc::new(Witnesses::default());
        let config = Config {
            witnesses: Arc::clone(&witnesses),
            ..config(tokens.to_vec(), &["id:01", "id:02"])
        };
        let caller = Caller::start(config);
        for token in caller.hsm.prove_all(2) {
            let [same, different] = token.keys.as_slice() else { panic!("{:?}", token.keys) };
            assert!(matches!(same.proof, Proof::Made | Proof::Agrees), "{:?}", same.proof);
            assert_eq!(same.round_trip, Evidence::Passed);
            assert_eq!(different.proof, Proof::Disputed);
        }
        assert!(witnesses.get("id:01").is_some());
        assert!(caller.hsm.stop(Duration::from_secs(10)));
    });
}

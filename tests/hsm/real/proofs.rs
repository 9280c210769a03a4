//! Proofs that tokens hold the same keys, with real SoftHSM2 tokens behind the interposer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::caller::*;
use crate::interposed::*;
use crate::tokens::*;
use xks_proxy::hsm::backend::Proof;
use xks_proxy::hsm::config::{Config, TokenSelector};
use xks_proxy::hsm::witness::Witnesses;
use xks_proxy::job::{Failure, Iv};

const KEY: u32 = 0;
const OTHER: u32 = 1;
const A: [u8; 32] = [0xaa; 32];
const B: [u8; 32] = [0xbb; 32];
/// `[[fault]]` settings that remove a slot's token.
const AWAY: &str = "[[fault]]\nremove_token = true\nslot = ";

/// Makes a token with these keys.
fn make(label: &str, keys: &[(&str, [u8; 32], u8)]) {
    let pkcs11 = initialize(&Interposed::module());
    let slot = make_token(&pkcs11, label);
    let session = login(&pkcs11, slot);
    for (label, value, uses) in keys {
        add_key(&session, label, value, *uses, true);
    }
    drop(session);
    pkcs11.finalize().unwrap();
}

/// Makes tokens with the given value under "key", and with one common value under "other".
fn tokens(directory: &Path, of_key: &[(&str, [u8; 32])]) -> Interposed {
    for (label, value) in of_key {
        let both = ENCRYPT | DECRYPT;
        make(label, &[("key", *value, both), ("other", [1; 32], both)]);
    }
    Interposed { directory: directory.to_owned(), step: 0 }
}

fn fleet(labels: &[&str], witnesses: Witnesses) -> Config {
    let select = |label: &&str| TokenSelector::Label((*label).to_owned());
    let tokens = labels.iter().map(|label| token(Interposed::module(), select(label), PIN, 2));
    let mut config = config(tokens.collect(), &LABELS);
    config.witnesses = Arc::new(witnesses);
    config
}

/// Waits until each token in use has tried each key, or a difference was found.
fn start(config: Config) -> Caller {
    let caller = Caller::start(config);
    eventually("all keys have been tried", || {
        let stats = caller.hsm.stats();
        stats.iter().all(|token| !token.is_usable || token.keys_unproven == 0)
            || stats.iter().any(|token| !token.keys_disagreeing.is_empty())
    });
    caller
}

fn differing(caller: &Caller) -> Vec<Vec<String>> {
    let labels = |keys: &[Box<str>]| keys.iter().map(ToString::to_string).collect();
    caller.hsm.stats().iter().map(|token| labels(&token.keys_disagreeing)).collect()
}

/// A ciphertext made by that token while it was the only one.
fn made_on(label: &str) -> (Iv, Vec<u8>) {
    let mut caller = start(fleet(&[label], Witnesses::default()));
    let sealed = caller.encrypt(KEY, label.as_bytes()).unwrap();
    assert!(caller.hsm.stop(std::time::Duration::from_secs(5)));
    sealed
}

fn opens(caller: &mut Caller, sealed: &(Iv, Vec<u8>)) -> Result<Vec<u8>, Failure> {
    caller.decrypt(KEY, sealed.0.as_slice(), &sealed.1)
}

/// A witness made earlier by that token.
fn known_of(label: &str) -> Witnesses {
    known(label, 2)
}

/// The same for a token with a single key.
fn known_of_key(label: &str) -> Witnesses {
    known(label, 1)
}

fn known(label: &str, keys: usize) -> Witnesses {
    let witnesses = Arc::new(Witnesses::default());
    let mut config = fleet(&[label], Witnesses::default());
    config.witnesses = Arc::clone(&witnesses);
    let caller = start(config);
    eventually("the witnesses count", || witnesses.settled().len() == keys);
    drop(caller);
    let owned = witnesses.settled().into_iter().map(|(label, it)| (label, (*it).clone()));
    Witnesses::new(owned.collect::<HashMap<_, _>>(), None)
}

/// Two tokens with the same keys: both are proven, and both encrypt.
#[test]
fn equal_keys() {
    in_child!("equal_keys", Interposed::environment, |directory| {
        let _bench = tokens(directory, &[("one", A), ("two", A)]);
        let began = std::time::Instant::now();
        let mut caller = start(fleet(&["one", "two"], Witnesses::default()));
        eventually("both are proven", || {
            caller.hsm.stats().iter().all(|token| token.keys_unproven == 0)
        });
        // Immediately, not only at the next health check.
        let took = began.elapsed();
        assert!(took < std::time::Duration::from_secs(4), "{took:?}");
        for n in 0..50 {
            round_trip(&mut caller, n).unwrap();
        }
        let stats = caller.hsm.stats();
        assert!(stats.iter().all(|token| token.answered_total > 0), "both work");
        assert_eq!(differing(&caller), [[""; 0]; 2]);
        let proofs = caller.hsm.prove_all(3);
        let of = |index: usize| proofs[index].keys.iter().map(|key| key.proof.clone());
        assert_eq!(of(0).collect::<Vec<_>>(), [Proof::Agrees, Proof::Agrees, Proof::Absent]);
        assert_eq!(of(1).collect::<Vec<_>>(), [Proof::Agrees, Proof::Agrees, Proof::Absent]);
    });
}

/// Two tokens with different keys under one label and no evidence of which is right: nothing is
/// encrypted with that label, everything encrypted before is decrypted, and the other key is
/// served.
#[test]
fn different_keys_without_a_witness() {
    in_child!("different_keys_without_a_witness", Interposed::environment, |directory| {
        let _bench = tokens(directory, &[("one", A), ("two", B)]);
        let (of_one, of_two) = (made_on("one"), made_on("two"));
        let mut caller = start(fleet(&["one", "two"], Witnesses::default()));
        eventually("they are seen to differ", || differing(&caller)[1] == ["key"]);
        for _ in 0..20 {
            assert_eq!(caller.encrypt(KEY, b"x"), Err(Failure::KeysDiffer));
            assert_eq!(opens(&mut caller, &of_one).unwrap(), b"one");
            assert_eq!(opens(&mut caller, &of_two).unwrap(), b"two");
            caller.encrypt(OTHER, b"x").unwrap();
        }
        let mut forged = of_one.clone();
        forged.1[0] ^= 1;
        assert_eq!(opens(&mut caller, &forged), Err(Failure::InvalidCiphertext));
        let proofs = caller.hsm.prove_all(2);
        assert!(proofs.iter().all(|token| token.keys[0].proof == Proof::Disputed));
        assert!(proofs.iter().all(|token| token.keys[1].proof == Proof::Agrees));
    });
}

/// If the settings trust a token, or a witness is already known, that decides.
#[test]
fn different_keys_and_one_is_right() {
    in_child!("different_keys_and_one_is_right", Interposed::environment, |directory| {
        let _bench = tokens(directory, &[("one", A), ("two", B)]);
        let (of_one, of_two) = (made_on("one"), made_on("two"));
        let trusting = Witnesses::new(HashMap::new(), Some("two".to_owned()));
        for witnesses in [trusting, known_of("two")] {
            let mut caller = start(fleet(&["one", "two"], witnesses));
            eventually("the first is excluded", || {
                differing(&caller) == [vec!["key".to_owned()], Vec::new()]
            });
            for _ in 0..20 {
                let sealed = caller.encrypt(KEY, b"x").unwrap();
                assert_eq!(opens(&mut caller, &sealed).unwrap(), b"x");
                // No other token decrypts what the first one encrypted.
                assert_eq!(opens(&mut caller, &of_one).unwrap(), b"one");
                assert_eq!(opens(&mut caller, &of_two).unwrap(), b"two");
            }
            caller.hsm.stop(std::time::Duration::from_secs(5));
        }
        // Given the second token's witness, a replica with the first token alone encrypts nothing.
        let mut caller = start(fleet(&["one"], known_of("two")));
        assert_eq!(caller.encrypt(KEY, b"x"), Err(Failure::KeysDiffer));
        assert_eq!(opens(&mut caller, &of_one).unwrap(), b"one");
        caller.encrypt(OTHER, b"x").unwrap();
    });
}

/// A token that is away at the start and holds another key is excluded when it joins. While the
/// token that made the witness is away, a ciphertext that the other cannot decrypt is not reported
/// as invalid, and nothing is encrypted with the other's key.
#[test]
fn another_key_joins_late() {
    in_child!("another_key_joins_late", Interposed::environment, |directory| {
        let mut interposed = tokens(directory, &[("one", A), ("two", B)]);
        let (one, two) = {
            let caller = start(fleet(&["one", "two"], Witnesses::default()));
            (Interposed::slot(&caller, 0), Interposed::slot(&caller, 1))
        };
        interposed.set(&format!("{AWAY}{two}"));
        let mut caller = start(fleet(&["one", "two"], Witnesses::default()));
        let sealed = caller.encrypt(KEY, b"x").unwrap();
        eventually("the witness counts", || caller.hsm.stats()[0].keys_unproven == 0);
        interposed.set("");
        eventually("it is excluded", || differing(&caller)[1] == ["key"]);
        for _ in 0..20 {
            let more = caller.encrypt(KEY, b"x").unwrap();
            assert_eq!(opens(&mut caller, &more).unwrap(), b"x");
        }
        interposed.set(&format!("{AWAY}{one}"));
        eventually("the first is away", || {
            let _ = caller.encrypt(OTHER, b"x");
            !caller.hsm.stats()[0].is_usable
        });
        for _ in 0..20 {
            assert_eq!(caller.encrypt(KEY, b"x"), Err(Failure::NoToken));
            assert_eq!(opens(&mut caller, &sealed), Err(Failure::NoToken));
            caller.encrypt(OTHER, b"x").unwrap();
        }
        interposed.set("");
        eventually("it is back", || opens(&mut caller, &sealed) == Ok(b"x".to_vec()));
    });
}

/// A token that fails while it is being proven is not taken to differ; it is proven afterwards.
#[test]
fn faults_prove_nothing() {
    in_child!("faults_prove_nothing", Interposed::environment, |directory| {
        let mut interposed = tokens(directory, &[("one", A), ("two", A)]);
        let two = {
            let caller = start(fleet(&["one", "two"], Witnesses::default()));
            Interposed::slot(&caller, 1)
        };
        let decrypts = "functions = [\"C_DecryptInit\", \"C_Decrypt\"]";
        for (code, probability) in [
            ("CKR_GENERAL_ERROR", 0.5),
            ("CKR_ENCRYPTED_DATA_INVALID", 1.0),
            ("CKR_FUNCTION_FAILED", 0.5),
        ] {
            let fault = format!(
                "[[fault]]\nslot = {two}\nprobability = {probability}\nreturn = \"{code}\""
            );
            interposed.set(&format!("{fault}\n{decrypts}"));
            let caller = Caller::start(fleet(&["one", "two"], Witnesses::default()));
            std::thread::sleep(std::time::Duration::from_millis(500));
            assert_eq!(differing(&caller), [[""; 0]; 2], "{code}");
            interposed.set("");
            eventually("it is proven", || caller.hsm.stats()[1].keys_unproven == 0);
            caller.hsm.stop(std::time::Duration::from_secs(5));
        }
    });
}

/// Keys that differ only in permitted uses, or that one token lacks, cause no dispute.
#[test]
fn different_uses() {
    in_child!("different_uses", Interposed::environment, |directory| {
        make("one", &[("key", A, ENCRYPT | DECRYPT), ("other", B, ENCRYPT | DECRYPT)]);
        make("two", &[("key", A, DECRYPT)]);
        make("three", &[("other", B, ENCRYPT)]);
        let _ = directory;
        let mut caller = Caller::start(fleet(&["one", "two", "three"], Witnesses::default()));
        eventually("the second is proven", || caller.hsm.stats()[1].keys_unproven == 0);
        assert_eq!(differing(&caller), [[""; 0]; 3]);
        for n in 0..20 {
            round_trip(&mut caller, n).unwrap();
            let (iv, sealed) = caller.encrypt(OTHER, b"x").unwrap();
            assert_eq!(caller.decrypt(OTHER, iv.as_slice(), &sealed).unwrap(), b"x");
        }
    });
}

/// Returns which of the two values a ciphertext was made with.
fn value_of(sealed: &(Iv, Vec<u8>)) -> [u8; 32] {
    let is_of = |value: &[u8; 32]| opens_with(value, sealed);
    [A, B].into_iter().find(is_of).expect("made with one of the two")
}

/// A token that lacks a key cannot test its witness, which is settled without it. From then on, a
/// token that joins with another key is excluded, and does not put the key in dispute.
#[test]
fn keys_that_one_token_lacks() {
    in_child!("keys_that_one_token_lacks", Interposed::environment, |directory| {
        make("one", &[("key", A, ENCRYPT | DECRYPT), ("other", B, ENCRYPT | DECRYPT)]);
        make("two", &[("other", B, ENCRYPT | DECRYPT)]);
        make("three", &[("key", B, ENCRYPT | DECRYPT)]);
        let mut interposed = Interposed { directory: directory.to_owned(), step: 0 };
        let labels = ["one", "two", "three"];
        let three = Interposed::slot(&Caller::start(fleet(&labels, Witnesses::default())), 2);
        interposed.set(&format!("{AWAY}{three}"));
        let config = fleet(&labels, Witnesses::default());
        let witnesses = Arc::clone(&config.witnesses);
        let mut caller = Caller::start(config);
        eventually("both count", || witnesses.settled().len() == 2);
        interposed.set("");
        eventually("it is excluded", || differing(&caller)[2] == ["key"]);
        for _ in 0..20 {
            let sealed = caller.encrypt(KEY, b"x").unwrap();
            assert_eq!(value_of(&sealed), A);
        }
        let one = fleet(&labels[..2], Witnesses::default());
        let witnesses = Arc::clone(&one.witnesses);
        let hsm = xks_proxy::hsm::Hsm::start(one, Vec::new()).unwrap();
        assert_eq!(hsm.prove_all(3).len(), 2);
        assert_eq!(witnesses.settled().len(), 2, "as for people");
    });
}

/// While the right token does not serve the key, another token's verdict on a ciphertext does not
/// count if its key differs.
#[test]
fn only_the_wrong_token_calls_it_bad() {
    in_child!("only_the_wrong_token_calls_it_bad", Interposed::environment, |directory| {
        let mut interposed = tokens(directory, &[("one", A), ("two", B)]);
        let mut caller = start(fleet(&["one", "two"], known_of("one")));
        eventually("the second is excluded", || differing(&caller)[1] == ["key"]);
        let sealed = caller.encrypt(KEY, b"x").unwrap();
        let one = Interposed::slot(&caller, 0);
        interposed.set(&format!(
            "[[fault]]\nslot = {one}\nkey = \"key\"\nreturn = \"CKR_DEVICE_ERROR\"\nfunctions = \
             [\"C_DecryptInit\"]"
        ));
        let mut refused = || {
            let said = opens(&mut caller, &sealed);
            assert!(!matches!(said, Ok(_) | Err(Failure::InvalidCiphertext)), "{said:?}");
            !caller.hsm.stats()[0].keys_out_of_use.is_empty()
        };
        eventually("the key is out of use", &mut refused);
        assert!((0..20).all(|_| refused()));
        interposed.set("");
        eventually("it is decrypted", || opens(&mut caller, &sealed) == Ok(b"x".to_vec()));
        let tampered = (sealed.0, vec![0; sealed.1.len()]);
        assert_eq!(opens(&mut caller, &tampered), Err(Failure::InvalidCiphertext));
    });
}

/// If the only token's key does not match the witness, a ciphertext that it cannot decrypt may
/// still be valid. Refused encryptions cost it no calls.
#[test]
fn the_only_token_is_wrong() {
    in_child!("the_only_token_is_wrong", Interposed::environment, |directory| {
        let interposed = tokens(directory, &[("one", A), ("two", B)]);
        let of_two = made_on("two");
        let mut caller = start(fleet(&["one"], known_of("two")));
        assert_eq!(differing(&caller)[0], ["key"]);
        assert_eq!(opens(&mut caller, &of_two), Err(Failure::KeysDiffer));
        let before = interposed.count("C_DecryptInit");
        for _ in 0..100 {
            assert_eq!(caller.encrypt(KEY, b"x"), Err(Failure::KeysDiffer));
        }
        let calls = interposed.count("C_DecryptInit") - before;
        assert!(calls < 50, "{calls} calls for 100 refusals");
    });
}

/// While a token known to hold another key is out of use, a ciphertext that the right tokens reject
/// may be that token's, so it is not reported as invalid.
#[test]
fn the_other_key_is_away() {
    in_child!("the_other_key_is_away", Interposed::environment, |directory| {
        let mut interposed = tokens(directory, &[("one", A), ("two", B)]);
        let of_two = made_on("two");
        let mut caller = start(fleet(&["one", "two"], known_of("one")));
        eventually("the second is excluded", || differing(&caller)[1] == ["key"]);
        let two = Interposed::slot(&caller, 1);
        interposed.set(&format!("{AWAY}{two}"));
        eventually("the second is away", || !caller.hsm.stats()[1].is_usable);
        assert_eq!(opens(&mut caller, &of_two), Err(Failure::NoToken));
        assert_eq!(differing(&caller)[1], ["key"], "it still differs");
        interposed.set("");
        eventually("it is back", || opens(&mut caller, &of_two) == Ok(b"two".to_vec()));
    });
}

/// A token that lost its storage shows no keys, which does not mean that it lacks them: based on a
/// token with another key, neither are ciphertexts called invalid nor the keys different.
#[test]
fn the_right_key_is_lost() {
    in_child!("the_right_key_is_lost", Interposed::environment, |directory| {
        make("one", &[("key", A, ENCRYPT | DECRYPT)]);
        let storage = std::fs::read_dir(directory.join("tokens")).unwrap();
        let storage = storage.map(|entry| entry.unwrap().path()).find(|path| path.is_dir());
        let storage = storage.unwrap();
        make("two", &[("key", B, ENCRYPT | DECRYPT), ("other", B, ENCRYPT | DECRYPT)]);
        let _bench = Interposed { directory: directory.to_owned(), step: 0 };
        let of_one = made_on("one");
        let mut caller = start(fleet(&["one", "two"], known_of_key("one")));
        eventually("the second is excluded", || differing(&caller)[1] == ["key"]);
        std::fs::rename(&storage, directory.join("away")).unwrap();
        eventually("the first is out of use", || {
            let _ = caller.encrypt(KEY, b"x");
            !caller.hsm.stats()[0].is_usable
        });
        for _ in 0..50 {
            assert_eq!(opens(&mut caller, &of_one), Err(Failure::NoToken));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
}

/// Right after the start, before its keys are proven, the only token does not report a ciphertext
/// of another key as invalid: it is first tested against the witness.
#[test]
fn a_wrong_token_is_known_by_its_first_refusal() {
    let test = "a_wrong_token_is_known_by_its_first_refusal";
    in_child!(test, Interposed::environment, |directory| {
        let _bench = tokens(directory, &[("one", A), ("two", B)]);
        let of_two = made_on("two");
        let known = known_of("two").settled();
        for _ in 0..5 {
            let known = known.iter().map(|(label, it)| (label.clone(), (**it).clone()));
            let witnesses = Witnesses::new(known.collect(), None);
            let mut caller = Caller::start(fleet(&["one"], witnesses));
            assert_eq!(opens(&mut caller, &of_two), Err(Failure::KeysDiffer));
            caller.hsm.stop(std::time::Duration::from_secs(5));
        }
    });
}

/// The token that the settings trust is the first to encrypt, and while it is in use no other token
/// makes a witness, neither before all tokens were tried nor after a dispute.
#[test]
fn the_trusted_one_comes_first() {
    in_child!("the_trusted_one_comes_first", Interposed::environment, |directory| {
        let mut interposed = tokens(directory, &[("one", A), ("two", B)]);
        let config = fleet(&["one", "two"], Witnesses::default());
        let witnesses = Arc::clone(&config.witnesses);
        let mut caller = start(config);
        eventually("they are seen to differ", || differing(&caller)[1] == ["key"]);
        let two = Interposed::slot(&caller, 1);
        witnesses.trust(Some("two".to_owned()));
        for _ in 0..20 {
            assert_eq!(value_of(&caller.encrypt(KEY, b"x").unwrap()), B);
        }
        drop(caller);
        // The second token is slow to make a witness.
        interposed.set(&format!(
            "[[fault]]\nslot = {two}\nkey = \"key\"\ndelay = \"30ms\"\nfunctions = \
             [\"C_Encrypt\"]"
        ));
        let trusting = Witnesses::new(HashMap::new(), Some("two".to_owned()));
        let mut caller = Caller::start(fleet(&["one", "two"], trusting));
        for _ in 0..20 {
            assert_eq!(value_of(&caller.encrypt(KEY, b"x").unwrap()), B);
        }
    });
}

/// A request that fails on one token is not retried on another whose key does not permit the
/// operation or cannot be shown to be the same.
#[test]
fn retries_keep_to_the_same_key() {
    in_child!("retries_keep_to_the_same_key", Interposed::environment, |directory| {
        make("one", &[("key", A, ENCRYPT | DECRYPT), ("other", A, ENCRYPT | DECRYPT)]);
        make("two", &[("key", A, DECRYPT), ("other", B, ENCRYPT)]);
        let mut interposed = Interposed { directory: directory.to_owned(), step: 0 };
        let mut caller = Caller::start(fleet(&["one", "two"], Witnesses::default()));
        eventually("the first is proven", || caller.hsm.stats()[0].keys_unproven == 0);
        let one = Interposed::slot(&caller, 0);
        for key in [OTHER, KEY].into_iter().cycle().take(10) {
            interposed.set(&format!(
                "[[fault]]\nslot = {one}\ncount = 1\nreturn = \"CKR_GENERAL_ERROR\"\nkeys = \
                 [\"key\", \"other\"]\nfunctions = [\"C_EncryptInit\"]"
            ));
            assert_eq!(value_of(&caller.encrypt(key, b"x").unwrap()), A);
        }
    });
}

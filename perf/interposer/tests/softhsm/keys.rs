//! Faults limited to some keys.

use std::thread;
use std::time::{Duration, Instant};

use cryptoki::error::RvError;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;

use crate::bench::{
    FaultCounts, PATIENCE, bench, decrypt_with, encrypt, encrypt_with, log_in, random,
};

/// A key on the token, with this label.
fn make_labelled_key(session: &Session, label: &str) -> ObjectHandle {
    let label = Attribute::Label(label.into());
    let template = [Attribute::Token(false), Attribute::ValueLen(32.into()), label];
    session.generate_key(&Mechanism::AesKeyGen, &template).unwrap()
}

/// Encrypts, and decrypts a ciphertext that [`encrypt`] made with the key without faults.
fn both_ways(session: &Session, key: ObjectHandle, ciphertext: &[u8]) -> [Option<RvError>; 2] {
    let encrypted = encrypt_with(session, key, &mut [7; 12], b"plaintext");
    [encrypted.err(), decrypt_with(session, key, &[7; 12], ciphertext).err()]
}

/// A single key of a token can be made to fail, in each of the four functions, with any code.
#[test]
fn a_fault_of_one_key() {
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let [bad, good] = ["bad", "good"].map(|label| make_labelled_key(&session, label));
    let [of_bad, of_good] = [bad, good].map(|key| encrypt(&session, key));
    let code = Some(RvError::DeviceMemory);
    for (functions, outcome) in [
        ("", [code, code]),
        ("functions = [\"C_EncryptInit\"]", [code, None]),
        ("functions = [\"C_Encrypt\"]", [code, None]),
        ("functions = [\"C_DecryptInit\"]", [None, code]),
        ("functions = [\"C_Decrypt\"]", [None, code]),
    ] {
        bench.apply(&format!("[[fault]]\nkey = \"bad\"\nreturn = 0x31\n{functions}"));
        assert_eq!(both_ways(&session, bad, &of_bad), outcome, "{functions}");
        assert_eq!(both_ways(&session, good, &of_good), [None, None], "{functions}");
        assert_eq!(random(&session), Ok(()));
        let acted = outcome.iter().flatten().count() as u64;
        assert_eq!(bench.wait_for(|_| true).fault[0].acted, acted, "{functions}");
    }
    bench.apply("[[fault]]\nkey = \"bad\"\nreturn = 0x80000066");
    assert_eq!(both_ways(&session, bad, &of_bad), [Some(RvError::VendorDefined(0x8000_0066)); 2]);
    bench.apply("");
    assert_eq!(both_ways(&session, bad, &of_bad), [None, None]);
}

/// A key's fault can be combined with a slot, a number of calls, several keys, or a prefix.
#[test]
fn a_fault_of_some_keys() {
    let bench = bench();
    let (session, other) = (bench.session(0), bench.session(1));
    log_in(&session);
    log_in(&other);
    let keys = ["one", "two", "bad-1", "bad-2"].map(|label| make_labelled_key(&session, label));
    let elsewhere = make_labelled_key(&other, "one");
    let refused =
        || keys.map(|key| encrypt_with(&session, key, &mut [7; 12], b"plaintext").is_err());
    let refuse = "functions = [\"C_EncryptInit\"]\nreturn = 0x30";
    bench.apply(&format!("[[fault]]\nkeys = [\"one\", \"bad-2\"]\n{refuse}"));
    assert_eq!(refused(), [true, false, false, true]);
    bench.apply(&format!("[[fault]]\nkey_prefix = \"bad-\"\n{refuse}"));
    assert_eq!(refused(), [false, false, true, true]);
    let slot = bench.slot_id(0);
    bench.apply(&format!("[[fault]]\nkey = \"one\"\nslot = {slot}\nskip = 1\ncount = 2\n{refuse}"));
    let outcomes = [(); 4].map(|()| refused()[0]);
    assert_eq!(outcomes, [false, true, true, false]);
    encrypt(&other, elsewhere);
    assert_eq!(bench.wait_for(|_| true).fault, [FaultCounts { fitted: 4, acted: 2 }]);
}

/// A fault without effect counts the calls about a key.
#[test]
fn calls_of_one_key_are_counted() {
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let [bad, good] = ["bad", "good"].map(|label| make_labelled_key(&session, label));
    let of_good = encrypt(&session, good);
    bench.apply(
        "[[fault]]\nkey = \"bad\"\ndelay = \"0ms\"\n\
         [[fault]]\nkey = \"bad\"\nreturn = 0x30\nfunctions = [\"C_Encrypt\"]",
    );
    assert_eq!(both_ways(&session, bad, &of_good)[0], Some(RvError::DeviceError));
    both_ways(&session, good, &of_good);
    let fault = bench.wait_for(|_| true).fault;
    // C_EncryptInit, C_Encrypt, C_DecryptInit, and C_Decrypt twice: the length is asked for.
    let expected = [FaultCounts { fitted: 5, acted: 5 }, FaultCounts { fitted: 1, acted: 1 }];
    assert_eq!(fault, expected);
}

/// A hanging key does not hold calls about another; the hang ends after its time, or at once when
/// released.
#[test]
fn one_key_hangs() {
    let bench = bench();
    let (hanging, session) = (bench.session(0), bench.session(0));
    log_in(&session);
    let [bad, good] = ["bad", "good"].map(|label| make_labelled_key(&session, label));
    let of_good = encrypt(&session, good);
    bench.apply("[[fault]]\nkey = \"bad\"\nfunctions = [\"C_EncryptInit\"]\nhang = \"50ms\"");
    let start = Instant::now();
    encrypt(&session, bad);
    assert!(start.elapsed() >= Duration::from_millis(50));
    bench.apply(
        "[[fault]]\nkey = \"bad\"\nfunctions = [\"C_EncryptInit\"]\nhang = \"120s\"\n\
         return = \"CKR_DEVICE_ERROR\"",
    );
    let hung = thread::spawn(move || encrypt_with(&hanging, bad, &mut [7; 12], b"plaintext"));
    bench.wait_for(|counts| counts.hung == 1);
    assert_eq!(both_ways(&session, good, &of_good), [None, None]);
    // Settings in which only another key hangs release it.
    bench.apply("[[fault]]\nkey = \"good\"\nfunctions = [\"C_EncryptInit\"]\nhang = \"120s\"");
    assert_eq!(hung.join().unwrap(), Err(RvError::DeviceError));
    assert!(start.elapsed() < PATIENCE);
}

/// A handle is not mistaken for its former object after the object's label was changed, or after
/// the object was destroyed and the handle perhaps reused.
#[test]
fn labels_do_not_go_stale() {
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let key = make_labelled_key(&session, "bad");
    bench.apply("[[fault]]\nkey = \"bad\"\nreturn = 0x30");
    let is_refused = |key| encrypt_with(&session, key, &mut [7; 12], b"plaintext").is_err();
    assert!(is_refused(key));
    session.update_attributes(key, &[Attribute::Label("good".into())]).unwrap();
    assert!(!is_refused(key));
    session.destroy_object(key).unwrap();
    assert!(is_refused(key), "it is gone");
    assert!(is_refused(make_labelled_key(&session, "bad")));
    assert!(!is_refused(make_labelled_key(&session, "good")));
}

//! SoftHSM2 with return codes, hangs, removal and corruption injected by the interposer. The caller
//! sees correct answers or failures, and never a wrong answer.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::caller::*;
use crate::interposed::*;
use crate::tokens::*;
use sha2::{Digest as _, Sha256};
use xks_proxy::job::{Failure, HealthStatus, Operation};

/// Two C_ calls for each encryption or decryption, four with CDIV, one C_GenerateRandom for at
/// least 300 IVs, and nothing else.
#[test]
fn as_few_calls_as_can_be() {
    in_child!("as_few_calls_as_can_be", Interposed::environment, |directory| {
        let interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one"], PIN);
        let (iv, sealed) = caller.encrypt(0, b"x").unwrap();
        let difference = |work: &mut dyn FnMut()| {
            let before = interposed.counts().calls;
            work();
            let mut after = interposed.counts().calls;
            for (function, count) in &mut after {
                *count -= before.get(function).copied().unwrap_or(0);
            }
            after
        };
        // A health check may run in between, possibly as the first use of a new session.
        let is_about = |calls: &BTreeMap<String, u64>, function: &str, expected: u64| {
            let count = calls.get(function).copied().unwrap_or(0);
            assert!((expected..=expected + 6).contains(&count), "{function}: {count}");
        };
        let rounds = 600;
        let calls = difference(&mut || {
            for _ in 0..rounds {
                caller.encrypt(0, b"x").unwrap();
            }
        });
        is_about(&calls, "C_EncryptInit", rounds);
        is_about(&calls, "C_Encrypt", rounds);
        is_about(&calls, "C_Decrypt", 0);
        is_about(&calls, "C_GenerateRandom", 1);
        let calls = difference(&mut || {
            for _ in 0..rounds {
                caller.decrypt(0, iv.as_slice(), &sealed).unwrap();
            }
        });
        is_about(&calls, "C_DecryptInit", rounds);
        is_about(&calls, "C_Decrypt", rounds);
        is_about(&calls, "C_Encrypt", 0);
        let calls = difference(&mut || {
            for _ in 0..rounds {
                caller.encrypt_with_cdiv(0, Sha256::new(), b"x").unwrap();
            }
        });
        for function in ["C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt"] {
            is_about(&calls, function, rounds);
        }
        for function in ["C_FindObjectsInit", "C_GetAttributeValue", "C_OpenSession", "C_Login"] {
            is_about(&calls, function, 0);
        }
    });
}

/// 200 calls in a row fail on one of two tokens, and no request does.
#[test]
fn one_token_of_two_fails() {
    in_child!("one_token_of_two_fails", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one", "two"], PIN);
        let slot = Interposed::slot(&caller, 0);
        for code in CODES {
            interposed.set(&format!(
                "[[fault]]\nreturn = \"{code}\"\nslot = {slot}\ncount = 200\n{CRYPTO}"
            ));
            for n in 0..300 {
                assert_eq!(round_trip(&mut caller, n), Ok(()), "{code}, {n}");
            }
        }
    });
}

/// With one token: failures while no session works, none afterwards, and a good ciphertext is never
/// taken for a bad one.
#[test]
fn the_only_token_fails_and_recovers() {
    in_child!("the_only_token_fails_and_recovers", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one"], PIN);
        for code in CODES {
            interposed.set(&format!("[[fault]]\nreturn = \"{code}\"\ncount = 40\n{CRYPTO}"));
            for n in 0..20 {
                if let Err(failure) = round_trip(&mut caller, n) {
                    assert_ne!(failure, Failure::InvalidCiphertext, "{code}");
                    assert_ne!(failure, Failure::KeyNotFound, "{code}");
                }
            }
            interposed.set("");
            eventually("it has recovered", || round_trip(&mut caller, 0).is_ok());
            for n in 0..20 {
                assert_eq!(round_trip(&mut caller, n), Ok(()), "{code}, {n}");
            }
        }
    });
}

/// Codes that can mean a bad ciphertext, from a device in trouble: a good ciphertext is never
/// called bad, regardless of how many calls fail.
#[test]
fn trouble_is_told_from_bad_ciphertexts() {
    in_child!("trouble_is_told_from_bad_ciphertexts", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one"], PIN);
        let (iv, sealed) = caller.encrypt(0, b"good").unwrap();
        let mut tampered = sealed.clone();
        tampered[0] ^= 1;
        for code in ["CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED", "CKR_DEVICE_ERROR"] {
            for count in [1, 2, 3, 5, 8] {
                interposed.set(&format!(
                    "[[fault]]\nreturn = \"{code}\"\ncount = {count}\nfunctions = [\"C_Decrypt\"]"
                ));
                let answer = caller.decrypt(0, iv.as_slice(), &sealed);
                assert_eq!(
                    answer.as_deref(),
                    Ok(&b"good"[..]),
                    "{code}, {count}: {:?}",
                    caller.hsm.stats()
                );
                eventually("tampering is told again", || {
                    let answer = caller.decrypt(0, iv.as_slice(), &tampered);
                    assert!(answer.is_err());
                    answer == Err(Failure::InvalidCiphertext)
                });
            }
        }
    });
}

/// The same at random: three decryptions in ten fail, including known-good ones, with the code of a
/// bad tag.
#[test]
fn random_trouble_is_told_from_bad_ciphertexts() {
    in_child!(
        "random_trouble_is_told_from_bad_ciphertexts",
        Interposed::environment,
        |directory| {
            let mut interposed = Interposed::new(directory);
            let mut caller = Interposed::start(&["one"], PIN);
            let (iv, sealed) = caller.encrypt(0, b"good").unwrap();
            interposed.set(
                "seed = 1\n[[fault]]\nreturn = \"CKR_GENERAL_ERROR\"\nprobability = 0.3\n\
             functions = [\"C_Decrypt\"]",
            );
            let mut good = 0;
            eventually("many were tried", || {
                match caller.decrypt(0, iv.as_slice(), &sealed) {
                    Ok(opened) => {
                        assert_eq!(opened, b"good");
                        good += 1;
                    }
                    Err(failure) => assert_ne!(failure, Failure::InvalidCiphertext, "after {good}"),
                }
                good == 500
            });
        }
    );
}

/// A bit that the HSM got wrong: with a CDIV requested, the ciphertext is never returned.
#[test]
fn what_does_not_verify_is_not_sent() {
    in_child!("what_does_not_verify_is_not_sent", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one"], PIN);
        round_trip(&mut caller, 0).unwrap();
        interposed.set("[[fault]]\nflip_bit = true\ncount = 1");
        assert_eq!(round_trip(&mut caller, 1), Ok(()));
        let mismatches = || caller.hsm.stats()[0].cdiv_mismatches_total;
        assert!(mismatches() <= 1, "the probe may have had it");
        interposed.set("[[fault]]\nflip_bit = true\nprobability = 0.5");
        for n in 0..100 {
            // Correct, which `round_trip` checks, or failed.
            let _ = round_trip(&mut caller, n);
        }
        interposed.set("[[fault]]\nflip_bit = true");
        for _ in 0..10 {
            assert!(caller.encrypt_with_cdiv(0, Sha256::new(), b"x").is_err());
        }
        interposed.set("");
        eventually("it has recovered", || round_trip(&mut caller, 0).is_ok());
    });
}

/// A token that is removed and reinserted is reported as away, and used again without a restart.
#[test]
fn a_token_is_removed_and_comes_back() {
    in_child!("a_token_is_removed_and_comes_back", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one"], PIN);
        round_trip(&mut caller, 0).unwrap();
        let slot = Interposed::slot(&caller, 0);
        interposed.set(&format!("[[fault]]\nremove_token = true\nslot = {slot}"));
        eventually("it is known to be away", || {
            round_trip(&mut caller, 0) == Err(Failure::NoToken)
                && caller.hsm.health().tokens[0].status == HealthStatus::Unavailable
        });
        // By name, for readers of the log and of the status page.
        let trouble = caller.hsm.stats().remove(0).trouble.unwrap();
        assert!(trouble.contains("CKR_") || trouble.contains("no initialised token"), "{trouble}");
        interposed.set("");
        eventually("it is used again", || round_trip(&mut caller, 0).is_ok());
        for n in 0..50 {
            assert_eq!(round_trip(&mut caller, n), Ok(()));
        }
        eventually("it is well", || {
            let _ = round_trip(&mut caller, 0);
            caller.hsm.health().tokens[0].status == HealthStatus::Active
        });
    });
}

/// If the library loses its state and nothing else helps, it is initialised again; handles that now
/// belong to other keys are not used.
#[test]
fn the_module_is_initialised_anew_as_the_last_resort() {
    let test = "the_module_is_initialised_anew_as_the_last_resort";
    in_child!(test, Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one", "two"], PIN);
        for n in 0..10 {
            round_trip(&mut caller, n).unwrap();
        }
        assert_eq!(interposed.count("C_Finalize"), 1, "the test's own");
        interposed.set("[[fault]]\nreturn = \"CKR_CRYPTOKI_NOT_INITIALIZED\"");
        eventually("it is initialised again", || {
            let _ = round_trip(&mut caller, 0);
            interposed.count("C_Finalize") > 1
        });
        interposed.set("");
        eventually("it works again", || round_trip(&mut caller, 0).is_ok());
        let (iv, sealed) = caller.encrypt(1, b"with the other key").unwrap();
        assert_eq!(caller.decrypt(0, iv.as_slice(), &sealed), Err(Failure::InvalidCiphertext));
        assert_eq!(caller.decrypt(1, iv.as_slice(), &sealed).unwrap(), b"with the other key");
        assert_eq!(interposed.count("C_Finalize"), 2, "not again at once");
    });
}

/// Sessions closed behind our back are replaced, and so is the login that ended with the last one.
#[test]
fn lost_sessions_and_logins_are_replaced() {
    in_child!("lost_sessions_and_logins_are_replaced", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one"], PIN);
        for round in 0..10 {
            interposed.set(&format!("[[fault]]\nclose_session = true\ncount = 3\n{CRYPTO}"));
            for n in 0..10 {
                assert_eq!(round_trip(&mut caller, n), Ok(()), "{round}");
            }
        }
        interposed.set("");
        // The login is shared by the process: another part of it logs out.
        let module = Interposed::module();
        let pkcs11 = initialize(&module);
        let slot = slot_of(&pkcs11, "one");
        login(&pkcs11, slot).logout().unwrap();
        for n in 0..10 {
            assert_eq!(round_trip(&mut caller, n), Ok(()));
        }
        assert_eq!(caller.encrypt(2, b"x"), Err(Failure::KeyNotFound));
    });
}

/// A wrong PIN costs one C_Login, regardless of the number of requests.
#[test]
fn a_wrong_pin_is_one_login() {
    in_child!("a_wrong_pin_is_one_login", Interposed::environment, |directory| {
        let interposed = Interposed::new(directory);
        let before = interposed.count("C_Login");
        let mut caller = Interposed::start(&["one"], "4321");
        for _ in 0..10 {
            assert_eq!(caller.encrypt(0, b"x"), Err(Failure::NoToken));
            assert!(caller.hsm.inventory()[0].trouble.is_some());
        }
        assert_eq!(interposed.count("C_Login") - before, 1);
    });
}

/// Calls that hang indefinitely: others proceed, a stop is not delayed, and C_Finalize is not
/// called while they run, since its effect would be undefined.
#[test]
fn hung_calls_are_left_alone() {
    in_child!("hung_calls_are_left_alone", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one"], PIN);
        round_trip(&mut caller, 0).unwrap();
        let finalized = interposed.count("C_Finalize");
        interposed.set("[[fault]]\nhang = true\ncount = 2\nfunctions = [\"C_Encrypt\"]");
        let encryption = || request(0, Operation::Encrypt { cdiv: None }, b"hangs");
        let mut jobs = vec![caller.job(encryption(), 150), caller.job(encryption(), 150)];
        caller.hsm.submit(&mut jobs, &mut Vec::new());
        eventually("they are written off", || caller.hsm.stats()[0].hung_total == 2);
        for n in 0..50 {
            assert_eq!(round_trip(&mut caller, n), Ok(()));
        }
        assert!(!caller.hsm.stop(Duration::from_millis(500)));
        assert_eq!(interposed.count("C_Finalize"), finalized);
        interposed.set("");
    });
}

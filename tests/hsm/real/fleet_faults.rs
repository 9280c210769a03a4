//! Two SoftHSM2 tokens, of one module and of two, behind the interposer: one dies, hangs, lags or
//! comes back, and the caller notices nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::caller::*;
use crate::interposed::*;
use crate::tokens::*;
use crate::tools;
use sha2::{Digest as _, Sha256};
use xks_proxy::hsm::backend::Proof;
use xks_proxy::hsm::config::{HedgeAfter, IvMode, Rules, TokenConfig, TokenSelector};
use xks_proxy::hsm::pkcs11::{discovery, profiles};
use xks_proxy::hsm::proofs::TokenProofs;
use xks_proxy::job::{Failure, HealthStatus, Operation};
use xks_proxy::limits::SUSPICIONS;

fn named(label: &str, sessions: usize) -> TokenConfig {
    token(Interposed::module(), TokenSelector::Label(label.to_owned()), PIN, sessions)
}

/// Submits encryptions all at once and waits; each must be answered correctly and exactly once.
fn burst(caller: &mut Caller, count: usize, deadline_milli: u64) {
    let mut jobs = (0..count)
        .map(|_| {
            let operation = Operation::Encrypt { cdiv: Some(Sha256::new()) };
            caller.job(request(0, operation, b"burst"), deadline_milli)
        })
        .collect();
    let mut refused = Vec::new();
    caller.hsm.submit(&mut jobs, &mut refused);
    assert!(refused.is_empty());
    let answers = caller.wait(count);
    assert_eq!(answers.len(), count);
    for answer in &answers {
        assert!(answer.outcome.is_ok(), "{:?}", answer.outcome);
    }
    let mut serials: Vec<_> = answers.iter().map(|answer| answer.reply_to.serial).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len(), count);
}

/// One of two tokens disappears and comes back: no request fails, and afterwards it gets work
/// again.
#[test]
fn one_of_two_dies_and_returns() {
    in_child!("one_of_two_dies_and_returns", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one", "two"], PIN);
        let slot = Interposed::slot(&caller, 0);
        for n in 0..50 {
            round_trip(&mut caller, n).unwrap();
        }
        interposed.set(&format!("[[fault]]\nremove_token = true\nslot = {slot}"));
        eventually("it is known to be away", || {
            round_trip(&mut caller, 0).unwrap();
            caller.hsm.health().tokens[0].status == HealthStatus::Unavailable
        });
        for n in 0..50 {
            round_trip(&mut caller, n).unwrap();
        }
        let before = caller.hsm.stats()[0].answered_total;
        interposed.set("");
        eventually("it has work again", || {
            round_trip(&mut caller, 0).unwrap();
            caller.hsm.stats()[0].answered_total > before + 20
        });
        eventually("both are well", || {
            round_trip(&mut caller, 0).unwrap();
            caller.hsm.health().tokens.iter().all(|token| token.status == HealthStatus::Active)
        });
    });
}

/// One of two tokens corrupts each ciphertext: no corrupt one is returned, no request fails, and
/// the token is soon out of use.
#[test]
fn one_of_two_gets_it_wrong() {
    in_child!("one_of_two_gets_it_wrong", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Interposed::start(&["one", "two"], PIN);
        let slot = Interposed::slot(&caller, 0);
        let proofs = caller.hsm.prove_all(2);
        let are_proven = |token: &TokenProofs| {
            token.keys.iter().all(|key| matches!(key.proof, Proof::Agrees | Proof::Made))
        };
        assert!(proofs.iter().all(are_proven), "{proofs:?}");
        interposed.set(&format!("[[fault]]\nflip_bit = true\nslot = {slot}"));
        eventually("it is out of use", || {
            round_trip(&mut caller, 0).unwrap();
            !caller.hsm.stats()[0].is_usable
        });
        interposed.set("");
        eventually("it is back", || {
            round_trip(&mut caller, 0).unwrap();
            caller.hsm.stats()[0].is_usable
        });
    });
}

/// 1, 2, 8 and finally all calls of a token hang indefinitely: each request is answered in time.
#[test]
fn calls_of_one_token_hang() {
    in_child!("calls_of_one_token_hang", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut caller = Caller::start(config(vec![named("one", 8), named("two", 8)], &LABELS));
        let slot = Interposed::slot(&caller, 0);
        for count in ["count = 1", "count = 2", "count = 8", ""] {
            for _ in 0..5 {
                burst(&mut caller, 16, 2_000);
            }
            interposed.set(&format!("[[fault]]\nhang = true\nslot = {slot}\n{count}\n{CRYPTO}"));
            for _ in 0..30 {
                burst(&mut caller, 16, 2_000);
            }
            assert!(!caller.hsm.is_wedged());
            interposed.set("");
            eventually("what hung has returned", || {
                burst(&mut caller, 4, 2_000);
                caller.hsm.stats().iter().all(|token| token.is_usable && token.hung == 0)
            });
        }
    });
}

/// The only token of a module hangs: a token of another module carries on.
#[test]
fn two_modules() {
    let environment = |directory: &Path| {
        let mut environment = Interposed::environment(directory);
        std::fs::copy(Interposed::module(), directory.join("libsecond.so")).unwrap();
        // Nor may both copies use one SoftHSM2, whose C_Initialize does not support concurrent
        // calls.
        let softhsm2 = directory.join("libsofthsm2-second.so");
        std::fs::copy(tools::softhsm2_module(), &softhsm2).unwrap();
        environment.push(("XKS_INTERPOSER_MODULE_libsecond", softhsm2));
        std::fs::write(directory.join("second.toml"), "").unwrap();
        environment.push(("XKS_INTERPOSER_CONFIG_libsecond", directory.join("second.toml")));
        environment.push(("XKS_INTERPOSER_COUNTS_libsecond", directory.join("counts2.toml")));
        environment
    };
    in_child!("two_modules", environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let second = directory.join("libsecond.so");
        let tokens =
            vec![named("one", 4), token(second, TokenSelector::Label("two".to_owned()), PIN, 4)];
        let mut caller = Caller::start(config(tokens, &LABELS));
        eventually("both work", || {
            burst(&mut caller, 8, 5_000);
            caller.hsm.stats().iter().all(|token| token.answered_total > 10)
        });
        interposed.set("[[fault]]\nhang = true");
        for _ in 0..20 {
            burst(&mut caller, 8, 2_000);
        }
        eventually("the first is known to be away", || {
            burst(&mut caller, 4, 2_000);
            !caller.hsm.stats()[0].is_usable
        });
        let before = caller.hsm.stats()[0].answered_total;
        interposed.set("");
        eventually("it is back", || {
            burst(&mut caller, 8, 2_000);
            caller.hsm.stats()[0].answered_total > before + 20
        });
    });
}

/// One call in ten of one token takes 300 ms, but the answers do not.
#[test]
fn a_lagging_token_is_hedged() {
    in_child!("a_lagging_token_is_hedged", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let mut config = config(vec![named("one", 8), named("two", 8)], &LABELS);
        config.hedging.after = HedgeAfter::Fixed(Duration::from_millis(10));
        config.hedging.budget_percent = 100;
        let mut caller = Caller::start(config);
        for _ in 0..20 {
            burst(&mut caller, 4, 5_000);
        }
        let slot = Interposed::slot(&caller, 0);
        interposed.set(&format!(
            "seed = 7\n[[fault]]\ndelay = \"0ms, p=0.1:300ms\"\nslot = {slot}\n{CRYPTO}"
        ));
        let mut times: Vec<_> = (0..200)
            .map(|_| {
                let start = Instant::now();
                burst(&mut caller, 1, 5_000);
                start.elapsed()
            })
            .collect();
        times.sort();
        // Without hedging, at least one in five would take 300 ms.
        assert!(times[190] < Duration::from_millis(290), "{:?}", times[190]);
        let stats = caller.hsm.stats();
        assert!(stats[0].hedged_total > 0 && stats[1].hedges_won_total > 0, "{stats:#?}");
    });
}

/// A wrong PIN of one token costs one C_Login, and the other token does the work.
#[test]
fn a_wrong_pin_of_one_of_two() {
    in_child!("a_wrong_pin_of_one_of_two", Interposed::environment, |directory| {
        let interposed = Interposed::new(directory);
        let before = interposed.count("C_Login");
        let one = token(Interposed::module(), TokenSelector::Label("one".to_owned()), "4321", 4);
        let mut caller = Caller::start(config(vec![one, named("two", 4)], &LABELS));
        eventually("the second is usable", || caller.hsm.stats()[1].is_usable);
        for n in 0..50 {
            round_trip(&mut caller, n).unwrap();
        }
        assert_eq!(interposed.count("C_Login") - before, 2, "one each");
        let health = caller.hsm.health();
        assert_eq!(health.tokens[0].status, HealthStatus::Unavailable);
        assert!(!caller.hsm.is_wedged(), "a new process would try the PIN again");
    });
}

/// Tampered ciphertexts among good ones: each is reported and no session is lost, whichever code
/// the HSM returns and whether or not the profile knows it.
#[test]
fn tampered_ciphertexts_among_good_ones() {
    in_child!("tampered_ciphertexts_among_good_ones", Interposed::environment, |directory| {
        let interposed = Interposed::new(directory);
        let softhsm2 = profiles::by_name("softhsm2").unwrap().rules;
        for rules in [Rules::default(), softhsm2] {
            let one = TokenConfig { rules, ..named("one", 4) };
            let mut caller = Caller::start(config(vec![one], &LABELS));
            let (iv, sealed) = caller.encrypt(0, b"good").unwrap();
            let mut tampered = sealed.clone();
            *tampered.last_mut().unwrap() ^= 1;
            for _ in 0..100 {
                let answer = caller.decrypt(0, iv.as_slice(), &tampered);
                assert_eq!(answer, Err(Failure::InvalidCiphertext));
                assert_eq!(caller.decrypt(0, iv.as_slice(), &sealed).unwrap(), b"good");
            }
            let stats = caller.hsm.stats().remove(0);
            assert_eq!((stats.faults_total, stats.sessions_opened_total), (0, 1), "{stats:#?}");
            // Cost of a bad ciphertext: each suspicion, and the known-good operation after it.
            let before = interposed.count("C_Decrypt");
            for _ in 0..100 {
                let answer = caller.decrypt(0, iv.as_slice(), &tampered);
                assert_eq!(answer, Err(Failure::InvalidCiphertext));
            }
            let cost = interposed.count("C_Decrypt") - before;
            let expected = 100 * 2 * u64::from(SUSPICIONS);
            // Health checks may run in between.
            assert!((expected..expected + 20).contains(&cost), "{cost}");
        }
    });
}

/// If the profile says that the HSM has another code for a bad tag, this code means trouble and is
/// never reported as a bad ciphertext.
#[test]
fn a_code_that_the_profile_does_not_know() {
    in_child!("a_code_that_the_profile_does_not_know", Interposed::environment, |directory| {
        let _bench = Interposed::new(directory);
        let rules = profiles::by_name("kryoptic").unwrap().rules;
        let one = TokenConfig { rules, ..named("one", 4) };
        let mut caller = Caller::start(config(vec![one], &LABELS));
        let (iv, mut sealed) = caller.encrypt(0, b"good").unwrap();
        sealed[0] ^= 1;
        let answer = caller.decrypt(0, iv.as_slice(), &sealed).unwrap_err();
        assert_ne!(answer, Failure::InvalidCiphertext);
    });
}

/// The findings of `probe-hsm` for SoftHSM2 match its profile.
#[test]
fn the_probe_knows_softhsm2() {
    let environment = |directory: &Path| softhsm_environment(directory);
    in_child!("the_probe_knows_softhsm2", environment, |_| {
        let module: PathBuf = tools::softhsm2_module();
        let pkcs11 = initialize(&module);
        make_token(&pkcs11, "one");
        pkcs11.finalize().unwrap();
        let token = token(module, TokenSelector::First, PIN, 4);
        let bounds = discovery::Bounds { max_sessions: 4, time: Duration::from_millis(20) };
        let findings = discovery::run(&token, &[], bounds).unwrap();
        let profile = profiles::by_name("softhsm2").unwrap();
        assert_eq!(findings.iv_mode, Some(profile.iv_mode), "{findings:#?}");
        assert!(findings.fitting_profiles().any(|fitting| fitting == profile), "{findings:#?}");
        assert_eq!((findings.sessions.0, findings.throughput.len()), (4, 3));
        assert!(findings.throughput.iter().all(|(_, rate)| *rate > 0.0));
        assert!(findings.bad_tag_oddities.is_empty(), "{findings:#?}");

        let wrong = TokenConfig { user_pin: token_pin("4321"), ..token };
        assert!(discovery::run(&wrong, &[], bounds).unwrap_err().to_string().contains("PIN"));
    });
}

/// Discovery distinguishes the ways of making IVs, and the codes, even if no session keys can be
/// created.
#[test]
fn the_probe_tells_ways_apart() {
    in_child!("the_probe_tells_ways_apart", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        // Keeps the module initialised, so that it reads its settings.
        let _pkcs11 = initialize(&Interposed::module());
        let bounds = discovery::Bounds { max_sessions: 2, time: Duration::from_millis(20) };
        let labels = [Box::from("key")];
        for (profile, iv_mode, settings) in [
            (
                "nshield",
                IvMode::ZeroedBuffer,
                "iv = \"zeroed_buffer\"\nbad_tag = \"CKR_FUNCTION_FAILED\"\nno_session_keys = true",
            ),
            ("luna", IvMode::Appended, "iv = \"appended\""),
            ("opencryptoki", IvMode::Random, "bad_tag = \"CKR_ENCRYPTED_DATA_INVALID\""),
        ] {
            interposed.set(settings);
            let findings = discovery::run(&named("one", 4), &labels, bounds).unwrap();
            assert_eq!(findings.iv_mode, Some(iv_mode), "{findings:#?}");
            let mut fitting = findings.fitting_profiles();
            assert!(fitting.any(|fitting| fitting.name == profile), "{findings:#?}");
        }
    });
}

fn token_pin(pin: &str) -> xks_proxy::observe::redaction::Secret<String> {
    xks_proxy::observe::redaction::Secret::new(pin.to_owned())
}

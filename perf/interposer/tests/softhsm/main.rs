//! The interposer in front of SoftHSM2, used through the `cryptoki` crate as an application would.
//!
//! A process has one instance, so the tests take turns.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bench;
mod keys;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_GCM_PARAMS, CK_MECHANISM, CK_RV, CKM_AES_GCM, CKR_BUFFER_TOO_SMALL, CKR_OK,
};

use bench::{
    Counts, FaultCounts, PATIENCE, PIN, SOFTHSM, bench, code_of, counts, decrypt_with, encrypt,
    encrypt_with, initialized, library, log_in, make_key, make_tokens, random, randoms, set,
};

/// Another program loads and uses the module in its own way; the counts are there once it has
/// ended.
#[test]
fn pkcs11_tool_works_through_it() {
    let directory = tempfile::tempdir().unwrap();
    let configuration = make_tokens(directory.path());
    let counts = directory.path().join("counts");
    let run = |arguments: &[&str]| {
        let output = Command::new("pkcs11-tool")
            .arg("--module")
            .arg(library())
            .args(arguments)
            .env("SOFTHSM2_CONF", &configuration)
            .env("XKS_INTERPOSER_MODULE", SOFTHSM)
            .env("XKS_INTERPOSER_SETTINGS", "name = \"inline\"\nhsm_milli = 1\nseed = 5")
            .env("XKS_INTERPOSER_COUNTS", &counts)
            .env_remove("XKS_INTERPOSER_CONFIG")
            .output()
            .expect("pkcs11-tool is missing: install OpenSC (apt-get install opensc)");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let key = ["--token-label", "a", "--login", "--pin", PIN, "--keygen", "--key-type", "AES:32"];
    run(&[&key[..], &["--label", "k1"]].concat());
    let listed = run(&["--token-label", "a", "--login", "--pin", PIN, "--list-objects"]);
    assert!(String::from_utf8(listed).unwrap().contains("k1"));
    assert_eq!(run(&["--token-label", "b", "--generate-random", "16"]).len(), 16);
    let counts: Counts = toml::from_str(&fs::read_to_string(counts).unwrap()).unwrap();
    assert_eq!(counts.name, "inline");
    assert_eq!(counts.seed, 5);
    assert_eq!([counts.of("C_Initialize"), counts.of("C_Finalize")], [1, 1]);
    assert_eq!([counts.of("C_GenerateRandom"), counts.of("C_Login")], [1, 0]);
}

/// Counts are exact, even with many threads: measurements rely on them.
#[test]
fn counts_are_right() {
    let bench = bench();
    let before = bench.wait_for(|_| true);
    thread::scope(|scope| {
        for _ in 0..4 {
            let session = bench.session(0);
            scope.spawn(move || assert_eq!(randoms(&session, 250), [true; 250]));
        }
    });
    let session = bench.session(0);
    session.find_objects(&[]).unwrap();
    let after = bench.wait_for(|_| true);
    let more = |function| after.of(function) - before.of(function);
    assert_eq!(more("C_GenerateRandom"), 1000);
    assert_eq!(more("C_OpenSession"), 5);
    assert_eq!(more("C_CloseSession"), 4);
    assert_eq!(more("C_FindObjectsInit"), 1);
    assert_eq!(more("C_FindObjectsFinal"), 1);
    assert_eq!(more("C_Encrypt"), 0);
}

/// A latency is at least as long as requested, and does not affect other functions.
#[test]
fn a_delay_delays() {
    let bench = bench();
    let session = bench.session(0);
    bench.apply("hsm_milli = 40");
    let start = Instant::now();
    random(&session).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(40));
    bench.apply("[latency]\nC_GetInfo = \"30ms\"");
    let start = Instant::now();
    bench.pkcs11.get_library_info().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(30));
    bench.apply("[[fault]]\ndelay = \"25ms\"\nfunctions = [\"C_GenerateRandom\"]");
    let start = Instant::now();
    random(&session).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(25));
}

/// Four calls of 20 ms, two at a time, take at least 40 ms.
#[test]
fn parallel_calls_are_capped() {
    let bench = bench();
    bench.apply("parallel_calls = 2\nhsm_milli = 20");
    let sessions: Vec<_> = (0..4).map(|_| bench.session(0)).collect();
    let start = Instant::now();
    thread::scope(|scope| {
        for session in sessions {
            scope.spawn(move || random(&session).unwrap());
        }
    });
    assert!(start.elapsed() >= Duration::from_millis(40));
}

/// A fault is returned exactly the given number of times, and such a call is not forwarded.
#[test]
fn a_fault_is_returned_n_times() {
    let bench = bench();
    let session = bench.session(0);
    bench.apply(
        "[[fault]]\nreturn = \"CKR_DEVICE_ERROR\"\nfunctions = [\"C_GenerateRandom\"]\n\
         skip = 1\ncount = 3",
    );
    let codes: Vec<_> = (0..6).map(|_| random(&session)).collect();
    let error = Err(RvError::DeviceError);
    assert_eq!(codes, [Ok(()), error, error, error, Ok(()), Ok(())]);
    let counts = bench.wait_for(|_| true);
    assert_eq!(counts.fault, [FaultCounts { fitted: 6, acted: 3 }]);
}

/// The same seed replays the same faults, even if the settings are read again.
#[test]
fn a_seed_replays() {
    let bench = bench();
    let session = bench.session(0);
    let outcomes = |seed: u64| {
        bench.apply(&format!(
            "seed = {seed}\n[[fault]]\nreturn = 0x30\nfunctions = [\"C_GenerateRandom\"]\n\
             probability = 0.5"
        ));
        assert_eq!(bench.wait_for(|_| true).seed, seed);
        randoms(&session, 64)
    };
    let first = outcomes(1);
    assert!(first.contains(&true) && first.contains(&false));
    assert_ne!(outcomes(2), first);
    assert_eq!(outcomes(1), first);
}

/// A hung call delays no other call, and continues when released as if it had merely been slow.
#[test]
fn hang_and_release() {
    let bench = bench();
    let (hanging, other) = (bench.session(0), bench.session(0));
    bench.apply("[[fault]]\nhang = true\nfunctions = [\"C_GenerateRandom\"]\ncount = 1");
    let hung = thread::spawn(move || random(&hanging));
    bench.wait_for(|counts| counts.hung == 1);
    random(&other).unwrap();
    // New settings that still contain the hang do not release it.
    bench.apply("seed = 2\n[[fault]]\nhang = true\nfunctions = [\"C_GenerateRandom\"]\ncount = 0");
    assert!(!hung.is_finished());
    assert_eq!(bench.wait_for(|_| true).hung, 1);
    bench.apply("");
    assert_eq!(hung.join().unwrap(), Ok(()));
    assert_eq!(bench.wait_for(|_| true).hung, 0);
}

/// A hang may end by itself and then fail, like an HSM's own time-out.
#[test]
fn a_hang_that_ends_with_an_error() {
    let bench = bench();
    let session = bench.session(0);
    bench.apply(
        "[[fault]]\nhang = true\nreturn = \"CKR_DEVICE_ERROR\"\n\
         functions = [\"C_GenerateRandom\"]\ncount = 1\nuntil_milli = 3000",
    );
    assert_eq!(random(&session), Err(RvError::DeviceError));
    assert_eq!(random(&session), Ok(()));
    assert_eq!(bench.wait_for(|_| true).hung, 0);
}

/// A fault can be limited to one of two tokens.
#[test]
fn a_fault_of_one_slot() {
    let bench = bench();
    let (bad, good) = (bench.session(0), bench.session(1));
    let slot = bench.slot_id(0);
    bench.apply(&format!("[[fault]]\nslot = {slot}\nreturn = \"CKR_FUNCTION_FAILED\""));
    assert_eq!(random(&bad), Err(RvError::FunctionFailed));
    assert_eq!(random(&good), Ok(()));
    assert!(bench.pkcs11.get_token_info(bench.slots[0]).is_err());
    assert!(bench.pkcs11.get_token_info(bench.slots[1]).is_ok());
    assert!(bench.pkcs11.open_rw_session(bench.slots[0]).is_err());
    bench.apply("");
    assert_eq!(random(&bad), Ok(()));
}

/// The session is really closed; another one works.
#[test]
fn a_closed_session() {
    let bench = bench();
    let (lost, other) = (bench.session(0), bench.session(0));
    bench.apply("[[fault]]\nclose_session = true\nfunctions = [\"C_GenerateRandom\"]\ncount = 1");
    for _ in 0..2 {
        assert_eq!(random(&lost), Err(RvError::SessionHandleInvalid));
    }
    assert_eq!(random(&other), Ok(()));
}

/// A removed token's sessions and login are gone, even if they were idle, and the other token is
/// unaffected.
#[test]
fn a_removed_token_comes_back() {
    let bench = bench();
    let (busy, idle, other) = (bench.session(0), bench.session(0), bench.session(1));
    log_in(&busy);
    log_in(&other);
    let slot = bench.slot_id(0);
    bench.apply(&format!("[[fault]]\nslot = {slot}\nremove_token = true"));
    assert_eq!(random(&busy), Err(RvError::DeviceRemoved));
    assert!(matches!(
        bench.pkcs11.get_token_info(bench.slots[0]),
        Err(Error::Pkcs11(RvError::TokenNotPresent, _))
    ));
    assert_eq!(random(&other), Ok(()));
    bench.apply("");
    assert_eq!(random(&busy), Err(RvError::SessionHandleInvalid));
    assert_eq!(random(&idle), Err(RvError::SessionHandleInvalid));
    let new = bench.session(0);
    // Not "already logged in".
    new.login(UserType::User, Some(&AuthPin::new(PIN.into()))).unwrap();
    make_key(&new);
    make_key(&other);
}

/// A time window opens and closes by itself.
#[test]
fn a_fault_for_a_time() {
    let bench = bench();
    let session = bench.session(0);
    bench.apply("[[fault]]\nreturn = 0x30\nfrom_milli = 3600000");
    assert_eq!(random(&session), Ok(()));
    bench.apply("[[fault]]\nreturn = 0x30\nuntil_milli = 300");
    let start = Instant::now();
    while random(&session).is_err() {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(5));
    }
}

/// Exactly one bit is wrong, and the token then rejects the ciphertext.
#[test]
fn a_flipped_bit() {
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let key = make_key(&session);
    let right = encrypt(&session, key);
    bench.apply("[[fault]]\nflip_bit = true\nfunctions = [\"C_Encrypt\"]");
    let wrong = encrypt(&session, key);
    let bits: u32 = right.iter().zip(&wrong).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((bits, right.len()), (1, wrong.len()));
    let mut iv = [7; 12];
    let params = GcmParams::new(&mut iv, b"aad", 128.into()).unwrap();
    assert!(session.decrypt(&Mechanism::AesGcm(params), key, &wrong).is_err());
}

/// Each call that the fault fits keeps a descriptor open, and succeeds.
#[test]
fn a_leak() {
    let bench = bench();
    let session = bench.session(0);
    let is_of_leak = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target == Path::new("/dev/null"))
    };
    let leaked = || {
        let entries = fs::read_dir("/proc/self/fd").unwrap().map_while(Result::ok);
        entries.filter(is_of_leak).count()
    };
    let before = leaked();
    bench.apply("[[fault]]\nleak_bytes = 4096\nfunctions = [\"C_GenerateRandom\"]\ncount = 5");
    assert_eq!(randoms(&session, 7), [true; 7]);
    assert_eq!(leaked(), before + 5);
}

/// nShield and AWS CloudHSM: a zeroed IV is replaced by a new one each time, with which the plain
/// module can decrypt; an IV chosen by the application is refused.
#[test]
fn a_zeroed_buffer_is_filled() {
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let key = make_key(&session);
    for written_by in ["", "iv_written_by = \"C_EncryptInit\"", "iv_written_by = \"C_Encrypt\""] {
        bench.apply(&format!("iv = \"zeroed_buffer\"\n{written_by}"));
        let mut made = Vec::new();
        for plaintext in [b"".as_slice(), b"plaintext", b"plaintext"] {
            let mut iv = [0; 12];
            let ciphertext = encrypt_with(&session, key, &mut iv, plaintext).unwrap();
            assert_eq!(ciphertext.len(), plaintext.len() + 16);
            assert!(iv != [0; 12] && !made.contains(&(iv, ciphertext.clone())));
            assert_eq!(decrypt_with(&session, key, &iv, &ciphertext).unwrap(), plaintext);
            made.push((iv, ciphertext));
        }
        for mut own in [vec![7; 12], vec![0; 16], vec![0; 11], Vec::new(), vec![7; 16]] {
            let refused = encrypt_with(&session, key, &mut own, b"plaintext");
            assert_eq!(refused, Err(RvError::MechanismParamInvalid), "{own:?}");
        }
        bench.apply("");
        for (iv, ciphertext) in &made {
            decrypt_with(&session, key, iv, ciphertext).unwrap();
        }
        // An operation begun in one mode does not affect the next mode.
        assert_eq!(encrypt_with(&session, key, &mut [0; 12], b"").unwrap().len(), 16);
    }
}

/// Thales Luna: no IV is passed in; it is appended to the output, in either length.
#[test]
fn an_iv_is_appended() {
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let key = make_key(&session);
    // The `cryptoki` crate gives ulIvBits 0 here.
    for (bytes, iv_bytes) in
        [("", 16), ("appended_iv_bytes = 16", 16), ("appended_iv_bytes = 12", 12)]
    {
        bench.apply(&format!("iv = \"appended\"\n{bytes}"));
        let mut made = Vec::new();
        for plaintext in [b"".as_slice(), b"plaintext", b"plaintext"] {
            let output = encrypt_with(&session, key, &mut [], plaintext).unwrap();
            let (ciphertext, iv) = output.split_at(plaintext.len() + 16);
            assert_eq!(iv.len(), iv_bytes);
            assert!(!made.contains(&output));
            assert_eq!(decrypt_with(&session, key, iv, ciphertext).unwrap(), plaintext);
            made.push(output);
        }
        for mut own in [vec![7; 12], vec![0; 12], vec![7; 16]] {
            let refused = encrypt_with(&session, key, &mut own, b"plaintext");
            assert_eq!(refused, Err(RvError::MechanismParamInvalid), "{own:?}");
        }
    }
}

/// PKCS#11 v2.40, 5.2: a caller that asks for the length, or whose buffer is too small, gets the
/// total length including the IV, and may continue.
#[test]
#[expect(unsafe_code, reason = "the cryptoki crate never has too little room")]
fn lengths_have_the_iv_in_them() {
    const DATA: &[u8] = b"plaintext";
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let key = make_key(&session);
    let library = library();
    // SAFETY: the library is loaded and initialised, and remains so.
    let functions = unsafe {
        let library = libloading::Library::new(library).unwrap();
        let get = library
            .get::<unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV>(b"C_GetFunctionList")
            .unwrap();
        let mut list = std::ptr::null_mut();
        assert_eq!(get(&raw mut list), CKR_OK);
        *list
    };
    for (mode, iv_bytes, appended) in [
        ("iv = \"appended\"\nappended_iv_bytes = 16", 0, 16),
        ("iv = \"zeroed_buffer\"", 12, 0),
        ("iv = \"zeroed_buffer\"\niv_written_by = \"C_Encrypt\"", 12, 0),
    ] {
        bench.apply(mode);
        let needed = DATA.len() + 16 + appended;
        let mut iv = [0_u8; 12];
        let mut output = [0_u8; 64];
        let mut parameters = CK_GCM_PARAMS {
            pIv: iv.as_mut_ptr(),
            ulIvLen: iv_bytes,
            ulIvBits: 96,
            pAAD: b"aad".as_ptr().cast_mut(),
            ulAADLen: 3,
            ulTagBits: 128,
        };
        let mut mechanism = CK_MECHANISM {
            mechanism: CKM_AES_GCM,
            pParameter: (&raw mut parameters).cast(),
            ulParameterLen: size_of::<CK_GCM_PARAMS>().try_into().unwrap(),
        };
        // SAFETY: mechanism, parameters, IV and AAD outlive the operation.
        let code = unsafe {
            functions.C_EncryptInit.unwrap()(session.handle(), &raw mut mechanism, key.handle())
        };
        assert_eq!(code, CKR_OK);
        let is_written = parameters.ulIvLen > 0 && !mode.contains("C_Encrypt");
        let encrypt = |output: *mut u8, room: usize| {
            let mut length = room.try_into().unwrap();
            // SAFETY: `output` is null or has at least `room` bytes.
            let code = unsafe {
                functions.C_Encrypt.unwrap()(
                    session.handle(),
                    DATA.as_ptr().cast_mut(),
                    DATA.len().try_into().unwrap(),
                    output,
                    &raw mut length,
                )
            };
            (code, usize::try_from(length).unwrap())
        };
        assert_eq!(encrypt(std::ptr::null_mut(), 0), (CKR_OK, needed));
        let short = encrypt(output.as_mut_ptr(), needed - 1);
        assert_eq!(short, (CKR_BUFFER_TOO_SMALL, needed));
        assert_eq!(iv != [0; 12], is_written, "{mode}");
        assert_eq!(encrypt(output.as_mut_ptr(), needed), (CKR_OK, needed));
        let (ciphertext, rest) = output.split_at(DATA.len() + 16);
        let iv = if appended > 0 { &rest[..appended] } else { &iv };
        assert_eq!(decrypt_with(&session, key, iv, ciphertext).unwrap(), DATA);
        assert!(rest[appended..].iter().all(|byte| *byte == 0), "nothing behind the end");
    }
}

/// Only the code for a bad tag is that of another module; correct results are unaffected.
#[test]
fn a_bad_tag_of_another_module() {
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let key = make_key(&session);
    let iv = [7; 12];
    let ciphertext = encrypt(&session, key);
    let mut spoilt = ciphertext.clone();
    spoilt[0] ^= 1;
    for (settings, code) in [
        ("", RvError::GeneralError),
        ("bad_tag = \"CKR_FUNCTION_FAILED\"", RvError::FunctionFailed),
        ("bad_tag = 0x40", RvError::EncryptedDataInvalid),
    ] {
        bench.apply(settings);
        assert_eq!(decrypt_with(&session, key, &iv, &spoilt), Err(code), "{settings}");
        assert_eq!(decrypt_with(&session, key, &iv, &ciphertext).unwrap(), b"plaintext");
    }
}

/// A FIPS 140 level 3 world without a card; existing keys continue to work.
#[test]
fn no_keys_are_made() {
    let bench = bench();
    let session = bench.session(0);
    log_in(&session);
    let key = make_key(&session);
    let template = [Attribute::Token(false), Attribute::ValueLen(32.into())];
    for (value, code) in [
        ("true", RvError::FunctionFailed),
        ("\"CKR_USER_NOT_LOGGED_IN\"", RvError::UserNotLoggedIn),
    ] {
        bench.apply(&format!("no_session_keys = {value}"));
        let made = session.generate_key(&Mechanism::AesKeyGen, &template);
        assert_eq!(code_of(made), Err(code));
        assert_eq!(code_of(session.create_object(&[])), Err(code));
        encrypt(&session, key);
    }
    bench.apply("no_session_keys = false");
    make_key(&session);
}

/// Modules that offer only one kind of session.
#[test]
fn sessions_of_one_kind() {
    let bench = bench();
    let slot = bench.slots[0];
    let outcomes = || {
        let [rw, ro] = [bench.pkcs11.open_rw_session(slot), bench.pkcs11.open_ro_session(slot)];
        [rw, ro].map(|opened| code_of(opened).err())
    };
    assert_eq!(outcomes(), [None, None]);
    bench.apply("needs_rw = true");
    assert_eq!(outcomes(), [None, Some(RvError::FunctionFailed)]);
    bench.apply("no_rw_sessions = true");
    assert_eq!(outcomes(), [Some(RvError::TokenWriteProtected), None]);
}

/// Settings that can't be read change nothing, and the reason is reported.
#[test]
fn broken_settings() {
    let bench = bench();
    let session = bench.session(0);
    bench.apply("[[fault]]\nreturn = 0x30\nfunctions = [\"C_GenerateRandom\"]");
    fs::write(bench.directory.join("settings"), "hsm_millis = 2").unwrap();
    let counts = bench.wait_for(|counts| !counts.settings_error.is_empty());
    assert!(counts.settings_error.contains("hsm_millis"), "{counts:?}");
    assert_eq!(random(&session), Err(RvError::DeviceError));
}

/// A copy under another name is a separate instance, with its own settings, counts and module.
#[test]
fn two_copies_in_one_process() {
    let bench = bench();
    let copy = bench.directory.join("libxks_interposer_b.so");
    let module = bench.directory.join("module_b.so");
    fs::copy(library(), &copy).unwrap();
    fs::copy(SOFTHSM, &module).unwrap();
    let (settings, counts_b) =
        (bench.directory.join("settings_b"), bench.directory.join("counts_b"));
    fs::write(&settings, "[[fault]]\nreturn = 0x30\nfunctions = [\"C_GenerateRandom\"]").unwrap();
    set("XKS_INTERPOSER_MODULE_libxks_interposer_b", &module);
    set("XKS_INTERPOSER_CONFIG_libxks_interposer_b", &settings);
    set("XKS_INTERPOSER_COUNTS_libxks_interposer_b", &counts_b);
    let pkcs11 = initialized(&copy);
    let before = bench.wait_for(|_| true);
    let second = pkcs11.open_rw_session(bench.slots[0]).unwrap();
    assert_eq!(randoms(&second, 3), [false; 3]);
    assert_eq!(randoms(&bench.session(0), 2), [true; 2]);
    assert_eq!(counts(&counts_b).of("C_GenerateRandom"), 3);
    let after = bench.wait_for(|_| true);
    assert_eq!(after.of("C_GenerateRandom") - before.of("C_GenerateRandom"), 2);
}

//! `audit verify`: what a forger could write, and which lines the HSM vouches for.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use toml::Table;
use xks_proxy::observe::audit::chain::{CODE_BYTES, Chain, key_of};

use super::audit::{audited, calls, encrypt, end, files, lines, verify, verify_with};
use crate::common::token::FOREIGN;
use crate::common::{Proxy, Setup, xks};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The chain before its first line, by the first key.
fn first_of(directory: &Path) -> Chain {
    let key = fs::read_to_string(directory.join("key")).unwrap();
    let mut bytes = [0; CODE_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap();
    }
    Chain::begin(key_of(&bytes))
}

/// Runs `audit verify --hsm`. Returns its exit code and output.
fn verify_by_hsm(proxy: &Proxy) -> (i32, String) {
    let files = files(proxy.directory());
    let mut arguments = vec!["audit", "verify", "--hsm"];
    arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
    let (code, said) = proxy.run(&arguments);
    (code.unwrap(), said)
}

/// The log as somebody who has the chain's first key would forge it.
fn chained_anew(directory: &Path, text: &str) -> String {
    let mut chain = first_of(directory);
    text.lines()
        .map(|line| {
            let (covered, _) = line.rsplit_once(",\"mac\":").unwrap();
            let code = chain.seal(covered.as_bytes());
            format!("{covered},\"mac\":\"{}\"}}\n", hex(&code))
        })
        .collect()
}

/// With an HSM key that seals checkpoints, the chain's first key is not enough to forge a log. A
/// checkpoint is sealed at the start and before each file ends.
#[test]
fn the_hsm_vouches_for_the_log() {
    let setup = Setup::new().set("audit.hsm_key", FOREIGN.label);
    let mut proxy = audited(setup).start();
    let checkpoints = |proxy: &Proxy| {
        let lines = lines(proxy.directory());
        lines.iter().filter(|line| line["event"] == "checkpoint").count()
    };
    proxy.wait_for("the first checkpoint", |proxy| checkpoints(proxy) == 1);
    let client = proxy.client();
    for _ in 0..3 {
        encrypt(&client);
    }
    // Callers cannot use the sealing key.
    client
        .call(&format!("keys/{}/encrypt", FOREIGN.label), &xks::encrypt(b"no", None))
        .assert_error(404, "KeyNotFoundException");
    proxy.wait_for("the calls' lines", |proxy| calls(proxy.directory()).len() == 4);
    let path = proxy.directory().join("audit/audit.jsonl");
    let moved = proxy.directory().join("audit/moved.jsonl");
    fs::rename(&path, &moved).unwrap();
    proxy.signal("USR1");
    proxy.wait_for("the checkpoint before the end", |proxy| checkpoints(proxy) == 2);
    end(&mut proxy);

    let directory = proxy.directory();
    let (code, said) = verify(directory);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Checkpoints: 2; --hsm finds out"), "{said}");
    let (code, said) = verify_by_hsm(&proxy);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("The HSM vouches for all before number"), "{said}");

    // The forger's files pass the check of the chain alone.
    let texts = [&moved, &path].map(|path| fs::read_to_string(path).unwrap());
    let forged = texts.concat().replacen("user/Alice", "user/Mally", 1);
    fs::write(&moved, chained_anew(directory, &forged)).unwrap();
    fs::remove_file(&path).unwrap();
    let (code, said) = verify_with(directory, &files(directory), &[]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = verify_by_hsm(&proxy);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("TAMPERED: the HSM has not sealed this checkpoint"), "{said}");
}

/// Somebody who cuts the end off the log and writes a state for what is left is found out.
#[test]
fn a_forged_state() {
    let mut proxy = audited(Setup::new()).start();
    let client = proxy.client();
    for _ in 0..5 {
        encrypt(&client);
    }
    end(&mut proxy);
    let directory = proxy.directory();
    let path = files(directory).remove(0);
    let good = fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = good.split_inclusive('\n').take(5).collect();
    fs::write(&path, kept.concat()).unwrap();
    // Number and code as in the log, and the digest over it all: the file's layout is no secret.
    let last: Value = serde_json::from_str(kept[4]).unwrap();
    let code = last["mac"].as_str().unwrap();
    let code: Vec<u8> = (0..CODE_BYTES)
        .map(|at| u8::from_str_radix(&code[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let state = directory.join("audit/audit.state");
    let mut bytes = fs::read(&state).unwrap();
    bytes[16..24].copy_from_slice(&5_u64.to_be_bytes());
    bytes[56..88].copy_from_slice(&code);
    let digest_at = bytes.len() - 32;
    let digest = Sha256::digest(&bytes[..digest_at]);
    bytes[digest_at..].copy_from_slice(&digest);
    fs::OpenOptions::new().write(true).open(&state).unwrap().write_all_at(&bytes, 0).unwrap();
    let (code, said) = verify(directory);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("audit.jsonl:5: TAMPERED: the state file is not the one"), "{said}");
}

/// A log without checkpoints is not verified by the HSM, nor is one whose checkpoints another key
/// has sealed, even if it is now a store's, so that everyone who may call the store could.
#[test]
fn only_the_audit_key_vouches() {
    let mut proxy = audited(Setup::new()).start();
    encrypt(&proxy.client());
    end(&mut proxy);
    let (code, said) = verify_by_hsm(&proxy);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("--hsm needs [audit] hsm_key"), "{said}");
    let audit_key = |label: &'static str| {
        move |table: &mut Table| {
            let audit = table["audit"].as_table_mut().unwrap();
            audit.insert("hsm_key".to_owned(), label.into());
        }
    };
    proxy.change_settings(audit_key(FOREIGN.label));
    let (code, said) = verify_by_hsm(&proxy);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("not verified by the HSM: there is no checkpoint"), "{said}");

    // The second process's first checkpoint covers the lines of the first.
    proxy.start_again();
    proxy.wait_for("the first checkpoint", |proxy| {
        lines(proxy.directory()).iter().any(|line| line["event"] == "checkpoint")
    });
    end(&mut proxy);
    let (code, said) = verify_by_hsm(&proxy);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Only the chain vouches for the lines after that (number"), "{said}");
    proxy.change_settings(audit_key("no_such_key"));
    proxy.change_settings(|table| {
        let store = table["external_key_stores"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        store["xks_key_id_set"].as_array_mut().unwrap().push(FOREIGN.label.into());
    });
    let (code, said) = verify_by_hsm(&proxy);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("the checkpoint names the key \"foreign_key\""), "{said}");
}

/// Lines that are too old to be without a checkpoint are not verified by the HSM.
#[test]
fn an_old_end_without_a_checkpoint() {
    let mut proxy = audited(Setup::new().set("audit.hsm_key", FOREIGN.label)).start();
    proxy.wait_for("the first checkpoint", |proxy| {
        lines(proxy.directory()).iter().any(|line| line["event"] == "checkpoint")
    });
    encrypt(&proxy.client());
    end(&mut proxy);
    let directory = proxy.directory();
    let path = files(directory).remove(0);
    let text = fs::read_to_string(&path).unwrap();
    // As after a crash, and with a call of last year behind the checkpoint.
    let whole: Vec<&str> = text.split_inclusive('\n').collect();
    let at = whole.iter().rposition(|line| line.contains("\"call\"")).unwrap();
    let time: Value = serde_json::from_str(whole[at]).unwrap();
    let old = whole[at].replace(time["time"].as_str().unwrap(), "2025-11-29T12:00:00.000000Z");
    let log = chained_anew(directory, &[&whole[..at].concat(), &*old].concat());
    fs::write(&path, log).unwrap();
    let (code, said) = verify_by_hsm(&proxy);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("not verified by the HSM: the lines after that (number"), "{said}");
}

/// Checkpoints of former versions still count. Their seals are such that a request to the key could
/// have made them, as here.
#[test]
fn a_checkpoint_of_a_former_version() {
    let metadata = xks::base64(b"audit checkpoint 1");
    let setup = Setup::new().set("server.ciphertext_metadata_b64", metadata).set_in_store(
        0,
        "xks_key_id_set",
        vec!["foo", FOREIGN.label],
    );
    let mut proxy = audited(setup).start();
    let directory = proxy.directory().to_owned();
    let mut chain = first_of(&directory);
    let mut log = String::new();
    let mut add = |chain: &mut Chain, members: &str| {
        let line = format!("{{\"seq\":{},{members}", chain.seq());
        let code = chain.seal(line.as_bytes());
        log.push_str(&format!("{line},\"mac\":\"{}\"}}\n", hex(&code)));
    };
    add(&mut chain, "\"event\":\"start\"");
    let digest = Sha256::new()
        .chain_update(chain.id())
        .chain_update(chain.seq().to_be_bytes())
        .chain_update(chain.previous())
        .finalize();
    let path = format!("keys/{}/encrypt", FOREIGN.label);
    let sealed = proxy.client().call(&path, &xks::encrypt(&digest, None)).ok();
    let [iv, ciphertext, tag] = ["initializationVector", "ciphertext", "authenticationTag"]
        .map(|member| hex(&xks::bytes(&sealed[member])));
    let label = FOREIGN.label;
    let members = format!(
        "\"event\":\"checkpoint\",\"key\":\"{label}\",\"iv\":\"{iv}\",\"sealed\":\"{ciphertext}{tag}\""
    );
    add(&mut chain, &members);
    end(&mut proxy);
    proxy.change_settings(|table| {
        let store = table["external_key_stores"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        store["xks_key_id_set"] = vec!["foo"].into();
        let audit = table["audit"].as_table_mut().unwrap();
        audit.insert("hsm_key".to_owned(), label.into());
    });
    let path = directory.join("audit/former.jsonl");
    fs::write(&path, &log).unwrap();
    let (code, said) = proxy.run(&["audit", "verify", "--hsm", path.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("The HSM vouches for all before number 1"), "{said}");
}

//! The real proxy's audit log: its contents, and the detection of lost or changed lines.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::{Client, Prepared, Proxy, Setup, Store, tools, xks};

/// A setup with an audit log in `audit/` and its key in `key`.
pub fn audited(setup: Setup) -> Prepared {
    let prepared = setup
        .set("audit.directory", "audit")
        .set("audit.key_file", "key")
        // The test does not depend on the machine's speed.
        .set("limits.request_deadline_milli", 10_000)
        .prepare();
    new_key(&prepared.directory().join("key"));
    prepared
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xks-proxy")).arg("audit").args(arguments).output().unwrap()
}

fn new_key(path: &Path) {
    let output = run(&["new-key", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o7777, 0o400);
}

/// The log's files: the rotated ones by name, then the current one.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory.join("audit"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort_by_key(|path| (path.file_name().unwrap() == "audit.jsonl", path.clone()));
    files
}

pub fn lines(directory: &Path) -> Vec<Value> {
    loop {
        // A file may be renamed between the listing and the reading.
        let texts: Result<Vec<String>, _> =
            files(directory).iter().map(fs::read_to_string).collect();
        let Ok(texts) = texts else { continue };
        // The last line may be incomplete.
        let whole = texts.iter().flat_map(|text| text.split_inclusive('\n'));
        return whole
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
    }
}

pub fn calls(directory: &Path) -> Vec<Value> {
    let mut lines = lines(directory);
    lines.retain(|line| line["event"] == "call");
    lines
}

/// Runs the verifier. Returns its exit code and output.
pub fn verify_with(directory: &Path, files: &[PathBuf], more: &[&str]) -> (i32, String) {
    let key = directory.join("key");
    let mut arguments = vec!["verify", "--key-file", key.to_str().unwrap()];
    arguments.extend_from_slice(more);
    arguments.extend(files.iter().map(|file| file.to_str().unwrap()));
    let output = run(&arguments);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

pub fn verify(directory: &Path) -> (i32, String) {
    let state = directory.join("audit/audit.state");
    verify_with(directory, &files(directory), &["--state", state.to_str().unwrap()])
}

#[track_caller]
fn assert_good(directory: &Path) {
    let (code, said) = verify(directory);
    assert_eq!(code, 0, "{said}");
}

/// Asserts that the log of that many successive processes is complete, with a line for each answer.
#[track_caller]
pub fn assert_one_log(directory: &Path, processes: usize, answered: u64) {
    assert_good(directory);
    let lines = lines(directory);
    let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!((count("open"), count("stop"), count("gap")), (processes, processes, 0));
    assert!(count("call") as u64 >= answered && answered > 100);
    let opened = lines.iter().filter(|line| line["event"] == "open").skip(1);
    assert!(opened.into_iter().all(|line| line["previousEnd"] == "clean"));
}

pub fn encrypt(client: &Client) -> Value {
    client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", Some(b"the AAD"))).ok()
}

pub fn end(proxy: &mut Proxy) {
    proxy.signal("TERM");
    proxy.signal("TERM");
    assert!(proxy.wait_for_end().success());
}

/// Each call, successful or refused, has a line with caller, key and outcome under the
/// specification's names, and no plaintext, ciphertext, AAD or secret.
#[test]
fn each_call_has_its_line() {
    let mut proxy = audited(Setup::new()).start();
    let client = proxy.client();
    let encrypted = encrypt(&client);
    client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, Some(b"the AAD"))).ok();
    client.call("keys/foo/metadata", &xks::metadata("DescribeKey")).ok();
    client.call("health", &xks::health()).ok();
    let mut hostile = xks::metadata("DescribeKey");
    hostile["requestMetadata"]["kmsRequestId"] = json!("an id\n{\"seq\":0} \u{1b}[31m \u{e9}");
    client.call("keys/later_key/metadata", &hostile).assert_error(404, "KeyNotFoundException");
    let mut forged = xks::decrypt(&encrypted, Some(b"the AAD"));
    forged["authenticationTag"] = xks::base64(&[0; 16]).into();
    client.call("keys/foo/decrypt", &forged).assert_error(400, "InvalidCiphertextException");
    client.call("keys/foo/encrypt", &json!({})).assert_error(400, "ValidationException");
    proxy
        .stranger()
        .call("keys/foo/encrypt", &xks::encrypt(b"no", None))
        .assert_error(401, "AuthenticationFailedException");
    // `/ping` is no call, so it has no line.
    assert_eq!(proxy.get("/ping").status, 200);
    end(&mut proxy);

    let directory = proxy.directory();
    let all = lines(directory);
    let events: Vec<&str> = all.iter().map(|line| line["event"].as_str().unwrap()).collect();
    let call = "call";
    assert_eq!(events, ["open", "start", call, call, call, call, call, call, call, call, "stop"]);
    for (number, line) in all.iter().enumerate() {
        assert_eq!(line["seq"], number);
        assert_eq!(line["time"].as_str().unwrap().len(), "2026-11-25T08:16:31.123456Z".len());
    }
    assert_eq!(
        (&all[0]["previousEnd"], &all[1]["settings"]),
        (&json!("none"), &json!(directory.join("settings.toml").to_str().unwrap()))
    );
    let calls = calls(directory);
    let store = Store::first();
    let mut first = calls[0].clone();
    for member in ["seq", "time", "mac"] {
        assert!(first.as_object_mut().unwrap().remove(member).is_some());
    }
    assert_eq!(
        first,
        json!({
            "event": "call", "operation": "encrypt", "store": store.prefix,
            "accessKeyId": store.access_key_id, "peer": "127.0.0.1", "externalKeyId": "foo",
            "kmsKeyArn":
                "arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab",
            "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice", "kmsOperation": "Encrypt",
            "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae", "kmsViaService": "ebs",
            "awsSourceVpc": "vpc-1234567890abcdef0", "awsSourceVpce": "vpce-1234567890abcdef0",
            "status": 200, "token": "xks-proxy"
        })
    );
    let outcomes: Vec<(&str, u64, Option<&str>)> = calls
        .iter()
        .map(|line| {
            let name = line.get("errorName").map(|name| name.as_str().unwrap());
            (line["operation"].as_str().unwrap(), line["status"].as_u64().unwrap(), name)
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            ("encrypt", 200, None),
            ("decrypt", 200, None),
            ("metadata", 200, None),
            ("health", 200, None),
            ("metadata", 404, Some("KeyNotFoundException")),
            ("decrypt", 400, Some("InvalidCiphertextException")),
            ("encrypt", 400, Some("ValidationException")),
            ("encrypt", 401, Some("AuthenticationFailedException")),
        ]
    );
    assert_eq!(calls[4]["kmsRequestId"], "an id\n{\"seq\":0} \u{1b}[31m \u{e9}");
    assert_eq!(calls[7].get("accessKeyId"), None);

    let text = fs::read_to_string(&files(directory)[0]).unwrap();
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
    let secrets = [b"plaintext".as_slice(), b"the AAD"].map(xks::base64);
    let secrets = secrets.iter().map(String::as_str).chain([
        encrypted["ciphertext"].as_str().unwrap(),
        encrypted["authenticationTag"].as_str().unwrap(),
        "plaintext",
        "the AAD",
        &store.secret_access_key,
    ]);
    for secret in secrets {
        assert!(!text.contains(secret), "{secret}");
    }
    let (code, said) = verify(directory);
    assert_eq!((code, said.as_str()), (0, "good: 11 lines, number 0 to 10\n"));
}

/// The verifier reports where each kind of tampering is and exits with 1. If its input is unusable,
/// it exits with 78.
#[test]
fn tampering_is_found() {
    let mut proxy = audited(Setup::new()).start();
    let client = proxy.client();
    for _ in 0..5 {
        encrypt(&client);
    }
    end(&mut proxy);
    let directory = proxy.directory();
    assert_good(directory);
    let path = files(directory).remove(0);
    let good = fs::read_to_string(&path).unwrap();
    let whole: Vec<&str> = good.split_inclusive('\n').collect();
    let mut swapped = whole.clone();
    swapped.swap(3, 4);
    for (text, place) in [
        (good.replacen("user/Alice", "user/Mally", 1), 3),
        ([&whole[..3], &whole[4..]].concat().concat(), 4),
        ([&whole[..5], &whole[2..]].concat().concat(), 6),
        (swapped.concat(), 4),
        (whole[..6].concat(), 6),
        (good[..good.len() - 20].to_owned(), 8),
    ] {
        fs::write(&path, text).unwrap();
        let (code, said) = verify(directory);
        assert_eq!(code, 1, "{said}");
        let told = format!("audit.jsonl:{place}: TAMPERED: ");
        assert!(said.contains(&told), "{told}: {said}");
    }
    fs::write(&path, good).unwrap();
    assert_good(directory);

    // Neither a wrong key nor a missing file is called tampering.
    let key = directory.join("key");
    fs::rename(&key, directory.join("right")).unwrap();
    new_key(&key);
    let (code, said) = verify_with(directory, &files(directory), &[]);
    assert_eq!(code, 78, "{said}");
    fs::rename(directory.join("right"), &key).unwrap();
    let (code, said) = verify_with(directory, &[directory.join("none")], &[]);
    assert_eq!(code, 78, "{said}");
}

/// Full files are rotated, and as many as configured are kept. The chain continues across files and
/// restarts, clean or not. Only the first start needs the key.
#[test]
fn rotation_and_restarts() {
    let setup = Setup::new()
        .set("audit.max_file_bytes", 65_536)
        .set("audit.retain_files", 2)
        .set("server.drain_delay_milli", 0);
    let mut proxy = audited(setup).start();
    fs::rename(proxy.directory().join("key"), proxy.directory().join("away")).unwrap();
    for (signal, is_killed) in [("TERM", false), ("KILL", true), ("TERM", false)] {
        let client = proxy.client();
        for _ in 0..120 {
            encrypt(&client);
        }
        proxy.wait_for("the last call to be written", |proxy| {
            calls(proxy.directory()).last().is_some_and(|line| line["status"] == 200)
        });
        proxy.signal(signal);
        assert_eq!(proxy.wait_for_end().success(), !is_killed);
        proxy.restart();
    }
    end(&mut proxy);
    let directory = proxy.directory().to_owned();
    fs::rename(directory.join("away"), directory.join("key")).unwrap();
    let files = files(&directory);
    assert_eq!(files.len(), 3, "{files:?}");
    let (code, said) = verify(&directory);
    assert_eq!(code, 0, "{said}");
    // Retention removes the oldest files, never one in between.
    let (code, said) = verify_with(&directory, &[files[0].clone(), files[2].clone()], &[]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("are missing before this line"), "{said}");
}

/// If the HSM cannot seal, the log continues, and the operator is warned.
#[test]
fn an_hsm_that_does_not_seal_costs_no_line() {
    let setup = Setup::new().set("audit.hsm_key", "no_such_key").set("admin.port", 0);
    let mut proxy = audited(setup).start();
    encrypt(&proxy.client());
    proxy.wait_for("the metric", |proxy| {
        let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
        metrics.contains("\nxks_proxy_audit_checkpoint_errors_total 1\n")
            && metrics.contains("\nxks_proxy_audit_last_checkpoint_timestamp_seconds 0\n")
    });
    proxy.log_with("does not seal a checkpoint");
    end(&mut proxy);
    assert_eq!(calls(proxy.directory()).len(), 1);
    assert_good(proxy.directory());
}

/// A killed process loses no line that it had written, and the next process records the crash.
#[test]
fn a_crash_is_told() {
    let mut proxy = audited(Setup::new()).start();
    let client = proxy.client();
    encrypt(&client);
    proxy.wait_for("the line", |proxy| calls(proxy.directory()).len() == 1);
    proxy.signal("KILL");
    proxy.wait_for_end();
    proxy.restart();
    encrypt(&proxy.client());
    end(&mut proxy);
    let directory = proxy.directory();
    let opened: Vec<Value> =
        lines(directory).into_iter().filter(|line| line["event"] == "open").collect();
    assert_eq!(opened[1]["previousEnd"], "crash");
    assert_eq!(opened[1]["chain"], opened[0]["chain"]);
    let (code, said) = verify(directory);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("note: the proxy did not end in good order"), "{said}");
}

fn limit_file_size(proxy: &Proxy, bytes: &str) {
    let pid = proxy.pid().to_string();
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]);
    tools::run(&mut command, "prlimit(1) of util-linux is needed");
}

pub fn metric(proxy: &Proxy, name: &str) -> f64 {
    let text = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// When the disk is full, calls are refused before they reach the HSM and the proxy is not ready.
/// It recovers by itself when there is space. Every answered call has a line.
#[test]
fn a_full_disk_refuses_calls() {
    let mut proxy = audited(Setup::new().set("admin.port", 0)).start();
    let client = proxy.client();
    encrypt(&client);
    let ready = |proxy: &Proxy| proxy.get("/readyz").status;
    assert_eq!((ready(&proxy), proxy.admin_get("/readyz").status), (200, 200));
    proxy.wait_for("the first line", |proxy| calls(proxy.directory()).len() == 1);
    let written = fs::metadata(&files(proxy.directory())[0]).unwrap().len();
    limit_file_size(&proxy, &(written + 100).to_string());

    let mut answered = 1_u32;
    let mut refused = 0_u32;
    proxy.wait_for("calls to be refused", |_| {
        let response = client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None));
        if response.status == 200 {
            answered += 1;
            return false;
        }
        refused += 1;
        response.assert_error(503, "DependencyTimeoutException");
        true
    });
    for (path, body) in [
        ("keys/foo/encrypt", xks::encrypt(b"plaintext", None)),
        ("keys/foo/metadata", xks::metadata("DescribeKey")),
        ("health", xks::health()),
    ] {
        client.call(path, &body).assert_error(503, "DependencyTimeoutException");
        refused += 1;
    }
    assert_eq!((ready(&proxy), proxy.admin_get("/readyz").status), (503, 503));
    assert_eq!(proxy.get("/ping").status, 200);
    assert_eq!(metric(&proxy, "xks_proxy_audit_failing"), 1.0);
    assert_eq!(metric(&proxy, "xks_proxy_audit_refused_calls_total"), f64::from(refused));
    assert!(metric(&proxy, "xks_proxy_audit_write_errors_total") >= 1.0);
    let encrypts = metric(&proxy, "xks_proxy_key_encrypts_total{key=\"foo\"}");
    assert_eq!(encrypts, f64::from(answered), "the HSM was not asked");

    limit_file_size(&proxy, "unlimited");
    proxy.wait_for("the audit log to be written again", |proxy| ready(proxy) == 200);
    encrypt(&client);
    answered += 1;
    assert_eq!(metric(&proxy, "xks_proxy_audit_failing"), 0.0);
    assert_eq!(metric(&proxy, "xks_proxy_audit_dropped_lines_total"), 0.0);
    end(&mut proxy);
    let directory = proxy.directory();
    assert_eq!(calls(directory).len(), usize::try_from(answered).unwrap());
    let gaps: Vec<Value> =
        lines(directory).into_iter().filter(|line| line["event"] == "gap").collect();
    let told: u64 = gaps.iter().map(|gap| gap["refusedCalls"].as_u64().unwrap()).sum();
    assert_eq!(told, u64::from(refused));
    assert_good(directory);
}

/// With `when_full = "drop"` calls are still served, and the gap in the log records how many lines
/// were lost.
#[test]
fn a_full_disk_loses_lines_if_that_is_wanted() {
    let setup = Setup::new().set("admin.port", 0).set("audit.when_full", "drop");
    let mut proxy = audited(setup).start();
    let client = proxy.client();
    encrypt(&client);
    proxy.wait_for("the first line", |proxy| calls(proxy.directory()).len() == 1);
    let written = fs::metadata(&files(proxy.directory())[0]).unwrap().len();
    limit_file_size(&proxy, &(written + 100).to_string());
    proxy.wait_for("a write to fail", |proxy| {
        encrypt(&client);
        metric(proxy, "xks_proxy_audit_failing") == 1.0
    });
    encrypt(&client);
    assert_eq!(proxy.get("/readyz").status, 200);
    // Lines that could not be written at the end are missing, and the verifier reports it.
    end(&mut proxy);
    proxy.restart();
    encrypt(&proxy.client());
    end(&mut proxy);
    let (code, said) = verify(proxy.directory());
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("missing before this line"), "{said}");
    assert!(!said.contains("not whole") && !said.contains("not a line"), "{said}");
}

/// logrotate moves the file away and sends SIGUSR1; each reload is recorded, whether it takes
/// effect or not.
#[test]
fn signals() {
    let mut proxy = audited(Setup::new()).start();
    encrypt(&proxy.client());
    let directory = proxy.directory().to_owned();
    let present = directory.join("audit/audit.jsonl");
    fs::rename(&present, directory.join("audit/audit-1.jsonl")).unwrap();
    proxy.signal("USR1");
    proxy.wait_for("the new file", |_| {
        fs::read_to_string(&present).is_ok_and(|text| text.contains("\"event\":\"reopen\""))
    });
    let settings = directory.join("settings.toml");
    let good = fs::read_to_string(&settings).unwrap();
    let mut outcomes = Vec::new();
    for (text, count) in [(good.clone(), 1), (format!("{good}\n[audit"), 2)] {
        fs::write(&settings, text).unwrap();
        proxy.signal("HUP");
        proxy.wait_for("the outcome of the reload", |_| {
            outcomes = lines(&directory);
            outcomes.retain(|line| line["event"] == "settings");
            outcomes.len() == count
        });
    }
    assert_eq!(
        (&outcomes[0]["outcome"], &outcomes[1]["outcome"]),
        (&json!("taken_up"), &json!("refused"))
    );
    encrypt(&proxy.client());
    end(&mut proxy);
    assert_eq!(files(&directory).len(), 2);
    assert_good(&directory);
}

/// The proxy is killed at many moments around a rotation: each time the chain is intact, and no
/// written line is lost or duplicated.
#[test]
fn killed_around_rotation() {
    let mut proxy = audited(Setup::new().set("audit.max_file_bytes", 65_536)).start();
    for life in 0..12_u64 {
        let client = proxy.client();
        let present = proxy.directory().join("audit/audit.jsonl");
        let bytes = || fs::metadata(&present).map_or(0, |metadata| metadata.len());
        // Fills the file up to the last line or two.
        while bytes() < 65_536 - 1_500 {
            encrypt(&client);
        }
        for _ in 0..3 {
            encrypt(&client);
        }
        // Lines are written every 10 ms.
        std::thread::sleep(std::time::Duration::from_micros(1_100 * life));
        proxy.signal("KILL");
        proxy.wait_for_end();
        let (code, said) = verify(proxy.directory());
        // A partly written line is cut off at the next start.
        let is_torn = said.lines().filter(|line| line.contains("TAMPERED")).count() == 1
            && said.contains("the line is incomplete");
        assert!(code == 0 || is_torn, "life {life}: {said}");
        proxy.restart();
    }
    end(&mut proxy);
    assert_good(proxy.directory());
}

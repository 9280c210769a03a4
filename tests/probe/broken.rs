//! Each check can fail: a stand-in with one fault fails the check for that fault, and no other.

use std::sync::Mutex;

use crate::run::{Run, is_of_time, probe, run};
use crate::stand_in::StandIn;

/// Checks that plain HTTP on the loopback address cannot trigger, or not alone: `tls.rs`,
/// `earlier.rs` and unit tests cover them.
const ELSEWHERE: [&str; 19] = [
    "uri.endpoint",
    "network.reachable",
    "network.ipv4",
    "network.round-trip",
    "tls.https",
    "tls.handshake",
    "tls.versions",
    "tls.suites",
    "tls.chain",
    "tls.kms-authority",
    "tls.name",
    "tls.subject",
    "tls.expiry",
    "tls.key",
    "mtls.required",
    "mtls.stranger",
    "decrypt.earlier",
    // Its warning is due to the keys of the stand-in, without a fault.
    "metadata.usable-other",
    // Reported as an error of the first key too; see below.
    "metadata.answer",
];

/// Checks that give a warning with every fault here.
const ALWAYS: [&str; 3] = ["uri.endpoint", "tls.https", "metadata.usable-other"];

/// Returns the other checks that a fault makes fail.
fn also(fault: &str) -> &'static [&'static str] {
    match fault {
        "http.version" => &["http.keep-alive"],
        "health.answer" => &["tolerance.health-operation"],
        "health.usable" => &["health.status"],
        _ => &[],
    }
}

pub fn probe_at(stand_in: &StandIn) -> Run {
    let url = format!("http://127.0.0.1:{}/store", stand_in.port());
    let keys = ["--key-id", "key", "--key-id", "no-encrypt", "--key-id", "no-decrypt"];
    probe(&[&[url.as_str(), "--insecure-http"], keys.as_slice()].concat())
}

/// Names of all checks, and whether each is mandatory.
fn listed() -> Vec<(String, bool)> {
    let directory = tempfile::tempdir().unwrap();
    let text = run(&["--list"], directory.path()).text;
    let names = text.lines().filter(|line| !line.starts_with(' ')).map(|line| {
        let (name, rest) = line.split_once(" (").expect("name (level; section)");
        (name.to_owned(), rest.starts_with("must"))
    });
    names.collect()
}

/// The stand-in passes without a fault, so failures below are due to the fault.
#[test]
fn none() {
    let run = probe_at(&StandIn::http(""));
    assert_eq!(run.failed(), Vec::<&str>::new());
    let warned = run.with_verdict("warn");
    assert!(warned.iter().all(|name| ALWAYS.contains(name) || is_of_time(name)), "{}", run.text);
}

#[test]
fn each_check_can_fail() {
    let names = listed();
    assert!(names.len() > 80, "{names:?}");
    for name in ELSEWHERE {
        assert!(names.iter().any(|(listed, _)| listed == name), "{name} is no check any more");
    }
    let left: Mutex<Vec<_>> =
        Mutex::new(names.into_iter().filter(|(name, _)| !ELSEWHERE.contains(&&**name)).collect());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((name, is_must)) = { left.lock().unwrap().pop() } {
                    if let Err(why) = found_out(&name, is_must) {
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Checks that a fault is found by the check of the same name.
fn found_out(name: &str, is_must: bool) -> Result<(), String> {
    let run = probe_at(&StandIn::http(name));
    let verdict = if is_must { "fail" } else { "warn" };
    if !run.with_verdict(verdict).contains(&name) {
        return Err(format!("{name} did not {verdict}: {}", run.text));
    }
    if run.code != Some(run.expected_code()) {
        return Err(format!("{name}: exit code {:?}: {}", run.code, run.text));
    }
    let is_other = |other: &&&str| {
        **other != name
            && !also(name).contains(other)
            && !ALWAYS.contains(other)
            && !is_of_time(other)
    };
    let (failed, warned) = (run.with_verdict("fail"), run.with_verdict("warn"));
    let others: Vec<_> = failed.iter().chain(&warned).filter(is_other).collect();
    if others.is_empty() { Ok(()) } else { Err(format!("{name}: {others:?} too: {}", run.text)) }
}

/// Metadata with an unacceptable value is reported, whichever key it belongs to.
#[test]
fn metadata() {
    let run = probe_at(&StandIn::http("metadata.answer"));
    assert!(run.with_verdict("fail").contains(&"metadata.answer"), "{}", run.text);
}

/// What a check finds has the code that KMS reports, in both outputs, and what passes has none.
#[test]
fn codes_of_kms() {
    let run = probe_at(&StandIn::http(""));
    for name in ["health.answer", "health.status", "metadata.answer", "metadata.usable"] {
        assert!(run.kms(name).is_null(), "{name}: {}", run.text);
    }
    for (fault, name, code) in [
        ("health.answer", "health.answer", "XKS_PROXY_INVALID_RESPONSE"),
        ("health.usable", "health.usable", "XKS_PROXY_NOT_REACHABLE"),
        ("health.time", "health.time", "XKS_PROXY_TIMED_OUT"),
        ("metadata.usable", "metadata.usable", "XksKeyInvalidConfigurationException"),
        ("encrypt.cdiv", "encrypt.cdiv", "KMSInvalidStateException"),
    ] {
        let run = probe_at(&StandIn::http(fault));
        assert_eq!(run.kms(name), code, "{fault}: {}", run.text);
        assert!(run.text.contains(&format!("      in KMS: {code}\n")), "{fault}: {}", run.text);
    }
    // Degraded HSMs do not keep KMS from connecting.
    let run = probe_at(&StandIn::http("health.status"));
    assert!(run.kms("health.status").is_null(), "{}", run.text);

    let stand_in = StandIn::http("");
    let url = |store: &str| format!("http://127.0.0.1:{}/{store}", stand_in.port());
    let keys = ["--insecure-http", "--key-id", "key"];
    let wrong_path = probe(&[&[url("other").as_str()], &keys[..]].concat());
    assert_eq!(wrong_path.kms("health.answer"), "XKS_PROXY_INVALID_CONFIGURATION");
    let no_key = probe(&[url("store").as_str(), "--insecure-http", "--key-id", "nothing"]);
    assert_eq!(no_key.kms("metadata.answer"), "XksKeyNotFoundException", "{}", no_key.text);

    // Nothing listens on the port of a socket that is gone.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let nobody = probe(&[&format!("http://127.0.0.1:{port}/store"), keys[0], keys[1], keys[2]]);
    assert_eq!(nobody.code, Some(69), "{}", nobody.text);
    assert!(nobody.text.contains("in KMS: XKS_PROXY_NOT_REACHABLE"), "{}", nobody.text);
}

/// Faults that end the probe early: no valid credential, or a server of another kind.
#[test]
fn no_conversation() {
    let stand_in = StandIn::http("");
    let url = format!("http://127.0.0.1:{}/other", stand_in.port());
    let run = probe(&[&url, "--insecure-http", "--key-id", "key"]);
    assert_eq!((run.code, run.failed()), (Some(12), vec!["health.answer"]));
    assert!(run.came("health.answer").contains("InvalidUriPathException"), "{}", run.text);
    assert!(!run.text.contains("metadata."), "{}", run.text);

    let ssh = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/store", ssh.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in ssh.incoming() {
            use std::io::Write as _;
            let _ = socket.unwrap().write_all(b"SSH-2.0-\x1b[31mserver\r\n\r\n");
        }
    });
    let run = probe(&[&url, "--insecure-http", "--key-id", "key"]);
    assert_eq!((run.code, run.failed()), (Some(13), vec!["health.answer"]), "{}", run.text);
    assert!(!run.text.contains('\x1b'), "{}", run.text);
}

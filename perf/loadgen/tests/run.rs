//! Whole runs against servers that misbehave in known ways.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Reply, generator, results, serve, server_config};

fn healthy() -> Reply {
    Reply::Answer(200, r#"{"ekmFleetDetails":[]}"#.into())
}

const HEALTH: [&str; 4] = ["--mix", "health", "--warm-up", "0"];

fn run(address: std::net::SocketAddr, arguments: &[&str]) -> serde_json::Value {
    results(address, &[&HEALTH, arguments].concat()).0
}

/// Coordinated omission: a generator that waits for the delayed answer before it continues would
/// see one slow request. Here each request that was due in the meantime counts as slow.
#[test]
fn a_stall_is_seen_by_every_request_that_was_due_meanwhile() {
    let address = serve(None, |number, _| {
        if number == 20 {
            std::thread::sleep(Duration::from_millis(800));
        }
        healthy()
    });
    let run = run(address, &["--rate", "200", "--seconds", "2", "-c", "1"]);
    assert_eq!(run["total"]["ok"], 400);
    // 160 of 400 were due during the stall; those due in its first 550 ms waited at least 250 ms.
    assert!(run["total"]["latency_ms"]["p75"].as_f64().unwrap() > 100.0, "{run}");
    assert!(run["total"]["ok_in_250_ms"].as_u64().unwrap() <= 300, "{run}");
}

/// The maximum is kept, and no two requests are the same: replays would be cached or refused.
#[test]
fn sends_so_many_requests_and_each_of_its_own() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let address = serve(None, move |_, request| {
        log.lock().unwrap().push(request.to_owned());
        healthy()
    });
    let run = run(address, &["--requests", "501", "--threads", "3", "-c", "8", "--seconds", "60"]);
    assert_eq!(run["total"]["ok"], 501);
    let seen = seen.lock().unwrap();
    let signatures: HashSet<&str> = seen
        .iter()
        .map(|text| text.split_once("Signature=").unwrap().1.get(..64).unwrap())
        .collect();
    assert_eq!((seen.len(), signatures.len()), (501, 501));
}

#[test]
fn connections_that_the_server_closes_are_opened_again() {
    let address = serve(None, |_, _| match healthy() {
        Reply::Answer(status, body) => Reply::AnswerAndClose(status, body),
        other => other,
    });
    let run = run(address, &["--requests", "50", "-c", "2", "--seconds", "60"]);
    assert_eq!(run["total"]["ok"], 50);
    assert_eq!(run["connection_counts"]["closed_by_server"], 50);
    assert_eq!(run["total"]["failed"], 0);
}

#[test]
fn connections_are_renewed_after_so_many_requests_on_average() {
    let address = serve(None, |_, _| healthy());
    for (requests, expected) in [("1", 400..=400), ("4", 50..=150)] {
        let limit = ["--requests-per-connection", requests];
        let run = run(
            address,
            &[&limit[..], &["--requests", "400", "-c", "2", "--seconds", "60"]].concat(),
        );
        assert_eq!(run["total"]["ok"], 400);
        let renewed = run["connection_counts"]["renewed"].as_u64().unwrap();
        assert!(expected.contains(&renewed), "{run}");
        // The last connections need not have been opened before the end.
        let opened = run["connection_counts"]["opened"].as_u64().unwrap();
        assert!((renewed..=renewed + 2).contains(&opened), "{run}");
        assert_eq!(run["connection_counts"]["closed_by_server"], 0);
    }
}

/// Each kind of failure is counted as such.
#[test]
fn failures_are_told_apart() {
    let address = serve(None, |number, _| match number % 5 {
        0 => Reply::Silence,
        1 => Reply::Close,
        2 => Reply::Answer(429, r#"{"errorName":"ThrottlingException"}"#.into()),
        3 => Reply::Answer(503, String::new()),
        _ => healthy(),
    });
    let run =
        run(address, &["--requests", "50", "-c", "1", "--timeout-milli", "50", "--seconds", "60"]);
    let failures: HashSet<(u64, &str, u64)> = run["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| {
            let number = |name| failure[name].as_u64().unwrap();
            (number("status"), failure["name"].as_str().unwrap(), number("count"))
        })
        .collect();
    let expected = [
        (0, "timeout", 10),
        (0, "connection lost", 10),
        (429, "ThrottlingException", 10),
        (503, "no errorName", 10),
    ];
    assert_eq!(failures, expected.into_iter().collect());
    assert_eq!(run["total"]["ok"], 10);
    assert_eq!(run["connection_counts"]["given_up"], 10);
    assert_eq!(run["connection_counts"]["lost"], 10);
}

/// Requests that found no free connection before their timeout count as failed too.
#[test]
fn requests_that_could_not_be_sent_count() {
    let address = serve(None, |_, _| Reply::Silence);
    let arguments = ["--rate", "100", "--seconds", "1", "-c", "1", "--timeout-milli", "200"];
    let run = run(address, &arguments);
    assert_eq!(run["total"]["requests"], 100);
    assert_eq!(run["total"]["failed"], 100);
}

/// The proxy returns the same plaintext for every decrypt: the run must fail.
#[test]
fn wrong_answers_end_the_run_with_an_error() {
    let encrypted = format!(
        r#"{{"ciphertext":"{}","initializationVector":"{}","authenticationTag":"{}"}}"#,
        "A".repeat(172),
        "A".repeat(16),
        "A".repeat(24)
    );
    let address = serve(None, move |_, request| {
        if request.contains("/encrypt ") {
            Reply::Answer(200, encrypted.clone())
        } else {
            Reply::Answer(200, r#"{"plaintext":"AAAA"}"#.into())
        }
    });
    let common = ["--warm-up", "0", "--requests", "10", "--ciphertexts", "4"];
    let (run, output) = results(address, &[&common[..], &["--mix", "decrypt"]].concat());
    assert_eq!(run["failures"][0]["name"], "wrong answer");
    assert_eq!(run["failures"][0]["count"], 10);
    assert_eq!(output.status.code(), Some(2));
    // The encrypts look correct; only decrypting their answers shows that they are not.
    let (run, output) = results(address, &[&common[..], &["--mix", "encrypt"]].concat());
    assert_eq!(run["total"]["ok"], 10);
    assert_eq!(run["wrong_encrypts"].as_array().unwrap().len(), 10);
    assert_eq!(output.status.code(), Some(2));
}

/// Whoever looks for the cause of a failure finds when it happened, to which request, and whether its
/// connection had worked before; what succeeded is not in the file.
#[test]
fn failed_requests_are_logged_one_by_one() {
    let address = serve(None, |number, _| match number {
        3 => Reply::Answer(503, r#"{"errorName":"DependencyTimeoutException"}"#.into()),
        5 => Reply::Close,
        _ => healthy(),
    });
    let name = format!("xks-load-failures-{}", std::process::id());
    let file = std::env::temp_dir().join(name);
    let log = ["--failures", file.to_str().unwrap()];
    run(address, &[&log[..], &["--requests", "9", "-c", "1", "--seconds", "60"]].concat());
    let text = std::fs::read_to_string(&file).unwrap();
    let _ = std::fs::remove_file(file);
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    for (line, status, name, before) in
        [(&lines[0], 503, "DependencyTimeoutException", 3), (&lines[1], 0, "connection lost", 5)]
    {
        assert_eq!((&line["status"], &line["name"]), (&status.into(), &name.into()));
        assert_eq!(line["answers_before"], before);
        assert_eq!(line["request_id"].as_str().unwrap().len(), 36);
        assert!(line["due"].as_f64().unwrap() <= line["ended"].as_f64().unwrap());
    }
}

/// An integrity value over something else looks correct, and its ciphertext decrypts.
#[test]
fn round_trips_check_every_integrity_value() {
    let encrypted = format!(
        r#"{{"ciphertext":"{}","initializationVector":"{}","authenticationTag":"{}",
        "ciphertextDataIntegrityValue":"{}="}}"#,
        "A".repeat(172),
        "A".repeat(16),
        "A".repeat(22) + "==",
        "A".repeat(43)
    );
    let address = serve(None, move |_, _| Reply::Answer(200, encrypted.clone()));
    let arguments =
        ["--warm-up", "0", "--requests", "5", "--mix", "encrypt-cdiv", "--samples", "0"];
    let (before, _) = results(address, &arguments);
    assert_eq!(before["total"]["ok"], 5);
    let (run, output) = results(address, &[&arguments[..], &["--round-trips"]].concat());
    assert_eq!(run["failures"][0]["name"], "wrong answer");
    assert_eq!(output.status.code(), Some(2));
}

/// Answers encrypts and decrypts; a ciphertext is its plaintext. From the 100th on, ciphertexts are
/// of version 2, and those of both versions decrypt with their own metadata only.
fn versions(number: usize, request: &str) -> Reply {
    let body = request.split_once("\r\n\r\n").unwrap().1;
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let iv = |version: u8| (version as char).to_string().repeat(16);
    if request.contains("/encrypt ") {
        let is_old = number < 100;
        let mut answer = serde_json::json!({
            "ciphertext": body["plaintext"],
            "initializationVector": iv(if is_old { b'1' } else { b'2' }),
            "authenticationTag": "A".repeat(24),
        });
        if !is_old {
            answer["ciphertextMetadata"] = "AGsAAAAC".into();
        }
        return Reply::Answer(200, answer.to_string());
    }
    let is_old = body["initializationVector"].as_str() == Some(&iv(b'1'));
    if is_old != body.get("ciphertextMetadata").is_none() {
        return Reply::Answer(400, r#"{"errorName":"InvalidCiphertextException"}"#.into());
    }
    let answer = serde_json::json!({"plaintext": body["ciphertext"]});
    Reply::Answer(200, answer.to_string())
}

/// What the run encrypts is decrypted in it, what has no successor too.
#[test]
fn round_trips() {
    let address = serve(None, versions);
    let mix = ["--mix", "encrypt=1,decrypt=3", "--warm-up", "0", "--ciphertexts", "10"];
    let load = ["--round-trips", "--requests", "1500", "--seconds", "60", "-c", "4"];
    let (run, output) = results(address, &[&mix[..], &load].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!((&run["total"]["ok"], &run["total"]["failed"]), (&1500.into(), &0.into()));
    let count = |metadata: &str, call: &str| run["by_metadata"][metadata][call].as_u64().unwrap();
    let of_both = |call| count("", call) + count("AGsAAAAC", call);
    assert_eq!(of_both("encrypts") + of_both("decrypts"), 1500);
    assert!(count("", "encrypts") < 100 && count("", "decrypts") > 150, "{run}");
    assert!(run["not_decrypted"].as_u64().unwrap() < 20, "{run}");

    // Without it, only what was made before the run is decrypted.
    let (run, _) = results(serve(None, versions), &[&mix[..], &load[1..]].concat());
    assert_eq!((&run["total"]["failed"], &run["by_metadata"]), (&0.into(), &serde_json::json!({})));
}

/// Steps are a single run: a rate, a burst, the rate again, with separate figures for each.
#[test]
fn steps_have_figures_of_their_own() {
    let address = serve(None, |_, _| healthy());
    let run = run(address, &["--steps", "50x1,200x0.5,50x1", "--poisson"]);
    let rates: Vec<f64> = run["phases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|phase| phase["rate"].as_f64().unwrap())
        .collect();
    assert_eq!(rates, [50.0, 200.0, 50.0]);
    let sum: u64 = (0..3).map(|phase| run["phases"][phase]["ok"].as_u64().unwrap()).sum();
    assert_eq!(run["total"]["ok"], sum);
    assert_eq!(run["pace"], "poisson");
}

/// Failures in a phase have separate figures from those of correct answers.
#[test]
fn failures_have_latencies_by_phase() {
    let address = serve(None, |number, _| {
        if number < 20 {
            return healthy();
        }
        std::thread::sleep(Duration::from_millis(30));
        Reply::Answer(503, String::new())
    });
    let run = run(address, &["--steps", "20x1,21x1", "-c", "1"]);
    let figure = |phase: usize, name: &str| run["phases"][phase][name]["p50"].as_f64().unwrap();
    assert_eq!([&run["phases"][0]["failed"], &run["phases"][1]["failed"]], [0, 21]);
    assert!(figure(0, "latency_ms") > 0.0 && figure(1, "failed_latency_ms") >= 30.0, "{run}");
    assert!(figure(0, "failed_latency_ms") + figure(1, "latency_ms") == 0.0, "{run}");
}

/// Measuring is announced once, and not before the warm-up is over, so that scripts can act then.
#[test]
fn the_beginning_is_announced() {
    let address = serve(None, |_, _| healthy());
    let arguments = ["--announce", "--quiet", "--rate", "100", "--seconds", "0.2"];
    let warm_up = ["--mix", "health", "--warm-up", "0.3"];
    let output = generator(address, &[&warm_up[..], &arguments].concat());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "measuring\n");
    let output = generator(address, &[&warm_up[..], &arguments[1..]].concat());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
}

/// Idle connections are open and send nothing.
#[test]
fn idle_connections_are_held() {
    let address = serve(None, |_, _| healthy());
    let run = run(address, &["--idle-connections", "30", "-c", "2", "--requests", "40"]);
    assert_eq!(run["connection_counts"]["opened"], 32);
    assert_eq!(run["connection_counts"]["idle_closed"], 0);
}

/// TLS with the right CA, with another CA, and without one.
#[test]
fn tls_certificates_are_checked() {
    let directory = std::env::temp_dir().join(format!("xks-load-cert-{}", std::process::id()));
    let make = |name: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_xks-load"))
            .arg("make-cert")
            .arg(directory.join(name))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        directory.join(name).join("ca.pem").to_str().unwrap().to_owned()
    };
    let (ours, anothers) = (make("a"), make("b"));
    let address = serve(Some(server_config(&directory.join("a"))), |_, _| healthy());
    let requests = ["--tls", "--requests", "20"];
    assert_eq!(run(address, &[&requests[..], &["--ca", &ours]].concat())["total"]["ok"], 20);
    assert_eq!(run(address, &[&requests[..], &["--insecure"]].concat())["total"]["ok"], 20);
    for arguments in [&["--ca", &anothers][..], &[]] {
        let output = generator(address, &[&HEALTH[..], &requests, arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    let _ = std::fs::remove_dir_all(directory);
}

/// A typing error must not put load on another machine, and nothing waits for a server that does
/// not exist.
#[test]
fn refuses_other_machines_and_dead_ports() {
    let output = generator("192.0.2.1:443".parse().unwrap(), &HEALTH);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-remote"));
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = generator(dead, &HEALTH);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("refused"), "{output:?}");
}

//! The ramp of `xks-load`, which finds out how much a proxy and its HSM can do.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Interposed, Setup, proxy, tools};

/// Runs a ramp, and returns its results and what it printed.
fn ramp(proxy: &proxy::Proxy, arguments: &[&str]) -> (Value, String) {
    let json = proxy.directory().join("ramp.json");
    let output = Command::new(tools::load_generator())
        .args(["run", "--recommend", "--settings"])
        .arg(proxy.directory().join("settings.toml"))
        .args(["--address", &proxy.api.to_string(), "--metrics", &proxy.admin().to_string()])
        .args(["--seconds", "1.5", "--warm-up", "0.3", "--connections", "64", "--json"])
        .arg(&json)
        .args(arguments)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    (serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap(), said)
}

fn setup(sessions: i64) -> Setup {
    Setup::new()
        .set("admin.port", proxy::free_port())
        .set("pkcs11.session_pool_max_size", sessions)
        .usual_deadline()
}

/// Four sessions of 10 ms do 400 a second: the ramp ends there, knows the time in the HSM, and says
/// that sessions are what is missing.
#[test]
fn a_ramp_ends_where_the_sessions_do() {
    let proxy = Interposed::with(setup(4), "hsm_milli = 10");
    // Bounds that a busy machine keeps below the limit, and nothing above it.
    let limits = ["--ramp", "100:1300:200", "--max-p99-milli", "170", "--max-failed-percent", "10"];
    let (found, said) = ramp(&proxy, &limits);
    let (steps, recommendation) = (&found["ramp"]["steps"], &found["recommendation"]);
    let max = recommendation["max_rate"].as_f64().unwrap();
    assert!((100.0..=300.0).contains(&max), "{said}");
    assert_eq!(recommendation["bound"], "sessions", "{said}");
    assert_eq!(steps[0]["sessions"], 4.0, "{said}");
    let milli = steps[0]["hsm_ms"].as_f64().unwrap();
    assert!((10.0..20.0).contains(&milli), "{said}");
    assert!(said.contains("raise session_pool_max_size"), "{said}");
}

/// An HSM that does two calls at a time, however many sessions it has, takes longer under load.
#[test]
fn a_ramp_ends_where_the_hsm_does() {
    let proxy = Interposed::with(setup(32), "hsm_milli = 10\nparallel_calls = 2");
    let limits = ["--ramp", "50:850:200", "--max-p99-milli", "170", "--max-failed-percent", "10"];
    let (found, said) = ramp(&proxy, &limits);
    assert_eq!(found["recommendation"]["bound"], "hsm", "{said}");
    assert!(said.contains("more sessions do not help"), "{said}");
    assert!(said.contains("do not reach 1800/s"), "{said}");
    assert!(found["recommendation"]["max_rate"].as_f64().unwrap() <= 250.0, "{said}");
}

/// A proxy that ends in the middle of a ramp is told as that, with the steps until then.
#[test]
fn a_ramp_whose_proxy_ends() {
    let mut proxy = setup(4).start();
    let json = proxy.directory().join("ramp.json");
    let mut child = Command::new(tools::load_generator())
        .args(["run", "--recommend", "--settings"])
        .arg(proxy.directory().join("settings.toml"))
        .args(["--address", &proxy.api.to_string(), "--metrics", &proxy.admin().to_string()])
        .args([
            "--mix",
            "encrypt=1",
            "--ramp",
            "20:1000:1",
            "--max-failed-percent",
            "90",
            "--max-p99-milli",
            "60000",
        ])
        .args(["--seconds", "1", "--warm-up", "0", "--connections", "4", "--json"])
        .arg(&json)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    proxy.wait_for("several steps", |proxy| {
        let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
        let calls = metrics.lines().filter(|line| line.starts_with("xks_proxy_requests_total{"));
        let count = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        // The first steps have 20, 21 and 22 of them, and there are no others.
        calls.map(count).sum::<u64>() > 50 || child.try_wait().unwrap().is_some()
    });
    proxy.signal("KILL");
    proxy.wait_for_end();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("limited by: the end of the proxy"), "{said}");
    let found: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(found["recommendation"]["bound"], "broken", "{said}");
    assert!(found["recommendation"]["max_rate"].as_f64().unwrap() >= 20.0, "{said}");
    assert!(found["ramp"]["broke_off"].is_string(), "{said}");
}

//! Runs of the program as a process, and their findings.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::Store;

/// Result of a run of the probe.
pub struct Run {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output and standard error.
    pub text: String,
    /// Its JSON output; null if there was none.
    pub json: Value,
}

/// Runs `xks-proxy probe ARGUMENTS` with the first store's credential and few, fast calls.
pub fn probe(arguments: &[&str]) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, format!("{}\n", Store::first().secret_access_key)).unwrap();
    let id = Store::first().access_key_id;
    let secret = secret.to_str().unwrap();
    let given = ["--access-key-id", &id, "--secret-access-key-file", secret];
    let quick = ["--count", "20", "--rate", "400", "--connections", "4"];
    run(&[arguments, &given, &quick].concat(), directory.path())
}

/// Runs `xks-proxy probe ARGUMENTS` without a report as a file.
pub fn run_without_json(arguments: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
        .arg("probe")
        .args(arguments)
        .env_remove("SIGV4_ACCESS_KEY_ID")
        .env_remove("SIGV4_SECRET_ACCESS_KEY")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    Run { code: output.status.code(), text, json: Value::Null }
}

/// Runs `xks-proxy probe ARGUMENTS` in that directory.
pub fn run(arguments: &[&str], directory: &Path) -> Run {
    let json = directory.join("probe.json");
    let output = Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
        .arg("probe")
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .env_remove("SIGV4_ACCESS_KEY_ID")
        .env_remove("SIGV4_SECRET_ACCESS_KEY")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let json =
        std::fs::read(&json).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap());
    Run { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned(), json }
}

/// Returns whether a check depends on the speed of this machine, on which no test can rely.
pub fn is_of_time(name: &str) -> bool {
    let is_latency = name.starts_with("latency.");
    is_latency || ["health.time", "http.in-time", "network.round-trip"].contains(&name)
}

/// Exit codes by the beginning of a check's name, as docs/probe.md has them; the first that fits.
const CODES: [(&str, i32); 19] = [
    ("network.", 69),
    ("health.usable", 69),
    ("health.answer", 13),
    ("health.time", 14),
    ("metadata.answer", 13),
    ("metadata.usable", 12),
    ("encrypt.answer", 13),
    ("encrypt.cdiv", 13),
    ("decrypt.answer", 13),
    ("decrypt.without-aad", 13),
    ("errors.form", 13),
    ("http.content-type", 13),
    ("http.version", 13),
    ("http.in-time", 14),
    ("latency.", 14),
    ("tls.", 10),
    ("mtls.", 10),
    ("authentication.", 11),
    ("", 1),
];

impl Run {
    /// Returns the exit code that belongs to the failed checks, if each has the code of its name.
    pub fn expected_code(&self) -> i32 {
        let codes = self
            .with_verdict("fail")
            .into_iter()
            .map(|name| CODES.iter().find(|(beginning, _)| name.starts_with(beginning)).unwrap().1);
        let mut codes: Vec<i32> = codes.collect();
        codes.sort_unstable();
        codes.dedup();
        match codes.as_slice() {
            [] => 0,
            [code] => *code,
            _ => 1,
        }
    }

    /// Returns the code under which KMS reports what this check found, or null.
    pub fn kms(&self, name: &str) -> &Value {
        let checks = self.json["checks"].as_array().unwrap_or_else(|| panic!("{}", self.text));
        &checks.iter().find(|check| check["name"] == name).expect(name)["kms"]
    }

    /// Returns the names of the checks with this verdict, each once.
    pub fn with_verdict(&self, verdict: &str) -> Vec<&str> {
        let checks = self.json["checks"].as_array().unwrap_or_else(|| panic!("{}", self.text));
        let mut names: Vec<&str> = checks
            .iter()
            .filter(|check| check["verdict"] == verdict)
            .map(|check| check["name"].as_str().unwrap())
            .collect();
        names.dedup();
        names
    }

    /// Returns whether this machine was too slow for a check.
    pub fn has_slow_ones(&self) -> bool {
        self.with_verdict("fail").into_iter().any(is_of_time)
    }

    /// Returns the checks that failed, except those that depend on time.
    pub fn failed(&self) -> Vec<&str> {
        self.with_verdict("fail").into_iter().filter(|name| !is_of_time(name)).collect()
    }

    /// Returns the outcome of the check with that name.
    #[track_caller]
    pub fn came(&self, name: &str) -> &str {
        let checks = self.json["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {}", self.text))["came"].as_str().unwrap()
    }
}

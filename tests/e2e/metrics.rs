//! `/metrics`: its counters, their correctness, and the alerts and dashboard built on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::common::{Connection, Interposed, Prepared, Proxy, Setup, Store, token, tools, xks};

/// A setup with an admin listener at a port that the system chooses.
pub fn watched() -> Setup {
    Setup::new().set("admin.port", 0)
}

/// A proxy that has every metric there is.
fn with_all_metrics() -> Prepared {
    let mut prepared = super::audit::audited(super::syslog::unreachable(watched().mtls()));
    if cfg!(feature = "otlp") {
        prepared.change_settings("otlp.endpoint", "http://localhost:9");
    }
    prepared
}

/// Samples by name and labels, in the exposition format.
pub fn scrape(proxy: &Proxy) -> BTreeMap<String, f64> {
    let response = proxy.admin_get("/metrics");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    samples(&String::from_utf8(response.body).unwrap())
}

fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[track_caller]
fn assert_samples(samples: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(samples.get(*name), Some(value), "{name}: {samples:#?}");
    }
}

fn requests(store: &str, call: &str, outcome: &str) -> String {
    format!("xks_proxy_requests_total{{store=\"{store}\",call=\"{call}\",outcome=\"{outcome}\"}}")
}

/// Each counter matches the known traffic, and no other counter has changed.
#[test]
fn counts_are_right() {
    let store = Store::first();
    // So few that the limit of open files does not matter.
    let proxy = watched().set("limits.max_connections", 500).start();
    let client = proxy.client();
    let before = scrape(&proxy);
    let prefix = store.prefix.as_str();
    assert_samples(&before, &[(&requests(prefix, "encrypt", "ok"), 0.0)]);

    let mut last = None;
    for _ in 0..3 {
        last = Some(client.call("keys/foo/encrypt", &xks::encrypt(b"three times", None)).ok());
    }
    let encrypted = last.unwrap();
    client.call("keys/bar/encrypt", &xks::encrypt(b"once", None)).ok();
    client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, None)).ok();
    let mut forged = xks::decrypt(&encrypted, None);
    forged["authenticationTag"] = xks::base64(&[0; 16]).into();
    client.call("keys/foo/decrypt", &forged).assert_error(400, "InvalidCiphertextException");
    client.call("keys/foo/metadata", &xks::metadata("DescribeKey")).ok();
    client
        .call("keys/nobody/metadata", &xks::metadata("DescribeKey"))
        .assert_error(404, "KeyNotFoundException");
    client.call("health", &xks::health()).ok();
    proxy
        .stranger()
        .call("keys/foo/encrypt", &xks::encrypt(b"no", None))
        .assert_error(401, "AuthenticationFailedException");
    proxy.client_of(&Store::second()).call("health", &xks::health()).ok();
    let mut connection = Connection::open(proxy.api, None).unwrap();
    connection.send(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    connection.receive().unwrap().assert_error(404, "InvalidUriPathException");

    let after = scrape(&proxy);
    let expected: BTreeMap<String, f64> = [
        (requests(prefix, "encrypt", "ok"), 4.0),
        (requests(prefix, "encrypt", "AuthenticationFailedException"), 1.0),
        (requests(prefix, "decrypt", "ok"), 1.0),
        (requests(prefix, "decrypt", "InvalidCiphertextException"), 1.0),
        (requests(prefix, "metadata", "ok"), 1.0),
        (requests(prefix, "metadata", "KeyNotFoundException"), 1.0),
        (requests(prefix, "health", "ok"), 1.0),
        (requests(&Store::second().prefix, "encrypt", "ok"), 0.0),
        (requests(&Store::second().prefix, "decrypt", "ok"), 0.0),
        (requests(&Store::second().prefix, "metadata", "ok"), 0.0),
        (requests(&Store::second().prefix, "health", "ok"), 1.0),
        (requests("none", "none", "InvalidUriPathException"), 1.0),
    ]
    .into();
    let counted: BTreeMap<String, f64> = after
        .iter()
        .filter(|(name, _)| name.starts_with("xks_proxy_requests_total{"))
        .map(|(name, value)| (name.clone(), *value))
        .collect();
    assert_eq!(counted, expected);

    assert_samples(
        &after,
        &[
            ("xks_proxy_key_encrypts_total{key=\"foo\"}", 3.0),
            ("xks_proxy_key_encrypts_total{key=\"bar\"}", 1.0),
            ("xks_proxy_request_duration_seconds_count{call=\"encrypt\"}", 5.0),
            ("xks_proxy_request_duration_seconds_count{call=\"health\"}", 2.0),
            ("xks_proxy_request_duration_seconds_bucket{call=\"encrypt\",le=\"+Inf\"}", 5.0),
            // The forged request did not reach the queue; the other four did.
            ("xks_proxy_request_queue_duration_seconds_count{call=\"encrypt\"}", 4.0),
            ("xks_proxy_request_hsm_duration_seconds_count{call=\"decrypt\"}", 2.0),
            ("xks_proxy_requests_in_flight", 0.0),
            ("xks_proxy_ready", 1.0),
            ("xks_proxy_draining", 0.0),
            ("xks_proxy_panics_total", 0.0),
            ("xks_proxy_log_dropped_lines_total", 0.0),
            ("xks_proxy_hsm_token_state{index=\"0\",token=\"xks-proxy\"}", 2.0),
            ("xks_proxy_hsm_faults_total{index=\"0\",token=\"xks-proxy\"}", 0.0),
            ("xks_proxy_connections_max", 500.0),
        ],
    );
    // SoftHSM2's code for a bad tag, counted at each occurrence.
    let code = "xks_proxy_hsm_failure_codes_total{index=\"0\",token=\"xks-proxy\",\
                code=\"CKR_GENERAL_ERROR\"}";
    assert!(after[code] >= 1.0, "{after:#?}");
    let sum = after["xks_proxy_request_duration_seconds_sum{call=\"encrypt\"}"];
    assert!(sum > 0.0 && sum < 60.0, "{sum}");

    let used = |store: &Store| {
        after[&format!(
            "xks_proxy_credential_last_used_timestamp_seconds{{store=\"{}\",access_key_id=\"{}\"}}",
            store.prefix, store.access_key_id
        )]
    };
    let started = after["process_start_time_seconds"];
    assert!(used(&store) >= started && used(&store) < started + 3600.0);
    assert!(after["process_cpu_seconds_total"] > 0.0);
    assert!(after["process_open_fds"] > 3.0);
    assert!(after["process_resident_memory_bytes"] > 1e6);

    let accepted =
        |samples: &BTreeMap<String, f64>| samples["xks_proxy_connections_accepted_total"];
    // Twelve requests, each on its own connection.
    assert_eq!(accepted(&after) - accepted(&before), 12.0);
    assert!(after["xks_proxy_connections"] >= 1.0);
    assert!(!before.contains_key("xks_proxy_tls_certificate_expiry_timestamp_seconds"));
}

/// A credential that was never used has the value 0, so it can be distinguished from one in use.
#[test]
fn an_unused_credential_is_0() {
    let proxy = watched().start();
    let store = Store::second();
    let last_used = format!(
        "xks_proxy_credential_last_used_timestamp_seconds{{store=\"{}\",access_key_id=\"{}\"}}",
        store.prefix, store.access_key_id
    );
    assert_samples(&scrape(&proxy), &[(&last_used, 0.0)]);
}

/// Counts of successful and failed handshakes, and the certificate's expiry.
#[test]
fn tls_is_counted() {
    let mut proxy = watched().mtls().start();
    let client = proxy.client();
    client.call("health", &xks::health()).ok();
    client.call("health", &xks::health()).ok();
    // Neither is a TLS client.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b""] {
        let mut connection = Connection::open(proxy.api, None).unwrap();
        connection.send(bytes).unwrap();
        connection.end_sending().unwrap();
        while !matches!(connection.is_at_end(), Ok(true) | Err(_)) {}
    }
    proxy.wait_for("two failed handshakes to be counted", |proxy| {
        scrape(proxy)["xks_proxy_tls_handshake_failures_total"] >= 2.0
    });
    let samples = scrape(&proxy);
    assert_samples(
        &samples,
        &[("xks_proxy_tls_handshakes_total", 2.0), ("xks_proxy_tls_handshake_failures_total", 2.0)],
    );
    let expiry = samples
        .iter()
        .find(|(name, _)| name.starts_with("xks_proxy_tls_certificate_expiry_timestamp_seconds{"))
        .unwrap();
    assert!(expiry.0.contains("listener=\"api\""), "{expiry:?}");
    assert!(*expiry.1 > samples["process_start_time_seconds"]);
}

/// An HSM failure is visible: the token's state, the return codes, retries, and readiness.
#[test]
fn a_token_that_is_down_shows() {
    let mut proxy = Interposed::new(watched());
    let client = proxy.client();
    client.call("keys/foo/encrypt", &xks::encrypt(b"well", None)).ok();
    proxy.set("[[fault]]\nreturn = \"CKR_DEVICE_REMOVED\"");
    proxy.wait_for("the token to be out of use", |proxy| {
        let _ = client.call("keys/foo/encrypt", &xks::encrypt(b"ill", None));
        scrape(proxy)["xks_proxy_ready"] == 0.0
    });
    let samples = scrape(&proxy);
    let of_token = |name: &str| {
        let start = format!("{name}{{");
        let found = samples.iter().find(|(name, _)| name.starts_with(&start));
        *found.unwrap_or_else(|| panic!("{name}: {samples:#?}")).1
    };
    assert_eq!(of_token("xks_proxy_hsm_token_state"), 0.0);
    assert!(of_token("xks_proxy_hsm_faults_total") >= 1.0);
    assert!(samples.iter().any(|(name, count)| {
        name.starts_with("xks_proxy_hsm_failure_codes_total{")
            && name.contains("code=\"CKR_DEVICE_REMOVED\"")
            && *count >= 1.0
    }));
    assert_eq!(proxy.admin_get("/readyz").status, 503);
    let status = proxy.admin_get("/status.json").json();
    assert_eq!(status["isReady"], false);
    assert_eq!(status["tokens"][0]["state"], "unavailable");
    assert!(status["tokens"][0]["trouble"].as_str().is_some(), "{status:#}");
    proxy.set("");
    proxy.wait_for("the token to be back", |proxy| scrape(proxy)["xks_proxy_ready"] == 1.0);
}

/// Names, types, units and help texts follow Prometheus's conventions.
#[test]
fn promtool_is_content_with_the_metrics() {
    let proxy = with_all_metrics().start();
    let client = proxy.client();
    client.call("keys/foo/encrypt", &xks::encrypt(b"x", None)).ok();
    let text = proxy.admin_get("/metrics").body;
    let output = tools::promtool(&["check", "metrics"], &text);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Each rule fires when it should and stays silent otherwise.
#[test]
fn promtool_is_content_with_the_alerts() {
    for arguments in [
        &["check", "rules", "prometheus-alerts.yml"][..],
        &["test", "rules", "prometheus-alerts-test.yml", "prometheus-alerts-days-test.yml"],
    ] {
        let output = tools::promtool(arguments, b"");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }
    let rules = configuration("prometheus-alerts.yml");
    let tests = configuration("prometheus-alerts-test.yml")
        + &configuration("prometheus-alerts-days-test.yml");
    let names: Vec<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 15, "{names:?}");
    for name in names {
        let fires = format!("alertname: {name}\n        exp_alerts:\n          - exp_labels");
        assert!(tests.contains(&fires), "{name} has no test in which it fires");
        let silent = format!("alertname: {name}, exp_alerts: []");
        assert!(tests.contains(&silent), "{name} has no test in which it is silent");
    }
}

/// A panel on a nonexistent metric shows nothing, and such an alert never fires.
#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let proxy = with_all_metrics().start();
    let client = proxy.client();
    client.call("keys/foo/encrypt", &xks::encrypt(b"x", None)).ok();
    let text = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let families: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let exists = |name: &str| {
        families.contains(name)
            || ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name.strip_suffix(suffix).is_some_and(|it| families.contains(it)))
    };
    assert!(exists("xks_proxy_ready") && !exists("xks_proxy_no_such"));
    let dashboard = configuration("grafana-dashboard.json");
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let mut expressions = Vec::new();
    collect_expressions(&parsed, &mut expressions);
    assert!(expressions.len() > 30);
    let mut named = BTreeSet::new();
    let rules = configuration("prometheus-alerts.yml");
    for text in expressions.iter().map(String::as_str).chain([rules.as_str()]) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '$';
        for word in text.split(|c| !is_part(c)) {
            if word.starts_with("xks_proxy_") || word.starts_with("process_") {
                named.insert(word);
            }
        }
    }
    // Without the export, there are no metrics of it.
    let is_built = |name: &&&str| cfg!(feature = "otlp") || !name.starts_with("xks_proxy_otlp_");
    let missing: Vec<_> = named.iter().filter(is_built).filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // Every metric is used somewhere.
    let unseen: Vec<_> = families
        .iter()
        .filter(|family| !named.iter().any(|name| name.starts_with(*family)))
        .filter(|family| !family.starts_with("process_"))
        .collect();
    assert!(unseen.is_empty(), "{unseen:?}");

    // Fixed values in place of Grafana's variables.
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, expression) in expressions.iter().enumerate() {
        let expression = expression
            .replace("$__rate_interval", "1m")
            .replace("$instance", ".*")
            .replace("$store", ".*");
        rules += &format!(
            "      - record: query_{number}\n        expr: {}\n",
            serde_json::to_string(&expression).unwrap()
        );
    }
    let file = proxy.directory().join("dashboard.yml");
    std::fs::write(&file, rules).unwrap();
    let output = tools::promtool(&["check", "rules", file.to_str().unwrap()], b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn configuration(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("configuration");
    std::fs::read_to_string(directory.join(name)).unwrap()
}

fn collect_expressions(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(expression) if name == "expr" => into.push(expression.to_owned()),
                    _ => collect_expressions(value, into),
                }
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().for_each(|item| collect_expressions(item, into));
        }
        _ => {}
    }
}

/// The number of key series is bounded by the settings.
#[test]
fn keys_are_bounded_by_the_settings() {
    let proxy = watched().start();
    let samples = scrape(&proxy);
    let keys = samples.keys().filter(|name| name.starts_with("xks_proxy_key_encrypts_total{"));
    // The keys that the stores name; no traffic can add others.
    assert_eq!(keys.count(), 10, "{}", token::FULL.label);
}

//! The export by OTLP, to a receiver that decodes it with OpenTelemetry's own classes.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Connection, Proxy, Setup, tools, xks};
use crate::load::Load;
use crate::metrics::scrape;

const REQUEST_ID: &str = "4112f4d6-db54-4af4-ae30-c55a22a8dfae";
const TRACE_ID: &str = "4112f4d6db544af4ae30c55a22a8dfae";
const REMEDY: &str = "the tests need OpenTelemetry's classes for Python, which pip installs";

/// A receiver in a process of its own.
struct Receiver {
    child: Child,
    address: SocketAddr,
    /// For another one at the same address.
    arguments: Vec<String>,
}

impl Receiver {
    fn start(arguments: &[&str]) -> Self {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/otlp");
        let installed = tools::run(&mut Command::new(sources.join("install.sh")), REMEDY);
        let path = String::from_utf8(installed.stdout).unwrap();
        let mut child = Command::new("python3")
            .arg(sources.join("receiver.py"))
            .args(arguments)
            .env("PYTHONPATH", path.trim_end())
            .stdout(Stdio::piped())
            .spawn()
            .expect(REMEDY);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], line.trim().parse().expect(REMEDY)));
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { child, address, arguments }
    }

    fn again(&self) -> Self {
        let port = self.address.port().to_string();
        let arguments = self.arguments.iter().map(String::as_str);
        Self::start(&[&["--port", &port], &*arguments.collect::<Vec<_>>()].concat())
    }

    fn ask(&self, request: &str) -> Value {
        let mut connection = Connection::open(self.address, None).unwrap();
        connection.send(request.as_bytes()).unwrap();
        let body = connection.receive().unwrap().body;
        serde_json::from_slice(&body).unwrap_or_default()
    }

    fn seen(&self) -> Value {
        self.ask("GET /seen HTTP/1.1\r\nHost: localhost\r\n\r\n")
    }

    fn counts(&self) -> Value {
        self.ask("GET /counts HTTP/1.1\r\nHost: localhost\r\n\r\n")
    }

    fn behave(&self, behaviour: &Value) {
        let body = behaviour.to_string();
        let head = format!("POST /behave HTTP/1.1\r\nHost: x\r\nContent-Length: {}", body.len());
        self.ask(&format!("{head}\r\n\r\n{body}"));
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A setup that exports everything to `endpoint`.
fn exporting(endpoint: &str) -> Setup {
    Setup::new()
        .set("admin.port", 0)
        .set("otlp.endpoint", endpoint)
        .set("otlp.metrics_interval_milli", 1_000)
        .set("otlp.timeout_milli", 500)
        .set("otlp.traces_per_million", 1_000_000)
}

/// Ends the proxy, which exports what is left.
fn stop(mut proxy: Proxy) -> Proxy {
    proxy.signal("TERM");
    assert!(proxy.wait_for_end().success());
    proxy
}

fn array<'v>(seen: &'v Value, name: &str) -> &'v Vec<Value> {
    seen[name].as_array().unwrap_or_else(|| panic!("no {name}: {seen:#}"))
}

fn nanos(span: &Value, name: &str) -> u64 {
    whole(&span[name])
}

/// A whole number, which protobuf's JSON writes as a string.
fn whole(number: &Value) -> u64 {
    number.as_str().unwrap().parse().unwrap()
}

/// The spans of a call: one for it, and its parts in order, below it and within it.
#[test]
fn traces() {
    let receiver = Receiver::start(&[]);
    let proxy = exporting(&receiver.url()).start();
    let client = proxy.client();
    client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    let mut unknown = xks::metadata("DescribeKey");
    unknown["requestMetadata"]["kmsRequestId"] = json!("no UUID");
    client.call("keys/unknown/metadata", &unknown).assert_error(404, "KeyNotFoundException");
    let mut forger = client.clone();
    forger.signer.store.secret_access_key = "Forged".repeat(8);
    let forged = forger.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None));
    assert_eq!(forged.status, 401, "{forged:?}");
    let _proxy = stop(proxy);

    let seen = receiver.seen();
    let spans = array(&seen, "spans");
    // Nothing about the call whose signature is wrong: anybody can make those.
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let root =
        spans.iter().find(|span| span["traceId"] == TRACE_ID && span["kind"] == "SPAN_KIND_SERVER");
    let root = root.unwrap();
    let prefix = &client.signer.store.prefix;
    let route = format!("{prefix}/kms/xks/v1/keys/{{externalKeyId}}/encrypt");
    assert_eq!(root["name"], format!("POST {route}"));
    assert_eq!((&root["parentSpanId"], &root["status"]), (&json!(""), &Value::Null));
    let attributes = &root["attributes"];
    for (name, value) in [
        ("kmsRequestId", json!(REQUEST_ID)),
        ("kmsOperation", json!("Encrypt")),
        ("externalKeyId", json!("foo")),
        ("store", json!(prefix)),
        ("http.route", json!(route)),
        ("http.request.method", json!("POST")),
        ("http.response.status_code", json!(200)),
        ("network.peer.address", json!("127.0.0.1")),
    ] {
        assert_eq!(attributes[name], value, "{name}: {attributes:#}");
    }
    assert!(attributes["token"].is_string(), "{attributes:#}");

    let (start, end) = ("startTimeUnixNano", "endTimeUnixNano");
    let mut parts: Vec<_> =
        spans.iter().filter(|span| span["parentSpanId"] == root["spanId"]).collect();
    parts.sort_by_key(|span| (nanos(span, start), nanos(span, end)));
    let names: Vec<_> = parts.iter().map(|span| span["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["queue", "hsm", "encode"]);
    assert!(parts.iter().all(|span| span["traceId"] == TRACE_ID));
    assert!(nanos(root, start) <= nanos(parts[0], start));
    assert_eq!(nanos(parts[0], end), nanos(parts[1], start));
    assert_eq!(nanos(parts[1], end), nanos(parts[2], start));
    assert_eq!(nanos(parts[2], end), nanos(root, end));
    assert!(nanos(parts[1], end) > nanos(parts[1], start), "{parts:#?}");

    let failed = spans.iter().find(|span| span["traceId"] != TRACE_ID).unwrap();
    assert_eq!(failed["attributes"]["errorName"], "KeyNotFoundException");
    assert_eq!(failed["attributes"]["error.type"], "KeyNotFoundException");
    // A client's mistake is not the server's error.
    assert_eq!(failed["status"], Value::Null, "{failed:#}");
    let ids: BTreeSet<_> = spans.iter().map(|span| span["spanId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), spans.len());
}

/// The exported metrics have the names, labels and values of the Prometheus page.
#[test]
fn metrics() {
    let receiver = Receiver::start(&[]);
    let mut proxy =
        exporting(&receiver.url()).set("otlp.resource_attributes", vec!["a=b=c"]).start();
    for _ in 0..3 {
        proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    }
    let has_counted = |seen: &Value| {
        let metrics = array(seen, "metrics").iter();
        let mut points = metrics
            .filter(|metric| metric["name"] == "xks_proxy_requests_total")
            .flat_map(|metric| array(&metric["sum"], "dataPoints"));
        points.any(|point| point["asInt"] == "3")
    };
    proxy.wait_for("the calls to be exported", |_| has_counted(&receiver.seen()));
    let (seen, scraped) = (receiver.seen(), scrape(&proxy));
    let bare = |name: &str| name.split('{').next().unwrap().to_owned();
    let mut scraped_names: BTreeSet<String> = scraped.keys().map(|name| bare(name)).collect();
    let mut exported = BTreeSet::new();
    for metric in array(&seen, "metrics") {
        let name = metric["name"].as_str().unwrap().to_owned();
        if let Some(histogram) = metric.get("histogram") {
            assert_eq!(histogram["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
            for suffix in ["bucket", "sum", "count"] {
                assert!(scraped_names.remove(&format!("{name}_{suffix}")), "{name}");
            }
            scraped_names.insert(name.clone());
            for point in array(histogram, "dataPoints") {
                let buckets = array(point, "bucketCounts").iter();
                let sum: u64 = buckets.map(whole).sum();
                assert_eq!(point.get("count").map_or(0, whole), sum);
                assert_eq!(array(point, "explicitBounds").len(), 22);
                assert_eq!(array(point, "bucketCounts").len(), 23);
            }
        } else if let Some(sum) = metric.get("sum") {
            assert_eq!(sum["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
            assert_eq!(sum["isMonotonic"], true, "{name}");
            assert!(
                array(sum, "dataPoints").iter().all(|point| point["startTimeUnixNano"].is_string())
            );
        } else {
            assert!(metric["gauge"].is_object(), "{metric:#}");
        }
        assert!(exported.insert(name));
    }
    assert_eq!(exported, scraped_names);
    let duration = array(&seen, "metrics")
        .iter()
        .find(|metric| metric["name"] == "xks_proxy_request_duration_seconds")
        .unwrap();
    let encrypt = array(&duration["histogram"], "dataPoints")
        .iter()
        .find(|point| {
            point["attributes"]["call"] == "encrypt" || point.to_string().contains("encrypt")
        })
        .unwrap();
    assert_eq!((&encrypt["count"], &duration["unit"]), (&json!("3"), &json!("s")));
    let resource = seen["resources"]["/v1/metrics"].to_string();
    for part in ["service.name", "xks-proxy", "service.version", "service.instance.id", "host.name"]
    {
        assert!(resource.contains(part), "{part}: {resource}");
    }
    assert!(resource.contains("b=c"), "{resource}");
}

/// Lines of the log, with their fields as attributes, over TLS and with the header fields of a file.
#[test]
fn logs_over_tls() {
    let mut prepared = exporting("https://later").set("otlp.log_level", "INFO").prepare();
    let file = |name: &str| prepared.certificates.path(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (file("server_cert.pem"), file("server_key.pem"), file("server_ca.pem"));
    let receiver = Receiver::start(&["--tls", &cert, &key]);
    let headers = prepared.directory().join("headers");
    std::fs::write(&headers, "Authorization: Bearer hush-hush\nx-tenant: bank\n").unwrap();
    tools::run(Command::new("chmod").arg("0400").arg(&headers), "chmod(1) is needed");
    prepared
        .change_settings("otlp.endpoint", format!("https://localhost:{}", receiver.address.port()));
    prepared.change_settings("otlp.ca_pem", ca);
    prepared.change_settings("otlp.headers_file", headers.to_str().unwrap());
    let trust = prepared.certificates.client_config(None, &[&rustls::version::TLS13], |_| {});
    let proxy = prepared.start();
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    let proxy = stop(proxy);
    assert!(!proxy.log().contains("hush-hush"), "{}", proxy.log());

    let mut connection = Connection::open(receiver.address, Some(&trust)).unwrap();
    connection.send(b"GET /seen HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let seen = connection.receive().unwrap().json();
    assert_eq!(seen["headers"]["authorization"], "Bearer hush-hush");
    assert_eq!(seen["headers"]["x-tenant"], "bank");
    let records = array(&seen, "logRecords");
    let call = records.iter().find(|record| record["traceId"] == TRACE_ID).unwrap();
    assert_eq!(
        (&call["severityText"], &call["body"]["stringValue"]),
        (&json!("INFO"), &json!("call"))
    );
    assert_eq!(call["severityNumber"], "SEVERITY_NUMBER_INFO");
    assert_eq!(call["attributes"]["kmsRequestId"], REQUEST_ID);
    assert_eq!(call["attributes"]["status"], 200);
    assert!(call["attributes"]["totalMicros"].as_u64().unwrap() > 0);
    let started =
        records.iter().find(|record| record["body"]["stringValue"] == "listening").unwrap();
    assert!(started["attributes"]["api"].is_string(), "{started:#}");
    // Each line of the log is there, but for those after the last export.
    let lines = proxy.log().lines().count();
    assert!(records.len() + 5 >= lines && records.len() <= lines, "{} of {lines}", records.len());
}

/// Under load, each call is traced and each line exported, and all of it arrives.
#[test]
fn nothing_is_lost() {
    let receiver = Receiver::start(&[]);
    let proxy = exporting(&receiver.url()).set("otlp.timeout_milli", 20_000).start();
    let load = Load::start(&proxy.client(), 3);
    load.wait_for_answers(300);
    let calls = load.finish();
    let mut proxy = proxy;
    let arrived = |receiver: &Receiver| {
        let seen = receiver.counts();
        seen["counts"]["spans"].as_u64().unwrap_or(0)
    };
    proxy.wait_for("all spans", |_| arrived(&receiver) >= 4 * calls);
    let metrics = scrape(&proxy);
    let _proxy = stop(proxy);
    assert_eq!(arrived(&receiver), 4 * calls);
    let counts = receiver.counts();
    assert!(counts["counts"]["logRecords"].as_u64().unwrap() >= calls, "{counts}");
    let dropped: f64 = metrics
        .iter()
        .filter(|(name, _)| name.starts_with("xks_proxy_otlp_dropped_total"))
        .map(|(_, value)| value)
        .sum();
    assert!(dropped == 0.0, "{metrics:#?}");
}

/// Returns a metric of one signal.
fn of(proxy: &Proxy, metric: &str, labels: &str) -> f64 {
    let name = format!("xks_proxy_otlp_{metric}{{{labels}}}");
    *scrape(proxy).get(&name).unwrap_or_else(|| panic!("no {name}"))
}

/// Whatever the collector does, no call fails; its failure shows, and once it is over, so does that.
#[test]
fn collectors_in_trouble() {
    for behaviour in [
        json!({"hang": true}),
        json!({"delay": 4.0}),
        json!({"status": 429}),
        json!({"status": 503}),
        json!({"status": 400}),
        json!({"status": 307}),
        json!({"truncate": true}),
        json!({"rejected": 1}),
    ] {
        let receiver = Receiver::start(&[]);
        receiver.behave(&behaviour);
        // Only a time-out that is to be seen is short, but not too short for a busy machine.
        let is_late = ["hang", "delay"].iter().any(|name| behaviour.get(name).is_some());
        let timeout = if is_late { 3_000 } else { 20_000 };
        let mut proxy = exporting(&receiver.url()).set("otlp.timeout_milli", timeout).start();
        let load = Load::start(&proxy.client(), 3);
        load.wait_for_answers(20);
        proxy.wait_for(&format!("{behaviour} to show"), |proxy| {
            ["traces", "logs", "metrics"].iter().all(|signal| {
                let signal = format!("signal=\"{signal}\"");
                of(proxy, "failing", &signal) > 0.0
            })
        });
        load.wait_for_answers(20);
        let is_partial = behaviour.get("rejected").is_some();
        let is_refusal =
            is_partial || [400, 307].iter().any(|status| behaviour["status"] == *status);
        let rejected = of(&proxy, "dropped_total", "signal=\"traces\",reason=\"rejected\"");
        assert_eq!(rejected > 0.0, is_refusal, "{behaviour}");
        let failed = of(&proxy, "failed_requests_total", "signal=\"traces\"");
        assert_eq!(failed > 0.0, !is_partial, "{behaviour}");
        load.finish();
        // Without load: what was kept must be taken within the short time-out.
        receiver.behave(&json!({}));
        proxy.wait_for(&format!("{behaviour} to be over"), |proxy| {
            of(proxy, "failing", "signal=\"traces\"") == 0.0
        });
        let log = proxy.log_with("the OTLP export works again");
        // Once for each signal, and not for each request; a busy machine may cause another failure.
        let lines = log.matches("the OTLP export fails").count();
        assert!((3..=9).contains(&lines), "{behaviour}: {lines} lines");
    }
}

/// A collector that is not there yet gets, once it is, what was kept for it.
#[test]
fn a_collector_that_is_down() {
    let receiver = Receiver::start(&[]);
    let proxy = {
        // Nothing listens at its port until another one does.
        let mut proxy = exporting(&receiver.url()).prepare();
        proxy.change_settings("otlp.timeout_milli", 1_000);
        proxy
    };
    let gone = Receiver {
        child: Command::new("true").spawn().unwrap(),
        address: receiver.address,
        arguments: Vec::new(),
    };
    drop(receiver);
    let mut proxy = proxy.start();
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    proxy.wait_for("failures", |proxy| {
        of(proxy, "failed_requests_total", "signal=\"traces\"") > 1.0
    });
    let receiver = gone.again();
    proxy.wait_for("the spans", |_| receiver.counts()["counts"]["spans"] == 4);
    assert_eq!(of(&proxy, "dropped_total", "signal=\"traces\",reason=\"undelivered\""), 0.0);
}

/// A wait that the collector asks for is kept.
#[test]
fn retry_after() {
    let receiver = Receiver::start(&[]);
    receiver.behave(&json!({"status": 503, "retry_after": "3"}));
    let mut proxy = exporting(&receiver.url()).set("otlp.signals", vec!["traces"]).start();
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    proxy.wait_for("the refusal", |_| receiver.counts()["requests"]["/v1/traces 503"] == 1);
    receiver.behave(&json!({}));
    proxy.wait_for("the spans", |_| receiver.counts()["counts"]["spans"] == 4);
    let times = receiver.seen()["times"].clone();
    let apart = times[1].as_f64().unwrap() - times[0].as_f64().unwrap();
    assert!((3.0..30.0).contains(&apart), "{times}");
}

/// The end of the process does not wait for a collector that hangs.
#[test]
fn the_end_is_bounded() {
    let receiver = Receiver::start(&[]);
    receiver.behave(&json!({"hang": true}));
    let mut proxy = exporting(&receiver.url()).set("otlp.timeout_milli", 60_000).start();
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    proxy.wait_for("a request", |_| !array(&receiver.seen(), "times").is_empty());
    let started = Instant::now();
    let proxy = stop(proxy);
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let log = proxy.log();
    let lost = |signal: &str| {
        let line = log.lines().find(|line| {
            line.contains("could not be exported in time")
                && line.contains(&format!("signal={signal} "))
        });
        let text = line.unwrap_or_else(|| panic!("{signal}: {log}")).split_once("lost=").unwrap().1;
        text.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(lost("traces"), 1);
    assert!(lost("metrics") > 100);
    // All lines but the last ones, which are about this.
    let lines = log.lines().position(|line| line.contains(" stopped ")).unwrap() + 1;
    assert_eq!(lost("logs"), lines);
}

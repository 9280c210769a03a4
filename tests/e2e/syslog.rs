//! Copies of the log and of the audit log for syslog collectors: what rsyslog receives, and what
//! becomes of calls when there is no collector, or a bad one.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use toml::{Table, toml};

use super::audit::{audited, files};
use super::load::Load;
use super::metrics::watched;
use crate::common::proxy::free_port;
use crate::common::{Proxy, Setup, xks};

const REMEDY: &str = "the tests need rsyslog with its module for TLS by OpenSSL:\n  \
                      Debian, Ubuntu: apt-get install rsyslog rsyslog-openssl (it need not run)\n  \
                      Amazon Linux, Fedora: dnf install rsyslog rsyslog-openssl";
const DEADLINE: Duration = Duration::from_secs(60);

/// A setup whose lines go to a collector that does not exist.
pub fn unreachable(setup: Setup) -> Setup {
    setup.set("syslog", list(toml! { server = "unix:/nonexistent/socket" }))
}

fn list(collector: Table) -> toml::Value {
    toml::Value::Array(vec![toml::Value::Table(collector)])
}

/// A running rsyslog that writes what it receives into a file.
struct Rsyslog {
    child: Child,
    received: PathBuf,
}

/// A message as rsyslog has understood it.
struct Message {
    facility: String,
    severity: String,
    /// The time in it, with the one at which it came.
    time: String,
    app_name: String,
    process: String,
    id: String,
    sequence: u64,
    text: String,
}

impl Rsyslog {
    /// Starts it with these inputs, and waits until `socket` or `port` is there.
    fn start(directory: &Path, inputs: &str, is_there: impl Fn() -> bool) -> Self {
        let received = directory.join("received");
        let file = directory.join("rsyslog.conf");
        let columns = "%syslogfacility-text%|%syslogseverity-text%|%timestamp:::date-rfc3339%|\
                       %app-name%|%procid%|%msgid%|%structured-data%|%msg%\\n";
        let text = format!(
            "{inputs}\ntemplate(name=\"columns\" type=\"string\" string=\"{columns}\")\n\
             action(type=\"omfile\" file=\"{}\" template=\"columns\")\n",
            received.display()
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new("rsyslogd");
        command.args(["-n", "-i", "NONE", "-f"]).arg(&file);
        let errors = fs::File::create(directory.join("rsyslog.errors")).unwrap();
        command.stdin(Stdio::null()).stdout(errors.try_clone().unwrap()).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("rsyslogd: {error}\n{REMEDY}"));
        let mut rsyslog = Self { child, received };
        let end = Instant::now() + DEADLINE;
        while !is_there() {
            let said = || fs::read_to_string(directory.join("rsyslog.errors")).unwrap();
            assert!(rsyslog.child.try_wait().unwrap().is_none(), "{}\n{REMEDY}", said());
            assert!(Instant::now() < end, "{}\n{REMEDY}", said());
            thread::sleep(Duration::from_millis(20));
        }
        rsyslog
    }

    fn received(&self) -> Vec<Message> {
        let text = fs::read_to_string(&self.received).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(Message::of).collect()
    }

    /// Returns what has been received once there are `calls` lines of calls in both logs.
    fn wait_for_calls(&self, calls: u64) -> Vec<Message> {
        let end = Instant::now() + DEADLINE;
        loop {
            let messages = self.received();
            let count = |is_one: fn(&&Message) -> bool| messages.iter().filter(is_one).count();
            let accesses = count(|it| it.id == "access") as u64;
            let audited = count(|it| it.text.contains(",\"event\":\"call\"")) as u64;
            if accesses >= calls && audited >= calls {
                assert_eq!((accesses, audited), (calls, calls));
                return messages;
            }
            assert!(Instant::now() < end, "{accesses} and {audited} of {calls}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Message {
    fn of(line: &str) -> Self {
        let mut columns = line.splitn(8, '|').map(str::to_owned);
        let mut next = || columns.next().unwrap_or_else(|| panic!("{line}"));
        let [facility, severity, time, app_name, process, id, data] = [(); 7].map(|()| next());
        let number = data.strip_prefix("[meta sequenceId=\"").unwrap().strip_suffix("\"]");
        let sequence = number.unwrap().parse().unwrap();
        Self { facility, severity, time, app_name, process, id, sequence, text: next() }
    }
}

/// The audit log's files as lines.
fn audit_lines(proxy: &Proxy) -> Vec<String> {
    let texts = files(proxy.directory()).into_iter();
    texts.flat_map(|file| lines(&fs::read_to_string(file).unwrap())).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Nothing is lost at a thousand calls a second or more: all messages have arrived, numbered
/// without a gap, and the audit log's are those of the file.
#[track_caller]
fn assert_all_arrives(proxy: &mut Proxy, rsyslog: &Rsyslog) {
    let calls = 3000;
    let load = Load::start(&proxy.client(), 8);
    load.wait_for_answers(calls / 9);
    let answers = load.finish();
    let messages = rsyslog.wait_for_calls(answers);
    let process = proxy.id().to_string();
    for (app_name, facility) in [("xks-proxy", "daemon"), ("xks-proxy-audit", "authpriv")] {
        let of_log = messages.iter().filter(|message| message.app_name == app_name);
        let mut numbers = Vec::new();
        for message in of_log {
            assert_eq!((&*message.facility, &*message.process), (facility, &*process));
            numbers.push(message.sequence);
        }
        let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, expected, "{app_name}");
    }
    let is_audit = |message: &&Message| message.app_name == "xks-proxy-audit";
    let copies: Vec<&str> = messages.iter().filter(is_audit).map(|it| &*it.text).collect();
    let written = audit_lines(proxy);
    assert_eq!(copies, &written[..copies.len()]);
    let access = messages.iter().find(|message| message.id == "access").unwrap();
    assert!(access.text.starts_with("call="), "{}", access.text);
    assert_eq!(access.severity, "info");
    let log = proxy.log();
    assert!(log.contains(&format!("{} INFO {}", access.time, access.text)), "{log}");
    assert!(messages.iter().any(|it| it.id == "event" && it.text.starts_with("listening ")));
    let status = proxy.admin_get("/status.json").json();
    for forwarder in status["syslog"].as_array().unwrap() {
        assert_eq!(
            (&forwarder["isConnected"], &forwarder["droppedLines"]),
            (&json!(true), &json!(0))
        );
        assert!(forwarder["sentLines"].as_u64().unwrap() >= answers, "{forwarder}");
    }
}

/// rsyslog's two modules for Unix sockets, one for datagrams and one for streams.
#[test]
fn rsyslog_over_unix_sockets() {
    for (transport, input) in [
        (
            "datagram",
            "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
                      input(type=\"imuxsock\" Socket=\"SOCKET\" UseSpecialParser=\"off\" IgnoreTimestamp=\"off\")",
        ),
        ("stream", "module(load=\"imptcp\")\ninput(type=\"imptcp\" path=\"SOCKET\")"),
    ] {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("log");
        let input = input.replace("SOCKET", socket.to_str().unwrap());
        let rsyslog = Rsyslog::start(directory.path(), &input, || socket.exists());
        let mut collector = Table::new();
        collector.insert("server".to_owned(), format!("unix:{}", socket.display()).into());
        collector.insert("transport".to_owned(), transport.into());
        let mut proxy = audited(watched().set("syslog", list(collector))).start();
        assert_all_arrives(&mut proxy, &rsyslog);
        proxy.signal("TERM");
        assert!(proxy.wait_for_end().success());
        // To the last line.
        let end = Instant::now() + DEADLINE;
        let last = audit_lines(&proxy).pop().unwrap();
        while !rsyslog.received().iter().any(|message| message.text == last) {
            assert!(Instant::now() < end, "no {last}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// TLS with certificates on both sides. A collector whose certificate is of an unknown CA gets
/// nothing until a reload names the right CA.
#[test]
fn rsyslog_over_tls() {
    let mut prepared = audited(watched());
    let path = |name: &str| prepared.directory().join(name).to_str().unwrap().to_owned();
    let port = free_port();
    let inputs = format!(
        "global(DefaultNetstreamDriver=\"ossl\" DefaultNetstreamDriverCAFile=\"{}\"\n\
         DefaultNetstreamDriverCertFile=\"{}\" DefaultNetstreamDriverKeyFile=\"{}\")\n\
         module(load=\"imtcp\" StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\"\n\
         StreamDriver.AuthMode=\"x509/certvalid\")\ninput(type=\"imtcp\" port=\"{port}\")",
        path("client_ca.pem"),
        path("server_cert.pem"),
        path("server_key.pem"),
    );
    let mut collector = Table::new();
    for (member, value) in [
        ("server", format!("localhost:{port}")),
        ("server_ca_pem", path("client_ca.pem")),
        ("tls_cert_pem", path("Right_cert.pem")),
        ("tls_key_pem", path("Right_key.pem")),
    ] {
        collector.insert(member.to_owned(), value.into());
    }
    let right = path("server_ca.pem");
    let directory = TempDir::new().unwrap();
    let is_there = || std::net::TcpStream::connect(format!("localhost:{port}")).is_ok();
    let rsyslog = Rsyslog::start(directory.path(), &inputs, is_there);
    prepared.change_settings("syslog", list(collector));
    let mut proxy = prepared.start();
    proxy.wait_for("the reason", |proxy| {
        let status = proxy.admin_get("/status.json").json();
        let trouble = status["syslog"][0]["trouble"].as_str();
        trouble.is_some_and(|trouble| trouble.contains("UnknownIssuer"))
    });
    proxy.log_with("the syslog collector cannot be reached");
    assert!(rsyslog.received().is_empty());
    proxy.change_settings(|table| {
        let collectors = table["syslog"].as_array_mut().unwrap();
        collectors[0].as_table_mut().unwrap().insert("server_ca_pem".to_owned(), right.into());
    });
    proxy.signal("HUP");
    proxy.log_with("settings reloaded");
    proxy.log_with("the syslog collector can be reached again");
    assert!(!proxy.log().contains("no effect until a restart"));
    assert_all_arrives(&mut proxy, &rsyslog);
}

/// Makes calls with lines of some 8 KiB in each log, all of which succeed.
fn call_at_length(proxy: &Proxy, calls: usize) {
    let mut body = xks::metadata("DescribeKey");
    for member in ["kmsRequestId", "awsPrincipalArn", "kmsKeyArn", "kmsViaService"] {
        body["requestMetadata"][member] = json!("x".repeat(2000));
    }
    let (client, body) = (proxy.client(), &body);
    thread::scope(|scope| {
        let worker = || {
            let mut connection = client.connect();
            let body = serde_json::to_vec(body).unwrap();
            for _ in 0..calls / 4 {
                client.send(&mut connection, "keys/foo/metadata", &body);
                connection.receive().unwrap().ok();
            }
        };
        for _ in 0..4 {
            scope.spawn(worker);
        }
    });
}

fn metric(proxy: &Proxy, name: &str, log: &str) -> u64 {
    let text = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let log = format!("log=\"{log}\"");
    let line =
        text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(&log));
    line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Whatever the collector does, all calls are answered, and the lines that it does not get are
/// counted and reported, at most once a minute. The files have them all, and the process ends in
/// time.
#[track_caller]
fn assert_only_copies_are_lost(server: &str, is_connected: bool) {
    let mut collector = Table::new();
    collector.insert("server".to_owned(), server.into());
    collector.insert("transport".to_owned(), "tcp".into());
    let setup = watched().set("syslog", list(collector)).set("server.drain_delay_milli", 0);
    let mut proxy = audited(setup).start();
    let calls = 4000;
    call_at_length(&proxy, calls);
    for log in ["log", "audit"] {
        proxy.wait_for("lines to be dropped", |proxy| {
            metric(proxy, "xks_proxy_syslog_dropped_lines_total", log) > 0
        });
    }
    let is_report = |line: &&str| {
        line.contains(" WARN ") && line.contains(server) && line.contains("log=audit")
    };
    let is_last = |line: &&str| line.contains("did not take the last lines in time");
    proxy.wait_for("a report", |proxy| proxy.log().lines().any(|line| is_report(&line)));
    if !is_connected {
        assert_eq!(metric(&proxy, "xks_proxy_syslog_connected", "audit"), 0);
        assert!(metric(&proxy, "xks_proxy_syslog_failures_total", "audit") > 0);
    }
    proxy.signal("TERM");
    let began = Instant::now();
    assert!(proxy.wait_for_end().success());
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let log = proxy.log();
    let (last, reports): (Vec<_>, Vec<_>) = log.lines().filter(is_report).partition(is_last);
    // The lines lost at the end are counted in the log, which no collector's state holds up.
    let [last] = last[..] else { panic!("{last:#?}\n{log}") };
    let lost = last.split_once("dropped_lines=").unwrap().1.split(' ').next().unwrap();
    assert!((1..=calls as u64 + 10).contains(&lost.parse().unwrap()), "{last}");
    let reports = reports.len();
    assert!((1..=2).contains(&reports), "{reports} reports");
    let written = audit_lines(&proxy);
    let is_call = |line: &&String| line.contains(",\"event\":\"call\"");
    assert_eq!(written.iter().filter(is_call).count(), calls);
    let last: Value = serde_json::from_str(written.last().unwrap()).unwrap();
    assert_eq!(last["event"], "stop");
}

#[test]
fn a_collector_that_is_down() {
    assert_only_copies_are_lost(&format!("127.0.0.1:{}", free_port()), false);
}

/// It accepts connections, and reads nothing.
#[test]
fn a_collector_that_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_only_copies_are_lost(&listener.local_addr().unwrap().to_string(), true);
}

#[test]
fn a_collector_that_is_slow() {
    assert_only_copies_are_lost(&slow_collector().to_string(), true);
}

/// Reads some bytes at a time, and a few kilobytes in a second.
fn slow_collector() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for peer in listener.incoming() {
            let mut peer = peer.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok(1..) = peer.read(&mut buffer) {
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
    });
    address
}

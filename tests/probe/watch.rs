//! `--watch`: rounds go on whatever the proxy does, and their results are served as metrics.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::Store;
use crate::common::proxy::free_port;
use crate::stand_in::StandIn;

const PATIENCE: Duration = Duration::from_secs(30);

struct Watch {
    child: Child,
    metrics: String,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Watch {
    fn start(url: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xks-proxy"))
            .args(["probe", url, "--key-id", "key", "--insecure-http"])
            .args(["--watch", "127.0.0.1:0", "--interval", "1"])
            .env("SIGV4_ACCESS_KEY_ID", Store::first().access_key_id)
            .env("SIGV4_SECRET_ACCESS_KEY", Store::first().secret_access_key)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        // What follows is read, so that the process never waits for this one.
        std::thread::spawn(move || lines.for_each(drop));
        let metrics = line.strip_prefix("metrics: http://").unwrap();
        Self { child, metrics: metrics.strip_suffix("/metrics").unwrap().to_owned() }
    }

    fn get(&self, path: &str, host: &str) -> String {
        let mut socket = TcpStream::connect(&self.metrics).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Waits until the metrics have all these lines.
    #[track_caller]
    fn wait_for(&self, lines: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.get("/metrics", "localhost");
            if lines.iter().all(|line| text.contains(&format!("\n{line}\n"))) {
                return text;
            }
            assert!(Instant::now() < end, "{lines:?} not in {text}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn goes_on_whatever_the_proxy_does() {
    let port = u16::try_from(free_port()).unwrap();
    let watch = Watch::start(&format!("http://127.0.0.1:{port}/store"));
    let text = watch.wait_for(&[
        "xks_probe_success 0",
        "xks_probe_failing{class=\"unreachable\"} 1",
        "xks_probe_failing{class=\"tls\"} 0",
        "xks_probe_check{check=\"network.reachable\",key=\"\",verdict=\"fail\"} 1",
    ]);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");

    // Another kind of server, then one that ends each connection.
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let garbage = std::thread::spawn(move || {
        listener.set_nonblocking(true).unwrap();
        while receiver.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            match listener.accept() {
                Ok((mut socket, _)) => {
                    socket.set_nonblocking(false).unwrap();
                    let _ = socket.write_all(b"SSH-2.0-server\r\n\r\n");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    });
    watch.wait_for(&["xks_probe_check{check=\"health.answer\",key=\"\",verdict=\"fail\"} 1"]);
    drop(sender);
    garbage.join().unwrap();

    let _stand_in = StandIn::at(port);
    let text = watch.wait_for(&[
        "xks_probe_success 1",
        "xks_probe_failing{class=\"unreachable\"} 0",
        "xks_probe_check{check=\"decrypt.answer\",key=\"key\",verdict=\"pass\"} 1",
    ]);
    for call in ["health", "metadata", "encrypt", "decrypt", "new_connection"] {
        let bucket =
            format!("xks_probe_call_duration_seconds_bucket{{call=\"{call}\",le=\"+Inf\"}}");
        assert!(text.contains(&bucket), "{call}: {text}");
    }
    assert!(!text.contains("authentication."), "no calls that a proxy refuses: {text}");
    assert!(text.contains("\nxks_probe_last_round_timestamp_seconds 1"), "{text}");
    let failures = text.lines().find(|line| line.starts_with("xks_probe_rounds_total{outcome=\"f"));
    assert!(!failures.unwrap().ends_with(" 0"), "{text}");

    // As at the admin listener: no page of another origin reads this.
    assert!(watch.get("/metrics", "evil.example").starts_with("HTTP/1.1 421 "));
    assert!(watch.get("/livez", "localhost").starts_with("HTTP/1.1 200 "));
    assert!(watch.get("/", "localhost").starts_with("HTTP/1.1 404 "));
}

/// Mistakes that end it at the start.
#[test]
fn mistakes() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let base = ["https://a.invalid/store", "--key-id", "key"];
    let run = crate::run::run_without_json(&[&base[..], &["--watch", &address]].concat());
    assert_eq!(run.code, Some(78), "no credential: {}", run.text);
    for arguments in [&["--interval", "5"][..], &["--watch", "127.0.0.1:0", "--junit", "x"]] {
        let run = crate::run::run_without_json(&[&base[..], arguments].concat());
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.text);
    }
}

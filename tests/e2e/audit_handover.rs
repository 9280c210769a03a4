//! The audit log in an upgrade whose old process drains for long.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::audit::{self, calls, lines};
use super::upgrade::{Generations, setup};
use crate::common::{Client, Connection, tools, xks};

/// Upper bound of the time until a line is in the file: far below the old process's drain.
const SOON: Duration = Duration::from_secs(15);
/// Time for which the old process drains unless it is told to hurry.
const DRAIN_MILLI: i64 = 120_000;

/// An old process that drains and a new one that has taken over, each with a call in the log.
struct HandedOver {
    proxy: Generations,
    client: Client,
    /// Another connection to the old process.
    kept: Connection,
}

/// Makes a call with this KMS request id on a connection.
fn call(client: &Client, connection: &mut Connection, id: &str) {
    let mut body = xks::encrypt(b"plaintext", None);
    body["requestMetadata"]["kmsRequestId"] = id.into();
    client.send(connection, "keys/foo/encrypt", body.to_string().as_bytes());
    connection.receive().unwrap().ok();
}

impl HandedOver {
    fn new() -> Self {
        let setup = setup().set("server.drain_delay_milli", DRAIN_MILLI);
        let proxy = Generations(audit::audited(setup).start());
        let client = proxy.0.client();
        let mut connections = [client.connect(), client.connect()];
        for connection in &mut connections {
            call(&client, connection, "before");
        }
        proxy.signal("USR2");
        proxy.wait_for_lines("another process serves", 1);
        let [mut first, kept] = connections;
        call(&client, &mut client.connect(), "of the new one");
        call(&client, &mut first, "of the old one");
        let handed_over = Self { proxy, client, kept };
        handed_over.wait_for_calls(&["before", "of the new one", "of the old one"]);
        handed_over
    }

    #[track_caller]
    fn wait_for(&self, what: &str, condition: impl Fn(&[Value]) -> bool) {
        let started = Instant::now();
        while !condition(&lines(self.proxy.0.directory())) {
            assert!(started.elapsed() < SOON, "waiting for {what}\n{}", self.proxy.0.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn wait_for_calls(&self, ids: &[&str]) {
        let has = |calls: &[Value], id: &str| calls.iter().any(|it| it["kmsRequestId"] == id);
        self.wait_for("the calls' lines", |lines| ids.iter().all(|id| has(lines, id)));
        assert_eq!(self.proxy.0.log().matches("stopped").count(), 0, "both processes live");
    }

    fn verify(&self) -> (i32, String) {
        audit::verify(self.proxy.0.directory())
    }

    /// Ends the new process without a drain.
    fn end_the_new_one(&self) {
        self.proxy.signal("TERM");
        // Two signals at once would be one.
        self.proxy.wait_for_lines("draining: no longer ready", 1);
        self.proxy.signal("TERM");
    }

    fn count(&self, event: &str) -> usize {
        let lines = lines(self.proxy.0.directory());
        lines.iter().filter(|line| line["event"] == event).count()
    }
}

/// While the old process drains, both processes' lines are in the log at once, and the chain is one.
#[test]
fn both_write_while_one_drains() {
    let mut it = HandedOver::new();
    call(&it.client, &mut it.kept, "the old one's last");
    it.wait_for_calls(&["the old one's last"]);
    it.proxy.0.signal("TERM");
    it.proxy.wait_for_lines("stopped", 1);
    call(&it.client, &mut it.client.connect(), "after it");
    it.end_the_new_one();
    it.proxy.wait_for_lines("stopped", 2);
    let (code, said) = it.verify();
    assert_eq!((code, said.matches("note").count()), (0, 0), "{said}");
    let events = ["open", "handover", "stop", "gap", "handoverLost"].map(|event| it.count(event));
    assert_eq!(events, [2, 1, 2, 0, 0]);
    assert_eq!(calls(it.proxy.0.directory()).len(), 6);
}

/// If the old process dies while it drains, the log says that lines of its may be missing.
#[test]
fn the_old_one_dies() {
    let it = HandedOver::new();
    it.proxy.0.signal("KILL");
    it.wait_for("the event", |lines| lines.iter().any(|it| it["event"] == "handoverLost"));
    call(&it.client, &mut it.client.connect(), "after it");
    it.end_the_new_one();
    it.proxy.wait_for_lines("stopped", 1);
    let (code, said) = it.verify();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("note: a process that had handed over the log ended before"), "{said}");
    assert_eq!(calls(it.proxy.0.directory()).len(), 5);
}

/// If the new process dies, the old one writes the log again for what is left of its drain.
#[test]
fn the_new_one_dies() {
    let mut it = HandedOver::new();
    let new = it.proxy.newest();
    let arguments = fs::read(format!("/proc/{new}/cmdline")).unwrap();
    assert!(String::from_utf8_lossy(&arguments).contains("xks-proxy"));
    let command = format!("kill -KILL {new}");
    tools::run(Command::new("sh").args(["-c", &command]), "a POSIX shell is needed");
    // Lines that a dying process is sent are lost with it, as those that it has not written.
    let is_gone = || {
        let status = fs::read_to_string(format!("/proc/{new}/status")).unwrap_or_default();
        // Its first thread may be gone while others still hold its descriptors.
        let threads = fs::read_dir(format!("/proc/{new}/task")).map_or(0, Iterator::count);
        status.is_empty() || (status.contains("State:\tZ") && threads <= 1)
    };
    it.wait_for("the new process's end", |_| is_gone());
    call(&it.client, &mut it.kept, "the old one's last");
    it.wait_for_calls(&["the old one's last"]);
    it.proxy.0.signal("TERM");
    it.proxy.wait_for_lines("stopped", 1);
    let (code, said) = it.verify();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("note: the proxy did not end in good order before"), "{said}");
    assert_eq!((it.count("open"), it.count("stop")), (3, 1));
    assert_eq!(calls(it.proxy.0.directory()).len(), 5);
}

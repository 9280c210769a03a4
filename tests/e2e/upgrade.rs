//! A new process replaces the running one (SIGUSR2) without a failed call.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::load::Load;
use crate::common::interposed::Interposed;
use crate::common::proxy::Prepared;
use crate::common::{Connection, Proxy, Setup, tools, xks};

/// Upper bound of the time that an upgrade takes on any machine.
const DEADLINE: Duration = Duration::from_secs(100);

/// A setup with a generous deadline, since slow machines are not under test, and a short drain.
pub fn setup() -> Setup {
    Setup::new()
        .set("limits.request_deadline_milli", 15_000)
        .set("server.drain_delay_milli", 300)
        .set("server.drain_timeout_milli", 20_000)
}

/// A proxy and its successors, which are not children of the test. All are killed on drop.
pub struct Generations(pub Proxy);

impl Generations {
    /// Returns the newest process.
    pub fn newest(&self) -> u32 {
        let log = self.0.log();
        let served = log.lines().filter(|line| line.contains("another process serves"));
        served.filter_map(|line| number(line, "pid=")).next_back().unwrap_or(self.0.pid())
    }

    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.newest());
        tools::run(Command::new("sh").args(["-c", &command]), "a POSIX shell is needed");
    }

    /// Waits until the log has `count` lines that contain `text`.
    #[track_caller]
    pub fn wait_for_lines(&self, text: &str, count: usize) {
        let started = Instant::now();
        while self.0.log().matches(text).count() < count {
            assert!(started.elapsed() < DEADLINE, "waiting for {count} x {text:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Performs the `nth` upgrade and waits until the old process has ended.
    #[track_caller]
    fn upgrade(&self, nth: usize) {
        self.signal("USR2");
        self.wait_for_lines("another process serves", nth);
        self.wait_for_lines("stopped", nth);
    }
}

impl Drop for Generations {
    fn drop(&mut self) {
        for pid in self.0.log().lines().filter_map(|line| {
            line.contains("upgrade: started").then(|| number(line, "pid=")).flatten()
        }) {
            // The process may have ended long ago, so its id is checked first.
            let arguments = format!("/proc/{pid}/cmdline");
            if fs::read(arguments).is_ok_and(|it| String::from_utf8_lossy(&it).contains("proxy")) {
                let _ = Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).output();
            }
        }
    }
}

fn number(line: &str, before: &str) -> Option<u32> {
    let digits = line.split_once(before)?.1;
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

/// Several upgrades in a row under load, over TLS: every call succeeds, on open and on new
/// connections. The listeners of two event loops and of the admin API are handed over.
#[test]
fn under_load() {
    let setup = setup().tls().set("server.event_loops", 2).set("admin.port", 0);
    let proxy = Generations(super::audit::audited(setup).start());
    let load = Load::start(&proxy.0.client(), 4);
    for nth in 1..=4 {
        load.wait_for_answers(20);
        proxy.upgrade(nth);
    }
    load.wait_for_answers(20);
    let answered = load.finish();
    assert_eq!(proxy.0.get("/readyz").status, 200);
    assert_eq!(proxy.0.admin_get("/readyz").status, 200);
    let log = proxy.0.log();
    assert_eq!(log.matches("inherited_sockets=4").count(), 4, "{log}");
    proxy.signal("TERM");
    proxy.wait_for_lines("stopped", 5);
    assert!(Connection::open(proxy.0.api, None).is_err(), "the last one closes the sockets");
    // All five processes wrote one continuous audit log, one after the other.
    super::audit::assert_one_log(proxy.0.directory(), 5, answered);
}

/// A module that opens descriptors without O_CLOEXEC: the new process has those of its own module
/// and none of the old one's, whose connection to the HSM they may be.
#[test]
fn descriptors_of_the_module() {
    let proxy = Interposed::with(setup(), "[odd]\nleaves_open = true\n");
    let proxy = Generations(proxy.into_proxy());
    let left_open = || {
        let listed = fs::read_dir(format!("/proc/{}/fd", proxy.newest())).unwrap();
        let targets = listed.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        targets.filter(|target| target == Path::new("/dev/zero")).count()
    };
    assert_eq!(left_open(), 1);
    let counts: Vec<usize> = (1..=3)
        .map(|nth| {
            proxy.upgrade(nth);
            left_open()
        })
        .collect();
    assert_eq!(counts, [1, 1, 1], "after each upgrade");
    proxy.0.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
}

/// The new process has a different number of event loops: all sockets still accept connections.
#[test]
fn other_event_loops() {
    let prepared =
        setup().set("server.event_loops", 3).set("server.pid_file", "proxy.pid").prepare();
    let settings = prepared.settings_file.clone();
    let proxy = Generations(prepared.start());
    let load = Load::start(&proxy.0.client(), 2);
    for (nth, loops) in [(1, 1), (2, 4)] {
        let text = fs::read_to_string(&settings).unwrap();
        let before = if nth == 1 { 3 } else { 1 };
        let changed =
            text.replace(&format!("event_loops = {before}"), &format!("event_loops = {loops}"));
        assert_ne!(changed, text);
        fs::write(&settings, changed).unwrap();
        proxy.upgrade(nth);
        load.wait_for_answers(10);
        let pid = fs::read_to_string(proxy.0.directory().join("proxy.pid")).unwrap();
        assert_eq!(pid.trim(), proxy.newest().to_string());
    }
    // Enough connections for each socket to receive some.
    for _ in 0..50 {
        proxy.0.client().call("health", &xks::health()).ok();
    }
    load.finish();
}

/// If the new program or its settings have any fault, the old process keeps serving and logs why.
#[test]
fn what_cannot_start() {
    let mut prepared: Prepared = setup().prepare();
    let good = prepared.link_binary();
    let link = prepared.directory().join("linked-proxy");
    let settings = prepared.settings_file.clone();
    let script = prepared.directory().join("script");
    let proxy = Generations(prepared.start());
    let client = proxy.0.client();
    let mut kept = client.connect();
    let lead_to = |target: &Path| {
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
    };
    let mut failures = 0;
    let mut fails = |why: &str| {
        failures += 1;
        proxy.signal("USR2");
        proxy.wait_for_lines("upgrade failed", failures);
        let log = proxy.0.log();
        let line = log.lines().rfind(|line| line.contains("upgrade failed")).unwrap();
        assert!(line.contains(why), "{line}");
        client.send(&mut kept, "health", xks::health().to_string().as_bytes());
        let answer = kept.receive().unwrap();
        assert_eq!(answer.header("connection"), None, "no drain");
        answer.ok();
    };

    lead_to(&script);
    fails("cannot be started");
    for (text, why) in
        [("exit 3", "exit status: 3"), ("printf nonsense >&0; exec sleep 100", "unknown message")]
    {
        fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        fails(why);
    }
    lead_to(&good);
    let right = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, right.replace("region = ", "regoin = ")).unwrap();
    fails("exit status: 78");
    // The inherited sockets cannot move to another address.
    fs::write(&settings, right.replace("ip = \"127.0.0.1\"", "ip = \"127.0.0.2\"")).unwrap();
    fails("exit status: 78");
    proxy.0.log_with("the settings have 127.0.0.2:0");

    fs::write(&settings, right).unwrap();
    proxy.upgrade(1);
    client.call("health", &xks::health()).ok();
}

/// If the new process cannot use the HSM, the old one stays in service. If SIGTERM arrives while
/// the new one is still trying, both end.
#[test]
fn not_before_a_token_works() {
    let prepared = setup().prepare();
    let settings = prepared.settings_file.clone();
    let proxy = Generations(prepared.start());
    let text = fs::read_to_string(&settings).unwrap();
    let wrong = text.replace("user_pin = \"1234\"", "user_pin = \"wrong\"");
    assert_ne!(text, wrong);
    fs::write(&settings, wrong).unwrap();
    proxy.signal("USR2");
    proxy.wait_for_lines("taking over once a token works", 1);
    thread::sleep(Duration::from_millis(500));
    for _ in 0..20 {
        proxy.0.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    }
    proxy.signal("TERM");
    proxy.wait_for_lines("stopped", 2);
    assert!(Connection::open(proxy.0.api, None).is_err());
}

/// The new process would inherit Landlock's restrictions, so the upgrade is refused.
#[test]
fn not_out_of_landlock() {
    let all = std::env::temp_dir().to_str().unwrap().to_owned();
    let setup = setup()
        .set("security.landlock", true)
        .set("security.landlock_write", toml::Value::Array(vec![all.into()]));
    let proxy = Generations(setup.start());
    proxy.signal("USR2");
    proxy.wait_for_lines("a new process would be confined", 1);
    proxy.0.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
}

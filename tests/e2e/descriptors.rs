//! The system's limit of open files (RLIMIT_NOFILE): a stranger who opens connections must not be
//! able to use it up, and if it is used up anyway, the proxy waits without spinning until
//! descriptors are free.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::common::settings::set;
use crate::common::{Connection, Proxy, Setup, xks};

const PAUSES: &str = "accepting connections pauses";

/// With fewer open files than max_connections, connections are limited to the descriptors that the
/// HSM's module, the log and `/ping` leave, so that a new good connection always has room.
#[test]
fn fewer_than_connections() {
    let mut prepared = Setup::new().set("admin.port", 0).prepare();
    prepared.limit_open_files(200);
    let mut proxy = prepared.start();
    assert!(proxy.log().contains("RLIMIT_NOFILE"), "a warning at start");
    // The limit in use is shown, and still is after a reload.
    let assert_shown = |proxy: &Proxy, limit: u64| {
        let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
        let line = format!("\nxks_proxy_connections_max {limit}\n");
        assert!(metrics.contains(&line), "{metrics}");
        let status = proxy.admin_get("/status.json").json();
        assert_eq!(status["connections"]["max"].as_u64(), Some(limit));
    };
    assert_shown(&proxy, 100);
    for (reloads, setting, limit) in [(1, 30, 30), (2, 500, 100)] {
        proxy.change_settings(|table| set(table, "limits.max_connections", setting));
        proxy.signal("HUP");
        proxy.wait_for("a reload", |proxy| {
            proxy.log().matches("settings reloaded").count() == reloads
        });
        assert_shown(&proxy, limit);
    }
    let client = proxy.client();
    let mut strangers = Vec::new();
    for _ in 0..10 {
        strangers.extend((0..50).map(|_| TcpStream::connect(proxy.api).unwrap()));
        client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
        assert_eq!(proxy.get("/ping").status, 200);
        assert_eq!(proxy.get("/readyz").status, 200);
    }
    assert!(open_files(&proxy) <= 150, "{} of 200", open_files(&proxy));
    assert!(!proxy.log().contains(PAUSES), "it never came to that");
}

/// When no descriptor is left, open connections are served and new ones wait in the kernel's queue.
/// The proxy only retries from time to time and logs one line, and it serves all of them once there
/// are descriptors again.
#[test]
fn none_left() {
    let mut proxy = Setup::new().set("admin.port", 0).start();
    let client = proxy.client();
    let health = xks::health().to_string();
    let mut open = client.connect();
    let is_served = |open: &mut Connection| {
        client.send(open, "health", health.as_bytes());
        open.receive().unwrap().ok();
    };
    is_served(&mut open);

    let pid = Pid::from_raw(i32::try_from(proxy.id()).unwrap());
    let limit = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(4096) };
        prlimit(pid, Resource::Nofile, limit).unwrap()
    };
    let began = Instant::now();
    let before = limit(u64::try_from(open_files(&proxy)).unwrap() + 10);
    let mut waiting: Vec<_> = (0..60).map(|_| client.connect()).collect();
    proxy.wait_for("accepting to pause", |proxy| proxy.log().contains(PAUSES));
    let (cpu, since) = (cpu_time(&proxy), Instant::now());
    while since.elapsed() < Duration::from_millis(1500) {
        is_served(&mut open);
        std::thread::sleep(Duration::from_millis(50));
    }
    // A busy loop would use a full core, as far as one is available.
    let (used, elapsed) = (cpu_time(&proxy) - cpu, since.elapsed());
    assert!(used < elapsed / 3, "{used:?} of CPU time in {elapsed:?}");

    limit(before.current.unwrap().min(4096));
    for connection in &mut waiting {
        is_served(connection);
    }
    assert_eq!(proxy.get("/ping").status, 200);
    let elapsed = began.elapsed();
    // Each listener retries every 50 ms, and logs one line every 10 s.
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let line = metrics.lines().find(|line| line.starts_with("xks_proxy_accept_pauses_total "));
    let pauses: u128 = line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(pauses > 1 && pauses <= elapsed.as_millis() / 50 + 2, "{pauses} in {elapsed:?}");
    let lines = proxy.log().matches(PAUSES).count();
    assert!(lines <= 1 + usize::try_from(elapsed.as_secs()).unwrap() / 10, "{lines} lines");
}

fn open_files(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.id())).unwrap().count()
}

/// Returns the user and system time of all of the proxy's threads so far (proc(5), /proc/pid/stat).
fn cpu_time(proxy: &Proxy) -> Duration {
    let stat =
        std::fs::read_to_string(Path::new("/proc").join(proxy.id().to_string()).join("stat"));
    let stat = stat.unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

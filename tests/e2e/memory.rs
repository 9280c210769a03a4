//! Memory: a smaller share for strangers, and defaults that fit into the process's cgroup.

use std::fs;
use std::path::{Path, PathBuf};

use super::metrics::watched;
use crate::common::settings::set;
use crate::common::{Connection, Proxy, xks};

/// Returns a sample without labels.
fn sample(proxy: &Proxy, name: &str) -> u64 {
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// Sends a request without a signature, up to the middle of its body.
fn begin(proxy: &Proxy, connection: &mut Connection) {
    let target = proxy.client().target("health");
    let head = format!("POST {target} HTTP/1.1\r\nhost: h\r\ncontent-length: 30000\r\n\r\n");
    // The proxy may have closed it already.
    let _ = connection.send(&[head.as_bytes(), &[b' '; 24_000]].concat());
}

/// Connections that never sent an authentic request hold a quarter of the memory at most; others
/// hold more.
#[test]
fn strangers_have_a_smaller_share() {
    const MAX: u64 = 16 * 1024 * 1024;
    /// Size of the buffer for a request that is not a small one.
    const BUFFER: u64 = 86_000;
    const EACH: u64 = 80;
    let mut proxy = watched()
        .set("server.event_loops", 1)
        .set("limits.max_buffered_bytes", i64::try_from(MAX).unwrap())
        .set("limits.body_timeout_milli", 600_000)
        .start();
    let client = proxy.client();
    let mut proven: Vec<Connection> = (0..EACH).map(|_| client.connect()).collect();
    for connection in &mut proven {
        client.send(connection, "health", xks::health().to_string().as_bytes());
        connection.receive().unwrap().ok();
        begin(&proxy, connection);
    }
    let evicted = |proxy: &Proxy| sample(proxy, "xks_proxy_connections_evicted_total");
    assert_eq!(evicted(&proxy), 0);
    let mut strangers: Vec<Connection> = (0..EACH).map(|_| client.connect()).collect();
    for connection in &mut strangers {
        begin(&proxy, connection);
    }
    let too_many = EACH - MAX / 4 / BUFFER;
    proxy.wait_for("strangers to make room", |proxy| evicted(proxy) >= too_many);
    const { assert!(2 * EACH * BUFFER < MAX, "there would be room for all") };
    // A call on a new connection is served.
    client.call("health", &xks::health()).ok();
    assert!(evicted(&proxy) <= too_many + 2, "{}", evicted(&proxy));
    // Those that have sent an authentic request are still there: the rest of the body is read.
    for connection in &mut proven {
        connection.send(&[b' '; 6_000]).unwrap();
        connection.receive().unwrap().assert_error(401, "AuthenticationFailedException");
    }
}

/// A control group of the test's own, with a limit of memory.
struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one below the test's own, if this machine allows that.
    fn with_memory(bytes: u64) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
        let paths = groups.lines().filter_map(|line| {
            let (_, path) = line.split_once(':')?;
            match path.split_once(':')? {
                ("memory", path) => {
                    Some(("/sys/fs/cgroup/memory", path.to_owned(), "memory.limit_in_bytes"))
                }
                ("", path) => Some(("/sys/fs/cgroup", path.to_owned(), "memory.max")),
                _ => None,
            }
        });
        paths.into_iter().find_map(|(mount, path, file)| {
            let name = format!("xks-proxy-test-{}", std::process::id());
            let group = Path::new(mount).join(path.trim_start_matches('/')).join(name);
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            fs::write(group.0.join(file), bytes.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel may not have noticed yet that the process in it has ended.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Reloads the settings, for the `nth` time, and returns the limit of connections in use.
#[track_caller]
fn max_after_reload(proxy: &mut Proxy, nth: usize) -> u64 {
    proxy.signal("HUP");
    proxy.wait_for("a reload", |it| it.log().matches("settings reloaded").count() == nth);
    sample(proxy, "xks_proxy_connections_max")
}

/// With little memory, defaults are smaller, and what the settings allow beyond that is a warning
/// that names both. (Which file has the limit is tested without a cgroup: src/settings/memory.rs.)
#[test]
fn in_a_small_cgroup() {
    let Some(cgroup) = Cgroup::with_memory(64 << 20) else {
        eprintln!("left out: this user may not make a cgroup with a limit of memory");
        return;
    };
    let mut proxy = watched().start();
    fs::write(cgroup.0.join("cgroup.procs"), proxy.pid().to_string()).unwrap();
    assert_eq!(max_after_reload(&mut proxy, 1), 512);
    proxy.change_settings(|table| set(table, "limits.max_connections", 10_000));
    assert_eq!(max_after_reload(&mut proxy, 2), 10_000);
    let log = proxy.log();
    let line = log.lines().rfind(|line| line.contains("more than the memory")).unwrap();
    for part in ["WARN", "max_connections = 10000", "67108864 bytes", "write 512"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

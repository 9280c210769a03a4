//! Socket activation, with the test in systemd's role: it holds the listening sockets and receives
//! the notifications.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::load::Load;
use crate::common::proxy::free_port;
use crate::common::{Connection, Setup, xks};

fn listener() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).unwrap()
}

fn port(listener: &TcpListener) -> i64 {
    listener.local_addr().unwrap().port().into()
}

/// Sockets with unknown names are recognised by their addresses. The process is stopped and started
/// again under load while connections wait: no call fails, even without a drain delay.
#[test]
fn restarts_under_load() {
    let (api, ping) = (listener(), listener());
    let mut prepared = Setup::new()
        .tls()
        .set("server.port", port(&api))
        .set("server.port_http_ping", port(&ping))
        .set("server.drain_delay_milli", 0)
        .set("server.drain_timeout_milli", 20_000)
        .set("limits.request_deadline_milli", 15_000)
        .prepare();
    prepared.activate(vec![("xks-proxy.socket", ping), ("xks-proxy.socket", api)]);
    let mut proxy = prepared.start();
    assert!(proxy.log().contains("inherited_sockets=2"), "{}", proxy.log());
    let load = Load::start(&proxy.client(), 3);
    for _ in 0..3 {
        load.wait_for_answers(20);
        proxy.signal("TERM");
        proxy.start_again();
    }
    load.wait_for_answers(20);
    load.finish();
    assert_eq!(proxy.get("/ping").status, 200);
}

/// Two event loops accept from one socket, and each gets a share.
#[test]
fn loops_share_a_socket() {
    const CONNECTIONS: usize = 64;
    let mut prepared = Setup::new()
        .set("server.event_loops", 2)
        // Allows the test to inspect the process.
        .set("security.allow_core_dumps", true)
        .prepare();
    prepared.activate(vec![("api", listener())]);
    let proxy = prepared.start();
    let client = proxy.client();
    let body = xks::health().to_string();
    let mut kept: Vec<Connection> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut connection = client.connect();
        client.send(&mut connection, "health", body.as_bytes());
        connection.receive().unwrap().ok();
        kept.push(connection);
    }
    let mut shares = descriptors_by_epoll(proxy.pid());
    shares.sort_unstable();
    let [.., fewer, more] = shares[..] else { panic!("{shares:?}") };
    assert!(fewer + more >= CONNECTIONS && fewer >= CONNECTIONS / 4, "{shares:?}");
    // All at once, and all are answered.
    for connection in &mut kept {
        client.send(connection, "health", body.as_bytes());
    }
    for connection in &mut kept {
        connection.receive().unwrap().ok();
    }
}

/// Returns the number of descriptors in each epoll set of a process (proc_pid_fdinfo(5)).
fn descriptors_by_epoll(pid: u32) -> Vec<usize> {
    let directory = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let is_epoll = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|target| target.ends_with("anon_inode:[eventpoll]"))
    };
    entries
        .filter(is_epoll)
        .map(|entry| {
            let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().display());
            fs::read_to_string(info).unwrap().matches("tfd:").count()
        })
        .collect()
}

/// All mismatches with the settings are reported, and nothing is served.
#[test]
fn what_does_not_fit() {
    let (api, other) = (listener(), listener());
    let wanted = free_port();
    let mut prepared = Setup::new().set("server.port", wanted).prepare();
    prepared.activate(vec![("api", api), ("other", other)]);
    let (status, log) = prepared.run_to_end();
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(
        log.contains(&format!("the settings have 127.0.0.1:{wanted}; make the two match")),
        "{log}"
    );
    assert!(log.contains("handed over as \"other\" listens on"), "{log}");
}

/// A socket passed to another process (LISTEN_PID has its id) is left alone.
#[test]
fn for_another_process() {
    let proxy = Setup::new().env("LISTEN_PID", "1").env("LISTEN_FDS", "1").start();
    assert!(proxy.log().contains("inherited_sockets=0"), "{}", proxy.log());
}

/// systemd is notified, in order, that the service is ready, is alive, reloads its settings, and is
/// replaced by another process, which is ready, is alive, and stops.
#[test]
fn messages() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let receive = || {
        let mut message = [0; 4096];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    // Skips the watchdog's messages.
    let next = || loop {
        let message = receive();
        if message != "WATCHDOG=1" {
            return message;
        }
    };
    let lives = || while receive() != "WATCHDOG=1" {};

    let mut proxy = Setup::new()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "400000")
        .set("server.drain_delay_milli", 100)
        .start();
    assert_eq!(next(), "READY=1\nSTATUS=serving");
    lives();
    proxy.signal("HUP");
    let message = next();
    let (reloading, micros) = message.split_once("MONOTONIC_USEC=").expect(&message);
    assert_eq!(reloading, "RELOADING=1\n");
    assert!(micros.lines().next().unwrap().parse::<u64>().unwrap() > 0, "{message}");
    assert_eq!(next(), "READY=1\nSTATUS=serving");
    proxy.signal("USR2");
    assert_eq!(next(), "STATUS=serving; an upgrade is under way");
    let message = next();
    let pid: u32 = message.strip_prefix("MAINPID=").expect(&message).parse().unwrap();
    assert_ne!(pid, proxy.pid());
    assert_eq!(next(), "READY=1\nSTATUS=serving");
    assert_eq!(proxy.wait_for_end().code(), Some(0));
    lives();
    lives();
    let kill = format!("kill -TERM {pid}");
    std::process::Command::new("sh").args(["-c", &kill]).status().unwrap();
    // The old process, which is no longer the service, has not announced its stop.
    let message = next();
    let micros = message.strip_prefix("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=");
    let micros: u64 = micros.expect(&message).parse().unwrap();
    // drain_delay_milli, drain_timeout_milli, the sessions and the logs: all of that, not much more.
    assert!((5_100_000 + 2_000_000..60_000_000).contains(&micros), "{message}");
}

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use syslog_fmt::Facility;

use super::*;
use crate::limits::MAX_SYSLOG_BACKLOG_BYTES;
use crate::observe::syslog::message::Kind;

const PATIENCE: Duration = Duration::from_secs(60);

fn start(address: Address) -> Arc<Forwarder> {
    let origin = Origin::of_process("t", Facility::Daemon, Kind::Log);
    Forwarder::start(address, origin, MAX_SYSLOG_BACKLOG_BYTES).unwrap()
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not in time");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The numbers that the messages bear.
fn sequence(text: &str) -> Vec<u64> {
    let numbers = text.split("sequenceId=\"").skip(1);
    numbers.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

/// A line of 1,000 bytes.
fn line() -> Vec<u8> {
    let mut line = vec![b'x'; 999];
    line.push(b'\n');
    line
}

/// Lines that arrive before the collector does are kept, in order.
#[test]
fn a_collector_that_comes_late() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let forwarder = start(Address::UnixDatagram(path.clone()));
    forwarder.push(b"one\ntwo\n");
    wait_until(|| forwarder.stats().failures > 0);
    let stats = forwarder.stats();
    assert!(!stats.is_connected && stats.trouble.is_some(), "{stats:?}");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    forwarder.push(b"three\n");
    let mut text = String::new();
    for _ in 0..3 {
        let mut buffer = [0; 2000];
        let count = socket.recv(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
    }
    assert_eq!(sequence(&text), [1, 2, 3]);
    let places = ["one", "two", "three"].map(|word| text.find(word).unwrap());
    assert!(places.is_sorted());
    forwarder.begin_stop();
    assert!(forwarder.wait_stopped(Instant::now() + PATIENCE));
    let stats = forwarder.stats();
    assert_eq!((stats.sent_lines, stats.dropped_lines), (3, 0));
}

/// A collector that reads nothing costs lines, never time: adding does not wait, and what is lost
/// is counted, and missing among the numbers once it reads again.
#[test]
fn a_collector_that_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forwarder = start(Address::Tcp(listener.local_addr().unwrap().to_string()));
    let (mut peer, _) = listener.accept().unwrap();
    let lines = line().repeat(1000);
    let pushed = 60;
    let began = Instant::now();
    for _ in 0..pushed {
        forwarder.push(&lines);
        // The thread gets its turn, so that the kernel's buffers and two of ours fill up.
        thread::sleep(Duration::from_millis(1));
    }
    assert!(began.elapsed() < Duration::from_secs(30));
    let dropped = forwarder.stats().dropped_lines;
    assert!(dropped > 0, "{dropped}");

    // Meanwhile the time-out of the first connection may pass: then the rest comes on another.
    listener.set_nonblocking(true).unwrap();
    let mut texts = vec![Vec::new()];
    peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut last = false;
    wait_until(|| {
        if let Ok((next, _)) = listener.accept() {
            let _ = peer.read_to_end(texts.last_mut().unwrap());
            peer = next;
            peer.set_nonblocking(false).unwrap();
            peer.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            texts.push(Vec::new());
        }
        let mut buffer = vec![0; 1 << 20];
        while let Ok(count @ 1..) = peer.read(&mut buffer) {
            texts.last_mut().unwrap().extend_from_slice(&buffer[..count]);
        }
        let stats = forwarder.stats();
        let is_all = stats.sent_lines + stats.dropped_lines == pushed * 1000;
        // The line after the gap shows it.
        if is_all && !std::mem::replace(&mut last, true) {
            forwarder.push(b"last\n");
        }
        texts.last().unwrap().ends_with(b"last")
    });
    let stats = forwarder.stats();
    assert_eq!(stats.sent_lines + stats.dropped_lines, pushed * 1000 + 1);
    let mut numbers: Vec<u64> =
        texts.iter().flat_map(|text| sequence(&String::from_utf8_lossy(text))).collect();
    numbers.dedup();
    // Those sent twice are the same ones.
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len() as u64, stats.sent_lines);
    assert_eq!(*numbers.last().unwrap(), pushed * 1000 + 1, "{stats:?}");
}

/// The end of the process is not held up by a collector that cannot be reached, and the lines that
/// it leaves behind are counted.
#[test]
fn stopping_without_a_collector() {
    let forwarder = start(Address::UnixStream("/nonexistent/socket".into()));
    forwarder.push(b"one\ntwo\n");
    wait_until(|| forwarder.stats().failures > 0);
    let began = Instant::now();
    forwarder.begin_stop();
    assert!(forwarder.wait_stopped(Instant::now() + PATIENCE));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    forwarder.push(b"three\n");
    let stats = forwarder.stats();
    assert_eq!((stats.sent_lines, stats.dropped_lines), (0, 3));
    assert_eq!(forwarder.lost_lines(), 3);
}

/// Lines count as lost at the end whoever has them: the queue, or the thread that is still trying.
#[test]
fn stopping_while_the_collector_hangs() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forwarder = start(Address::Tcp(listener.local_addr().unwrap().to_string()));
    let (_peer, _) = listener.accept().unwrap();
    // More than the kernel takes, and then some that stay in the queue.
    forwarder.push(&line().repeat(8_000));
    let sent = || forwarder.stats().sent_lines;
    wait_until(|| sent() > 0);
    let mut before = sent();
    wait_until(|| {
        thread::sleep(Duration::from_millis(500));
        before == std::mem::replace(&mut before, sent())
    });
    forwarder.push(&line().repeat(7));
    forwarder.begin_stop();
    assert!(!forwarder.wait_stopped(Instant::now() + Duration::from_millis(10)));
    assert_eq!(forwarder.lost_lines() + sent(), 8_007);
}

/// A collector that is down is tried ever less often, even if there is nothing to send.
#[test]
fn idle_without_a_collector() {
    let forwarder = start(Address::UnixStream("/nonexistent/socket".into()));
    let after = |failures: u64| {
        wait_until(|| forwarder.stats().failures >= failures);
        Instant::now()
    };
    let began = Instant::now();
    // After 50, 100, 200 and 400 ms, plus a quarter at most.
    let fifth = after(5);
    assert!(fifth - began < Duration::from_secs(3), "{:?}", fifth - began);
    // After 800, 1,600 and 3,200 ms, minus a quarter at most.
    let (seventh, eighth) = (after(7), after(8));
    assert!(eighth - seventh > Duration::from_secs(2), "{:?}", eighth - seventh);
}

/// A connection that the collector has closed is noticed before a line is written to it, which
/// would be lost without an error.
#[test]
fn a_collector_that_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let forwarder = start(Address::UnixStream(path));
    let mut text = String::new();
    for number in 1..=5 {
        let (mut peer, _) = listener.accept().unwrap();
        forwarder.push(format!("{number}\n").as_bytes());
        wait_until(|| forwarder.stats().sent_lines == number);
        let mut buffer = [0; 2000];
        let count = peer.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        drop(peer);
    }
    assert_eq!(sequence(&text), [1, 2, 3, 4, 5]);
    assert_eq!(text.lines().count(), 5);
}

/// A load balancer without a collector behind it accepts and closes. That is a failure, and the lines
/// wait for a collector: on such a connection they would be lost, though counted as sent.
#[test]
fn a_collector_that_accepts_and_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forwarder = start(Address::Tcp(listener.local_addr().unwrap().to_string()));
    for _ in 0..2 {
        drop(listener.accept().unwrap());
    }
    wait_until(|| forwarder.stats().failures > 0);
    forwarder.push(b"one\n");
    for _ in 0..2 {
        drop(listener.accept().unwrap());
    }
    let (mut peer, _) = listener.accept().unwrap();
    let stats = forwarder.stats();
    assert_eq!((stats.sent_lines, stats.is_connected), (0, false), "{stats:?}");
    assert!(stats.trouble.unwrap().contains("closes them"));
    wait_until(|| forwarder.stats().sent_lines == 1);
    let stats = forwarder.stats();
    assert!(stats.is_connected && stats.trouble.is_none(), "{stats:?}");
    let mut buffer = [0; 2000];
    let count = peer.read(&mut buffer).unwrap();
    assert!(buffer[..count].ends_with(b"one"));
}

//! A panic while handling a request, at any point, ends only that connection: it is counted and
//! logged with its location, nothing of the request is left in shared memory, and the other
//! connections continue.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::config::Config;
use super::faults::{self, PanicPoint};
use super::*;
use crate::hsm::backend::{Backend, Fault, Health, Identity, OpenError, Session};
use crate::hsm::inventory::TokenInventory;
use crate::job::{Iv, KeyIndex, Operation, Request, Success};
use crate::observe::metrics::counter::SharedCounter;
use crate::observe::panics;
use crate::proto::service_config::Timeouts;
use crate::proto::{ServiceOptions, StoreConfig};

/// Longer than any wait here, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);
const MARK: &str = "aW4gdGhlIGNsZWFy";

/// A token that returns its input.
#[derive(Default)]
struct Echo {
    /// The next call from the event loop panics.
    panics: Arc<AtomicBool>,
}

impl Backend for Echo {
    fn open(&self) -> Result<Box<dyn Session>, OpenError> {
        Ok(Box::new(EchoSession))
    }

    fn has_key(&self, _: KeyIndex) -> bool {
        assert!(!self.panics.swap(false, Ordering::Relaxed), "on demand");
        true
    }

    fn take_stale(&self) -> bool {
        false
    }

    fn identity(&self) -> Identity {
        Identity::default()
    }

    fn reinitialize(&self) -> bool {
        false
    }

    fn cdiv_mismatches(&self) -> u64 {
        0
    }

    fn inventory(&self) -> TokenInventory {
        TokenInventory::default()
    }

    fn close(&self) {}
}

struct EchoSession;

impl Session for EchoSession {
    fn perform(&mut self, request: &Request, output: &mut Vec<u8>) -> Result<Success, Fault> {
        output.extend_from_slice(&request.input);
        match request.operation {
            Operation::Encrypt { .. } => Ok(Success::Encrypted {
                iv: Iv::from_slice(&[1; 12]).unwrap(),
                tag: [2; 16],
                cdiv: None,
            }),
            _ => Ok(Success::Decrypted),
        }
    }

    fn check_health(&mut self, _: &dyn crate::hsm::backend::KeyChoice) -> Result<Health, Fault> {
        Ok(Health::Good)
    }

    fn refresh_keys(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

/// A fleet with one [`Echo`] token.
pub(super) fn echo() -> Arc<Hsm> {
    Hsm::start_with(vec![(Box::new(Echo::default()), 1)], Vec::new()).unwrap()
}

/// A store whose quota is one request at a time: a permit that is not returned would be noticed.
pub(super) fn service() -> ServiceConfig {
    let long = PATIENCE;
    let timeouts = Timeouts {
        request: Duration::from_secs(5),
        head: Duration::from_millis(50),
        body: long,
        idle: long,
        write: long,
        handshake: long,
    };
    let options = ServiceOptions {
        is_sigv4_auth_enabled: false,
        ..ServiceOptions::new("us-east-1", "kms-xks-proxy", timeouts)
    };
    let store = StoreConfig {
        uri_path_prefix: "/of/the/test".to_owned(),
        key_ids: vec!["foo".to_owned()],
        max_in_flight: Some(1),
        ..StoreConfig::default()
    };
    ServiceConfig::new(options, vec![store], None, None)
}

/// The log of the loop's thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A running event loop.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) metrics: Arc<Metrics>,
    hsm_panics: Arc<AtomicBool>,
    pub(super) thread: JoinHandle<io::Result<()>>,
    log: Log,
}

pub(super) fn start(config: &Config, panics: Arc<SharedCounter>) -> Running {
    let mut server = Server::bind(config).unwrap_or_else(|error| panic!("{error:?}"));
    let hsm_panics = Arc::new(AtomicBool::new(false));
    // A fleet of several tokens asks a token for a job's key before it gets the job.
    let backend = || -> Box<dyn Backend> { Box::new(Echo { panics: Arc::clone(&hsm_panics) }) };
    let backends = vec![(backend(), 2), (backend(), 2)];
    let hsm = Hsm::start_with(backends, server.completions()).unwrap();
    let metrics = Arc::new(Metrics::new(1, panics));
    let (event_loop, of_loop) = (server.loops.remove(0), metrics.of_loop(0));
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let run = move || {
        tracing::subscriber::with_default(subscriber, || {
            event_loop.run(0, Arc::new(service()), hsm, AccessLog::default(), of_loop)
        })
    };
    let thread = thread::Builder::new().name(LOOP.to_owned()).spawn(run).unwrap();
    let (address, lifecycle) = (server.api_address(), server.lifecycle());
    Running { address, lifecycle, metrics, hsm_panics, thread, log }
}

const LOOP: &str = "a-loop-that-may-panic";

/// Records panics of the loop under test as the program does, and leaves all others to the usual
/// hook.
fn watch_panics() -> Arc<SharedCounter> {
    let counter: Arc<SharedCounter> = Arc::default();
    let (usual, noted) = (std::panic::take_hook(), Arc::clone(&counter));
    std::panic::set_hook(Box::new(move |panic| match thread::current().name() {
        Some(LOOP) => panics::record(panic, &noted),
        _ => usual(panic),
    }));
    counter
}

pub(super) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(super) fn encrypt() -> String {
    let body = format!(
        r#"{{"requestMetadata":{{"awsPrincipalArn":"a","kmsKeyArn":"k","kmsOperation":"Encrypt","kmsRequestId":"1"}},"plaintext":"{MARK}","encryptionAlgorithm":"AES_GCM"}}"#
    );
    format!(
        "POST /of/the/test/kms/xks/v1/keys/foo/encrypt HTTP/1.1\r\nHost: h\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Sends `request` and returns the answer.
pub(super) fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the end in place of an answer");
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8(answer.clone()).unwrap();
        // Every answer here ends in one of these ways, and arrives in one piece.
        if text.ends_with('}') || text.contains("pong") {
            return text;
        }
    }
}

/// Returns whether the connection has ended without an answer.
fn has_ended(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_panic_ends_one_connection() {
    let panics = watch_panics();
    let running = start(&Config::local(), Arc::clone(&panics));
    let mut bystander = connect(running.address);
    assert!(ask(&mut bystander, &encrypt()).starts_with("HTTP/1.1 200"));
    let get = "GET /ping HTTP/1.1\r\nHost: h\r\n\r\n";
    let unfinished = "POST /of/the/test/kms/xks/v1/keys/foo/encrypt HTTP/1.1\r\n";
    let cases = [
        (PanicPoint::Received, encrypt()),
        (PanicPoint::Answer, get.to_owned()),
        (PanicPoint::Answer, encrypt()),
        (PanicPoint::Completion, encrypt()),
        (PanicPoint::Deadline, unfinished.to_owned()),
    ];
    let mut expected = 0;
    for _ in 0..3 {
        for (place, request) in &cases {
            let mut victim = connect(running.address);
            faults::arm(*place, victim.local_addr().unwrap());
            victim.write_all(request.as_bytes()).unwrap();
            assert!(has_ended(&mut victim), "{place:?}");
            expected += 1;
            assert_eq!(panics.get(), expected, "{place:?}");
            assert_eq!(running.metrics.panics.get(), expected);
            // The others' answers contain no part of the request, and the store's one permit is
            // free again.
            for stream in [&mut bystander, &mut connect(running.address)] {
                let answer = ask(stream, &encrypt());
                assert!(answer.starts_with("HTTP/1.1 200"), "{place:?}: {answer}");
                assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{place:?}: {answer}");
                assert!(ask(stream, get).contains("pong"));
            }
        }
    }
    // After a panic outside of any connection's turn, the loop continues and the request is
    // answered in time.
    running.hsm_panics.store(true, Ordering::Relaxed);
    let mut victim = connect(running.address);
    let answer = ask(&mut victim, &encrypt());
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    expected += 1;
    assert_eq!(panics.get(), expected);
    for stream in [&mut bystander, &mut victim] {
        assert!(ask(stream, &encrypt()).starts_with("HTTP/1.1 200"));
    }
    drop(victim);
    let metrics = running.metrics.of_loop(0);
    assert_eq!(metrics.in_flight.get(), 0);
    drop(bystander);
    running.lifecycle.stop();
    running.thread.join().unwrap().unwrap();
    assert_eq!(metrics.connections_accepted.get(), metrics.connections_closed.get());
    let log = String::from_utf8(running.log.0.lock().clone()).unwrap();
    let count = usize::try_from(expected).unwrap();
    assert_eq!(log.matches("src/server/faults.rs:").count(), count - 1, "with its place: {log}");
    assert_eq!(log.matches("src/server/panic_tests.rs:").count(), 1, "{log}");
    assert_eq!(log.matches("because handling it panicked").count(), count - 1, "{log}");
    assert_eq!(log.matches("handing them to the HSM panicked").count(), 1, "{log}");
    assert!(!log.contains("on demand") && !log.contains(MARK), "no message: {log}");
}

//! An event loop's access log allocates nothing, as a counting allocator shows.
#![expect(unsafe_code, reason = "a counting allocator")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use xks_proxy::observe::call_record::CallRecord;
use xks_proxy::observe::log::{self, JournalForm, LogConfig, LogFile, LogFormat, Rotation};
use xks_proxy::observe::otlp::Otlp;
use xks_proxy::observe::otlp::config::{OtlpConfig, TraceConfig};
use xks_proxy::observe::otlp::stats::Signal;
use xks_proxy::observe::syslog::{Address, Facility, Syslog, SyslogConfig};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts allocations by thread, so the writer's do not count towards the loop's.
struct Counting;

// SAFETY: every call is passed on to the system allocator unchanged. The counter is a
// constant-initialised thread local without a destructor, so it allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The first time a thread has to wait for a lock, parking_lot allocates its queue entry. This
/// makes that happen here, and not by chance when the writer happens to hold the lock.
fn wait_for_a_lock() {
    let lock = parking_lot::Mutex::new(());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _held = lock.lock();
            std::thread::sleep(std::time::Duration::from_millis(100));
        });
        while !lock.is_locked() {
            std::thread::yield_now();
        }
        drop(lock.lock());
    });
}

/// An export of everything, to nowhere: nothing is sent before it is started.
fn export() -> Otlp {
    Otlp::new(&OtlpConfig {
        endpoint: "http://localhost:9".to_owned(),
        authorities: Vec::new(),
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        signals: Signal::ALL.to_vec(),
        metrics_interval: Duration::from_secs(60),
        log_level: tracing::Level::INFO,
        traces: TraceConfig { calls_per_million: 1_000_000, slow: Duration::from_millis(100) },
        resource: Vec::new(),
    })
}

/// Formatting and handing over a line must not allocate in an event loop, even with strings to
/// escape, lines that are left out, and more lines than the buffer holds.
#[test]
fn no_allocation_when_warm() {
    let directory = tempfile::tempdir().unwrap();
    // A forwarder, too, costs a loop no allocation; that one cannot send makes no difference.
    let syslog = Syslog::start(&[SyslogConfig {
        address: Address::UnixDatagram("/nonexistent/socket".into()),
        tag: "xks-proxy".to_owned(),
        log: Some(Facility::Daemon),
        audit: None,
        backlog_bytes: 1 << 20,
    }])
    .unwrap();
    let config = LogConfig {
        stdout: false,
        file: Some(LogFile {
            directory: directory.path().to_owned(),
            prefix: "calls".to_owned(),
            rotation: Rotation::Hourly,
            mode: 0o640,
        }),
        level: tracing::Level::INFO,
        format: LogFormat::Text,
        journal: JournalForm::Plain,
    };
    let otlp = export();
    let log = log::start(&config, syslog.log(), otlp.lines()).unwrap();
    let mut access_log = log.access_log().with_traces(otlp.traces());
    let success = CallRecord {
        peer: Some("2001:db8::1234:5678".parse().unwrap()),
        is_authenticated: true,
        call: "decrypt",
        store: Some("/example"),
        key_id: Some("key-1"),
        kms_request_id: Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae"),
        principal: Some("arn:aws:iam::123456789012:user/\u{e4}\n\u{1f511}"),
        status: 200,
        queue_micros: Some(3),
        hsm_micros: Some(2_000),
        total_micros: 2_100,
        ..CallRecord::default()
    };
    let unauthenticated = CallRecord { status: 401, is_authenticated: false, ..success };
    access_log.write(&success);
    access_log.flush();
    wait_for_a_lock();

    let before = ALLOCATIONS.get();
    for _ in 0..20 {
        for _ in 0..200 {
            for record in [&success, &unauthenticated] {
                access_log.write(record);
                access_log.traces.offer(record);
            }
        }
        access_log.flush();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);

    // Nobody takes the traced calls: there is room for these, and not for as many again.
    let lost = otlp.stats();
    assert_eq!(lost.of(Signal::Traces).overflowed.get(), 0);
    for _ in 0..20 * 200 {
        access_log.traces.offer(&success);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(lost.of(Signal::Traces).overflowed.get(), 2 * 20 * 200 - 4_096);

    // Confirms that the counter works and that the lines were written.
    let counted = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - counted, 1);
    assert!(log.stop());
    assert_eq!(log.dropped_lines(), 0);
    let file = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();
    let successes = text.lines().filter(|line| line.contains(" status=200 ")).count();
    assert_eq!(successes, 1 + 20 * 200);
}

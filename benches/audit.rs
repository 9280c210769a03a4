//! Costs of an audit log line: `cargo bench --bench audit`.
//!
//! `trail` is the event loop's part: reservation, formatting, hand-over. `chain` is the work added
//! by the writer's thread: the authentication code, and the next key. `whole` is the path of a line
//! from the loop to a file, over all threads.
#![expect(clippy::expect_used, reason = "a bench may")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use xks_proxy::observe::audit::chain::{Chain, key_of};
use xks_proxy::observe::audit::handle::AuditHandle;
use xks_proxy::observe::audit::{Audit, AuditConfig, AuditRotation, AuditSync, WhenFull, key};
use xks_proxy::observe::call_record::CallRecord;

const RECORD: CallRecord<'static> = CallRecord {
    peer: None,
    is_authenticated: true,
    call: "decrypt",
    store: Some("/example/uri/path/prefix"),
    access_key_id: Some("BETWEEN2TENAND3TENCHARACTERS"),
    key_id: Some("foo"),
    key_version: None,
    kms_request_id: Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae"),
    kms_operation: Some("Decrypt"),
    principal: Some("arn:aws:sts::123456789012:assumed-role/application/i-0123456789abcdef0"),
    kms_key_arn: Some(
        "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    ),
    kms_via_service: Some("ebs"),
    source_vpc: Some("vpc-1234567890abcdef0"),
    source_vpce: Some("vpce-1234567890abcdef0"),
    status: 200,
    error_name: None,
    reason: None,
    token: Some("xks-proxy"),
    request_bytes: 677,
    response_bytes: 188,
    started: None,
    queued_after_micros: None,
    queue_micros: None,
    hsm_micros: None,
    total_micros: 264,
};

/// Lengths of the strings that a peer sends.
const LENGTHS: [usize; 9] = [24, 3, 36, 7, 70, 75, 3, 21, 22];

fn call(trail: &mut AuditHandle) {
    let reservation = trail.reserve(black_box(LENGTHS).into_iter()).expect("there is room");
    trail.write(black_box(&RECORD), reservation.as_ref());
}

fn audit(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let key_file = directory.path().join("key");
    key::write_new(&key_file, &[7; 32]).expect("a key");
    let audit = Audit::open(&AuditConfig {
        directory: directory.path().to_owned(),
        prefix: "audit".to_owned(),
        rotation: AuditRotation::Never,
        max_file_bytes: Some(256 * 1024 * 1024),
        retain_files: Some(1),
        when_full: WhenFull::Refuse,
        sync: AuditSync::Never,
        key_file,
        hsm_key: None,
    })
    .expect("an audit log");
    let mut trail = audit.handle();
    let is_idle = || audit.stats().expect("an audit log").queued_bytes == 0;

    criterion.bench_function("trail", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                // No more than the queue holds, and not while the writer is working.
                let count = left.min(2_000);
                left -= count;
                let start = Instant::now();
                (0..count).for_each(|_| call(&mut trail));
                spent += start.elapsed();
                trail.flush();
                while !is_idle() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            spent
        });
    });
    criterion.bench_function("whole", |bencher| {
        bencher.iter_custom(|iterations| {
            let start = Instant::now();
            let mut left = iterations;
            while left > 0 {
                let count = left.min(200);
                left -= count;
                (0..count).for_each(|_| call(&mut trail));
                trail.flush();
                while audit.stats().expect("an audit log").queued_bytes > 16 * 1024 * 1024 {
                    std::thread::yield_now();
                }
            }
            start.elapsed()
        });
    });
    let line = [b'x'; 620];
    let mut chain = Chain::begin(key_of(&[7; 32]));
    criterion.bench_function("chain", |bencher| bencher.iter(|| chain.seal(black_box(&line))));
    assert!(audit.stop());
}

criterion_group!(benches, audit);
criterion_main!(benches);

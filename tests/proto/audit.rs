//! Time at which a call's audit line is written: before the answer is sent. If the line cannot be
//! written, the call is refused.

use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use xks_proxy::observe::audit::{Audit, AuditConfig, AuditRotation, AuditSync, WhenFull, key};

use crate::rig::Rig;
use crate::rig::signer::Unsigned;

const METADATA: &str = r#"{"requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsOperation":"DescribeKey","kmsRequestId":"4112f4d6"}}"#;

pub fn open(directory: &TempDir, when_full: WhenFull) -> Audit {
    let key_file = directory.path().join("key");
    key::write_new(&key_file, &[7; 32]).unwrap();
    Audit::open(&AuditConfig {
        directory: directory.path().to_owned(),
        prefix: "audit".to_owned(),
        rotation: AuditRotation::Never,
        max_file_bytes: None,
        retain_files: None,
        hsm_key: None,
        when_full,
        sync: AuditSync::Never,
        key_file,
    })
    .unwrap()
}

fn rig(audit: &Audit) -> Rig {
    let mut rig = Rig::usual();
    rig.loop_state.access_log.audit = audit.handle();
    rig
}

fn request() -> Vec<u8> {
    Unsigned::call("keys/key-1/metadata", METADATA).signed()
}

pub fn calls(directory: &TempDir) -> Vec<Value> {
    let text = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == "call").collect()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Room for the line is reserved from before the job until the answer. If the connection ends in
/// between, the line of the call, which the HSM may have done, is still written, and the room is
/// released.
#[test]
fn an_abandoned_call_has_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let audit = open(&directory, WhenFull::Refuse);
    wait_for("the first line", || audit.stats().unwrap().queued_bytes == 0);
    let mut rig = rig(&audit);
    rig.hold_jobs = true;
    rig.send(&request());
    assert_eq!(rig.jobs.len(), 1);
    assert!(audit.stats().unwrap().queued_bytes > 0);
    rig.reconnect();
    assert!(!rig.work());
    rig.hold_jobs = false;
    assert_eq!(rig.ask(&request()).status, 200);
    assert!(audit.stop());
    let calls = calls(&directory);
    assert_eq!(calls.len(), 2);
    assert_eq!(
        (&calls[0]["outcome"], &calls[0]["kmsRequestId"]),
        (&"abandoned".into(), &"4112f4d6".into())
    );
    assert_eq!((&calls[1]["status"], calls[1].get("outcome")), (&200.into(), None));
    assert_eq!(audit.stats().unwrap().queued_bytes, 0);
}

/// A call that cannot be logged is not made: 503, and no job. If lines may be lost, it is made.
#[test]
fn what_cannot_be_written_is_not_done() {
    for (when_full, status, jobs) in [(WhenFull::Refuse, 503, 0), (WhenFull::Drop, 200, 1)] {
        let directory = tempfile::tempdir().unwrap();
        symlink("/dev/full", directory.path().join("audit.jsonl")).unwrap();
        let audit = open(&directory, when_full);
        wait_for("the first line to be refused", || audit.stats().unwrap().is_failing);
        let mut rig = rig(&audit);
        let response = rig.ask(&request());
        assert_eq!((response.status, rig.hsm.jobs), (status, jobs));
        assert_eq!(audit.can_serve(), when_full == WhenFull::Drop);
        assert_eq!(audit.stats().unwrap().refused_calls, u64::from(status == 503));
        // A line with reserved room is kept until the stop; then it is lost, since the stop does
        // not wait.
        assert!(audit.stop());
    }
}

/// Unauthenticated callers cannot fill the disk, and the lines left out are counted.
#[test]
fn unauthenticated_calls_are_limited() {
    let directory = tempfile::tempdir().unwrap();
    let audit = open(&directory, WhenFull::Refuse);
    let mut rig = rig(&audit);
    let mut unsigned = Unsigned::call("keys/key-1/metadata", METADATA);
    unsigned.secret = "not the secret access key that the store has".to_owned();
    let forged = unsigned.signed();
    for _ in 0..500 {
        assert_eq!(rig.ask(&forged).status, 401);
    }
    assert!(audit.stop());
    let stats = audit.stats().unwrap();
    let written = calls(&directory).len();
    // Ten a second; the test may take a few seconds.
    assert!((10..400).contains(&written), "{written}");
    assert_eq!(stats.left_out_lines + written as u64, 500);
    assert_eq!((stats.dropped_lines, stats.refused_calls), (0, 0));
}

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;

const SOON: Duration = Duration::from_secs(30);

fn config(directory: &TempDir) -> AuditConfig {
    let key_file = directory.path().join("key");
    if !key_file.exists() {
        key::write_new(&key_file, &[5; 32]).unwrap();
    }
    AuditConfig {
        directory: directory.path().join("log"),
        prefix: "audit".to_owned(),
        rotation: AuditRotation::Never,
        max_file_bytes: None,
        retain_files: None,
        when_full: WhenFull::Refuse,
        sync: AuditSync::Always,
        key_file,
        hsm_key: None,
    }
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "waiting for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Returns all files of the log after checking that the verifier finds them good, and ended.
fn assert_good(config: &AuditConfig) -> Vec<PathBuf> {
    let (files, is_ended) = assert_untampered(config);
    assert!(is_ended);
    files
}

fn assert_untampered(config: &AuditConfig) -> (Vec<PathBuf>, bool) {
    let files: Vec<PathBuf> = fs::read_dir(&config.directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "state"))
        .collect();
    let chain = super::chain::Chain::begin(super::chain::key_of(&[5; 32]));
    let mut findings = Vec::new();
    let state = config.state_file();
    let mut told = |finding: &verify::Finding| findings.push(finding.clone());
    let summary = verify::verify(&files, chain, Some(&state), None, &mut told).unwrap();
    assert_eq!(summary.tampered, 0, "{findings:?}");
    (files, summary.is_ended)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// After logrotate(8) has moved the file and the log is reopened, no line is lost and the chain
/// continues in the new file.
#[test]
fn reopening() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let audit = Audit::open(&config).unwrap();
    let present = config.directory.join("audit.jsonl");
    let moved = config.directory.join("audit.jsonl.1");
    audit.record_event("settings", &[("what", "before")]);
    wait_for("a line", || text(&present).contains("before"));
    fs::rename(&present, &moved).unwrap();
    audit.record_event("settings", &[("what", "between")]);
    wait_for("a line in the moved file", || text(&moved).contains("between"));
    audit.reopen();
    wait_for("the new file", || text(&present).contains("\"event\":\"reopen\""));
    audit.record_event("settings", &[("what", "after")]);
    // The file has not been moved this time, so it stays in use.
    audit.reopen();
    wait_for("another line", || text(&present).matches("\"event\":\"reopen\"").count() == 2);
    assert!(audit.stop());
    assert!(text(&moved).trim_end().lines().last().unwrap().contains("\"event\":\"rotate\""));
    assert!(text(&present).contains("\"previous\"") && text(&present).contains("after"));
    assert_eq!(assert_good(&config).len(), 2);
}

/// Yesterday's file is rotated and the oldest file is removed, but no file that is not part of the
/// log.
#[test]
fn rotation_by_time() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(&directory);
    config.rotation = AuditRotation::Daily;
    config.retain_files = Some(1);
    let audit = Audit::open(&config).unwrap();
    assert!(audit.stop());
    let present = config.directory.join("audit.jsonl");
    let stranger = config.directory.join("audit-of-last-year.jsonl");
    fs::write(&stranger, "").unwrap();
    for _ in 0..3 {
        let days_ago = std::time::SystemTime::now() - Duration::from_secs(3 * 86_400);
        fs::File::options().append(true).open(&present).unwrap().set_modified(days_ago).unwrap();
        let audit = Audit::open(&config).unwrap();
        assert!(audit.stop());
    }
    fs::remove_file(&stranger).unwrap();
    assert_eq!(assert_good(&config).len(), 2);
    assert!(!config.directory.join("audit.jsonl.next").exists());
}

/// The key is read only if there is no state; without either, the log does not start.
#[test]
fn the_first_key() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    assert!(Audit::open(&config).unwrap().stop());
    fs::remove_file(&config.key_file).unwrap();
    assert!(Audit::open(&config).unwrap().stop());
    assert_good(&config);
    fs::remove_file(config.state_file()).unwrap();
    let error = Audit::open(&config).err().unwrap();
    assert!(error.to_string().contains(config.key_file.to_str().unwrap()), "{error}");
}

/// An audit log that is off accepts everything and does nothing.
#[test]
fn off() {
    let audit = Audit::off();
    audit.record_event("start", &[]);
    audit.reopen();
    let mut handle = audit.handle();
    assert!(handle.reserve([usize::MAX].into_iter()).unwrap().is_none());
    handle.write(&crate::observe::call_record::CallRecord::default(), None);
    handle.flush();
    assert!(audit.stop() && audit.can_serve() && audit.stats().is_none());
}

/// While the old process of an upgrade still writes, lines of the new one wait, and are written
/// after the old one's last line. A new process that ends before that writes nothing.
#[test]
fn one_writer_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let present = config.directory.join("audit.jsonl");
    let former = Audit::open(&config).unwrap();
    let failed = Audit::open(&config).unwrap();
    failed.record_event("settings", &[("what", "failed")]);
    assert!(failed.stop());
    let next = Audit::open(&config).unwrap();
    next.record_event("settings", &[("what", "next")]);
    assert!(next.can_serve());
    former.record_event("settings", &[("what", "former")]);
    wait_for("the former's line", || text(&present).contains("former"));
    assert!(former.stop());
    wait_for("the next one's line", || text(&present).contains("next"));
    assert!(next.stop());
    let text = text(&present);
    let at = |what: &str| text.find(what).unwrap();
    assert!(at("former") < at("\"event\":\"stop\"") && at("\"event\":\"stop\"") < at("next"));
    assert!(!text.contains("failed") && text.contains("\"previousEnd\":\"clean\""));
    assert_good(&config);
}

/// In a quick series of upgrades, a process that has answered calls is stopped while its
/// predecessor still writes. It waits until it can write, and no line is lost.
#[test]
fn a_process_between_two_others_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let former = Audit::open(&config).unwrap();
    let between = Audit::open(&config).unwrap();
    let mut handle = between.handle();
    let reservation = handle.reserve([10].into_iter()).unwrap();
    let record = crate::observe::call_record::CallRecord {
        is_authenticated: true,
        call: "encrypt",
        status: 200,
        kms_request_id: Some("in-between"),
        ..Default::default()
    };
    handle.write(&record, reservation.as_ref());
    drop(reservation);
    let stopping = thread::spawn(move || between.stop());
    // Long enough for a process that gives up early to have done so.
    thread::sleep(Duration::from_millis(300));
    assert!(!stopping.is_finished());
    assert!(former.stop());
    assert!(stopping.join().unwrap());
    assert!(text(&config.directory.join("audit.jsonl")).contains("in-between"));
    assert_good(&config);
}

/// The two ends of a socket as an upgrade has them.
fn link() -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// Starts a process that takes over from `former`.
fn successor(config: &AuditConfig, former: &Audit) -> Audit {
    let (old, new) = link();
    let next =
        Audit::open_after(config, Some(new.try_clone().unwrap()), Copies::default()).unwrap();
    former.hand_over(old);
    next.take_over(config, new).unwrap();
    next
}

fn say(audit: &Audit, what: &str) {
    audit.record_event("settings", &[("what", what)]);
}

/// The log goes to the newest process; older ones send their lines through those between. A
/// process between waits for them when it stops, since they have no other way.
#[test]
fn three_generations() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let present = config.directory.join("audit.jsonl");
    let first = Audit::open(&config).unwrap();
    let second = successor(&config, &first);
    say(&first, "first");
    say(&second, "second");
    wait_for("both", || ["first", "second"].iter().all(|it| text(&present).contains(it)));
    let third = successor(&config, &second);
    wait_for("the third", || text(&present).matches("\"event\":\"open\"").count() == 3);
    say(&first, "through two");
    wait_for("the line", || text(&present).contains("through two"));
    let stopping = {
        let second = second.clone();
        thread::spawn(move || second.stop())
    };
    thread::sleep(Duration::from_millis(200));
    assert!(!stopping.is_finished(), "the first one's lines go through the second");
    say(&first, "the last");
    assert!(first.stop());
    assert!(stopping.join().unwrap());
    say(&third, "alone");
    assert!(third.stop());
    let text = text(&present);
    for what in ["through two", "the last", "alone"] {
        assert_eq!(text.matches(what).count(), 1, "{what}: {text}");
    }
    assert_eq!(text.matches("\"event\":\"stop\"").count(), 3);
    assert!(!text.contains("crash") && !text.contains(receive::LOST_EVENT), "{text}");
    // Lines that are under way when the newest process stops come after its own last line.
    assert_untampered(&config);
}

/// If the new process ends first, it refuses further lines, writes those that it was sent, and the
/// old one takes the log back.
#[test]
fn the_log_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let present = config.directory.join("audit.jsonl");
    let former = Audit::open(&config).unwrap();
    let next = successor(&config, &former);
    for number in 0..500 {
        say(&former, &format!("sent {number:03}"));
    }
    wait_for("the first line", || text(&present).contains("sent 000"));
    assert!(next.stop());
    for number in 500..600 {
        say(&former, &format!("sent {number:03}"));
    }
    assert!(former.stop());
    let text = text(&present);
    let sent: Vec<&str> = text.split("sent ").skip(1).map(|rest| &rest[..3]).collect();
    let all: Vec<String> = (0..600).map(|number| format!("{number:03}")).collect();
    assert_eq!(sent.len(), all.len(), "{text}");
    assert_eq!(sent, all);
    assert!(!text.contains("crash") && !text.contains("gap"), "{text}");
    assert_untampered(&config);
}

/// A process that writes another log, or none, does not get this one.
#[test]
fn another_log_is_not_handed_over() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [config, other] = directories.each_ref().map(config);
    let former = Audit::open(&config).unwrap();
    let next = successor(&other, &former);
    say(&former, "former");
    say(&next, "next");
    thread::sleep(Duration::from_millis(100));
    assert!(former.stop() && next.stop());
    let text = |config: &AuditConfig| text(&config.directory.join("audit.jsonl"));
    assert!(text(&config).contains("former") && text(&other).contains("next"));
    for config in [&config, &other] {
        assert!(!text(config).contains("handover"), "{}", text(config));
        assert_good(config);
    }
}

/// While the new process cannot write, the old one's lines take no more memory than there is for
/// them, and none is lost.
#[test]
fn lines_wait_in_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let queue = Arc::new(Queue::new(64 * 1024, WhenFull::Refuse));
    let (old, new) = link();
    fs::create_dir_all(&config.directory).unwrap();
    fs::write(config.state_file(), "").unwrap();
    let log = LogId::of(&config.state_file()).unwrap();
    receive::start(Link::new(new), log, &queue).unwrap();
    let old = Link::new(old);
    old.send_released().unwrap();
    let message = b",\"a\":1\n".repeat(1_000);
    let mut sent = 0;
    while old.send_lines(&message, Duration::from_millis(100)).unwrap() {
        sent += 1;
        assert!(sent < 1_000);
        assert!(queue.used_bytes() <= 64 * 1024);
    }
    let mut batch = Vec::new();
    let mut taken = 0;
    while taken < sent * 1_000 {
        // The space is free again once the lines have been written.
        queue.lines.take(&mut batch, Some(Duration::from_millis(100)));
        taken += forward::lines(&batch);
        queue.release(batch.len());
        batch.clear();
    }
    assert_eq!(queue.counters.dropped.get(), 0);
    drop(old);
    wait_for("the receiver's end", || queue.senders() == 0);
}

/// A key in an HSM that fails, and notes what is in the file when it is first asked.
struct Noting {
    file: PathBuf,
    noted: Arc<Mutex<Option<String>>>,
}

impl CheckpointKey for Noting {
    fn label(&self) -> &'static str {
        "noting"
    }

    fn seal(
        &self,
        _: &[u8; checkpoint::DIGEST_BYTES],
    ) -> Result<checkpoint::Sealed, checkpoint::CheckpointError> {
        self.noted.lock().get_or_insert_with(|| text(&self.file));
        Err(checkpoint::CheckpointError::Hsm("not now".to_owned()))
    }
}

/// Lines are in the file before the HSM is asked to seal them, so that a process that is killed while
/// the HSM takes its time has not lost them.
#[test]
fn lines_are_written_before_they_are_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory);
    let former = Audit::open(&config).unwrap();
    let audit = Audit::open_after(&config, Some(link().0), Copies::default()).unwrap();
    let noted = Arc::new(Mutex::new(None));
    let file = config.directory.join("audit.jsonl");
    audit.set_checkpoint_key(Box::new(Noting { file, noted: Arc::clone(&noted) }));
    say(&audit, "one");
    assert!(former.stop());
    wait_for("the HSM to be asked", || noted.lock().is_some());
    assert!(noted.lock().take().unwrap().contains("\"one\""));
}

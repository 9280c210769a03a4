#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use tracing::Level;

use super::*;
use crate::observe::call_record::CallRecord;

/// Returns the configuration of a log whose only output is the file `calls` in `directory`.
pub fn file_config(directory: &Path, format: LogFormat) -> LogConfig {
    let file = LogFile {
        directory: directory.to_owned(),
        prefix: "calls".to_owned(),
        rotation: Rotation::Never,
        mode: 0o640,
    };
    let journal = JournalForm::default();
    LogConfig { stdout: false, file: Some(file), level: Level::INFO, format, journal }
}

/// Reads the log configured by [`file_config`].
pub fn read_logged(directory: &Path) -> String {
    fs::read_to_string(directory.join("calls")).unwrap()
}

/// Files have the names that the reference proxy gave them.
#[test]
fn file_names() {
    for (rotation, pattern) in [
        (Rotation::Minutely, "calls.0000-00-00-00-00"),
        (Rotation::Hourly, "calls.0000-00-00-00"),
        (Rotation::Daily, "calls.0000-00-00"),
        (Rotation::Never, "calls"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut config = file_config(directory.path(), LogFormat::Text);
        config.file.as_mut().unwrap().rotation = rotation;
        assert!(Log::open(&config, Copies::default()).unwrap().stop());
        let names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.replace(|letter: char| letter.is_ascii_digit(), "0"))
            .collect();
        assert_eq!(names, [pattern]);
    }
}

/// A missing directory is created; if that fails, the error contains the path and the cause.
#[test]
fn directories() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("var").join("log");
    Log::open(&file_config(&deep, LogFormat::Text), Copies::default()).unwrap();
    assert!(deep.join("calls").is_file());

    let below_a_file = deep.join("calls").join("sub");
    let error =
        Log::open(&file_config(&below_a_file, LogFormat::Text), Copies::default()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    assert!(error.to_string().contains(below_a_file.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("Not a directory"), "{error}");

    fs::create_dir(directory.path().join("calls")).unwrap();
    let error = Log::open(&file_config(directory.path(), LogFormat::Text), Copies::default())
        .err()
        .unwrap();
    assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    assert!(error.to_string().contains(directory.path().join("calls").to_str().unwrap()));
}

/// Everything flushed before the log stops is in the file, in order.
#[test]
fn stop_writes_all() {
    const LINES: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    let log =
        Log::open(&file_config(directory.path(), LogFormat::Text), Copies::default()).unwrap();
    let mut access_log = log.access_log();
    for number in 0..LINES {
        access_log.write(&CallRecord {
            request_bytes: number,
            is_authenticated: true,
            ..CallRecord::default()
        });
    }
    access_log.flush();
    assert!(log.stop());
    assert_eq!(log.dropped_lines(), 0);
    let text = read_logged(directory.path());
    let mut lines = text.lines();
    for number in 0..LINES {
        let field = format!(" requestBytes={number} ");
        assert!(lines.next().unwrap().contains(&field));
    }
    assert_eq!(lines.next(), None);
}

/// Lines added after the log stops are counted as lost.
#[test]
fn lines_after_the_stop_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let log =
        Log::open(&file_config(directory.path(), LogFormat::Text), Copies::default()).unwrap();
    let mut access_log = log.access_log();
    assert!(log.stop());
    access_log.write(&CallRecord::default());
    access_log.flush();
    assert_eq!(log.dropped_lines(), 1);
    assert_eq!(read_logged(directory.path()), "");
}

/// After logrotate(8) has moved the file away, later lines go to a new file with the old name, and
/// none is lost or duplicated. The level can be changed at run time.
#[test]
fn reopened_and_another_level() {
    let directory = tempfile::tempdir().unwrap();
    let log =
        Log::open(&file_config(directory.path(), LogFormat::Text), Copies::default()).unwrap();
    let mut access_log = log.access_log();
    let mut write = |status, request_bytes| {
        access_log.write(&CallRecord {
            status,
            request_bytes,
            is_authenticated: true,
            ..CallRecord::default()
        });
        access_log.flush();
    };
    write(200, 1);
    let moved = directory.path().join("moved");
    while fs::metadata(directory.path().join("calls")).unwrap().len() == 0 {
        std::thread::yield_now();
    }
    fs::rename(directory.path().join("calls"), &moved).unwrap();
    log.reopen();
    write(200, 2);
    log.set_level(Level::WARN);
    write(200, 3);
    write(400, 4);
    log.set_level(Level::INFO);
    write(200, 5);
    assert!(log.stop());
    let bytes_of = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_once("requestBytes=").unwrap().1);
        lines.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect()
    };
    assert_eq!(bytes_of(&fs::read_to_string(moved).unwrap()), ["1"]);
    assert_eq!(bytes_of(&read_logged(directory.path())), ["2", "4", "5"]);
}

//! Output of the program if it cannot be written.

use std::fs::File;
use std::io::{Read as _, pipe};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

const SIGPIPE: i32 = 13;

fn probe(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xks-proxy"));
    command.arg("probe").args(arguments).stdin(Stdio::null());
    command
}

/// As with `| head`: the process ends by SIGPIPE, without a message.
#[test]
fn nobody_reads_standard_output() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let output = probe(&["--list"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.signal(), Some(SIGPIPE));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn nobody_reads_standard_error() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let status = probe(&["https://a/store"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(78));
}

/// Output lost for any other reason is an error.
#[test]
fn no_room_for_standard_output() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (mut reader, writer) = pipe().unwrap();
    let status = probe(&["--list"]).stdout(full).stderr(writer).status().unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(status.code(), Some(69), "{text}");
    assert!(text.starts_with("standard output: "), "{text}");
}

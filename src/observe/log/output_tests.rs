#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::*;

const SOON: Duration = Duration::from_secs(30);

/// A sink that passes on each write, and blocks until the test lets it go.
struct Gate {
    written: Sender<Vec<u8>>,
    go: Receiver<io::Result<usize>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.send(bytes.to_vec()).unwrap();
        // Once the test has dropped its end, nothing blocks any more.
        self.go.recv().unwrap_or(Ok(usize::MAX)).map(|count| count.min(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn start(max_bytes: usize) -> (Arc<Output>, Receiver<Vec<u8>>, Sender<io::Result<usize>>) {
    let (written, has_written) = channel();
    let (let_go, go) = channel();
    let gate = Box::new(Gate { written, go });
    let output = Output::start("test", Sink::of(gate), LogFormat::Text, max_bytes).unwrap();
    (output, has_written, let_go)
}

fn stop(output: &Output) -> bool {
    output.begin_stop();
    output.wait_stopped(Instant::now() + SOON)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A stuck output delays nobody: lines that do not fit are dropped whole and counted, and the log
/// reports them once it continues.
#[test]
fn a_stuck_output_drops_and_counts() {
    let (output, written, let_go) = start(10);
    output.push(b"stuck\n");
    assert_eq!(text(&written.recv_timeout(SOON).unwrap()), "stuck\n");
    // From here on the writer is inside `write`.
    output.push(b"one\ntwo\nthree\n");
    assert_eq!(output.dropped_lines(), 1);
    output.push(b"four\nfive\n");
    assert_eq!(output.dropped_lines(), 3);
    output.push(b"6\n");
    assert_eq!(output.dropped_lines(), 3);
    drop(let_go);
    assert!(stop(&output));
    let after: Vec<_> = written.into_iter().collect();
    assert!(text(&after[0]).ends_with(" WARN log lines were dropped droppedLines=3 output=test\n"));
    assert_eq!(text(&after[1]), "one\ntwo\n6\n");
    assert_eq!(after.len(), 2);
}

/// Stopping does not wait forever for a stuck output.
#[test]
fn stop_is_bounded() {
    let (output, written, let_go) = start(100);
    output.push(b"stuck\n");
    written.recv_timeout(SOON).unwrap();
    output.begin_stop();
    assert!(!output.wait_stopped(Instant::now() + Duration::from_millis(20)));
    drop(let_go);
    assert!(output.wait_stopped(Instant::now() + SOON));
}

/// An output that takes a few bytes at a time gets all of them in the end.
#[test]
fn short_writes() {
    let (output, written, let_go) = start(100);
    output.push(b"one\n");
    for count in [1, 2] {
        let_go.send(Ok(count)).unwrap();
    }
    let_go.send(Err(ErrorKind::Interrupted.into())).unwrap();
    let_go.send(Err(ErrorKind::WouldBlock.into())).unwrap();
    drop(let_go);
    assert!(stop(&output));
    assert_eq!(output.dropped_lines(), 0);
    let seen: Vec<_> = written.into_iter().collect();
    assert_eq!(seen, [&b"one\n"[..], b"ne\n", b"\n", b"\n", b"\n"]);
}

/// On a full disk, refused lines are counted, and a line cut by it does not spoil the next one.
#[test]
fn a_failing_output_is_counted_and_the_next_line_is_whole() {
    let (output, written, let_go) = start(100);
    output.push(b"one\ntwo\nthree\n");
    let_go.send(Ok(6)).unwrap(); // "one", and of the second line "tw"
    let_go.send(Err(ErrorKind::StorageFull.into())).unwrap();
    let_go.send(Err(ErrorKind::StorageFull.into())).unwrap(); // the announcement's new line
    for expected in ["one\ntwo\nthree\n", "o\nthree\n", "\n"] {
        assert_eq!(text(&written.recv_timeout(SOON).unwrap()), expected);
    }
    assert_eq!(output.dropped_lines(), 2);
    drop(let_go);
    output.push(b"four\n");
    assert!(stop(&output));
    let after: Vec<_> = written.into_iter().collect();
    assert_eq!(text(&after[0]), "\n");
    assert_eq!(text(&after[1]), "four\n");
    assert!(text(&after[2]).ends_with(" droppedLines=2 output=test\n"));
    assert_eq!(after.len(), 3);
}

/// An output that panics loses only the lines of that one write.
#[test]
fn a_panicking_output_does_not_end_the_log() {
    struct Panics(usize, Sender<Vec<u8>>);
    impl Write for Panics {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            assert!(self.0 != 1, "stderr is gone");
            self.1.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (written, has_written) = channel();
    let output = Box::new(Panics(0, written));
    let output = Output::start("test", Sink::of(output), LogFormat::Json, 100).unwrap();
    output.push(b"lost\n");
    let announced = has_written.recv_timeout(SOON).unwrap();
    let announced: serde_json::Value = serde_json::from_slice(&announced).unwrap();
    assert_eq!(announced["droppedLines"], 1);
    output.push(b"kept\n");
    assert!(stop(&output));
    assert_eq!(text(&has_written.recv().unwrap()), "kept\n");
}

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::observe::audit::chain::key_of;
use crate::observe::audit::line;

const KEY: [u8; CODE_BYTES] = [0x42; CODE_BYTES];

fn chain() -> Chain {
    Chain::begin(key_of(&KEY))
}

/// The lines of a log of two files, the index at which the second file begins, and the state.
fn log(lines: usize, second: usize) -> (Vec<Vec<u8>>, Chain) {
    let mut chain = chain();
    let lines = (0..lines)
        .map(|number| {
            let mut out = Vec::new();
            let members = format!(",\"event\":\"call\",\"store\":\"/s\",\"n\":{number}");
            let is_first = number == 0 || number == second;
            line::write(&mut out, &mut chain, members.as_bytes(), is_first);
            out
        })
        .collect();
    (lines, chain)
}

struct Files {
    directory: TempDir,
    paths: Vec<PathBuf>,
}

/// Writes lines into files, each beginning at one of `starts`.
fn write(lines: &[Vec<u8>], starts: &[usize]) -> Files {
    let directory = tempfile::tempdir().unwrap();
    let ends = starts.iter().skip(1).copied().chain([lines.len()]);
    let paths = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| {
            let path = directory.path().join(format!("part{start}"));
            fs::write(&path, lines[*start..end].concat()).unwrap();
            path
        })
        .collect();
    Files { directory, paths }
}

fn check(files: &[PathBuf], state: Option<&Path>) -> (Summary, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut told = |finding: &Finding| findings.push(finding.clone());
    let summary = verify(files, chain(), state, None, &mut told).unwrap();
    (summary, findings)
}

fn check_lines(lines: &[Vec<u8>]) -> (Summary, Vec<Finding>) {
    check(&write(lines, &[0]).paths, None)
}

/// Returns the line number and text of each finding of tampering.
fn told(findings: &[Finding]) -> Vec<(u64, &str)> {
    findings.iter().map(|finding| (finding.position.line, finding.text.as_str())).collect()
}

/// An untouched log is good, no matter in which order its files are named.
#[test]
fn a_good_log() {
    let (lines, _) = log(9, 5);
    let mut files = write(&lines, &[0, 5]);
    for _ in 0..2 {
        let (summary, findings) = check(&files.paths, None);
        assert_eq!(findings, []);
        assert_eq!((summary.good_lines, summary.next_seq, summary.tampered), (9, 9, 0));
        files.paths.reverse();
    }
    // The older file may have been removed, but not the end of the log.
    let (summary, findings) = check(&files.paths[1..], None);
    assert_eq!((summary.good_lines, summary.first_seq), (4, Some(5)));
    assert_eq!(findings, []);
}

/// A file that is named twice, also by a link, is part of the log once.
#[test]
fn a_file_named_twice() {
    let (lines, _) = log(9, 5);
    let mut files = write(&lines, &[0, 5]);
    let link = files.directory.path().join("link");
    std::os::unix::fs::symlink(&files.paths[0], &link).unwrap();
    files.paths.extend([files.paths[1].clone(), link]);
    let (summary, findings) = check(&files.paths, None);
    assert_eq!(findings, []);
    assert_eq!((summary.files, summary.good_lines), (2, 9));
}

/// A pipe, which can be read only once, is read from its beginning, in its place.
#[test]
fn a_pipe() {
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    // More than is read to find its place.
    let (lines, _) = log(400, 300);
    let files = write(&lines[300..], &[0]);
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(&lines[..300].concat()).unwrap();
    drop(writer);
    let pipe = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
    let (summary, findings) = check(&[files.paths[0].clone(), pipe], None);
    assert_eq!((findings, summary.good_lines), (vec![], 400));
}

/// A compressed file is refused, rather than said to be changed.
#[test]
fn a_compressed_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl.gz");
    fs::write(&path, b"\x1f\x8b\x08\0\0\0\n\n\n\n").unwrap();
    let mut told = |_: &Finding| {};
    let error = verify(std::slice::from_ref(&path), chain(), None, None, &mut told).unwrap_err();
    assert_eq!(
        error.to_string().find("audit.jsonl.gz: is compressed"),
        path.to_str().unwrap().find("audit.jsonl.gz")
    );
}

/// A line that the proxy is writing is awaited; one that has no end is a finding.
#[test]
fn a_line_under_way() {
    use std::io::Write as _;

    let (lines, _) = log(5, 5);
    let text = lines.concat();
    let (begin, end) = text.split_at(text.len() - 40);
    let files = write(&[begin.to_vec()], &[0]);
    let path = files.paths[0].clone();
    assert_eq!(
        told(&check(&files.paths, None).1),
        [(5, "the line is incomplete: its end is missing")]
    );
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    let (summary, findings) = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            file.write_all(end).unwrap();
        });
        check(&files.paths, None)
    });
    assert_eq!((findings, summary.good_lines), (vec![], 5));
}

/// The place of a file is known even if its first line was changed beyond recognition.
#[test]
fn a_changed_first_line() {
    let (mut lines, _) = log(9, 5);
    lines[5][0] = b'[';
    let mut files = write(&lines, &[0, 5]);
    files.paths.reverse();
    // A third one, so that the order matters.
    let (more, _) = log(12, 9);
    let third = files.directory.path().join("a");
    fs::write(&third, more[9..].concat()).unwrap();
    files.paths.push(third);
    lines.truncate(9);
    let (summary, findings) = check(&files.paths, None);
    assert_eq!(
        told(&findings),
        [
            (1, "this is not a line of the audit log: it was changed or inserted"),
            (2, "line number 5 is missing before this line")
        ]
    );
    assert_eq!(summary.next_seq, 12);
}

/// Each kind of change is reported with file and line.
#[test]
fn what_is_said() {
    let (lines, _) = log(8, 8);
    let changed = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        let (summary, findings) = check_lines(&lines);
        assert!(summary.tampered > 0);
        findings
    };
    let text = |line: &mut Vec<u8>, from: &str, to: &str| {
        *line = String::from_utf8(line.clone()).unwrap().replace(from, to).into_bytes();
    };

    let findings = changed(&|lines| text(&mut lines[3], "\"n\":3", "\"n\":4"));
    assert_eq!(told(&findings), [(4, "the code is wrong: the line was changed")]);
    let findings = changed(&|lines| drop(lines.remove(3)));
    assert_eq!(told(&findings), [(4, "line number 3 is missing before this line")]);
    let findings = changed(&|lines| drop(lines.drain(2..5)));
    assert_eq!(told(&findings), [(3, "lines number 2 to 4 are missing before this line")]);
    let findings = changed(&|lines| lines.insert(4, lines[1].clone()));
    assert_eq!(
        told(&findings),
        [(5, "number 1 occurred before: the line was duplicated, moved or inserted")]
    );
    let findings = changed(&|lines| lines.insert(4, b"{\"seq\":4,\"event\":\"call\"}\n".to_vec()));
    assert_eq!(
        told(&findings),
        [(5, "this is not a line of the audit log: it was changed or inserted")]
    );
    let findings = changed(&|lines| lines.swap(3, 4));
    assert_eq!(
        told(&findings),
        [
            (4, "no line follows this one: it was inserted, moved or changed"),
            (6, "line number 4 is missing before this line")
        ]
    );
    let findings = changed(&|lines| {
        lines[7].pop();
    });
    assert_eq!(told(&findings), [(8, "the line is incomplete: its end is missing")]);
    // Forged with another key.
    let mut other = Chain::begin(key_of(&[1; CODE_BYTES]));
    while other.seq() < 5 {
        other.skip([0; CODE_BYTES]);
    }
    let mut forged = Vec::new();
    line::write(&mut forged, &mut other, b",\"event\":\"call\"", false);
    let findings = changed(&|lines| lines[5].clone_from(&forged));
    assert_eq!(told(&findings)[0], (6, "the code is wrong: the line was changed"));
}

/// A missing file is detected in the next one, and so are lines cut off the end of a file.
#[test]
fn across_files() {
    let (lines, _) = log(12, 5);
    let files = write(&lines, &[0, 5]);
    fs::write(&files.paths[0], lines[..4].concat()).unwrap();
    let (summary, findings) = check(&files.paths, None);
    assert_eq!(told(&findings), [(1, "line number 4 is missing before this line")]);
    assert_eq!(findings[0].position.file, files.paths[1]);
    assert_eq!(summary.good_lines, 11);
    // A first file whose first line has no `previous` has lost its first lines.
    let (summary, _) = check_lines(&lines[7..]);
    assert!(summary.tampered > 0);
    drop(files.directory);
}

/// Lines cut off the end of the log are detected with the state or a copy of it.
#[test]
fn the_end_against_the_state() {
    let (lines, chain) = log(6, 6);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let (mut file, _) = super::super::state::StateFile::open(&path).unwrap();
    file.save(&chain, 0, false).unwrap();
    let (summary, _) = check(&write(&lines, &[0]).paths, Some(&path));
    assert_eq!(summary.tampered, 0);
    let (summary, findings) = check(&write(&lines[..4], &[0]).paths, Some(&path));
    assert_eq!(summary.tampered, 1);
    assert_eq!(told(&findings), [(4, "lines number 4 to 5 are missing after this line")]);
}

/// Somebody who cuts the end off finds no key in the log for a state that fits: the numbers and
/// codes in a forged state are right, but its key is a later one, or made up.
#[test]
fn a_forged_state() {
    let (lines, chain) = log(6, 6);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let (mut file, _) = super::super::state::StateFile::open(&path).unwrap();
    let code_of = |line: &[u8]| parse(line.strip_suffix(b"\n").unwrap()).unwrap().code;
    let id = chain.id();
    for key in [key_of(chain.key()), key_of(&[7; CODE_BYTES])] {
        let forged = Chain::resume(id, 4, key, code_of(&lines[3]));
        file.save(&forged, 0, false).unwrap();
        let (summary, findings) = check(&write(&lines[..4], &[0]).paths, Some(&path));
        assert_eq!(summary.tampered, 1, "{findings:?}");
        assert!(findings[0].text.contains("it was forged"), "{findings:?}");
    }
    // The code of the last line is the log's, too; a state of an earlier line is in order, even if
    // its line has been removed with the oldest file.
    let at = |seq: u64| {
        let mut chain = self::chain();
        lines.iter().take(usize::try_from(seq).unwrap()).for_each(|line| chain.skip(code_of(line)));
        chain
    };
    let other_code = Chain::resume(id, 4, key_of(at(4).key()), [1; CODE_BYTES]);
    for (state, first, tampered) in
        [(at(4), 0, 0), (at(0), 0, 0), (at(2), 4, 0), (at(6), 0, 0), (other_code, 0, 1)]
    {
        file.save(&state, 0, false).unwrap();
        let (mut lines, _) = log(6, first);
        lines.drain(..first);
        let (summary, findings) = check(&write(&lines, &[0]).paths, Some(&path));
        assert_eq!(summary.tampered, tampered, "{findings:?}");
    }
}

/// Verifies lines whose checkpoints the HSM judges like this, in turn.
fn sealed(events: &[(&str, &str)], seals: &[Seal]) -> (Summary, Vec<Finding>) {
    let mut chain = chain();
    let mut out = Vec::new();
    for (number, (event, time)) in events.iter().enumerate() {
        let members = format!(
            ",\"time\":\"{time}\",\"event\":\"{event}\",\"key\":\"k\",\"iv\":\"00\",\"sealed\":\"00\""
        );
        line::write(&mut out, &mut chain, members.as_bytes(), number == 0);
    }
    let files = write(&[out], &[0]);
    let mut seals = seals.iter();
    let mut ask = |_: &Checkpoint| Ok(*seals.next().unwrap());
    let mut findings = Vec::new();
    let mut told = |finding: &Finding| findings.push(finding.clone());
    let start = super::tests::chain();
    let summary = verify(&files.paths, start, None, Some(&mut ask), &mut told).unwrap();
    (summary, findings)
}

/// The form of former versions counts up to the first checkpoint of the present form.
#[test]
fn forms_of_checkpoints() {
    let (present, former, none) = (Seal::Present, Seal::Former, Seal::None);
    for (seals, tampered, sealed_seq) in [
        ([former, former, present], 0, Some(2)),
        ([former, present, former], 1, Some(1)),
        ([present, former, present], 1, Some(2)),
        ([none, former, none], 2, Some(1)),
        ([none, none, none], 3, None),
    ] {
        let (summary, findings) = sealed(&[("checkpoint", ""); 3], &seals);
        assert_eq!((summary.tampered, summary.sealed_seq), (tampered, sealed_seq), "{findings:?}");
    }
}

/// The lines after the last checkpoint are counted, and their age is known.
#[test]
fn lines_without_a_checkpoint() {
    let at = |minute: u32| format!("2026-11-25T08:{minute:02}:00.000000Z");
    let times: Vec<String> = (0..4).map(|number| at(10 * number)).collect();
    let events = [("open", &*times[0]), ("checkpoint", &*times[1]), ("call", &*times[2])];
    let now = parse_rfc3339(&times[3]).unwrap();
    let (summary, _) = sealed(&[&events[..], &[("call", &times[3])]].concat(), &[Seal::Present]);
    let unsealed = summary.unsealed;
    assert_eq!((unsealed.lines, &unsealed.since, &unsealed.until), (2, &times[2], &times[3]));
    assert_eq!((unsealed.age_secs(false, now + 5), unsealed.age_secs(true, now + 5)), (605, 600));
    let (summary, _) = sealed(&events[..2], &[Seal::Present]);
    assert_eq!(summary.unsealed, Unsealed::default());
    assert_eq!(summary.unsealed.age_secs(false, now), 0);
    // Without a genuine checkpoint, all lines count. Without a time, they are too old.
    let (summary, _) = sealed(&events, &[Seal::None]);
    assert_eq!(summary.unsealed.lines, 3);
    let (summary, _) = sealed(&[("call", "yesterday")], &[]);
    assert_eq!(summary.unsealed.age_secs(false, now), u64::MAX);
}

/// The wrong key is reported as such, and not as a change of every line.
#[test]
fn another_chain() {
    let mut other = Chain::begin(key_of(&[1; CODE_BYTES]));
    let mut out = Vec::new();
    line::write(&mut out, &mut other, b",\"event\":\"open\",\"chain\":\"0011223344556677\"", true);
    let (summary, _) = check_lines(&[out]);
    assert!(summary.is_other_chain);
}

/// Crashes and gaps that the proxy itself reports are notes, not tampering.
#[test]
fn notes() {
    let mut chain = chain();
    let mut out = Vec::new();
    line::write(&mut out, &mut chain, b",\"event\":\"open\",\"previousEnd\":\"crash\"", true);
    line::write(&mut out, &mut chain, b",\"event\":\"gap\",\"droppedLines\":2", false);
    line::write(&mut out, &mut chain, b",\"event\":\"stop\"", false);
    let (summary, findings) = check_lines(&[out]);
    assert_eq!((summary.tampered, summary.is_ended), (0, true));
    assert_eq!(findings.iter().map(|it| it.position.line).collect::<Vec<_>>(), [1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every changed byte in every line is detected.
    #[test]
    fn any_changed_byte(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let (lines, _) = log(7, 4);
        let mut text = lines.concat();
        let at = at.index(text.len());
        prop_assume!(text[at] != to);
        text[at] = to;
        let (summary, findings) = check_lines(&[text]);
        prop_assert!(summary.tampered > 0, "{findings:?}");
    }

    /// Lines removed before the end, swapped, or duplicated elsewhere are detected.
    #[test]
    fn any_moved_line(kind in 0..4, first in 0_usize..9, second in 0_usize..9) {
        let (mut lines, _) = log(9, 4);
        let (low, high) = (first.min(second), first.max(second));
        match kind {
            0 => {
                prop_assume!(high < 8 && !(low == 0 && high == 3));
                lines.drain(low..=high);
            }
            1 => {
                prop_assume!(low != high);
                lines.swap(low, high);
            }
            2 => {
                let again = lines[first].clone();
                lines.insert(second, again);
            }
            _ => {
                prop_assume!(first != second);
                let moved = lines.remove(first);
                lines.insert(second, moved);
            }
        }
        let (summary, findings) = check_lines(&lines);
        prop_assert!(summary.tampered > 0, "{findings:?}");
    }

    /// No input causes a panic.
    #[test]
    fn rubbish(text in prop::collection::vec(any::<u8>(), 0..300)) {
        check_lines(&[text]);
    }
}

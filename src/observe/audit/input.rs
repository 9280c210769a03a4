//! The files of a log that is verified, each once, in the order of their lines.
//!
//! A file may be a pipe, such as that of `<(zcat audit-*.gz)`, which can be read only once. The last
//! file may be that of a running proxy, which writes to it and gives it another name meanwhile.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use super::line::{BEGIN, parse};
use super::path_error::with_path;
use crate::limits::{
    AUDIT_UNFINISHED_LINE_POLL, MAX_ACCESS_LOG_LINE_BYTES, MAX_AUDIT_SEARCHED_LINES,
    MAX_AUDIT_UNFINISHED_LINE_WAIT,
};

/// The longest part of a line that is kept.
const MAX_LINE_BYTES: usize = 2 * MAX_ACCESS_LOG_LINE_BYTES;
const BUFFER_BYTES: usize = 1 << 20;
/// The first bytes of compressed files: gzip, Zstandard, xz, bzip2, LZ4.
const COMPRESSED: [&[u8]; 5] =
    [b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh", b"\x04\x22\x4d\x18"];

/// Device and inode of a file.
type Identity = (u64, u64);

/// A file of the log.
pub(super) struct Input<'p> {
    pub(super) path: &'p Path,
    /// Number of the first line; the highest one if no line was found.
    first_seq: u64,
    identity: Identity,
    /// The bytes that a pipe has given so far, and the rest.
    pipe: Option<(Vec<u8>, BufReader<File>)>,
}

/// Returns the files in the order of their first lines. One that is named twice occurs once.
///
/// # Errors
/// A file cannot be read, or is compressed; the error names which.
pub(super) fn in_order(paths: &[PathBuf]) -> io::Result<Vec<Input<'_>>> {
    let mut known = HashSet::new();
    let mut inputs = Vec::new();
    for path in paths {
        let input = Input::look_at(path).map_err(|error| with_path(path, &error))?;
        if known.insert(input.identity) {
            inputs.push(input);
        }
    }
    inputs.sort_by(|one, other| (one.first_seq, one.path).cmp(&(other.first_seq, other.path)));
    Ok(inputs)
}

impl<'p> Input<'p> {
    fn look_at(path: &'p Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut reader = BufReader::new(file);
        let mut head = Vec::new();
        let mut line = Vec::new();
        let mut first_seq = u64::MAX;
        for _ in 0..MAX_AUDIT_SEARCHED_LINES {
            let bytes = read_line(&mut reader, &mut line)?;
            if bytes == 0 {
                break;
            }
            head.extend_from_slice(&line);
            if bytes > line.len() as u64 {
                // Of a line that is too long, the end is not kept.
                head.push(b'\n');
            }
            if let Some(parsed) = parse(line.strip_suffix(b"\n").unwrap_or(&line)) {
                first_seq = parsed.seq;
                break;
            }
        }
        if COMPRESSED.iter().any(|begin| head.starts_with(begin)) {
            let text = "is compressed: name what is in it, as with <(zcat audit-*.jsonl.gz)";
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        let pipe = (!metadata.is_file()).then_some((head, reader));
        Ok(Self { path, first_seq, identity: identity(&metadata), pipe })
    }

    /// Returns what is in the file.
    ///
    /// # Errors
    /// The file cannot be opened, or is another one now.
    pub(super) fn open(self) -> io::Result<Box<dyn BufRead>> {
        if let Some((head, rest)) = self.pipe {
            return Ok(Box::new(Cursor::new(head).chain(rest)));
        }
        let file = File::open(self.path)?;
        if identity(&file.metadata()?) != self.identity {
            let text =
                "is another file now: if the proxy has begun a new one, name the files again";
            return Err(io::Error::other(text));
        }
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Reads up to and including the next line end, but keeps no more than the length of the longest
/// line. Returns the number of bytes read.
pub(super) fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    append(reader, line)
}

/// Reads the rest of the last line, which a running proxy may be writing at this moment.
pub(super) fn wait_for_end(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    let is_begun = line.starts_with(BEGIN) || BEGIN.starts_with(line);
    let begin = Instant::now();
    while is_begun && line.len() < MAX_LINE_BYTES && !line.ends_with(b"\n") {
        if begin.elapsed() >= MAX_AUDIT_UNFINISHED_LINE_WAIT {
            break;
        }
        thread::sleep(AUDIT_UNFINISHED_LINE_POLL);
        append(reader, line)?;
    }
    Ok(())
}

fn append(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    let room = MAX_LINE_BYTES.saturating_sub(line.len()) as u64;
    let mut bytes = (&mut *reader).take(room).read_until(b'\n', line)? as u64;
    if bytes == room && !line.ends_with(b"\n") {
        bytes += reader.skip_until(b'\n')? as u64;
    }
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;

    use super::*;

    /// A file that was rotated away between the two looks at it is not mistaken for the new one.
    #[test]
    fn a_new_file_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let paths = [directory.path().join("audit.jsonl"), directory.path().join("audit-1.jsonl")];
        fs::write(&paths[0], "one").unwrap();
        let input = in_order(&paths[..1]).unwrap().remove(0);
        fs::rename(&paths[0], &paths[1]).unwrap();
        fs::write(&paths[0], "two").unwrap();
        let error = input.open().err().unwrap();
        assert!(error.to_string().contains("name the files again"), "{error}");
    }

    /// Lines too long to be kept neither swallow the next one nor need more memory.
    #[test]
    fn long_lines() {
        let text = [&b"x".repeat(3 * MAX_LINE_BYTES)[..], b"\nshort\nend"].concat();
        let mut reader = Cursor::new(text);
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line).unwrap() > 0 {
            assert!(line.len() <= MAX_LINE_BYTES);
            lines.push(line.clone());
        }
        assert_eq!(lines[1..], [b"short\n".to_vec(), b"end".to_vec()]);
    }
}

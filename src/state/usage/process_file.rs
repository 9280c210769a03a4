//! The content of a process's own file: two copies of a header and the keys' lines, which are
//! written one after the other, in place.

use std::io;

use serde::{Deserialize, Serialize};

use super::digest::digest;
use crate::state::witness_file::Unreadable;

/// Beginning of the files' names; the time of the start and the process's id follow.
pub const PREFIX: &str = "key-usage.";
pub(super) const FORMAT: &str = "xks-proxy key usage of a process";
const VERSION: u32 = 1;
/// Length of a header with its line end. Spaces fill it up.
pub(super) const HEADER_BYTES: usize = 512;

/// The use of one key by one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The key's name.
    pub key: Box<str>,
    /// Number of encryptions when the file was written.
    pub used: u64,
    /// Number of encryptions that the process may make before it writes the file again.
    pub reserved: u64,
    /// Number of decryptions for clients.
    pub decrypts: u64,
    /// Time of the last encryption, in seconds since 1970; 0 if there was none.
    pub last_encrypt: u64,
    /// Time of the last decryption, in seconds since 1970; 0 if there was none.
    pub last_decrypt: u64,
    /// Encryptions in a second that are thought possible.
    pub ceiling_per_sec: u64,
}

/// A file's latest intact copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Time at which the process started, in seconds since 1970.
    pub started: u64,
    /// Time at which the copy was written, in seconds since 1970.
    pub written: u64,
    /// Number of copies written before this one.
    pub sequence: u64,
    /// True if the process has ended in an orderly way after it wrote this.
    pub is_closed: bool,
    /// The keys.
    pub entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    started: u64,
    written: u64,
    sequence: u64,
    is_closed: bool,
    /// Length and digest of the keys' lines.
    bytes: usize,
    body: String,
    #[serde(default)]
    check: String,
}

type Line = (Box<str>, u64, u64, u64, u64, u64, u64);

impl Reading {
    /// Returns the number of encryptions to charge a key with: exact after an orderly end, and
    /// otherwise what was reserved.
    #[must_use]
    pub fn charged(&self, entry: &Entry) -> u64 {
        if self.is_closed { entry.used } else { entry.reserved.max(entry.used) }
    }
}

/// Returns the keys' lines.
///
/// # Errors
/// Never in practice: memory takes all writes.
pub(super) fn body(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(entries.len() * 80);
    for entry in entries {
        let Entry { key, used, reserved, decrypts, last_encrypt, last_decrypt, ceiling_per_sec } =
            entry;
        let line = (key, used, reserved, decrypts, last_encrypt, last_decrypt, ceiling_per_sec);
        serde_json::to_writer(&mut body, &line)?;
        body.push(b'\n');
    }
    Ok(body)
}

/// Returns the header of a copy with these lines.
///
/// # Errors
/// Never in practice.
pub(super) fn header(of: &Reading, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        started: of.started,
        written: of.written,
        sequence: of.sequence,
        is_closed: of.is_closed,
        bytes: body.len(),
        body: digest(body),
        check: String::new(),
    };
    header.check = check_of(&header);
    let mut line = serde_json::to_vec(&header)?;
    line.resize(HEADER_BYTES - 1, b' ');
    line.push(b'\n');
    Ok(line)
}

fn check_of(header: &Header) -> String {
    let Header { started, written, sequence, is_closed, bytes, body, .. } = header;
    digest(format!("{started} {written} {sequence} {is_closed} {bytes} {body}").as_bytes())
}

/// Parses a file's content. Returns `None` if no copy is intact: a copy with a damaged header may
/// seem to be of another version.
///
/// # Errors
/// [`Unreadable::Foreign`]
pub fn parse(content: &[u8]) -> Result<Option<Reading>, Unreadable> {
    let (first, second) = content.split_at(content.len() / 2);
    match (parse_copy(first), parse_copy(second)) {
        (Ok(first), Ok(second)) => {
            Ok([first, second].into_iter().flatten().max_by_key(|reading| reading.sequence))
        }
        (Ok(Some(intact)), Err(_)) | (Err(_), Ok(Some(intact))) => Ok(Some(intact)),
        (Ok(None), Err(_)) | (Err(_), Ok(None)) => Ok(None),
        (Err(reason), Err(_)) => Err(reason),
    }
}

fn parse_copy(copy: &[u8]) -> Result<Option<Reading>, Unreadable> {
    let Some((header, rest)) = copy.split_at_checked(HEADER_BYTES) else { return Ok(None) };
    let Ok(header) = serde_json::from_slice::<Header>(header) else { return Ok(None) };
    if header.format != FORMAT {
        return Ok(None);
    }
    if header.version != VERSION {
        return Err(Unreadable::Foreign(format!(
            "it has version {}, and this program knows version {VERSION}",
            header.version
        )));
    }
    let body = rest.get(..header.bytes).filter(|body| digest(body) == header.body);
    let Some(body) = body.filter(|_| check_of(&header) == header.check) else { return Ok(None) };
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let entries: Option<Vec<Entry>> = lines.map(entry).collect();
    let Header { started, written, sequence, is_closed, .. } = header;
    Ok(entries.map(|entries| Reading { started, written, sequence, is_closed, entries }))
}

fn entry(line: &[u8]) -> Option<Entry> {
    let (key, used, reserved, decrypts, last_encrypt, last_decrypt, ceiling_per_sec) =
        serde_json::from_slice::<Line>(line).ok()?;
    Some(Entry { key, used, reserved, decrypts, last_encrypt, last_decrypt, ceiling_per_sec })
}

//! The file of the keys' witnesses: a header line, and a line of JSON per key.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::directory::Directory;
use crate::hsm::witness::{WITNESS_PLAINTEXT, Witness};
use crate::job::Iv;
use crate::limits::{GCM_TAG_BYTES, MAX_LABEL_BYTES, MAX_WITNESS_FILE_BYTES};

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "key-witnesses";
const FORMAT: &str = "xks-proxy key witnesses";
const VERSION: u32 = 1;

/// Witnesses by label.
pub type Witnesses = HashMap<Box<str>, Witness>;

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    label: String,
    iv: String,
    ciphertext: String,
    made_by: String,
    made_unix_secs: u64,
    /// The first bytes of the SHA-256 of the members above, in hexadecimal digits. Without it, a
    /// line damaged on the disk would make a token seem to hold a different key.
    check: String,
}

/// The readable part of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Witnesses by label.
    pub witnesses: Witnesses,
    /// Number of damaged lines.
    pub damaged_lines: usize,
}

/// The reason why a file is neither read nor overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The file belongs to another version of this program, or to another program.
    Foreign(String),
    /// The file cannot be read or written.
    Io(String),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Foreign(reason) | Self::Io(reason) => formatter.write_str(reason),
        }
    }
}

/// Parses a file's content.
///
/// # Errors
/// [`Unreadable::Foreign`]
pub fn parse(content: &[u8]) -> Result<Content, Unreadable> {
    let mut lines = content.split(|byte| *byte == b'\n');
    let header = lines.next().and_then(|line| serde_json::from_slice::<Header>(line).ok());
    let mut found = Content::default();
    match header {
        Some(Header { format, version: VERSION }) if format == FORMAT => {}
        Some(Header { format, version }) if format == FORMAT => {
            return Err(Unreadable::Foreign(format!(
                "it has version {version}, and this program knows version {VERSION}"
            )));
        }
        Some(Header { format, .. }) => {
            return Err(Unreadable::Foreign(format!("its format is {format:?}")));
        }
        // The other lines may still be intact.
        None => found.damaged_lines = 1,
    }
    for line in lines.filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Line>(line).ok().and_then(read_line) {
            Some((label, witness)) => drop(found.witnesses.insert(label, witness)),
            None => found.damaged_lines += 1,
        }
    }
    Ok(found)
}

fn read_line(line: Line) -> Option<(Box<str>, Witness)> {
    if line.check != check_of(&line) || line.label.len() > MAX_LABEL_BYTES {
        return None;
    }
    let decode = |text: &str| base64_simd::STANDARD.decode_to_vec(text).ok();
    let iv = Iv::from_slice(&decode(&line.iv)?)?;
    let ciphertext = decode(&line.ciphertext)?;
    let is_whole = ciphertext.len() == WITNESS_PLAINTEXT.len() + GCM_TAG_BYTES;
    let Line { label, made_by, made_unix_secs, .. } = line;
    let witness = Witness { iv, ciphertext, made_by, made_unix_secs };
    is_whole.then(|| (label.into(), witness))
}

fn check_of(line: &Line) -> String {
    let mut hash = Sha256::new();
    for member in [&line.label, &line.iv, &line.ciphertext, &line.made_by] {
        hash.update((member.len() as u64).to_be_bytes());
        hash.update(member);
    }
    hash.update(line.made_unix_secs.to_be_bytes());
    let digest = hash.finalize();
    digest[..8].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Formats a file's content, ordered by label.
///
/// # Errors
/// None in practice, as all members are text or numbers.
pub fn format(witnesses: &Witnesses) -> io::Result<Vec<u8>> {
    let header = Header { format: FORMAT.to_owned(), version: VERSION };
    let mut content = serde_json::to_vec(&header)?;
    content.push(b'\n');
    let mut sorted: Vec<_> = witnesses.iter().collect();
    sorted.sort_unstable_by_key(|(label, _)| *label);
    for (label, witness) in sorted {
        let encode = |bytes: &[u8]| base64_simd::STANDARD.encode_to_string(bytes);
        let mut line = Line {
            label: label.to_string(),
            iv: encode(witness.iv.as_slice()),
            ciphertext: encode(&witness.ciphertext),
            made_by: witness.made_by.clone(),
            made_unix_secs: witness.made_unix_secs,
            check: String::new(),
        };
        line.check = check_of(&line);
        serde_json::to_writer(&mut content, &line)?;
        content.push(b'\n');
    }
    Ok(content)
}

/// Reads the file of a state directory; a missing one is empty.
///
/// # Errors
/// [`Unreadable`]
pub fn load(directory: &Directory) -> Result<Content, Unreadable> {
    let content = directory.read(FILE_NAME, MAX_WITNESS_FILE_BYTES);
    match content.map_err(|error| Unreadable::Io(error.to_string()))? {
        Some(content) => parse(&content),
        None => Ok(Content::default()),
    }
}

/// Adds the witnesses that the file lacks, and returns all that it then has. Witnesses saved by
/// another process take precedence, as it may have proven keys with them.
///
/// # Errors
/// [`Unreadable`]; the file is unchanged.
pub fn save(
    directory: &Directory,
    witnesses: impl IntoIterator<Item = (Box<str>, Arc<Witness>)>,
) -> Result<Witnesses, Unreadable> {
    change(directory, |known| {
        for (label, witness) in witnesses {
            known.entry(label).or_insert_with(|| (*witness).clone());
        }
    })
}

/// Changes the witnesses in the file, and returns the new ones.
///
/// # Errors
/// [`Unreadable`]; the file is unchanged.
pub fn change(
    directory: &Directory,
    change: impl FnOnce(&mut Witnesses),
) -> Result<Witnesses, Unreadable> {
    let io = |error: io::Error| Unreadable::Io(error.to_string());
    let _lock = directory.lock().map_err(io)?;
    let Content { witnesses: known, damaged_lines } = load(directory)?;
    let mut changed = known.clone();
    change(&mut changed);
    if damaged_lines > 0 {
        let copy = directory.set_aside(FILE_NAME, MAX_WITNESS_FILE_BYTES).map_err(io)?;
        tracing::warn!(
            copy = %copy.display(),
            damaged_lines,
            "the damaged file of key witnesses was copied"
        );
    }
    if damaged_lines > 0 || changed != known {
        directory.write(FILE_NAME, &format(&changed).map_err(io)?).map_err(io)?;
    }
    Ok(changed)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn witness(byte: u8) -> Witness {
        Witness {
            iv: Iv::from_slice(&[byte; 12]).unwrap(),
            ciphertext: vec![byte; 48],
            made_by: "0a1b".to_owned(),
            made_unix_secs: 1_790_000_000,
        }
    }

    fn two() -> Witnesses {
        HashMap::from([("a".into(), witness(1)), ("ключ".into(), witness(2))])
    }

    /// Witnesses read back unchanged.
    #[test]
    fn there_and_back() {
        let content = parse(&format(&two()).unwrap()).unwrap();
        assert_eq!(content, Content { witnesses: two(), damaged_lines: 0 });
    }

    /// A damaged line loses only that key's witness, and a changed line is damaged.
    #[test]
    fn damage_is_local() {
        let text = String::from_utf8(format(&two()).unwrap()).unwrap();
        let changed = text.replacen("AQEB", "AQEC", 1);
        let content = parse(changed.as_bytes()).unwrap();
        assert_eq!((content.witnesses.len(), content.damaged_lines), (1, 1));
        let cut = &text.as_bytes()[..text.len() - 10];
        assert_eq!(parse(cut).unwrap().damaged_lines, 1);
        let beheaded = text.split_once('\n').unwrap().1;
        let content = parse(format!("\0\0\n{beheaded}").as_bytes()).unwrap();
        assert_eq!((content.witnesses.len(), content.damaged_lines), (2, 1));
    }

    /// A file of another version is refused and not overwritten.
    #[test]
    fn another_version_stays() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::new(parent.path());
        for version in [0, 2] {
            let text = format!("{{\"format\":\"{FORMAT}\",\"version\":{version}}}\n");
            directory.write(FILE_NAME, text.as_bytes()).unwrap();
            let ours = [("a".into(), Arc::new(witness(1)))];
            assert!(matches!(save(&directory, ours), Err(Unreadable::Foreign(_))));
            assert_eq!(directory.read(FILE_NAME, 100).unwrap().unwrap(), text.as_bytes());
        }
    }

    /// Witnesses saved by another process are kept, and a damaged file is copied.
    #[test]
    fn others_come_first() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::new(parent.path());
        save(&directory, [("a".into(), Arc::new(witness(1)))]).unwrap();
        let ours = [("a".into(), Arc::new(witness(9))), ("b".into(), Arc::new(witness(2)))];
        let all = save(&directory, ours).unwrap();
        assert_eq!(all, HashMap::from([("a".into(), witness(1)), ("b".into(), witness(2))]));
        assert_eq!(load(&directory).unwrap().witnesses, all);
        let mut content = directory.read(FILE_NAME, 10_000).unwrap().unwrap();
        content.extend_from_slice(b"junk\n");
        directory.write(FILE_NAME, &content).unwrap();
        save(&directory, []).unwrap();
        assert_eq!(load(&directory).unwrap(), Content { witnesses: all, damaged_lines: 0 });
        let copy = directory.read("key-witnesses.damaged", 10_000).unwrap();
        assert_eq!(copy.unwrap(), content);
    }
}

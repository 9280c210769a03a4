//! The file of the versions that the settings have listed: a header line, and a line of JSON for
//! each version of an external key id, with the time at which it was first listed.
//!
//! It lets `xks-proxy check` notice that a version is to encrypt which this proxy has never listed:
//! then the other proxies have probably not been told of it either.

use std::collections::{BTreeMap, HashSet};
use std::io;

use serde::{Deserialize, Serialize};

use super::directory::Directory;
use crate::limits::MAX_VERSIONS_FILE_BYTES;
use crate::observe::redaction::shown_path;

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "versions";
const FORMAT: &str = "xks-proxy listed key versions";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Line {
    store: String,
    external_key_id: String,
    version: u32,
    listed_unix_secs: u64,
}

/// A version of an external key id of a store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedVersion {
    /// The store's path prefix.
    pub store: String,
    /// The external key id.
    pub external_key_id: String,
    /// The version's number.
    pub version: u32,
}

impl ListedVersion {
    fn key(&self) -> (&str, &str) {
        (&self.store, &self.external_key_id)
    }
}

/// The versions in the file, with the time at which each was first listed, in seconds since 1970.
pub type Listed = BTreeMap<ListedVersion, u64>;

/// Reads the file; returns `None` if there is none.
///
/// # Errors
/// The file cannot be read, or belongs to another version of this program.
pub fn load(directory: &Directory) -> io::Result<Option<Listed>> {
    let content = directory.read(FILE_NAME, MAX_VERSIONS_FILE_BYTES)?;
    Ok(content.map(|content| parse(&content)).transpose()?.map(|(listed, _)| listed))
}

/// Adds the versions that the settings list now, and forgets external key ids that they no longer
/// have. Returns what the file had before, or `None` if there was none.
///
/// # Errors
/// The file cannot be read or written; it is unchanged.
pub fn record(
    directory: &Directory,
    now_listed: &[ListedVersion],
    unix_secs: u64,
) -> io::Result<Option<Listed>> {
    let _lock = directory.lock()?;
    let content = directory.read(FILE_NAME, MAX_VERSIONS_FILE_BYTES)?;
    let (former, damaged_lines) = match content.map(|content| parse(&content)).transpose()? {
        Some((listed, damaged_lines)) => (Some(listed), damaged_lines),
        None => (None, 0),
    };
    if damaged_lines > 0 {
        let copy = directory.set_aside(FILE_NAME, MAX_VERSIONS_FILE_BYTES)?;
        let copy = shown_path(&copy).to_string();
        tracing::warn!(copy, damaged_lines, "the damaged file of listed key versions was copied");
    }
    let mut listed = former.clone().unwrap_or_default();
    let keys: HashSet<_> = now_listed.iter().map(ListedVersion::key).collect();
    listed.retain(|version, _| keys.contains(&version.key()));
    for version in now_listed {
        listed.entry(version.clone()).or_insert(unix_secs);
    }
    if former.as_ref() != Some(&listed) || damaged_lines > 0 {
        directory.write(FILE_NAME, &format(&listed)?)?;
    }
    Ok(former)
}

/// Returns the versions and the number of damaged lines.
fn parse(content: &[u8]) -> io::Result<(Listed, usize)> {
    let mut lines = content.split(|byte| *byte == b'\n');
    let header = lines.next().and_then(|line| serde_json::from_slice::<Header>(line).ok());
    let mut damaged_lines = usize::from(header.is_none());
    if let Some(Header { format, version }) = header
        && (format != FORMAT || version != VERSION)
    {
        let message = format!("its format is {format:?}, version {version}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut listed = Listed::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            damaged_lines += 1;
            continue;
        };
        let Line { store, external_key_id, version, listed_unix_secs } = line;
        listed.insert(ListedVersion { store, external_key_id, version }, listed_unix_secs);
    }
    Ok((listed, damaged_lines))
}

fn format(listed: &Listed) -> io::Result<Vec<u8>> {
    let header = Header { format: FORMAT.to_owned(), version: VERSION };
    let mut content = serde_json::to_vec(&header)?;
    content.push(b'\n');
    for (version, since) in listed {
        let ListedVersion { store, external_key_id, version } = version.clone();
        let line = Line { store, external_key_id, version, listed_unix_secs: *since };
        serde_json::to_writer(&mut content, &line)?;
        content.push(b'\n');
    }
    Ok(content)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn version(id: &str, version: u32) -> ListedVersion {
        ListedVersion { store: "/s".to_owned(), external_key_id: id.to_owned(), version }
    }

    /// A version keeps the time at which it was first listed, also after it was taken out; an
    /// external key id that is gone is forgotten.
    #[test]
    fn versions_are_remembered() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::new(parent.path());
        assert_eq!(load(&directory).unwrap(), None);
        assert_eq!(record(&directory, &[version("a", 1), version("b", 1)], 10).unwrap(), None);
        let first = Listed::from([(version("a", 1), 10), (version("b", 1), 10)]);
        let former = record(&directory, &[version("a", 1), version("a", 2)], 20).unwrap();
        assert_eq!(former, Some(first));
        let second = Listed::from([(version("a", 1), 10), (version("a", 2), 20)]);
        assert_eq!(record(&directory, &[version("a", 1)], 30).unwrap(), Some(second.clone()));
        assert_eq!(load(&directory).unwrap(), Some(second));
        // Without any version there is still a file, which says that none was listed.
        record(&directory, &[], 40).unwrap();
        assert_eq!(load(&directory).unwrap(), Some(Listed::new()));
    }

    /// A damaged file is copied, and what is left of it is kept; one of another format stays.
    #[test]
    fn damage_and_other_formats() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::new(parent.path());
        record(&directory, &[version("a", 1), version("a", 2)], 10).unwrap();
        let mut content = directory.read(FILE_NAME, 10_000).unwrap().unwrap();
        content.truncate(content.len() - 5);
        directory.write(FILE_NAME, &content).unwrap();
        let left = Listed::from([(version("a", 1), 10)]);
        assert_eq!(record(&directory, &[version("a", 1)], 20).unwrap(), Some(left.clone()));
        assert_eq!(directory.read("versions.damaged", 10_000).unwrap().unwrap(), content);
        assert_eq!(record(&directory, &[version("a", 1)], 30).unwrap(), Some(left));
        let other = format!("{{\"format\":\"{FORMAT}\",\"version\":2}}\n");
        directory.write(FILE_NAME, other.as_bytes()).unwrap();
        assert!(record(&directory, &[version("a", 1)], 40).is_err());
        assert_eq!(directory.read(FILE_NAME, 100).unwrap().unwrap(), other.as_bytes());
    }
}

//! The file with the first key of a chain: 64 hexadecimal digits.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::chain::{CODE_BYTES, Key, from_hex, key_of, push_hex, wipe_stack};
use crate::new_file;

/// Length of the digits and one line end.
const FILE_BYTES: usize = 2 * CODE_BYTES + 1;

/// Reads a key file.
///
/// # Errors
/// The file cannot be read, its mode lets the group change it or others access it, or it is not a
/// key.
pub fn read(path: &Path) -> io::Result<Key> {
    let key = read_and_parse(path);
    wipe_stack();
    key
}

#[inline(never)]
fn read_and_parse(path: &Path) -> io::Result<Key> {
    let file = File::open(path)?;
    let mode = file.metadata()?.mode() & 0o7777;
    // The group may read it: systemd and Kubernetes give a file of root's the proxy's group.
    if mode & 0o027 != 0 {
        return Err(io::Error::other(format!("its mode is {mode:04o}: chmod it 0400")));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES + 1));
    file.take(FILE_BYTES as u64 + 1).read_to_end(&mut text)?;
    let digits = text.strip_suffix(b"\n").unwrap_or(&text);
    from_hex(digits).map(|bytes| key_of(&bytes)).ok_or_else(|| {
        io::Error::new(
            ErrorKind::InvalidData,
            "it is not 64 hexadecimal digits; `xks-proxy audit new-key` makes one",
        )
    })
}

/// Creates a key file from `random` bytes, readable only by its owner. An existing file is never
/// overwritten.
///
/// # Errors
/// The file exists, or cannot be written; then none is left behind.
pub fn write_new(path: &Path, random: &[u8; CODE_BYTES]) -> io::Result<()> {
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES));
    push_hex(&mut text, random);
    text.push(b'\n');
    new_file::write(path, 0o400, &text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A new key file reads back, is inaccessible to others, and is not overwritten.
    #[test]
    fn there_and_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_new(&path, &[0xa5; 32]).unwrap();
        assert_eq!(**read(&path).unwrap(), [0xa5; 32]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
        assert_eq!(write_new(&path, &[1; 32]).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(**read(&path).unwrap(), [0xa5; 32]);
    }

    /// Neither a key that others can read nor anything other than 64 digits is accepted.
    #[test]
    fn what_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(read(&path).is_err(), "{text}");
        }
        fs::write(&path, "0".repeat(64)).unwrap();
        for (mode, is_good) in [(0o600, true), (0o440, true), (0o644, false), (0o660, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_ok(), is_good, "{mode:o}");
        }
    }
}

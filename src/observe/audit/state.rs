//! The state file, from which the chain resumes after a restart.
//!
//! It is overwritten in place, one sector in one write. Replacing it with another file would leave
//! the old key in free blocks of the disk, once per batch of lines.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use super::chain::{CHAIN_ID_BYTES, CODE_BYTES, Chain, key_of};
use super::link::LogId;

const MAGIC: &[u8; 8] = b"xksaudt1";
const DIGEST_AT: usize = 8 + CHAIN_ID_BYTES + 8 + 2 * CODE_BYTES + 8 + 1;
/// Length of the file: well below a sector, which disks write atomically.
const STATE_BYTES: usize = DIGEST_AT + CODE_BYTES;

/// A saved state.
#[derive(Clone)]
pub(super) struct State {
    pub(super) chain: Chain,
    /// Length of the log file after the last line before [`Chain::seq`].
    pub(super) file_bytes: u64,
    /// True if the process ended in good order and wrote no more lines.
    pub(super) is_clean: bool,
}

impl State {
    /// Reads a state file, or a copy of one.
    ///
    /// # Errors
    /// The file cannot be read, or is not a state.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        read(&File::open(path)?)
    }
}

#[inline(never)]
fn read(file: &File) -> io::Result<State> {
    let mut bytes = Zeroizing::new([0; STATE_BYTES]);
    file.read_exact_at(&mut *bytes, 0)?;
    decode(&bytes).ok_or_else(|| {
        io::Error::new(
            ErrorKind::InvalidData,
            "it is not a state of the audit log; to begin a new chain, move it away and put a \
             new key_file in place",
        )
    })
}

/// The open state file.
pub(super) struct StateFile {
    path: PathBuf,
    file: File,
    /// The bytes to write; zeroed after each write.
    buffer: Box<Zeroizing<[u8; STATE_BYTES]>>,
}

impl StateFile {
    /// Opens the file, or creates it with mode 0600, and locks it until it is dropped. Also returns
    /// the saved state; `None` if the file is new.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] if another process has locked it. Otherwise the file cannot be
    /// opened, users other than its owner can read or change it, or it is not a state.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<State>)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        file.try_lock()?;
        let metadata = file.metadata()?;
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(io::Error::other(format!("its mode is {mode:04o}: chmod it 0600")));
        }
        let state = match metadata.len() {
            0 => None,
            _ => Some(read(&file)?),
        };
        let buffer = Box::new(Zeroizing::new([0; STATE_BYTES]));
        Ok((Self { path: path.to_owned(), file, buffer }, state))
    }

    /// Opens another file if this one no longer has its name, and returns whether it has done so. The
    /// state has to be saved then. A file in its place that another process has locked is that
    /// process's.
    ///
    /// # Errors
    /// Those of [`Self::open`]; this file stays in use.
    pub(super) fn recreate_if_lost(&mut self) -> io::Result<bool> {
        let id = self.id()?;
        match LogId::of(&self.path) {
            Ok(named) if named == id => return Ok(false),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        // Another state there is a copy of an earlier one.
        let (other, _) = Self::open(&self.path)?;
        *self = other;
        Ok(true)
    }

    /// Overwrites the state.
    ///
    /// # Errors
    /// The file cannot be written.
    #[inline(never)]
    pub(super) fn save(
        &mut self,
        chain: &Chain,
        file_bytes: u64,
        is_clean: bool,
    ) -> io::Result<()> {
        encode(chain, file_bytes, is_clean, &mut self.buffer);
        let written = self.file.write_all_at(&**self.buffer, 0);
        self.buffer.zeroize();
        written
    }

    /// Returns the identity of the log.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn id(&self) -> io::Result<LogId> {
        self.file.metadata().map(|metadata| LogId::of_metadata(&metadata))
    }

    /// Waits until the state is on the disk.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Releases the lock early, after the last write.
    ///
    /// # Errors
    /// The system's error; the lock is then released when this is dropped.
    pub(super) fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
}

fn encode(chain: &Chain, file_bytes: u64, is_clean: bool, bytes: &mut [u8; STATE_BYTES]) {
    let parts: [&[u8]; 7] = [
        MAGIC,
        &chain.id(),
        &chain.seq().to_be_bytes(),
        chain.key(),
        chain.previous(),
        &file_bytes.to_be_bytes(),
        &[u8::from(is_clean)],
    ];
    let mut rest = &mut bytes[..];
    for part in parts {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    let digest = Sha256::digest(&bytes[..DIGEST_AT]);
    bytes[DIGEST_AT..].copy_from_slice(&digest);
}

fn decode(bytes: &[u8; STATE_BYTES]) -> Option<State> {
    let (content, digest) = bytes.split_at(DIGEST_AT);
    if Sha256::digest(content).as_slice() != digest {
        return None;
    }
    let rest = content.strip_prefix(MAGIC)?;
    let (id, rest) = rest.split_first_chunk::<CHAIN_ID_BYTES>()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_first_chunk::<CODE_BYTES>()?;
    let (previous, rest) = rest.split_first_chunk::<CODE_BYTES>()?;
    let (file_bytes, rest) = rest.split_first_chunk()?;
    let key = key_of(key);
    Some(State {
        chain: Chain::resume(*id, u64::from_be_bytes(*seq), key, *previous),
        file_bytes: u64::from_be_bytes(*file_bytes),
        is_clean: rest == [1],
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn state() -> State {
        let mut chain = Chain::begin(key_of(&[9; CODE_BYTES]));
        chain.seal(b"a line");
        State { chain, file_bytes: 4711, is_clean: true }
    }

    /// A saved state reads back, and the old key no longer appears anywhere in the file.
    #[test]
    fn there_and_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let (mut file, none) = StateFile::open(&path).unwrap();
        assert!(none.is_none());
        let mut state = state();
        file.save(&state.chain, 4711, true).unwrap();
        let former = *state.chain.key();
        state.chain.seal(b"another");
        file.save(&state.chain, 4711, true).unwrap();
        file.sync().unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(CODE_BYTES).any(|window| window == former));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);

        let held = StateFile::open(&path).err().unwrap();
        assert_eq!(held.kind(), ErrorKind::WouldBlock);
        drop(file);
        let (_, read) = StateFile::open(&path).unwrap();
        let read = read.unwrap();
        assert_eq!(read.chain.key(), state.chain.key());
        assert_eq!(read.chain.previous(), state.chain.previous());
        assert_eq!((read.chain.id(), read.chain.seq()), (state.chain.id(), 2));
        assert_eq!((read.file_bytes, read.is_clean), (4711, true));
    }

    /// A damaged or truncated state is refused, as it would silently break the chain. So is one
    /// that other users can read, as they would know the key.
    #[test]
    fn what_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut good = [0; STATE_BYTES];
        encode(&state().chain, 4711, true, &mut good);
        for at in 0..STATE_BYTES {
            let mut bytes = good;
            bytes[at] ^= 1;
            assert!(decode(&bytes).is_none(), "byte {at}");
        }
        fs::write(&path, &good[..STATE_BYTES - 1]).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(StateFile::open(&path).is_err());
        fs::write(&path, good).unwrap();
        assert!(StateFile::open(&path).is_ok());
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(StateFile::open(&path).is_err());
    }
}

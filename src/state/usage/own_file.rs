//! This process's own file: created under the directory's lock, then written in place.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::process_file::{Entry, HEADER_BYTES, PREFIX, Reading, body, header};
use crate::key_name::hex;
use crate::random;
use crate::state::directory::{Directory, Lock};

/// Room for keys that a reload adds, in each copy.
const SPARE_BYTES: usize = 4096;

/// The file, which this process keeps locked as long as it lives.
#[derive(Debug)]
pub(super) struct OwnFile {
    file: File,
    name: String,
    copy_bytes: usize,
    sequence: u64,
    /// The lines written last.
    body: Vec<u8>,
}

/// The times of one write, and whether it is the last one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) started: u64,
    pub(super) now: u64,
    pub(super) is_closed: bool,
}

impl OwnFile {
    /// Creates the file, in place of `former` if the process has had one. All of its blocks are
    /// written, so that later writes need no room on the disk.
    ///
    /// # Errors
    /// The file cannot be written or made durable.
    pub(super) fn create(
        directory: &Directory,
        _lock: &Lock,
        former: Option<&Self>,
        moment: Moment,
        entries: &[Entry],
    ) -> io::Result<Self> {
        let name = match former {
            Some(former) => former.name.clone(),
            None => {
                let mut random = [0; 4];
                random::fill(&mut random)?;
                format!("{PREFIX}{}-{}-{}", moment.started, std::process::id(), hex(&random))
            }
        };
        let sequence = former.map_or(0, |former| former.sequence + 1);
        let body = body(entries)?;
        let copy_bytes = HEADER_BYTES + body.len() + body.len() / 4 + SPARE_BYTES;
        let header = header(&reading(moment, sequence), &body)?;
        let mut copy = Vec::with_capacity(2 * copy_bytes);
        for end in [copy_bytes, 2 * copy_bytes] {
            copy.extend_from_slice(&header);
            copy.extend_from_slice(&body);
            copy.resize(end, b'\n');
        }
        let next = format!("{name}.next");
        let path = directory.path().join(&next);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let write = || {
            let file = directory.create_new(&next)?;
            file.try_lock()?;
            file.write_all_at(&copy, 0)?;
            file.sync_all()?;
            fs::rename(&path, directory.path().join(&name))?;
            directory.sync()?;
            Ok(file)
        };
        let file = write().inspect_err(|_: &io::Error| {
            let _ = fs::remove_file(&path);
        })?;
        Ok(Self { file, name, copy_bytes, sequence, body })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the file is still where it was created and has room for these keys.
    pub(super) fn is_fit(&self, directory: &Directory, entries: &[Entry]) -> io::Result<bool> {
        let has_room = HEADER_BYTES + body(entries)?.len() <= self.copy_bytes;
        let is_same = match fs::metadata(directory.path().join(&self.name)) {
            Ok(found) => {
                let ours = self.file.metadata()?;
                (found.dev(), found.ino()) == (ours.dev(), ours.ino())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        Ok(has_room && is_same)
    }

    /// Writes one copy after the other, each of them durably before the next step: at any time, one
    /// of them is intact, and any of them suffices for the reservations that are in force.
    ///
    /// # Errors
    /// The file cannot be written or made durable. Reservations that were written earlier hold.
    pub(super) fn write(&mut self, moment: Moment, entries: &[Entry]) -> io::Result<()> {
        let body = body(entries)?;
        if HEADER_BYTES + body.len() > self.copy_bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file has no room left"));
        }
        self.sequence += 1;
        let mut content = header(&reading(moment, self.sequence), &body)?;
        if body != self.body {
            content.extend_from_slice(&body);
            // Whichever copy fails, the next write has to write the lines again.
            self.body.clear();
        }
        for start in [0, self.copy_bytes] {
            self.file.write_all_at(&content, u64::try_from(start).map_err(io::Error::other)?)?;
            self.file.sync_data()?;
        }
        self.body = body;
        Ok(())
    }
}

fn reading(moment: Moment, sequence: u64) -> Reading {
    let Moment { started, now: written, is_closed } = moment;
    Reading { started, written, sequence, is_closed, entries: Vec::new() }
}

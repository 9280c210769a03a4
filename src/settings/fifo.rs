//! Reading from a named pipe, such as that of a shell's `<(...)`, without waiting for a writer
//! forever.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zeroize::Zeroizing;

/// Times after which waiting is reported, and given up.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) warning: Duration,
    pub(super) end: Duration,
}

/// Reads a pipe that was opened without blocking, up to its end or to one byte more than
/// `max_bytes`. Logs that nobody writes, and waits on.
///
/// # Errors
/// The pipe cannot be read, or nobody has written to it to the end in time.
pub(super) fn read(
    mut pipe: &File,
    path: &Path,
    max_bytes: usize,
    patience: Patience,
) -> io::Result<Zeroizing<Vec<u8>>> {
    // Of the full length from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(vec![0; max_bytes + 1]);
    let (mut filled, mut is_reported) = (0, false);
    let began = Instant::now();
    loop {
        let waited = began.elapsed();
        if waited >= patience.warning && !is_reported {
            is_reported = true;
            tracing::warn!(file = %path.display(), "it is a FIFO (named pipe) to which nobody writes");
        }
        if waited >= patience.end {
            let problem = "it is a FIFO (named pipe) that nobody has written to the end in time";
            return Err(io::Error::new(ErrorKind::TimedOut, problem));
        }
        let until = if is_reported { patience.end } else { patience.warning.min(patience.end) };
        let timeout = Timespec::try_from(until - waited).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match pipe.read(bytes.get_mut(filled..).unwrap_or_default()) {
            // There has been a writer: otherwise the pipe would not be reported as ended.
            Ok(0) => {
                bytes.truncate(filled);
                return Ok(bytes);
            }
            Ok(count) => {
                filled += count;
                if filled > max_bytes {
                    return Ok(bytes);
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::process::Command;
    use std::thread;

    use rustix::fs::OFlags;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    /// Reads a new pipe, to which `write` writes by its path in another thread.
    fn read_from(
        max_bytes: usize,
        end: Duration,
        write: impl FnOnce(&Path) + Send,
    ) -> io::Result<Vec<u8>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
        let pipe = OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| write(&path));
            let patience = Patience { warning: Duration::ZERO, end };
            read(&pipe, &path, max_bytes, patience).map(|bytes| bytes.to_vec())
        })
    }

    /// A writer may come late and write in pieces.
    #[test]
    fn until_the_writer_ends() {
        let read = read_from(1_000_000, LONG, |path| {
            thread::sleep(Duration::from_millis(50));
            let text = vec![b'x'; 300_000];
            fs::write(path, text).unwrap();
        });
        assert_eq!(read.unwrap().len(), 300_000);
    }

    /// Nobody writes, or somebody who does not end.
    #[test]
    fn not_forever() {
        let end = Duration::from_millis(100);
        let error = read_from(10, end, |_| {}).unwrap_err();
        assert!(error.to_string().contains("nobody has written"), "{error}");
        let error = read_from(10, end, |path| {
            let _open = OpenOptions::new().write(true).open(path).unwrap();
            thread::sleep(4 * end);
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    /// More than the limit is recognised, and not read.
    #[test]
    fn too_long() {
        let read = read_from(10, LONG, |path| fs::write(path, [b'x'; 20]).unwrap());
        assert_eq!(read.unwrap().len(), 11);
    }
}

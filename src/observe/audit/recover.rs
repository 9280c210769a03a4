//! Recovery after a crash: lines that were written after the state was last saved.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use memchr::{memchr_iter, memrchr};

use super::line;
use super::state::State;
use crate::limits::MAX_AUDIT_RECOVERY_BYTES;

/// Data found after the saved state.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Whole lines of the chain, which continues after them.
    pub(super) lines: u64,
    /// Bytes of an incomplete line, which are cut off.
    pub(super) torn_bytes: u64,
}

/// Advances the chain past the lines that `file`, of length `file_bytes`, has beyond the saved
/// state, and cuts off an incomplete line.
///
/// # Errors
/// The file cannot be read or truncated.
pub(super) fn recover(file: &File, file_bytes: u64, state: &mut State) -> io::Result<Recovered> {
    let mut found = Recovered::default();
    // A shorter file is another one, or lacks lines; finding out is for the verifier.
    let start = if file_bytes >= state.file_bytes { state.file_bytes } else { 0 };
    let start = start.max(file_bytes.saturating_sub(MAX_AUDIT_RECOVERY_BYTES));
    let length = usize::try_from(file_bytes - start).unwrap_or(0);
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, start)?;
    let whole = memrchr(b'\n', &bytes).map_or(0, |newline| newline + 1);
    found.torn_bytes = (length - whole) as u64;
    if found.torn_bytes > 0 {
        file.set_len(file_bytes - found.torn_bytes)?;
    }
    let mut begin = 0;
    for newline in memchr_iter(b'\n', &bytes[..whole]) {
        let parsed = line::parse(&bytes[begin..newline]);
        begin = newline + 1;
        let chain = &mut state.chain;
        match parsed {
            Some(parsed)
                if parsed.seq == chain.seq()
                    && chain.fits(chain.previous(), parsed.covered, &parsed.code) =>
            {
                chain.skip(parsed.code);
                found.lines += 1;
            }
            // From before the state was saved, or not written by us.
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::observe::audit::chain::{Chain, key_of};

    /// Whichever byte a killed process wrote last, the chain continues after the last whole line,
    /// and an incomplete line is cut off.
    #[test]
    fn after_any_byte() {
        let mut chain = Chain::begin(key_of(&[3; 32]));
        let mut text = Vec::new();
        line::write(&mut text, &mut chain, b",\"event\":\"open\"", true);
        let kept = State { chain: chain.clone(), file_bytes: text.len() as u64, is_clean: false };
        for number in 0..3 {
            let members = format!(",\"event\":\"call\",\"n\":{number}");
            line::write(&mut text, &mut chain, members.as_bytes(), false);
        }
        let kept_bytes = usize::try_from(kept.file_bytes).unwrap();
        for length in kept_bytes..=text.len() {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&text[..length]).unwrap();
            let mut state = kept.clone();
            let found = recover(&file, length as u64, &mut state).unwrap();
            let lines = memchr_iter(b'\n', &text[kept_bytes..length]).count() as u64;
            let end = memrchr(b'\n', &text[..length]).unwrap() + 1;
            assert_eq!(found, Recovered { lines, torn_bytes: (length - end) as u64 });
            assert_eq!(state.chain.seq(), 1 + lines);
            assert_eq!(file.metadata().unwrap().len(), end as u64);
        }
    }

    /// Wherever a process was killed between two files, the chain continues after the last line
    /// written.
    #[test]
    fn between_two_files() {
        let mut chain = Chain::begin(key_of(&[3; 32]));
        let (mut old, mut next) = (Vec::new(), Vec::new());
        line::write(&mut old, &mut chain, b",\"event\":\"open\"", true);
        line::write(&mut old, &mut chain, b",\"event\":\"rotate\"", false);
        let kept = State { chain: chain.clone(), file_bytes: 0, is_clean: false };
        line::write(&mut next, &mut chain, b",\"event\":\"continue\"", true);
        for (text, seq) in [(&old, 2), (&Vec::new(), 2), (&next, 3)] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text).unwrap();
            let mut state = kept.clone();
            let found = recover(&file, text.len() as u64, &mut state).unwrap();
            assert_eq!((found.lines, found.torn_bytes), (seq - 2, 0));
            assert_eq!(state.chain.seq(), seq);
        }
    }

    /// Forged lines do not advance the chain.
    #[test]
    fn forged_lines_move_nothing() {
        let mut chain = Chain::begin(key_of(&[3; 32]));
        let mut state = State { chain: chain.clone(), file_bytes: 0, is_clean: false };
        let mut other = Chain::begin(key_of(&[4; 32]));
        let mut text = Vec::new();
        line::write(&mut text, &mut other, b",\"event\":\"call\"", false);
        text.extend_from_slice(b"rubbish\n");
        line::write(&mut text, &mut chain, b",\"event\":\"call\"", false);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&text).unwrap();
        let found = recover(&file, text.len() as u64, &mut state).unwrap();
        assert_eq!(found, Recovered { lines: 1, torn_bytes: 0 });
        assert_eq!(state.chain.seq(), 1);
    }
}

//! Checks an audit log, line by line, with the chain's first key.
//!
//! A line that is changed has the wrong code; one that is missing leaves a gap in the numbers, and
//! the codes behind it show whether the gap is real; one that is inserted or moved has a number
//! that is past, or one that nothing goes on from.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::chain::{CODE_BYTES, Chain, hex};
use super::checkpoint::{self, Checkpoint};
use super::line::{Parsed, parse, string};
use super::path_error::with_path;
use super::state::State;
use crate::limits::{MAX_ACCESS_LOG_LINE_BYTES, MAX_AUDIT_SKIP_LINES};

/// Where a line stands: file and line, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 for the file as a whole.
    pub line: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.file.display(), self.line)
    }
}

/// What the verifier has to say of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// The log is not what the proxy wrote. Else it is as it was written, and worth knowing.
    pub is_tampered: bool,
    /// What.
    pub text: String,
}

/// What came of it all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Lines that are as they were written.
    pub good_lines: u64,
    /// Findings that say otherwise.
    pub tampered: u64,
    /// The number of the first line that was looked for.
    pub first_seq: Option<u64>,
    /// The number behind the last line.
    pub next_seq: u64,
    /// Checkpoints that say that the HSM has sealed them.
    pub checkpoints: u64,
    /// The number of the last one of those that it has; all lines before are as they were then.
    pub sealed_seq: Option<u64>,
    /// The last line says that the process ended, or that another file follows.
    pub is_ended: bool,
    /// The log names another chain than the key's, and no line fits: it is the wrong key.
    pub is_other_chain: bool,
}

/// Asks the HSM whether it has sealed a checkpoint.
///
/// # Errors
/// Why that cannot be told.
pub type AskHsm<'a> = &'a mut dyn FnMut(&Checkpoint) -> Result<bool, String>;

/// Checks files, whatever their order, as one log. `told` is called for each finding. With a
/// `state` file, or a copy of it, the end of the log is checked too; with `ask_hsm`, checkpoints.
///
/// # Errors
/// A file cannot be read, or the HSM does not say whether a checkpoint is its own; the error names
/// which.
pub fn verify(
    files: &[PathBuf],
    chain: Chain,
    state: Option<&Path>,
    ask_hsm: Option<AskHsm<'_>>,
    told: &mut dyn FnMut(&Finding),
) -> io::Result<Summary> {
    // Before the lines: they are written before the state is.
    let state = match state {
        Some(path) => Some(State::read(path).map_err(|error| with_path(path, &error))?),
        None => None,
    };
    let mut ordered = Vec::new();
    for file in files {
        let first = first_seq(file).map_err(|error| with_path(file, &error))?;
        ordered.push((first, file));
    }
    ordered.sort();
    let mut verifier = Verifier::new(chain, ask_hsm, told);
    for (_, file) in ordered {
        verifier.file(file).map_err(|error| with_path(file, &error))?;
    }
    Ok(verifier.finish(state.as_ref()))
}

/// The number of a file's first line; a file without one is looked at last.
fn first_seq(file: &Path) -> io::Result<u64> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(File::open(file)?);
    read_line(&mut reader, &mut line)?;
    Ok(parse(line.strip_suffix(b"\n").unwrap_or(&line)).map_or(u64::MAX, |parsed| parsed.seq))
}

/// Reads up to and with the next line end, keeping no more than a line can have. Gives how many
/// bytes there were.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    const MAX_LINE_BYTES: u64 = 2 * MAX_ACCESS_LOG_LINE_BYTES as u64;
    line.clear();
    let mut bytes = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)? as u64;
    if bytes == MAX_LINE_BYTES && !line.ends_with(b"\n") {
        bytes += reader.skip_until(b'\n')? as u64;
    }
    Ok(bytes)
}

/// A line that leaves lines out, of which is not known yet whether it is a true one.
struct Jump {
    place: Place,
    /// The chain behind it, if it is.
    behind: Chain,
}

struct Verifier<'t, 'h> {
    /// Before the next line.
    chain: Chain,
    id: String,
    jump: Option<Jump>,
    /// The line before was not what it should be.
    is_shaken: bool,
    place: Place,
    summary: Summary,
    ask_hsm: Option<AskHsm<'h>>,
    told: &'t mut dyn FnMut(&Finding),
}

impl<'t, 'h> Verifier<'t, 'h> {
    fn new(chain: Chain, ask_hsm: Option<AskHsm<'h>>, told: &'t mut dyn FnMut(&Finding)) -> Self {
        Self {
            id: hex(&chain.id()),
            chain,
            jump: None,
            is_shaken: false,
            place: Place { file: PathBuf::new(), line: 0 },
            summary: Summary::default(),
            ask_hsm,
            told,
        }
    }

    fn file(&mut self, path: &Path) -> io::Result<()> {
        self.place = Place { file: path.to_owned(), line: 0 };
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
        let mut line = Vec::new();
        while read_line(&mut reader, &mut line)? > 0 {
            self.place.line += 1;
            match line.strip_suffix(b"\n") {
                Some(whole) => self.line(whole)?,
                None => self.tampered("the line is not whole: its end is missing"),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(parsed) = parse(line) else {
            self.tampered("this is not a line of the audit log: it was changed or inserted");
            return Ok(());
        };
        self.note_chain(line);
        if self.settle_jump(&parsed) {
            return self.accept(line, &parsed);
        }
        let expected = self.chain.seq();
        if parsed.seq < expected {
            self.tampered(&format!(
                "number {} has been before: the line was doubled, moved or inserted",
                parsed.seq
            ));
        } else if parsed.seq > expected {
            return self.leap(line, &parsed);
        } else if self.fits(&self.chain, &parsed) {
            return self.accept(line, &parsed);
        } else {
            let text = match self.is_shaken {
                true => "the code does not fit: this line or the one before was changed",
                false => "the code does not fit: the line was changed",
            };
            self.tampered(text);
            self.chain.skip(parsed.code);
            self.is_shaken = true;
        }
        Ok(())
    }

    /// Whether the line is the one that `chain` stands before.
    fn fits(&self, chain: &Chain, parsed: &Parsed<'_>) -> bool {
        let fits = |previous: &[u8; CODE_BYTES]| chain.fits(previous, parsed.covered, &parsed.code);
        fits(chain.previous()) || parsed.previous.is_some_and(|previous| fits(&previous))
    }

    /// A line whose number leaves some out.
    fn leap(&mut self, line: &[u8], parsed: &Parsed<'_>) -> io::Result<()> {
        let expected = self.chain.seq();
        if parsed.seq - expected > MAX_AUDIT_SKIP_LINES {
            self.tampered(&format!("number {} cannot be: {expected} is next", parsed.seq));
            return Ok(());
        }
        let mut ahead = self.chain.clone();
        while ahead.seq() < parsed.seq {
            ahead.skip([0; CODE_BYTES]);
        }
        if parsed.previous.is_none() {
            ahead.skip(parsed.code);
            self.summary.first_seq.get_or_insert(expected);
            self.jump = Some(Jump { place: self.place.clone(), behind: ahead });
        } else if self.fits(&ahead, parsed) {
            // A file that has others before it may be the first that is still there.
            if self.summary.first_seq.is_some() {
                self.missing(&self.place.clone(), expected, parsed.seq);
            }
            self.chain = ahead;
            return self.accept(line, parsed);
        } else {
            self.tampered("the code does not fit: the line was changed or inserted");
        }
        Ok(())
    }

    /// Decides on a leap by the line behind it. Whether that line goes on from there.
    fn settle_jump(&mut self, parsed: &Parsed<'_>) -> bool {
        let Some(jump) = self.jump.take() else { return false };
        if parsed.seq == jump.behind.seq() && self.fits(&jump.behind, parsed) {
            self.missing(&jump.place, self.chain.seq(), jump.behind.seq() - 1);
            self.chain = jump.behind;
            return true;
        }
        self.moved(jump.place);
        false
    }

    fn moved(&mut self, place: Place) {
        self.tell(place, true, "nothing goes on from this line: it was inserted, moved or changed");
    }

    /// Lines from `first` on, and before `next`, are not there.
    fn missing(&mut self, place: &Place, first: u64, next: u64) {
        let text = match next - first {
            1 => format!("line number {first} is missing before this line"),
            _ => format!("lines number {first} to {} are missing before this line", next - 1),
        };
        self.tell(place.clone(), true, &text);
    }

    fn accept(&mut self, line: &[u8], parsed: &Parsed<'_>) -> io::Result<()> {
        self.summary.first_seq.get_or_insert(parsed.seq);
        self.summary.good_lines += 1;
        self.is_shaken = false;
        let event = string(line, "event").unwrap_or_default();
        if event == checkpoint::EVENT {
            self.checkpoint(line, parsed.seq)?;
        }
        self.chain.skip(parsed.code);
        self.summary.is_ended = matches!(event, "stop" | "rotate");
        let text = match event {
            "open" if string(line, "previousEnd") == Some("crash") => {
                "the proxy had not ended in good order before: lines that it had not written yet \
                 are lost"
            }
            "gap" => "the proxy says that it had to leave lines out or to refuse calls",
            _ => return Ok(()),
        };
        self.tell(self.place.clone(), false, text);
        Ok(())
    }

    /// A line behind [`Self::chain`], whose code fits, says that the HSM vouches for those before.
    fn checkpoint(&mut self, line: &[u8], seq: u64) -> io::Result<()> {
        self.summary.checkpoints += 1;
        let Some(ask_hsm) = &mut self.ask_hsm else { return Ok(()) };
        let is_sealed = match checkpoint::parse(line, &self.chain) {
            Some(checkpoint) => ask_hsm(&checkpoint).map_err(|reason| {
                io::Error::other(format!("line {}: {reason}", self.place.line))
            })?,
            None => false,
        };
        if is_sealed {
            self.summary.sealed_seq = Some(seq);
        } else {
            self.tampered(
                "the HSM has not sealed this checkpoint: this line or one before was written by \
                 somebody who had the chain's first key, but not the HSM's",
            );
        }
        Ok(())
    }

    fn note_chain(&mut self, line: &[u8]) {
        if string(line, "chain").is_some_and(|chain| chain != self.id) {
            self.summary.is_other_chain = true;
        }
    }

    fn tampered(&mut self, text: &str) {
        self.tell(self.place.clone(), true, text);
    }

    fn tell(&mut self, place: Place, is_tampered: bool, text: &str) {
        self.summary.tampered += u64::from(is_tampered);
        (self.told)(&Finding { place, is_tampered, text: text.to_owned() });
    }

    fn finish(mut self, state: Option<&State>) -> Summary {
        if let Some(jump) = self.jump.take() {
            self.moved(jump.place);
        }
        if let Some(state) = state {
            let (here, kept) = (self.chain.seq(), state.chain.seq());
            if state.chain.id() != self.chain.id() {
                self.tampered("the state file is that of another chain");
            } else if here < kept {
                self.tampered(&format!(
                    "lines number {here} to {} are missing behind this line",
                    kept - 1
                ));
            }
        }
        self.summary.next_seq = self.chain.seq();
        self.summary.is_other_chain &= self.summary.good_lines == 0;
        self.summary
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;

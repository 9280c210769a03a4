//! Verification of an audit log, line by line, with the chain's first key.
//!
//! A changed line has a wrong code. A missing line leaves a gap in the numbers, and the codes of
//! the lines after the gap show whether it is real. An inserted or moved line has a number that has
//! already occurred, or one that the lines after it do not continue from.

use std::io;
use std::path::{Path, PathBuf};

use super::chain::{CODE_BYTES, Chain, hex};
use super::checkpoint::{self, Checkpoint, CheckpointError, Seal};
use super::input::{self, Input, read_line, wait_for_end};
use super::line::{Parsed, parse, string};
use super::path_error::with_path;
use super::receive;
use super::state::State;
use crate::limits::MAX_AUDIT_SKIP_LINES;
use crate::observe::timestamp::parse_rfc3339;

/// Member of a `stop` line written by another process than the one that ends, which has handed the
/// log over.
pub(super) const IN_ANOTHER_PROCESS: &str = "handedOver";

/// The position of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub file: PathBuf,
    /// Number of the line, from 1; 0 for the file as a whole.
    pub line: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.file.display(), self.line)
    }
}

/// A finding about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Position of the line.
    pub position: Position,
    /// True if the log is not what the proxy wrote. Otherwise the finding is only a note.
    pub is_tampered: bool,
    /// Description.
    pub text: String,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of files, of which one that is named twice is one.
    pub files: u64,
    /// Number of lines in the log's form, whether or not they are unchanged.
    pub formed_lines: u64,
    /// Number of lines that are unchanged.
    pub good_lines: u64,
    /// Number of findings of tampering.
    pub tampered: u64,
    /// Number of the first line expected.
    pub first_seq: Option<u64>,
    /// Number that would follow the last line.
    pub next_seq: u64,
    /// Number of checkpoints, whether or not their seals were checked.
    pub checkpoints: u64,
    /// Number of the last checkpoint with a genuine seal; no line before it has been changed since.
    pub sealed_seq: Option<u64>,
    /// The lines after the last genuine checkpoint, if the seals were checked.
    pub unsealed: Unsealed,
    /// True if the last line marks the end of the process or of a file.
    pub is_ended: bool,
    /// True if the log names a different chain from the key's, and no line is good: the key is
    /// wrong.
    pub is_other_chain: bool,
}

/// Lines that no genuine checkpoint covers: only the chain does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsealed {
    /// Number of lines.
    pub lines: u64,
    /// Time of the first, in the log's form.
    pub since: String,
    /// Time of the last.
    pub until: String,
}

impl Unsealed {
    /// Returns the age of the first line, in seconds: at the time of the last one if the log
    /// `is_ended`, and otherwise at `now`. A line without a valid time is as old as can be.
    #[must_use]
    pub fn age_secs(&self, is_ended: bool, now: u64) -> u64 {
        if self.lines == 0 {
            return 0;
        }
        let until = if is_ended { parse_rfc3339(&self.until) } else { Some(now) };
        match (parse_rfc3339(&self.since), until) {
            (Some(since), Some(until)) => until.saturating_sub(since),
            _ => u64::MAX,
        }
    }
}

/// Returns whether the HSM has sealed a checkpoint, and in which form.
///
/// # Errors
/// The HSM cannot answer.
pub type CheckSeal<'a> = &'a mut dyn FnMut(&Checkpoint) -> Result<Seal, CheckpointError>;

/// The receiver of a verification's results, in the order of the lines.
pub trait Reader {
    /// Takes a finding.
    fn finding(&mut self, finding: &Finding);

    /// Takes a line that is unchanged, without its end. A line after a gap is not among them:
    /// whether it is unchanged, only the missing one could tell.
    fn good_line(&mut self, line: &[u8]);
}

/// A function for findings alone.
impl<F: FnMut(&Finding)> Reader for F {
    fn finding(&mut self, finding: &Finding) {
        self(finding);
    }

    fn good_line(&mut self, _: &[u8]) {}
}

/// Verifies files, in any order, as one log, and gives `reader` each finding and each unchanged
/// line. Given a `state` file, or a copy of it, also verifies the end of the log; given
/// `check_seal`, also the checkpoints.
///
/// # Errors
/// A file cannot be read or is compressed, or a checkpoint cannot be checked; the error names which.
pub fn verify(
    files: &[PathBuf],
    chain: Chain,
    state: Option<&Path>,
    check_seal: Option<CheckSeal<'_>>,
    reader: &mut dyn Reader,
) -> io::Result<Summary> {
    // Read before the lines, because a running proxy writes lines before the state.
    let state = match state {
        Some(path) => Some(State::read(path).map_err(|error| with_path(path, &error))?),
        None => None,
    };
    let inputs = input::in_order(files)?;
    let first = chain.clone();
    let mut verifier = Verifier::new(chain, state, check_seal, reader);
    for input in inputs {
        let path = input.path;
        verifier.file(input).map_err(|error| with_path(path, &error))?;
    }
    Ok(verifier.finish(first))
}

/// Advances a chain to the line with number `seq`, whose key does not depend on the lines before.
fn ahead(mut chain: Chain, seq: u64) -> Chain {
    while chain.seq() < seq {
        chain.skip([0; CODE_BYTES]);
    }
    chain
}

/// A gap before a line that may be genuine: the next line decides.
struct PendingGap {
    position: Position,
    /// The chain after the line, if it is genuine.
    behind: Chain,
}

struct Verifier<'t, 'h> {
    /// The chain before the next line.
    chain: Chain,
    id: String,
    pending_gap: Option<PendingGap>,
    /// True if the code of the previous line was wrong.
    is_previous_bad: bool,
    position: Position,
    summary: Summary,
    check_seal: Option<CheckSeal<'h>>,
    /// True if a checkpoint has a seal of the present form: later ones must have it, too.
    is_form_present: bool,
    state: Option<State>,
    /// Code of the last line before the state, if that line is unchanged.
    code_before_state: Option<[u8; CODE_BYTES]>,
    reader: &'t mut dyn Reader,
}

impl<'t, 'h> Verifier<'t, 'h> {
    fn new(
        chain: Chain,
        state: Option<State>,
        check_seal: Option<CheckSeal<'h>>,
        reader: &'t mut dyn Reader,
    ) -> Self {
        Self {
            id: hex(&chain.id()),
            chain,
            pending_gap: None,
            is_previous_bad: false,
            position: Position { file: PathBuf::new(), line: 0 },
            summary: Summary::default(),
            check_seal,
            is_form_present: false,
            state,
            code_before_state: None,
            reader,
        }
    }

    fn file(&mut self, input: Input<'_>) -> io::Result<()> {
        self.summary.files += 1;
        self.position = Position { file: input.path.to_owned(), line: 0 };
        let mut reader = input.open()?;
        let mut line = Vec::new();
        while read_line(&mut *reader, &mut line)? > 0 {
            self.position.line += 1;
            if !line.ends_with(b"\n") {
                wait_for_end(&mut *reader, &mut line)?;
            }
            match line.strip_suffix(b"\n") {
                Some(whole) => self.line(whole)?,
                None => self.tampered("the line is incomplete: its end is missing"),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(parsed) = parse(line) else {
            self.tampered("this is not a line of the audit log: it was changed or inserted");
            return Ok(());
        };
        self.summary.formed_lines += 1;
        self.note_chain(line);
        if self.settle_gap(&parsed) {
            return self.good_line(line, &parsed);
        }
        let expected = self.chain.seq();
        if parsed.seq < expected {
            self.tampered(&format!(
                "number {} occurred before: the line was duplicated, moved or inserted",
                parsed.seq
            ));
        } else if parsed.seq > expected {
            return self.line_after_gap(line, &parsed);
        } else if self.fits(&self.chain, &parsed) {
            return self.good_line(line, &parsed);
        } else {
            let text = match self.is_previous_bad {
                true => "the code is wrong: this line or the one before was changed",
                false => "the code is wrong: the line was changed",
            };
            self.tampered(text);
            self.chain.skip(parsed.code);
            self.is_previous_bad = true;
        }
        Ok(())
    }

    /// Returns whether the line is the next one of `chain`.
    fn fits(&self, chain: &Chain, parsed: &Parsed<'_>) -> bool {
        let fits = |previous: &[u8; CODE_BYTES]| chain.fits(previous, parsed.covered, &parsed.code);
        fits(chain.previous()) || parsed.previous.is_some_and(|previous| fits(&previous))
    }

    /// Checks a line whose number leaves a gap.
    fn line_after_gap(&mut self, line: &[u8], parsed: &Parsed<'_>) -> io::Result<()> {
        let expected = self.chain.seq();
        if parsed.seq - expected > MAX_AUDIT_SKIP_LINES {
            self.tampered(&format!("number {} is impossible: {expected} is next", parsed.seq));
            return Ok(());
        }
        let mut ahead = ahead(self.chain.clone(), parsed.seq);
        if parsed.previous.is_none() {
            ahead.skip(parsed.code);
            self.summary.first_seq.get_or_insert(expected);
            self.pending_gap = Some(PendingGap { position: self.position.clone(), behind: ahead });
        } else if self.fits(&ahead, parsed) {
            // Older files may have been removed before the first one.
            if self.summary.first_seq.is_some() {
                self.missing(&self.position.clone(), expected, parsed.seq);
            }
            self.chain = ahead;
            return self.good_line(line, parsed);
        } else {
            self.tampered("the code is wrong: the line was changed or inserted");
        }
        Ok(())
    }

    /// Decides on a pending gap by the line after it. Returns whether that line continues the gap's
    /// line.
    fn settle_gap(&mut self, parsed: &Parsed<'_>) -> bool {
        let Some(pending_gap) = self.pending_gap.take() else { return false };
        if parsed.seq == pending_gap.behind.seq() && self.fits(&pending_gap.behind, parsed) {
            self.missing(&pending_gap.position, self.chain.seq(), pending_gap.behind.seq() - 1);
            self.chain = pending_gap.behind;
            return true;
        }
        self.nothing_follows(pending_gap.position);
        false
    }

    fn nothing_follows(&mut self, position: Position) {
        self.report(position, true, "no line follows this one: it was inserted, moved or changed");
    }

    /// Reports that the lines from `first` up to `next`, exclusive, are missing.
    fn missing(&mut self, position: &Position, first: u64, next: u64) {
        let text = match next - first {
            1 => format!("line number {first} is missing before this line"),
            _ => format!("lines number {first} to {} are missing before this line", next - 1),
        };
        self.report(position.clone(), true, &text);
    }

    fn good_line(&mut self, line: &[u8], parsed: &Parsed<'_>) -> io::Result<()> {
        self.summary.first_seq.get_or_insert(parsed.seq);
        self.summary.good_lines += 1;
        self.is_previous_bad = false;
        self.reader.good_line(line);
        let event = string(line, "event").unwrap_or_default();
        let is_sealed = event == checkpoint::EVENT && self.checkpoint(line, parsed.seq)?;
        if self.check_seal.is_some() && !is_sealed {
            self.count_unsealed(string(line, "time").unwrap_or_default());
        }
        self.chain.skip(parsed.code);
        if self.state.as_ref().is_some_and(|state| state.chain.seq() == self.chain.seq()) {
            self.code_before_state = Some(parsed.code);
        }
        let is_of_another = event == "stop" && string(line, IN_ANOTHER_PROCESS).is_some();
        // The end of another process is not the log's, nor does it follow that the log goes on.
        if !is_of_another {
            self.summary.is_ended = matches!(event, "stop" | "rotate");
        }
        let text = match event {
            "open" if string(line, "previousEnd") == Some("crash") => {
                "the proxy did not end in good order before: lines that it had not written yet \
                 are lost"
            }
            receive::LOST_EVENT => {
                "a process that had handed over the log ended before it had sent all of its lines: \
                 those are lost"
            }
            "gap" => "the proxy reports that it had to leave out lines or to refuse calls",
            _ => return Ok(()),
        };
        self.report(self.position.clone(), false, text);
        Ok(())
    }

    fn count_unsealed(&mut self, time: &str) {
        let unsealed = &mut self.summary.unsealed;
        if unsealed.lines == 0 {
            time.clone_into(&mut unsealed.since);
        }
        time.clone_into(&mut unsealed.until);
        unsealed.lines += 1;
    }

    /// Checks the seal of a checkpoint that is the next line of [`Self::chain`], and returns whether
    /// it is genuine.
    fn checkpoint(&mut self, line: &[u8], seq: u64) -> io::Result<bool> {
        self.summary.checkpoints += 1;
        let Some(check_seal) = &mut self.check_seal else { return Ok(false) };
        let seal = match checkpoint::parse(line, &self.chain) {
            Some(checkpoint) => check_seal(&checkpoint).map_err(|reason| {
                io::Error::other(format!("line {}: {reason}", self.position.line))
            })?,
            None => Seal::None,
        };
        match seal {
            Seal::Present => self.is_form_present = true,
            Seal::Former if !self.is_form_present => {}
            Seal::Former | Seal::None => {
                self.tampered(
                    "the HSM has not sealed this checkpoint: this line or one before was written \
                     by someone who had the chain's first key, but not the HSM's",
                );
                return Ok(false);
            }
        }
        self.summary.sealed_seq = Some(seq);
        self.summary.unsealed = Unsealed::default();
        Ok(true)
    }

    fn note_chain(&mut self, line: &[u8]) {
        // Most lines are calls, which have no such member.
        if string(line, "event") != Some("call")
            && string(line, "chain").is_some_and(|chain| chain != self.id)
        {
            self.summary.is_other_chain = true;
        }
    }

    fn tampered(&mut self, text: &str) {
        self.report(self.position.clone(), true, text);
    }

    fn report(&mut self, position: Position, is_tampered: bool, text: &str) {
        self.summary.tampered += u64::from(is_tampered);
        self.reader.finding(&Finding { position, is_tampered, text: text.to_owned() });
    }

    /// Compares the state with the lines. `first` is the chain before the first line.
    fn state(&mut self, state: &State, first: Chain) {
        let (here, kept) = (self.chain.seq(), state.chain.seq());
        if state.chain.id() != self.chain.id() {
            return self.tampered("the state file belongs to another chain");
        }
        if here < kept {
            self.tampered(&format!(
                "lines number {here} to {} are missing after this line",
                kept - 1
            ));
        }
        // Its number and the last line's code are in the log, for everyone to copy. Its key is not,
        // and can only be one that the proxy has not wiped yet.
        let is_forged = kept.saturating_sub(here) > MAX_AUDIT_SKIP_LINES
            || !state.chain.has_key_of(&ahead(first, kept))
            || self.code_before_state.is_some_and(|code| code != *state.chain.previous());
        if is_forged {
            self.tampered(&format!(
                "the state file is not the one that the proxy wrote before line number {kept}: it \
                 was forged, and lines after this one may have been cut off"
            ));
        }
    }

    fn finish(mut self, first: Chain) -> Summary {
        if let Some(pending_gap) = self.pending_gap.take() {
            self.nothing_follows(pending_gap.position);
        }
        if let Some(state) = self.state.take() {
            self.state(&state, first);
        }
        self.summary.next_seq = self.chain.seq();
        self.summary.is_other_chain &= self.summary.good_lines == 0;
        self.summary
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;

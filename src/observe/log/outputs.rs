//! The outputs of the log, and the number of lines that they lost.

use std::sync::Arc;

use super::output::Output;
use crate::observe::syslog::copies::Copies;

/// Up to two outputs, and syslog, all of which get the same lines.
#[derive(Clone)]
pub(super) struct Outputs {
    outputs: Arc<[Arc<Output>]>,
    copies: Copies,
}

impl Outputs {
    pub(super) fn new(outputs: Vec<Arc<Output>>, copies: Copies) -> Self {
        Self { outputs: outputs.into(), copies }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Output>> {
        self.outputs.iter()
    }

    /// Creates a log without outputs.
    pub(super) fn none() -> Self {
        Self { outputs: Arc::new([]), copies: Copies::default() }
    }

    /// Adds complete lines to each output.
    pub(super) fn push(&self, lines: &[u8]) {
        for output in self.outputs.iter() {
            output.push(lines);
        }
        self.copies.push(lines);
    }
}

/// A handle for reading a log's number of lost lines.
#[derive(Clone)]
pub struct LostLines(Outputs);

impl LostLines {
    pub(super) fn of(outputs: Outputs) -> Self {
        Self(outputs)
    }

    /// See [`super::Log::dropped_lines`].
    #[must_use]
    pub fn dropped_lines(&self) -> u64 {
        self.0.iter().map(|output| output.dropped_lines()).sum()
    }
}

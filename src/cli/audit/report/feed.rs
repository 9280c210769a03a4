//! The way of lines from the verification to the counts, which have a thread of their own: each takes
//! about as long as the other.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;

use memchr::memchr_iter;

use super::build::Findings;
use super::collect::{Collected, Collector};
use super::time::Period;
use crate::cli::audit::verify::{Log, read as verify};
use crate::exit::{EXIT_SOFTWARE, Failed};
use crate::limits::{
    AUDIT_REPORT_BATCH_BYTES, MAX_AUDIT_REPORT_BATCHES, MAX_AUDIT_REPORT_FINDINGS,
};
use crate::observe::audit::verify::{Finding, Reader, Summary};

/// Verifies the log, and counts the unchanged lines of the period.
///
/// # Errors
/// The log cannot be verified.
pub(super) fn read(log: &Log, period: Period) -> Result<(Summary, Findings, Collected), Failed> {
    let (full, to_count) = sync_channel(MAX_AUDIT_REPORT_BATCHES);
    let (used, empty) = channel();
    thread::scope(|scope| {
        let counting = scope.spawn(move || {
            let mut collector = Collector::new(period);
            count(&mut collector, &to_count, |batch| {
                // The verification may be over.
                let _ = used.send(batch);
            });
            collector.finish()
        });
        let mut feeder = Feeder { batch: Vec::new(), full, empty, findings: Findings::default() };
        let summary = verify(log, &mut feeder)?;
        feeder.send();
        let Feeder { full, findings, .. } = feeder;
        // The other thread ends once it has counted what is under way.
        drop(full);
        let collected = counting
            .join()
            .map_err(|_| Failed::new(EXIT_SOFTWARE, "the lines could not be counted".to_owned()))?;
        Ok((summary, findings, collected))
    })
}

fn count(collector: &mut Collector, full: &Receiver<Vec<u8>>, give_back: impl Fn(Vec<u8>)) {
    for mut batch in full {
        let mut begin = 0;
        for end in memchr_iter(b'\n', &batch) {
            collector.line(batch.get(begin..end).unwrap_or_default());
            begin = end + 1;
        }
        batch.clear();
        give_back(batch);
    }
}

/// Collects lines into batches.
struct Feeder {
    batch: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    /// Batches that have been counted, to be filled again.
    empty: Receiver<Vec<u8>>,
    findings: Findings,
}

impl Feeder {
    fn send(&mut self) {
        let next = self.empty.try_recv().unwrap_or_default();
        // Fails only if the other thread has panicked, which joining it reports.
        let _ = self.full.send(std::mem::replace(&mut self.batch, next));
    }
}

impl Reader for Feeder {
    fn finding(&mut self, finding: &Finding) {
        if !finding.is_tampered {
            // The counts tell of what the proxy noted itself.
            return;
        }
        if self.findings.listed.len() < MAX_AUDIT_REPORT_FINDINGS {
            self.findings.listed.push(finding.clone());
        } else {
            self.findings.omitted += 1;
        }
    }

    fn good_line(&mut self, line: &[u8]) {
        self.batch.extend_from_slice(line);
        self.batch.push(b'\n');
        if self.batch.len() >= AUDIT_REPORT_BATCH_BYTES {
            self.send();
        }
    }
}

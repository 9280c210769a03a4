//! The audit log's thread, from one holder of the log to the next.
//!
//! The log is here, and is written; or it is on its way here, and lines wait in the queue; or
//! another process has it, and lines are sent there. It comes back if that process ends first.

use std::sync::Arc;

use super::begin::{Waited, wait_and_begin};
use super::config::AuditConfig;
use super::forward::{Forwarded, Forwarder, lines};
use super::link::Link;
use super::queue::Queue;
use super::writer::Writer;

/// Writes or sends all lines until a stop is requested. `predecessor` is the process that has the
/// log, unless this one has `begun` to write it.
pub(super) fn run(
    config: &AuditConfig,
    queue: &Arc<Queue>,
    mut begun: Option<Box<Writer>>,
    mut predecessor: Option<Link>,
) {
    let mut batch = queue.lines.batch();
    let mut had_log = begun.is_some();
    loop {
        let successor = match begun.take() {
            Some(mut writer) => match writer.run(&mut batch) {
                // Dropping the writer releases the log.
                Some(successor) => successor,
                None => return,
            },
            None => match wait_and_begin(
                config,
                queue,
                predecessor.as_ref(),
                had_log.then(|| lines(&batch)),
            ) {
                Waited::Begun(writer) => {
                    had_log = true;
                    begun = Some(writer);
                    predecessor = None;
                    continue;
                }
                Waited::HandOver(successor) => successor,
                Waited::End => return,
            },
        };
        queue.set_elsewhere(true);
        // If the other process has ended, that is noticed as soon as there is a line for it.
        let _ = successor.send_released();
        tracing::info!("the audit log is handed over; lines of this process are sent there");
        if Forwarder::new(queue, successor).run(&mut batch) == Forwarded::All {
            return;
        }
        queue.set_elsewhere(false);
        tracing::warn!("the process that took over the audit log takes no more lines");
    }
}

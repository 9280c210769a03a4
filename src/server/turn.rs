//! What one turn of an event loop works with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::tls::{Outgoing, TlsError};
use crate::hsm::Hsm;
use crate::job::Job;
use crate::limits::{MAX_HANDSHAKE_FAILURES_LOGGED_PER_SEC, READ_SCRATCH_BYTES};
use crate::proto::{Moment, Protocol};

/// An event loop's state, less its connections.
pub(super) struct Turn {
    pub(super) moment: Moment,
    pub(super) protocol: Protocol,
    pub(super) hsm: Arc<Hsm>,
    /// Received bytes on their way into a connection's buffer.
    pub(super) scratch: Box<[u8]>,
    /// TLS records on their way to a socket.
    pub(super) outgoing: Outgoing,
    /// For the HSM.
    pub(super) jobs: Vec<Job>,
    /// The slot of the connection that is being worked on.
    pub(super) slot: usize,
    failed_handshakes: FailedHandshakes,
}

impl Turn {
    pub(super) fn new(moment: Moment, protocol: Protocol, hsm: Arc<Hsm>) -> Self {
        Self {
            failed_handshakes: FailedHandshakes { second: moment.now, logged: 0, left_out: 0 },
            moment,
            protocol,
            hsm,
            scratch: vec![0; READ_SCRATCH_BYTES].into_boxed_slice(),
            outgoing: Outgoing::default(),
            jobs: Vec::new(),
            slot: 0,
        }
    }

    /// Keeps a job until the jobs gathered so far go to the HSM side.
    pub(super) fn submit(&mut self, mut job: Job) {
        job.reply_to.slot = u32::try_from(self.slot).unwrap_or(u32::MAX);
        self.jobs.push(job);
    }

    pub(super) fn note_failed_handshake(&mut self, peer: SocketAddr, error: &TlsError) {
        let failures = &mut self.failed_handshakes;
        if self.moment.now.duration_since(failures.second).as_secs() >= 1 {
            if failures.left_out > 0 {
                tracing::info!(count = failures.left_out, "more TLS handshakes failed");
            }
            *failures = FailedHandshakes { second: self.moment.now, logged: 0, left_out: 0 };
        }
        if failures.logged < MAX_HANDSHAKE_FAILURES_LOGGED_PER_SEC {
            failures.logged += 1;
            tracing::info!(%peer, %error, "TLS handshake failed");
        } else {
            failures.left_out += 1;
        }
    }
}

/// Keeps a stranger from filling the log.
struct FailedHandshakes {
    second: Instant,
    logged: u32,
    left_out: u64,
}

//! The end of a connection, arranged so that the peer can read the last answer.

use std::io::{ErrorKind, Read as _};

use super::{Fate, Peer, Phase};
use crate::limits::{LINGER, MAX_LINGER_BYTES};
use crate::server::loop_context::LoopContext;

impl Peer {
    /// Ends an idle connection.
    pub(super) fn leave(&mut self, context: &mut LoopContext) -> Fate {
        if let Some(tls) = &mut self.tls {
            tls.close(&mut context.outgoing);
            // A failure does not matter: the connection ends anyway.
            let _ = self.send_outgoing(&mut context.outgoing);
        }
        Fate::Ends
    }

    /// Closes our side, and lingers if the peer may still be sending.
    pub(super) fn begin_close(&mut self, context: &mut LoopContext) -> Fate {
        // The peer has not read its last answer in time.
        if !self.unsent.is_empty() {
            return Fate::Ends;
        }
        if let Some(tls) = &mut self.tls {
            tls.close(&mut context.outgoing);
            if self.send_outgoing(&mut context.outgoing).is_err() {
                return Fate::Ends;
            }
        }
        self.linger(context)
    }

    pub(super) fn linger(&mut self, context: &mut LoopContext) -> Fate {
        if self.is_eof || self.stream.shutdown(std::net::Shutdown::Write).is_err() {
            return Fate::Ends;
        }
        self.phase = Phase::Linger { until: context.snapshot.now + LINGER, left: MAX_LINGER_BYTES };
        context.count_unfinished_handshake(self.tls.as_ref());
        self.tls = None;
        if self.is_readable { self.drop_input(context) } else { Fate::Stays }
    }

    /// Reads and drops input, within bounds.
    pub(super) fn drop_input(&mut self, context: &mut LoopContext) -> Fate {
        let Phase::Linger { left, .. } = &mut self.phase else {
            return Fate::Ends;
        };
        loop {
            match self.stream.read(&mut context.scratch) {
                Ok(0) => return Fate::Ends,
                Ok(count) => {
                    context.scratch[..count].fill(0);
                    if count >= *left {
                        return Fate::Ends;
                    }
                    *left -= count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_readable = false;
                    return Fate::Stays;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Fate::Ends,
            }
        }
    }
}

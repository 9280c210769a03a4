//! Sending: as many bytes as the socket accepts are written at once, and the rest is kept.

use std::io::{self, ErrorKind, Write as _};

use super::{Peer, PeerError};
use crate::server::loop_context::LoopContext;
use crate::server::tls::Outgoing;

impl Peer {
    /// Sends [`crate::proto::LoopState::out`]; bytes that the socket does not accept are kept.
    pub(super) fn send(&mut self, context: &mut LoopContext) -> Result<(), PeerError> {
        let LoopContext { loop_state, outgoing, .. } = context;
        match &mut self.tls {
            None => self.write(&loop_state.out).map_err(PeerError::Io),
            Some(tls) => {
                let encrypted = tls.send(&loop_state.out, outgoing);
                self.send_outgoing(outgoing).map_err(PeerError::Io)?;
                encrypted.map_err(PeerError::Tls)
            }
        }
    }

    pub(super) fn send_outgoing(&mut self, outgoing: &mut Outgoing) -> io::Result<()> {
        let written = self.write(outgoing.filled());
        outgoing.clear();
        written
    }

    /// Writes `bytes` after any unsent ones.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.unsent.is_empty() {
            while !bytes.is_empty() {
                match self.stream.write(bytes) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(count) => bytes = &bytes[count..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.unsent.append(bytes);
        Ok(())
    }

    /// Writes unsent bytes, and returns whether all of them have been written.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(self.unsent.as_slice()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.unsent.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

//! rustls without its own buffers: records are decrypted from the event loop's scratch memory and
//! encrypted into it, so a quiet connection holds its keys and nothing else.

use std::fmt;
use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use zeroize::Zeroize as _;

use crate::limits::{MAX_PARTIAL_TLS_BYTES, MAX_RECORD_BYTES, MAX_RECORD_PLAINTEXT_BYTES};

/// A factory of TLS sessions.
#[derive(Clone)]
pub struct Acceptor(Arc<rustls::ServerConfig>);

impl Acceptor {
    /// Uses the certificate, suites and client verification of `config`.
    #[must_use]
    pub fn new(config: Arc<rustls::ServerConfig>) -> Self {
        Self(config)
    }

    pub(super) fn start_session(&self) -> Result<TlsSession, TlsError> {
        let connection = UnbufferedServerConnection::new(Arc::clone(&self.0))?;
        Ok(TlsSession { connection: Box::new(connection), partial: Vec::new() })
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Acceptor")
    }
}

/// The reason why a TLS session has ended.
#[derive(Debug)]
pub(super) enum TlsError {
    /// An error of rustls.
    Rustls(rustls::Error),
    /// The peer's handshake is larger than [`MAX_PARTIAL_TLS_BYTES`].
    TooLarge,
    /// Records could not be written; the session has reached its end.
    Exhausted,
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Rustls(error)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustls(error) => error.fmt(formatter),
            Self::TooLarge => formatter.write_str("the peer's handshake is too large"),
            Self::Exhausted => formatter.write_str("the session cannot encrypt any more"),
        }
    }
}

/// Records to be sent: memory that only grows, and the length in use.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    used: usize,
}

impl Outgoing {
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    /// Memory for at least `needed` more bytes.
    fn room(&mut self, needed: usize) -> &mut [u8] {
        if self.bytes.len() < self.used + needed {
            self.bytes.resize(self.used + needed, 0);
        }
        &mut self.bytes[self.used..]
    }
}

/// One peer's TLS session.
pub(super) struct TlsSession {
    /// Boxed: it takes a kilobyte that a plain connection does not need.
    connection: Box<UnbufferedServerConnection>,
    /// An incomplete record.
    partial: Vec<u8>,
}

/// The outcome of received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// The peer will send no more (close_notify).
    pub(super) is_closed: bool,
}

impl TlsSession {
    /// Returns whether the handshake is under way.
    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Bytes that must precede those received next.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Memory held by an incomplete record.
    pub(super) fn held_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Processes received bytes, which begin with [`Self::partial`]. Plaintext goes to `sink`, and
    /// records of the handshake to `out`.
    ///
    /// # Errors
    /// The session is over; an alert for the peer may be in `out`.
    pub(super) fn receive(
        &mut self,
        incoming: &mut [u8],
        out: &mut Outgoing,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<Received, TlsError> {
        let mut received = Received::default();
        let mut start = 0;
        loop {
            let rest = incoming.get_mut(start..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(rest);
            let mut is_done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        sink(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out)?,
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                Ok(ConnectionState::PeerClosed) => received.is_closed = true,
                // No other state occurs, since early data is not offered.
                Ok(_) => is_done = true,
                Err(error) => {
                    let rest = incoming.get_mut(start + discard..).unwrap_or_default();
                    self.encode_alert(rest, out);
                    return Err(error.into());
                }
            }
            start += discard;
            if is_done {
                break;
            }
        }
        self.keep(incoming.get(start..).unwrap_or_default())?;
        Ok(received)
    }

    fn keep(&mut self, rest: &[u8]) -> Result<(), TlsError> {
        if rest.len() > MAX_PARTIAL_TLS_BYTES {
            return Err(TlsError::TooLarge);
        }
        if rest.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Encrypts `plaintext`, appending records to `out`.
    ///
    /// # Errors
    /// [`TlsError`]: the session is over.
    pub(super) fn send(&mut self, plaintext: &[u8], out: &mut Outgoing) -> Result<(), TlsError> {
        self.write(out, |traffic, out| {
            let records = plaintext.len() / MAX_RECORD_PLAINTEXT_BYTES + 1;
            let needed =
                plaintext.len() + records * (MAX_RECORD_BYTES - MAX_RECORD_PLAINTEXT_BYTES);
            traffic.encrypt(plaintext, out.room(needed))
        })
    }

    /// Announces the end of our side (close_notify).
    pub(super) fn close(&mut self, out: &mut Outgoing) {
        // A failure does not matter: the connection ends anyway.
        let _ =
            self.write(out, |traffic, out| traffic.queue_close_notify(out.room(MAX_RECORD_BYTES)));
    }

    fn write(
        &mut self,
        out: &mut Outgoing,
        write: impl FnOnce(
            &mut rustls::unbuffered::WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut Outgoing,
        ) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsError> {
        loop {
            // rustls may remember positions in the incomplete record, so it must see that again.
            let UnbufferedStatus { state, .. } =
                self.connection.process_tls_records(&mut self.partial);
            match state? {
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, out)?,
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::PeerClosed => {}
                ConnectionState::WriteTraffic(mut traffic) => {
                    let written = write(&mut traffic, out).map_err(|_| TlsError::Exhausted)?;
                    out.used += written;
                    return Ok(());
                }
                _ => return Err(TlsError::Exhausted),
            }
        }
    }

    /// Fetches what rustls has left to send after an error: the alert, after the records that make
    /// it readable (a ServerHello, for instance, without which an encrypted alert means nothing).
    /// `rest` is the input that rustls has not discarded and in which it remembers positions. It is
    /// asked no more often than it has output, since it would then read and refuse `rest` again.
    fn encode_alert(&mut self, rest: &mut [u8], out: &mut Outgoing) {
        while self.connection.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) =
                self.connection.process_tls_records(rest).state
            else {
                return;
            };
            // Without the alert, the connection just ends.
            if encode(&mut data, out).is_err() {
                return;
            }
        }
    }
}

impl Drop for TlsSession {
    fn drop(&mut self) {
        self.partial.zeroize();
    }
}

fn encode(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, rustls::server::ServerConnectionData>,
    out: &mut Outgoing,
) -> Result<(), TlsError> {
    let mut needed = MAX_RECORD_BYTES;
    loop {
        match data.encode(out.room(needed)) {
            Ok(written) => {
                out.used += written;
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) if size.required_size > needed => {
                needed = size.required_size;
            }
            Err(_) => return Err(TlsError::Exhausted),
        }
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

//! The PROXY protocol header at the start of a connection.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::time::Instant;

use super::{Fate, Peer, Phase};
use crate::limits::MAX_PROXY_HEADER_BYTES;
use crate::proto::Listener;
use crate::proto::proxy_header::{self, ProxyHeaderError};
use crate::server::config::ProxyProtocol;
use crate::server::loop_context::LoopContext;

impl Peer {
    /// Reads the PROXY header and enters the next phase, or returns the connection's fate if it
    /// cannot. The bytes stay in the socket until the header is complete.
    pub(super) fn take_proxy_header(
        &mut self,
        since: Instant,
        rule: ProxyProtocol,
        context: &mut LoopContext,
    ) -> Option<Fate> {
        let fate = self.look_for_proxy_header(since, rule, context);
        // Without TLS, the start of a request with plaintext may follow the header. (These stores
        // are not dead: the next read may leave some of it unchanged.)
        context.scratch[..MAX_PROXY_HEADER_BYTES].fill(0);
        fate
    }

    fn look_for_proxy_header(
        &mut self,
        since: Instant,
        rule: ProxyProtocol,
        context: &mut LoopContext,
    ) -> Option<Fate> {
        let into = &mut context.scratch[..MAX_PROXY_HEADER_BYTES];
        let received = match self.stream.peek(into) {
            Ok(0) => return Some(Fate::Ends),
            Ok(received) => &into[..received],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_readable = false;
                return Some(Fate::Stays);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return None,
            Err(_) => return Some(Fate::Ends),
        };
        match proxy_header::parse(received) {
            Ok(Some(header)) => {
                let into = &mut context.scratch[..header.length];
                if self.stream.read_exact(into).is_err() {
                    return Some(Fate::Ends);
                }
                self.count_proxy_header(true, context);
                if let (Some((ip, port)), ProxyProtocol::Require) = (header.source, rule) {
                    self.address = SocketAddr::new(ip, port);
                    self.connection.set_peer(ip);
                    if !self.permit.count(ip) {
                        context.note_too_many(self.address);
                        return Some(Fate::Ends);
                    }
                }
            }
            // The bytes that follow cause another event.
            Ok(None) if !self.is_read_closed => {
                self.is_readable = false;
                return Some(Fate::Stays);
            }
            Ok(None) => return Some(Fate::Ends),
            // A load balancer's health checks come from the same network and may lack a header.
            Err(ProxyHeaderError::Missing) if self.listener() == Listener::Ping => {}
            Err(ProxyHeaderError::Missing) if rule == ProxyProtocol::Accept => {
                self.count_proxy_header(false, context);
            }
            Err(error) => {
                if error == ProxyHeaderError::Missing {
                    self.count_proxy_header(false, context);
                }
                context.note_bad_proxy_header(self.address, &error);
                return Some(Fate::Ends);
            }
        }
        self.phase = match self.tls {
            Some(_) => Phase::Handshake { since, is_answered: false },
            None => Phase::Open,
        };
        None
    }

    /// Counts a connection to the API that began with a header or without one, and reminds the
    /// operator of a change-over that is still going on.
    fn count_proxy_header(&self, has_header: bool, context: &LoopContext) {
        if self.listener() == Listener::Api {
            let metrics = &context.loop_state.metrics;
            let counter = if has_header { &metrics.proxied } else { &metrics.unproxied };
            counter.add(1);
        }
        if let Some(change_over) = &context.admission.change_over {
            change_over.note(context.snapshot.now);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write as _;
    use std::net;
    use std::sync::Arc;

    use super::*;
    use crate::observe::log::access_log::AccessLog;
    use crate::proto::{Connection, LoopState, Snapshot};
    use crate::server::admission::Admission;
    use crate::server::config::Config;
    use crate::server::panic_tests::{echo, service};

    /// The start of a request that arrived with the header is not left in the loop's memory.
    #[test]
    fn what_was_looked_at_is_wiped() {
        let listener = net::TcpListener::bind((net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, address) = listener.accept().unwrap();
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        client.write_all(&[&local[..], b"POST /of/the/test HTTP/1.1\r\n"].concat()).unwrap();
        stream.peek(&mut [0]).unwrap();
        stream.set_nonblocking(true).unwrap();

        let now = Instant::now();
        let snapshot = Snapshot {
            now,
            unix_secs: 0,
            is_ready: true,
            is_clock_off: false,
            is_draining: false,
            is_sending_away: false,
            is_stopping: false,
            is_congested: false,
        };
        let loop_state = LoopState::new(Arc::new(service()), 0, AccessLog::default());
        let admission = Arc::new(Admission::new(&Config::local(), 1));
        let mut context = LoopContext::new(snapshot, loop_state, echo(), Arc::clone(&admission));
        let permit = admission.admit(Listener::Api).unwrap();
        let connection = Connection::new(Listener::Api, None, &snapshot);
        let stream = (mio::net::TcpStream::from_std(stream), address);
        let rule = ProxyProtocol::Require;
        let mut peer = Peer::new(stream, permit, Some(rule), 1, None, connection, now);
        assert_eq!(peer.take_proxy_header(now, rule, &mut context), None);
        assert!(matches!(peer.phase, Phase::Open));
        assert!(context.scratch.iter().all(|byte| *byte == 0));
        context.hsm.stop(std::time::Duration::from_secs(10));
    }
}

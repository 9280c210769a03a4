//! Looking up the collector's name, within a request's time.
//!
//! The system's resolver cannot be told when to stop. ureq's own wrapper starts a thread for each
//! attempt, so that a name server which never answers costs a thread at each repetition, and it panics
//! if there is none. Here an attempt waits for the lookup that is still under way, if there is one.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;

use parking_lot::Mutex;
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::limits::MAX_OTLP_ADDRESSES;

/// Looks up a host and port; may take any time.
type Function = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;
type Answer = io::Result<Vec<SocketAddr>>;

/// The resolver of one signal's requests, which all go to the same host.
pub(super) struct Lookup {
    function: Arc<Function>,
    /// The lookup that an earlier request did not wait for any longer.
    pending: Mutex<Option<Receiver<Answer>>>,
}

impl Lookup {
    /// Looks up by the system's resolver.
    pub(super) fn of_system() -> Self {
        Self::by(Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect())))
    }

    fn by(function: Arc<Function>) -> Self {
        Self { function, pending: Mutex::new(None) }
    }

    fn begin(&self, host: &str, port: u16) -> io::Result<Receiver<Answer>> {
        let (function, host) = (Arc::clone(&self.function), host.to_owned());
        let (sender, receiver) = sync_channel(1);
        thread::Builder::new().name("otlp-lookup".to_owned()).spawn(move || {
            // Nobody waits any more if the exporter has ended.
            let _ = sender.send(function(&host, port));
        })?;
        Ok(receiver)
    }
}

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?.trim_matches(['[', ']']);
        let port =
            uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let mut pending = self.pending.lock();
        let receiver = match pending.take() {
            Some(receiver) => receiver,
            None => self.begin(host, port)?,
        };
        let answer = match receiver.recv_timeout(*timeout.after) {
            Ok(answer) => answer?,
            Err(RecvTimeoutError::Timeout) => {
                *pending = Some(receiver);
                return Err(Error::Timeout(timeout.reason));
            }
            // The lookup has panicked.
            Err(RecvTimeoutError::Disconnected) => return Err(Error::HostNotFound),
        };
        let mut addresses = self.empty();
        for address in answer.into_iter().take(MAX_OTLP_ADDRESSES) {
            addresses.push(address);
        }
        if addresses.is_empty() { Err(Error::HostNotFound) } else { Ok(addresses) }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Lookup")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use ureq::Timeout;

    use super::*;

    fn resolve(lookup: &Lookup, uri: &str, wait: Duration) -> Result<Vec<SocketAddr>, Error> {
        let timeout = NextTimeout { after: wait.into(), ..NextTimeout::default() };
        let found = lookup.resolve(&uri.parse().unwrap(), &Config::default(), timeout)?;
        Ok(found.iter().copied().collect())
    }

    /// A name server that never answers costs each request its time, and one thread in all.
    #[test]
    fn a_lookup_that_hangs() {
        let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(())));
        let (counted, closed) = (Arc::clone(&calls), Arc::clone(&gate));
        let lookup = Lookup::by(Arc::new(move |_, port| {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(closed.lock());
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        }));
        let closed = gate.lock();
        for _ in 0..20 {
            let error = resolve(&lookup, "http://collector:4318/", Duration::from_millis(5));
            assert!(matches!(error.unwrap_err(), Error::Timeout(Timeout::Global)));
        }
        drop(closed);
        let patience = Duration::from_secs(60);
        let found = resolve(&lookup, "http://collector:4318/", patience).unwrap();
        assert_eq!(found, ["127.0.0.1:4318".parse().unwrap()]);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        // The next one is looked up again: the address may have changed.
        resolve(&lookup, "http://collector:4318/", patience).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn addresses() {
        let lookup = Lookup::of_system();
        let patience = Duration::from_secs(60);
        for (uri, address) in [
            ("http://127.0.0.1/v1/logs", "127.0.0.1:80"),
            ("https://127.0.0.1/v1/logs", "127.0.0.1:443"),
            ("https://[::1]:4318/", "[::1]:4318"),
        ] {
            assert_eq!(resolve(&lookup, uri, patience).unwrap(), [address.parse().unwrap()]);
        }
        let many = Lookup::by(Arc::new(|_, port| {
            Ok((0..=255).map(|last| SocketAddr::from(([127, 0, 0, last], port))).collect())
        }));
        assert_eq!(resolve(&many, "http://h/", patience).unwrap().len(), MAX_OTLP_ADDRESSES);
        let none = Lookup::by(Arc::new(|_, _| Ok(Vec::new())));
        assert!(matches!(resolve(&none, "http://h/", patience), Err(Error::HostNotFound)));
        let failing = Lookup::by(Arc::new(|_, _| Err(io::Error::other("no such host"))));
        assert!(
            resolve(&failing, "http://h/", patience).unwrap_err().to_string().contains("no such")
        );
    }
}

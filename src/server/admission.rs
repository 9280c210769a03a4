//! Admission of connections, counted over all event loops.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use super::change_over::ChangeOver;
use super::config::{Config, ProxyProtocol};
use super::network::Network;
use crate::limits::MAX_PING_CONNECTIONS;
use crate::proto::Listener;
use crate::rate::Rate;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Limits on connections, and their current use.
pub(super) struct Admission {
    api: Capacity,
    ping: Capacity,
    addresses: Option<Addresses>,
    /// Rate at which TLS handshakes may begin.
    pub(super) handshakes: Option<Rate>,
    /// Networks whose peers send PROXY headers.
    proxies: Vec<Network>,
    /// Set while these peers may also send none.
    pub(super) change_over: Option<Arc<ChangeOver>>,
}

struct Capacity {
    /// Shared with the limits that replace these.
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// Connections by address. Locked when one begins or ends, and only if there is a limit.
struct Addresses {
    /// Shared with the limits that replace these.
    connections: Arc<Mutex<HashMap<IpAddr, u32>>>,
    max: u32,
}

/// Permission for one connection; dropping it allows another.
pub(super) struct ConnectionPermit {
    admission: Arc<Admission>,
    pub(super) listener: Listener,
    /// The address that the connection is counted under.
    address: Option<IpAddr>,
}

impl Admission {
    /// Makes limits for `max_connections` connections, instead of the number in `config`.
    pub(super) fn new(config: &Config, max_connections: usize) -> Self {
        let places = |max| Capacity { taken: Arc::default(), max };
        Self {
            api: places(max_connections),
            ping: places(MAX_PING_CONNECTIONS),
            addresses: config
                .max_connections_per_address
                .map(|max| Addresses { connections: Arc::default(), max }),
            handshakes: handshake_rate(config, None),
            proxies: config.proxy_protocol_from.clone(),
            change_over: change_over(config, None),
        }
    }

    /// Makes new limits that keep the current use. (Connections opened while there was no limit per
    /// client were not counted by client, and are not counted later either.)
    pub(super) fn succeeded_by(&self, config: &Config, max_connections: usize) -> Self {
        let places = |former: &Capacity, max| Capacity { taken: Arc::clone(&former.taken), max };
        let connections = self.addresses.as_ref().map(|former| Arc::clone(&former.connections));
        Self {
            api: places(&self.api, max_connections),
            ping: places(&self.ping, MAX_PING_CONNECTIONS),
            addresses: config
                .max_connections_per_address
                .map(|max| Addresses { connections: connections.unwrap_or_default(), max }),
            handshakes: handshake_rate(config, self.handshakes.as_ref()),
            proxies: config.proxy_protocol_from.clone(),
            change_over: change_over(config, self.change_over.as_ref()),
        }
    }

    fn places(&self, listener: Listener) -> &Capacity {
        match listener {
            Listener::Api => &self.api,
            Listener::Ping => &self.ping,
        }
    }

    /// Admits one more connection, if the limit allows it.
    pub(super) fn admit(self: &Arc<Self>, listener: Listener) -> Option<ConnectionPermit> {
        let places = self.places(listener);
        if places.taken.fetch_add(1, Ordering::Relaxed) >= places.max {
            places.taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(ConnectionPermit { admission: Arc::clone(self), listener, address: None })
    }

    /// Returns the rule for PROXY headers from a peer with this address; `None` if it must not send
    /// one.
    pub(super) fn proxy_protocol(&self, address: IpAddr) -> Option<ProxyProtocol> {
        let is_proxy = self.proxies.iter().any(|network| network.contains(address));
        is_proxy.then_some(match self.change_over {
            None => ProxyProtocol::Require,
            Some(_) => ProxyProtocol::Accept,
        })
    }
}

/// The change-over that the settings are for, which may have begun with the former ones.
fn change_over(config: &Config, former: Option<&Arc<ChangeOver>>) -> Option<Arc<ChangeOver>> {
    (config.proxy_protocol == ProxyProtocol::Accept)
        .then(|| former.map_or_else(|| Arc::new(ChangeOver::new(Instant::now())), Arc::clone))
}

/// Rate of handshakes, with a burst of a tenth of a second's worth: more would only wait in the
/// loops.
fn handshake_rate(config: &Config, former: Option<&Rate>) -> Option<Rate> {
    let per_sec = config.max_tls_handshakes_per_sec;
    let rate = (per_sec > 0).then(|| Rate::new(per_sec, per_sec.div_ceil(10)))?;
    Some(match former {
        Some(former) => rate.succeeding(former),
        None => rate,
    })
}

impl ConnectionPermit {
    /// Counts the connection under `address`, and returns whether it may stay.
    pub(super) fn count(&mut self, address: IpAddr) -> bool {
        let Some(addresses) = &self.admission.addresses else {
            return true;
        };
        let address = client(address);
        let mut connections = addresses.connections.lock();
        let count = connections.entry(address).or_insert(0);
        if *count >= addresses.max {
            return false;
        }
        *count += 1;
        self.address = Some(address);
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.admission.places(self.listener).taken.fetch_sub(1, Ordering::Relaxed);
        let (Some(address), Some(addresses)) = (self.address, &self.admission.addresses) else {
            return;
        };
        let mut connections = addresses.connections.lock();
        if let Some(count) = connections.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&address);
            }
        }
    }
}

/// The address under which a client is counted: its IPv4 address, or its IPv6 /64 network (RFC
/// 6177), of which it may use any address.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn admission(max_per_address: Option<u32>) -> Arc<Admission> {
        let config = Config {
            max_connections_per_address: max_per_address,
            proxy_protocol_from: vec!["10.0.0.0/8".parse().unwrap()],
            ..Config::local()
        };
        Arc::new(Admission::new(&config, 4))
    }

    /// Permits are returned in whichever way a connection ends, and ping has a separate limit.
    #[test]
    fn places() {
        let admission = admission(None);
        let mut tickets: Vec<_> = (0..4).map(|_| admission.admit(Listener::Api).unwrap()).collect();
        assert!(admission.admit(Listener::Api).is_none());
        assert!(admission.admit(Listener::Ping).is_some());
        tickets.pop();
        assert!(admission.admit(Listener::Api).is_some());
        drop(tickets);
        assert_eq!(admission.api.taken.load(Ordering::Relaxed), 0);
        assert_eq!(admission.ping.taken.load(Ordering::Relaxed), 0);
    }

    /// One client's connections are limited, even if it uses several of its addresses, and nothing
    /// is remembered about clients that have left.
    #[test]
    fn addresses() {
        let admission = admission(Some(1));
        let count = |address: &str| {
            let mut permit = admission.admit(Listener::Api).unwrap();
            permit.count(address.parse().unwrap()).then_some(permit)
        };
        for (one, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::ffff:0:0:1", "2001:db8:0:1::1"),
        ] {
            let first = count(one);
            assert!(first.is_some() && count(same).is_none() && count(other).is_some());
            drop(first);
            assert!(count(same).is_some());
        }
        assert!(admission.addresses.as_ref().unwrap().connections.lock().is_empty());
    }

    /// Connections made before a change of the settings count after it, and return their permits to
    /// later ones.
    #[test]
    fn a_successor_knows_who_is_there() {
        let former = admission(Some(1));
        let address = "192.0.2.1".parse().unwrap();
        let mut old: Vec<_> = (0..2).map(|_| former.admit(Listener::Api).unwrap()).collect();
        assert!(old[0].count(address) && !old[1].count(address));
        let config = Config { max_connections_per_address: Some(2), ..Config::local() };
        let admission = Arc::new(former.succeeded_by(&config, 3));
        let mut new = admission.admit(Listener::Api).unwrap();
        assert!(new.count(address) && admission.admit(Listener::Api).is_none());
        drop(old);
        let mut last = admission.admit(Listener::Api).unwrap();
        assert!(last.count(address));
        drop((new, last));
        assert_eq!(admission.api.taken.load(Ordering::Relaxed), 0);
        assert!(admission.addresses.as_ref().unwrap().connections.lock().is_empty());
    }

    #[test]
    fn proxies() {
        let admission = admission(None);
        let rule = |admission: &Admission, address: &str| {
            admission.proxy_protocol(address.parse().unwrap())
        };
        assert_eq!(rule(&admission, "10.1.2.3"), Some(ProxyProtocol::Require));
        assert_eq!(rule(&admission, "192.0.2.1"), None);
        let config = Config {
            proxy_protocol_from: vec!["::ffff:10.0.0.0/104".parse().unwrap()],
            proxy_protocol: ProxyProtocol::Accept,
            ..Config::local()
        };
        let next = admission.succeeded_by(&config, 4);
        assert_eq!(rule(&next, "10.1.2.3"), Some(ProxyProtocol::Accept));
        assert_eq!(rule(&next, "192.0.2.1"), None);
    }

    /// A change-over that a reload does not end goes on, and one that it ends is forgotten.
    #[test]
    fn change_overs() {
        let accept = Config { proxy_protocol: ProxyProtocol::Accept, ..Config::local() };
        let first = Admission::new(&accept, 4);
        let second = first.succeeded_by(&accept, 4);
        let of = |admission: &Admission| admission.change_over.as_ref().map(Arc::as_ptr);
        assert!(of(&first).is_some() && of(&first) == of(&second));
        assert!(second.succeeded_by(&Config::local(), 4).change_over.is_none());
    }
}

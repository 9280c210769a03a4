//! The only code with sockets: event loops that never block.
//!
//! Each loop is a thread with a poll, its own listening sockets, connections and timers. Work for
//! the HSM leaves as jobs and comes back through the loop's inbox; see `lib.rs` for the order.

mod accept_share;
mod admission;
mod change_over;
pub mod changes;
pub mod config;
mod congestion;
mod descriptors;
mod event_loop;
pub mod lifecycle;
mod listener;
mod listening_socket;
mod loop_context;
pub mod network;
mod peer;
mod shares;
pub mod sockets;
mod timer;
pub mod tls;
mod unsent;
mod waiting;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use self::admission::Admission;
use self::changes::Changes;
use self::config::Config;
use self::event_loop::{EventLoop, Shared};
use self::lifecycle::Lifecycle;
use self::listener::Sharing;
use self::listening_socket::ListeningSocket;
use self::sockets::{Inherited, Sockets};
use crate::hsm::Hsm;
use crate::job::CompletionQueue;
use crate::limits::{EVENT_LOOP_STACK_BYTES, MAX_EVENT_LOOPS};
use crate::observe::log::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::proto::{Listener, ServiceConfig};

/// Bound sockets and event loops that have not started yet.
pub struct Server {
    loops: Vec<EventLoop>,
    lifecycle: Arc<Lifecycle>,
    changes: Arc<Changes>,
    max_connections: usize,
    api: SocketAddr,
    ping: SocketAddr,
    sockets: Vec<(Listener, OwnedFd)>,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// Address.
    pub address: SocketAddr,
    /// Error of the system call.
    pub error: io::Error,
}

impl Server {
    /// Binds all listeners.
    ///
    /// # Errors
    /// [`BindError`]: for instance, another process listens there.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        Self::bind_with(config, Inherited::default())
    }

    /// Binds all listeners, except those that were inherited.
    ///
    /// # Errors
    /// [`BindError`]: for instance, another process listens there.
    pub fn bind_with(config: &Config, inherited: Inherited) -> Result<Self, BindError> {
        let max_connections = descriptors::possible_connections(config.max_connections);
        let count = event_loops(config.event_loops);
        let lifecycle = Arc::new(Lifecycle::default());
        let admission = Arc::new(Admission::new(config, max_connections));
        let changes = Changes::new(Arc::clone(&lifecycle), Arc::clone(&admission), count);
        let changes = Arc::new(changes);
        let api = SocketAddr::new(config.ip, config.port);
        let has_own_port = config.port_http_ping != config.port || config.port == 0;
        let ping = SocketAddr::new(config.ip, config.port_http_ping);
        let mut sockets = Sockets::new(config);
        let mut listeners: Vec<Vec<ListeningSocket>> = (0..count).map(|_| Vec::new()).collect();
        let api = match inherited.api.is_empty() {
            true => sockets.listen_for_all(&mut listeners, api),
            false => sockets.spread(&mut listeners, inherited.api),
        }
        .map_err(|error| BindError { address: api, error })?;
        let fail = |error| BindError { address: ping, error };
        let ping = match (inherited.ping.is_empty(), has_own_port) {
            (true, false) => api,
            (true, true) => {
                let socket =
                    listener::listen(ping, Sharing::Alone, config.tcp_keepalive).map_err(fail)?;
                sockets.add(&mut listeners, 0, socket, Listener::Ping, None).map_err(fail)?
            }
            (false, _) => {
                let mut address = ping;
                for socket in inherited.ping {
                    let socket = listener::adopt(socket, config.tcp_keepalive).map_err(fail)?;
                    address = sockets
                        .add(&mut listeners, 0, socket, Listener::Ping, None)
                        .map_err(fail)?;
                }
                address
            }
        };
        let sockets = sockets.kept();
        let mut loops = Vec::new();
        for listeners in listeners {
            let shared = Shared {
                lifecycle: Arc::clone(&lifecycle),
                admission: Arc::clone(&admission),
                changes: Arc::clone(&changes),
                max_buffered_bytes: config.max_buffered_bytes / count,
            };
            let event_loop = EventLoop::new(listeners, shared)
                .map_err(|error| BindError { address: api, error })?;
            loops.push(event_loop);
        }
        Ok(Self { loops, lifecycle, changes, max_connections, api, ping, sockets })
    }

    /// Returns, once, a descriptor of each listening socket for another process. The socket stays
    /// open as long as the descriptor does.
    pub fn take_sockets(&mut self) -> Vec<(Listener, OwnedFd)> {
        std::mem::take(&mut self.sockets)
    }

    /// Address at which the API is served.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// Address at which `/ping` is served; the API's own if they share a port.
    #[must_use]
    pub fn ping_address(&self) -> SocketAddr {
        self.ping
    }

    /// Limit on connections to the API: the one in the configuration, or as many as the system's
    /// limit on open files leaves.
    #[must_use]
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Number of event loops.
    #[must_use]
    pub fn event_loops(&self) -> usize {
        self.loops.len()
    }

    /// The loops' inboxes, by [`crate::job::ReplyTo::event_loop`].
    #[must_use]
    pub fn completions(&self) -> Vec<Arc<CompletionQueue>> {
        self.loops.iter().map(EventLoop::completions).collect()
    }

    /// The handle that drains and stops the loops.
    #[must_use]
    pub fn lifecycle(&self) -> Arc<Lifecycle> {
        Arc::clone(&self.lifecycle)
    }

    /// The handle that passes new settings to the running loops.
    #[must_use]
    pub fn changes(&self) -> Arc<Changes> {
        Arc::clone(&self.changes)
    }

    /// Starts the loops, one thread each. `access_log` is called once per loop, and `metrics`
    /// provides its counters. `ended` is called from the thread of a loop that ends before it was
    /// stopped, with the reason.
    ///
    /// # Errors
    /// The system has no resources for another thread.
    pub fn start(
        self,
        service: &Arc<ServiceConfig>,
        hsm: &Arc<Hsm>,
        access_log: impl Fn() -> AccessLog,
        metrics: &Metrics,
        ended: impl Fn(&str) + Clone + Send + 'static,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let lifecycle = self.lifecycle;
        (0..)
            .zip(self.loops)
            .map(|(index, event_loop)| {
                let (service, hsm, access_log) =
                    (Arc::clone(service), Arc::clone(hsm), access_log());
                let metrics = metrics.of_loop(index);
                let (lifecycle, ended) = (Arc::clone(&lifecycle), ended.clone());
                let thread = std::thread::Builder::new()
                    .name(format!("loop-{index}"))
                    .stack_size(EVENT_LOOP_STACK_BYTES);
                thread.spawn(move || {
                    let run = || event_loop.run(index, service, hsm, access_log, metrics);
                    match catch_unwind(AssertUnwindSafe(run)) {
                        Ok(Err(error)) => ended(&error.to_string()),
                        Err(_) => ended("it panicked"),
                        Ok(Ok(())) if !lifecycle.is_stopping() => ended("it was not told to stop"),
                        Ok(Ok(())) => {}
                    }
                })
            })
            .collect()
    }
}

/// Returns the number of event loops, by default one for every four cores: a loop serves tens of
/// thousands of requests a second, and on few cores a second loop would only take CPU time from the
/// HSM's sessions.
fn event_loops(configured: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let count = if configured == 0 { cores.div_ceil(4) } else { configured };
    count.clamp(1, MAX_EVENT_LOOPS)
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod hand_over_tests;
#[cfg(all(test, feature = "models"))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod models;
#[cfg(test)]
mod panic_tests;

//! The admin listener: metrics, health endpoints and the status page.
//!
//! It has a thread of its own, which only reads counters that event loops and workers write, so
//! nothing here can delay a call.
//!
//! ```text
//!  listener ──► connection: tls, http ──► /metrics  /livez  /readyz  /status  /status.json
//!                                          ▲                                   ▲
//!  observe::metrics, Hsm::stats, LostLines ┴──── sampler, every 10 s ──► history (one hour)
//! ```

mod connection;
pub mod exporter;
mod history;
mod http;
mod key_usage;
mod key_versions;
mod listener;
mod page;
mod prometheus;
mod sources;
mod status;
mod stream;
mod sums;
mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;

use self::history::{History, Sampler};
use self::http::{Answer, RequestHead};
use self::listener::Listening;
use self::page::Page;
pub use self::sources::{ServiceInfo, Sources};
pub use self::tls::Acceptor;
use crate::limits::{ADMIN_STACK_BYTES, HISTORY_INTERVAL};
use crate::observe::metrics::exposition;
use crate::observe::metrics::exposition::Exposition;
use crate::observe::readiness;
use crate::settings;

/// Returns all metrics at this moment, for the export by OTLP.
#[must_use]
pub fn metrics_now(sources: &Sources) -> Exposition {
    prometheus::collect(sources)
}

/// A bound listener that is not served yet.
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Acceptor>,
}

impl Admin {
    /// Binds the listener, unless a bound one is `given`.
    ///
    /// # Errors
    /// The address cannot be bound, for example because another process uses it.
    pub fn bind(settings: &settings::Admin, given: Option<TcpListener>) -> io::Result<Self> {
        let listener = given.map_or_else(|| TcpListener::bind(settings.address), Ok)?;
        // The thread never blocks in accept, nor does it if another process accepts the connection
        // for which this one was woken.
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = settings.tls.as_ref().map(|tls| Acceptor::new(Arc::clone(&tls.config)));
        Ok(Self { listener, address, tls })
    }

    /// Returns the address of the listener.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the handle for replacing the listener's certificate; `None` without TLS.
    #[must_use]
    pub fn acceptor(&self) -> Option<Acceptor> {
        self.tls.clone()
    }

    /// Duplicates the descriptor of the listening socket, for another process.
    ///
    /// # Errors
    /// The process has no free descriptor.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Starts the threads, which run until the process ends.
    ///
    /// # Errors
    /// The system cannot provide more threads or descriptors.
    pub fn start(self, sources: Sources) -> io::Result<()> {
        // With DNS rebinding, a page from another origin could make its own name resolve to this
        // address, and read data meant only for this machine.
        let wants_local_host = self.address.ip().to_canonical().is_loopback() && self.tls.is_none();
        let handler = Arc::new(Handler {
            sources,
            history: Mutex::new(History::default()),
            page: Page::new(),
            wants_local_host,
        });
        let answering = Arc::clone(&handler);
        let listening = Listening::new(self.listener, self.tls, move |request: &RequestHead| {
            answering.answer(request)
        });
        let lifecycle = Arc::clone(&handler.sources.lifecycle);
        thread::Builder::new()
            .name("admin".to_owned())
            .stack_size(ADMIN_STACK_BYTES)
            .spawn(move || listening.serve(|| lifecycle.is_handed_over()))?;
        thread::Builder::new()
            .name("admin-history".to_owned())
            .stack_size(ADMIN_STACK_BYTES)
            .spawn(move || sample(&handler))
            .map(drop)
    }
}

/// The state that the threads share.
struct Handler {
    sources: Sources,
    history: Mutex<History>,
    page: Page,
    wants_local_host: bool,
}

impl Handler {
    fn answer(&self, request: &http::RequestHead) -> Answer {
        if let Some(refusal) = http::refusal(request, self.wants_local_host) {
            return refusal;
        }
        let mut answer = match request.path.as_str() {
            "/metrics" => Answer::new(
                200,
                exposition::CONTENT_TYPE,
                metrics_now(&self.sources).into_text().into_bytes(),
            ),
            "/livez" => Answer::text(200, "alive\n"),
            "/readyz" if self.sources.is_ready() => Answer::text(200, readiness::READY),
            "/readyz" if self.sources.lifecycle.is_draining() => {
                Answer::text(503, readiness::IS_DRAINING)
            }
            "/readyz" if self.sources.is_clock_off() => Answer::text(503, readiness::CLOCK_IS_OFF),
            "/readyz" => Answer::text(503, readiness::NOT_READY),
            "/status" => self.page.answer(),
            "/status.json" => {
                let status = status::status(&self.sources, &self.history.lock().clone());
                match serde_json::to_vec(&status) {
                    Ok(json) => Answer::new(200, "application/json", json),
                    Err(_) => Answer::text(500, "the status cannot be written\n"),
                }
            }
            "/" => Answer::redirect("/status"),
            _ => Answer::text(
                404,
                "the paths are /metrics, /status, /status.json, /livez and /readyz\n",
            ),
        };
        answer.is_head = request.method == "HEAD";
        answer
    }
}

fn sample(handler: &Handler) {
    let mut sampler = Sampler::new(&handler.sources);
    let mut next = Instant::now();
    loop {
        next += HISTORY_INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let sample = sampler.sample(&handler.sources);
        handler.history.lock().push(sample);
    }
}

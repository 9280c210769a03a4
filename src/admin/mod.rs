//! The admin listener: metrics, health endpoints and the status page.
//!
//! It has a few blocking threads of its own. They only read counters that event loops and workers
//! write, so nothing here can delay a call.
//!
//! ```text
//!  listener ──► threads: tls, http ──► /metrics  /livez  /readyz  /status  /status.json
//!                                          ▲                                   ▲
//!  observe::metrics, Hsm::stats, LostLines ┴──── sampler, every 10 s ──► history (one hour)
//! ```

mod history;
mod http;
mod page;
mod prometheus;
mod sources;
mod status;
mod sums;
mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::history::{History, Sampler};
use self::http::{Answer, HttpConnection, NoRequest};
use self::page::Page;
pub use self::sources::{ServiceInfo, Sources};
pub use self::tls::Acceptor;
use crate::limits::{
    ADMIN_ACCEPT_PAUSE, ADMIN_ACCEPT_POLL, ADMIN_REQUEST_TIMEOUT, ADMIN_STACK_BYTES, ADMIN_THREADS,
    HISTORY_INTERVAL,
};
use crate::observe::metrics::{CLOCK_IS_OFF, exposition};
use crate::settings;

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
        // Another process may accept the connection for which this one was woken.
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
        let wants_local_host = self.address.ip().is_loopback() && self.tls.is_none();
        let handler = Arc::new(Handler {
            sources,
            history: Mutex::new(History::default()),
            page: Page::new(),
            wants_local_host,
        });
        for number in 0..ADMIN_THREADS {
            let listener = self.listener.try_clone()?;
            let (tls, handler) = (self.tls.clone(), Arc::clone(&handler));
            thread::Builder::new()
                .name(format!("admin-{number}"))
                .stack_size(ADMIN_STACK_BYTES)
                .spawn(move || accept(&listener, tls.as_ref(), &handler))?;
        }
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

/// Accepts connections until another process has taken over.
fn accept(listener: &TcpListener, tls: Option<&Acceptor>, handler: &Handler) {
    let Ok(interval) = Timespec::try_from(ADMIN_ACCEPT_POLL) else { return };
    while !handler.sources.lifecycle.is_handed_over() {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        if !matches!(poll(&mut fds, Some(&interval)), Ok(1..)) {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                // The panic hook counts and logs a panic; this thread continues.
                let _ = catch_unwind(AssertUnwindSafe(|| serve(stream, tls, handler)));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // There may be no free descriptor, for example, and retrying at once would only spin.
            Err(_) => thread::sleep(ADMIN_ACCEPT_PAUSE),
        }
    }
}

/// Answers one request. Clients poll only every few seconds, so each request may have its own
/// connection.
fn serve(stream: TcpStream, tls: Option<&Acceptor>, handler: &Handler) {
    let until = Instant::now() + ADMIN_REQUEST_TIMEOUT;
    // Errors are caused by the peer and not logged.
    let _ = HttpConnection::new(stream, until, tls).and_then(|mut connection| {
        let answer = match connection.receive() {
            Ok(request) => handler.answer(&request),
            Err(NoRequest::Refused(answer)) => answer,
            Err(NoRequest::Gone(error)) => return Err(error),
        };
        connection.send(&answer)
    });
}

impl Handler {
    fn answer(&self, request: &http::RequestHead) -> Answer {
        if self.wants_local_host && !http::is_local(request.host.as_deref()) {
            return Answer::text(
                421,
                "this listener serves this machine only: ask for localhost\n",
            );
        }
        if request.method != "GET" && request.method != "HEAD" {
            return Answer::text(405, "the methods are GET and HEAD\n");
        }
        let mut answer = match request.path.as_str() {
            "/metrics" => Answer::new(
                200,
                exposition::CONTENT_TYPE,
                prometheus::expose(&self.sources).into_bytes(),
            ),
            "/livez" => Answer::text(200, "alive\n"),
            "/readyz" if self.sources.is_ready() => Answer::text(200, "ready\n"),
            "/readyz" if self.sources.is_clock_off() => Answer::text(503, CLOCK_IS_OFF),
            "/readyz" => Answer::text(503, "not ready\n"),
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

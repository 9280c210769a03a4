//! A listener that serves the metrics of a command, on a thread of its own.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;

use super::http::{Answer, RequestHead, refusal};
use super::listener::Listening;
use crate::limits::ADMIN_STACK_BYTES;
use crate::observe::metrics::exposition;

/// Binds the address and starts the thread, which runs until the process ends. `metrics` returns the
/// text of the exposition. Returns the bound address.
///
/// # Errors
/// The address cannot be bound, or the system cannot provide a thread.
pub fn start(
    address: SocketAddr,
    metrics: impl Fn() -> String + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let wants_local_host = bound.ip().to_canonical().is_loopback();
    let listening = Listening::new(listener, None, move |request: &RequestHead| {
        let mut answer = match refusal(request, wants_local_host) {
            Some(answer) => answer,
            None => match request.path.as_str() {
                "/metrics" => Answer::new(200, exposition::CONTENT_TYPE, metrics().into_bytes()),
                "/livez" => Answer::text(200, "alive\n"),
                _ => Answer::text(404, "the paths are /metrics and /livez\n"),
            },
        };
        answer.is_head = request.method == "HEAD";
        answer
    });
    thread::Builder::new()
        .name("metrics".to_owned())
        .stack_size(ADMIN_STACK_BYTES)
        .spawn(move || listening.serve(|| false))?;
    Ok(bound)
}

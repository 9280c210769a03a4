//! `xks-proxy ping`: the health check of a container, so that an image needs no curl.
//!
//! The address is an argument and not read from the settings file: a mistake in a file that was
//! edited but is not in use yet must not make a serving process look dead.

use crate::client::{Answer, Client, Endpoint, Trust};
use crate::exit::Failed;
use crate::limits::{MAX_PING_ANSWER_BYTES, PING_TIMEOUT};
use crate::output::outln;

/// Asks the ping port at `address` (`HOST:PORT`, plain HTTP) for `/ping`, or for `/readyz` with
/// `is_ready`, and prints the answer.
///
/// # Errors
/// [`Failed`] (69): no answer within [`PING_TIMEOUT`] a step, or a status other than 200.
pub fn run(address: &str, is_ready: bool) -> Result<(), Failed> {
    let path = if is_ready { "/readyz" } else { "/ping" };
    let told = |why: String| Failed::unavailable(format!("http://{address}{path}: {why}"));
    let answer = ask(address, path).map_err(told)?;
    let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
    if answer.status == 200 {
        outln!("{text}");
        Ok(())
    } else {
        Err(told(format!("status {} {text}", answer.status)))
    }
}

fn ask(address: &str, path: &str) -> Result<Answer, String> {
    let endpoint = Endpoint::parse(&format!("http://{address}"))?;
    let mut client = Client::connect(&endpoint, &Trust::default(), PING_TIMEOUT)
        .map_err(|error| error.to_string())?;
    client.max_answer_bytes = MAX_PING_ANSWER_BYTES;
    client.get(path).map_err(|error| error.to_string())
}

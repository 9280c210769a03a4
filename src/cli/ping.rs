//! `xks-proxy ping`: what a container's health check runs, so that an image needs no curl.
//!
//! The address is an argument and not taken from the settings file: a mistake in a file that was
//! changed but not yet taken over must not make a process that serves look dead.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};

use super::Failed;
use crate::limits::{MAX_PING_ANSWER_BYTES, PING_TIMEOUT};

/// Asks the ping port at `address` (`HOST:PORT`, plain HTTP) for `/ping`, or for `/readyz` with
/// `is_ready`, and prints the answer.
///
/// # Errors
/// [`Failed`] (69): nobody answers within [`PING_TIMEOUT`] a step, or not with status 200.
pub fn run(address: &str, is_ready: bool) -> Result<(), Failed> {
    let path = if is_ready { "/readyz" } else { "/ping" };
    let told = |why: String| Failed::unavailable(format!("http://{address}{path}: {why}"));
    let answer = ask(address, path).map_err(|error| told(error.to_string()))?;
    let (status, text) = parse(&answer).ok_or_else(|| told("the answer is no HTTP".to_owned()))?;
    if status == 200 {
        println!("{text}");
        Ok(())
    } else {
        Err(told(format!("status {status} {text}")))
    }
}

/// The whole answer, which ends with its connection.
fn ask(address: &str, path: &str) -> io::Result<Vec<u8>> {
    let target = address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::other("the name has no address"))?;
    let mut stream = TcpStream::connect_timeout(&target, PING_TIMEOUT)?;
    stream.set_read_timeout(Some(PING_TIMEOUT))?;
    stream.set_write_timeout(Some(PING_TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_PING_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(answer)
}

/// Status and body.
fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let mut slots = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut slots);
    let Ok(httparse::Status::Complete(head)) = response.parse(answer) else { return None };
    let text = String::from_utf8_lossy(answer.get(head..)?).trim().to_owned();
    Some((response.code?, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a whole head counts as an answer.
    #[test]
    fn answers() {
        let pong = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\npong\n";
        assert_eq!(parse(pong), Some((200, "pong".to_owned())));
        assert_eq!(parse(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Some((503, String::new())));
        for wrong in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"SSH-2.0\r\n"] {
            assert_eq!(parse(wrong), None);
        }
    }
}

//! The proxy's own metrics, for the part of the time that calls spend in the HSM.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of an answer. A proxy with thousands of keys sends a few hundred KiB.
const MAX_BYTES: u64 = 16 << 20;
const HSM: &str = "xks_proxy_request_hsm_duration_seconds";
const QUEUE: &str = "xks_proxy_request_queue_duration_seconds";
const SESSIONS: &str = "xks_proxy_hsm_sessions_limit";

/// Sums at one time, over all calls and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Calls of the HSM that requests made.
    pub calls: f64,
    /// Seconds that requests spent in the HSM.
    pub hsm_seconds: f64,
    /// Seconds that requests waited for a session.
    pub queue_seconds: f64,
    /// Sessions that may be at work at once.
    pub sessions: f64,
}

impl Metrics {
    /// Asks the admin listener.
    ///
    /// # Errors
    /// The connection fails, or the answer is not the proxy's metrics.
    pub fn read(address: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(MAX_BYTES).read_to_string(&mut answer)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let has_all = [HSM, QUEUE, SESSIONS].iter().all(|name| body.contains(name));
        if !answer.starts_with("HTTP/1.1 200") || !has_all {
            return Err(io::Error::other("it is not the admin listener of xks-proxy"));
        }
        Ok(Self::parse(body))
    }

    fn parse(text: &str) -> Self {
        let sum = |name: &str, suffix: &str| {
            let values = text.lines().filter_map(|line| {
                let rest = line.strip_prefix(name)?.strip_prefix(suffix)?;
                let is_whole_name = rest.starts_with(['{', ' ']);
                let value = rest.rsplit_once(' ').map(|(_, value)| value)?;
                is_whole_name.then(|| value.parse::<f64>().ok()).flatten()
            });
            values.sum()
        };
        Self {
            calls: sum(HSM, "_count"),
            hsm_seconds: sum(HSM, "_sum"),
            queue_seconds: sum(QUEUE, "_sum"),
            sessions: sum(SESSIONS, ""),
        }
    }

    /// Returns what was added since `earlier`; sessions as they are now.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            calls: self.calls - earlier.calls,
            hsm_seconds: self.hsm_seconds - earlier.hsm_seconds,
            queue_seconds: self.queue_seconds - earlier.queue_seconds,
            sessions: self.sessions,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls and tokens are summed; buckets, comments and longer names are not.
    #[test]
    fn sums() {
        let text = "# TYPE xks_proxy_request_hsm_duration_seconds histogram\n\
             xks_proxy_request_hsm_duration_seconds_bucket{call=\"encrypt\",le=\"1\"} 7\n\
             xks_proxy_request_hsm_duration_seconds_sum{call=\"encrypt\"} 0.5\n\
             xks_proxy_request_hsm_duration_seconds_sum{call=\"decrypt\"} 1.5\n\
             xks_proxy_request_hsm_duration_seconds_count{call=\"encrypt\"} 100\n\
             xks_proxy_request_hsm_duration_seconds_count{call=\"decrypt\"} 300\n\
             xks_proxy_request_queue_duration_seconds_sum{call=\"decrypt\"} 0.25\n\
             xks_proxy_hsm_sessions_limit{index=\"0\",token=\"a b\"} 8\n\
             xks_proxy_hsm_sessions_limit{index=\"1\",token=\"c\"} 4\n\
             xks_proxy_hsm_sessions_limits 9\n";
        let expected =
            Metrics { calls: 400.0, hsm_seconds: 2.0, queue_seconds: 0.25, sessions: 12.0 };
        assert_eq!(Metrics::parse(text), expected);
        assert_eq!(expected.since(expected), Metrics { sessions: 12.0, ..Metrics::default() });
    }
}

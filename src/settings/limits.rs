//! `[limits]`

use std::time::Duration;

use super::memory::{Defaults, MemoryLimit};
use super::section::Section;
use crate::limits::{
    DEFAULT_BODY_TIMEOUT_MILLI, DEFAULT_HANDSHAKE_TIMEOUT_MILLI, DEFAULT_HEAD_TIMEOUT_MILLI,
    DEFAULT_IDLE_TIMEOUT_MILLI, DEFAULT_MAX_AAD_IN_BASE64_BYTES, DEFAULT_MAX_BUFFERED_BYTES,
    DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES,
    DEFAULT_MAX_REQUESTS_PER_CONNECTION, DEFAULT_MAX_TLS_HANDSHAKES_PER_SEC,
    DEFAULT_REQUEST_DEADLINE_MILLI, DEFAULT_WRITE_TIMEOUT_MILLI, KMS_TIMEOUT_MILLI,
    MAX_AAD_IN_BASE64_BYTES, MAX_CONNECTIONS, MAX_MAX_BUFFERED_BYTES,
    MAX_PLAINTEXT_IN_BASE64_BYTES, MAX_RATE_PER_SEC, MAX_REQUESTS_PER_CONNECTION,
    MAX_TIMEOUT_MILLI, MIN_MAX_AAD_BYTES, MIN_MAX_BUFFERED_BYTES, MIN_MAX_PLAINTEXT_BYTES,
    base64_bytes,
};
use crate::proto::service_config::Timeouts;

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    /// Base64 bytes of `plaintext` and `ciphertext`.
    pub max_plaintext_in_base64: usize,
    /// Base64 bytes of `additionalAuthenticatedData`.
    pub max_aad_in_base64: usize,
    /// Connections over all event loops.
    pub max_connections: usize,
    /// Connections from one client address; unlimited if `None`.
    pub max_connections_per_address: Option<u32>,
    /// Requests on one connection; 0 means unlimited.
    pub max_requests_per_connection: u64,
    /// Bytes that all connections together may hold.
    pub max_buffered_bytes: usize,
    /// TLS handshakes begun in a second, over all event loops; 0 means unlimited.
    pub max_tls_handshakes_per_sec: u32,
    /// Time limit of each wait.
    pub timeouts: Timeouts,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_plaintext_in_base64: DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES,
            max_aad_in_base64: DEFAULT_MAX_AAD_IN_BASE64_BYTES,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            max_connections_per_address: None,
            max_requests_per_connection: DEFAULT_MAX_REQUESTS_PER_CONNECTION,
            max_buffered_bytes: DEFAULT_MAX_BUFFERED_BYTES,
            max_tls_handshakes_per_sec: DEFAULT_MAX_TLS_HANDSHAKES_PER_SEC,
            timeouts: Timeouts {
                request: Duration::from_millis(DEFAULT_REQUEST_DEADLINE_MILLI),
                head: Duration::from_millis(DEFAULT_HEAD_TIMEOUT_MILLI),
                body: Duration::from_millis(DEFAULT_BODY_TIMEOUT_MILLI),
                idle: Duration::from_millis(DEFAULT_IDLE_TIMEOUT_MILLI),
                write: Duration::from_millis(DEFAULT_WRITE_TIMEOUT_MILLI),
                handshake: Duration::from_millis(DEFAULT_HANDSHAKE_TIMEOUT_MILLI),
            },
        }
    }
}

/// Reads the section. Returns the defaults if it is missing or has the wrong form, which `section`
/// reports. Defaults are smaller if the process's memory is limited, and limits for which there is
/// too little memory are reported.
pub(super) fn read(root: &Section<'_>, memory: Option<&MemoryLimit>) -> Option<Limits> {
    let Defaults { max_connections, max_buffered_bytes } = Defaults::within(memory);
    let default = Limits { max_connections, max_buffered_bytes, ..Limits::default() };
    let Some(section) = root.section("limits") else { return Some(default) };
    let max_plaintext_in_base64 = size(
        &section,
        "max_plaintext_in_base64",
        default.max_plaintext_in_base64,
        base64_bytes(MIN_MAX_PLAINTEXT_BYTES)..=MAX_PLAINTEXT_IN_BASE64_BYTES,
    );
    let max_aad_in_base64 = size(
        &section,
        "max_aad_in_base64",
        default.max_aad_in_base64,
        base64_bytes(MIN_MAX_AAD_BYTES)..=MAX_AAD_IN_BASE64_BYTES,
    );
    let max_connections = section.integer_or(
        "max_connections",
        1..=MAX_CONNECTIONS as u64,
        "a number of connections",
        default.max_connections,
    );
    let max_connections_per_address = section.integer_or(
        "max_connections_per_address",
        0..=MAX_CONNECTIONS as u64,
        "a number of connections (0: no limit)",
        0,
    );
    let max_requests_per_connection = section.integer_or(
        "max_requests_per_connection",
        0..=MAX_REQUESTS_PER_CONNECTION,
        "a number of requests (0: no limit)",
        default.max_requests_per_connection,
    );
    let max_buffered_bytes = section.integer_or(
        "max_buffered_bytes",
        MIN_MAX_BUFFERED_BYTES as u64..=MAX_MAX_BUFFERED_BYTES as u64,
        "a number of bytes",
        default.max_buffered_bytes,
    );
    let max_tls_handshakes_per_sec = section.integer_or(
        "max_tls_handshakes_per_sec",
        0..=u64::from(MAX_RATE_PER_SEC),
        "a number of handshakes (0: no limit)",
        default.max_tls_handshakes_per_sec,
    );
    let timeouts = timeouts(&section);
    if let (Some(memory), Some(connections), Some(bytes)) =
        (memory, max_connections, max_buffered_bytes)
    {
        compare_with_memory(&section, memory, connections, bytes, &default);
    }
    Some(Limits {
        max_plaintext_in_base64: max_plaintext_in_base64?,
        max_aad_in_base64: max_aad_in_base64?,
        max_connections: max_connections?,
        max_connections_per_address: max_connections_per_address
            .map(|max| (max > 0).then_some(max))?,
        max_requests_per_connection: max_requests_per_connection?,
        max_buffered_bytes: max_buffered_bytes?,
        max_tls_handshakes_per_sec: max_tls_handshakes_per_sec?,
        timeouts: timeouts?,
    })
}

/// Warns of each limit in the file that is larger than its default would be, if there is too little
/// memory for both.
fn compare_with_memory(
    section: &Section<'_>,
    memory: &MemoryLimit,
    max_connections: usize,
    max_buffered_bytes: usize,
    default: &Limits,
) {
    if memory.has_room_for(max_connections, max_buffered_bytes) {
        return;
    }
    for (name, value, default) in [
        ("max_connections", max_connections, default.max_connections),
        ("max_buffered_bytes", max_buffered_bytes, default.max_buffered_bytes),
    ] {
        if let Some(member) = section.get(name)
            && value > default
        {
            let MemoryLimit { bytes, file, exports } = memory;
            let exports = match exports {
                0 => String::new(),
                bytes => format!(", of which [[syslog]] and [otlp] may hold {bytes}"),
            };
            let problem = format!(
                "{name} = {value} is more than the memory of the process's cgroup has room for: {} \
                 is {bytes} bytes{exports}",
                file.display()
            );
            let remedy = format!("write {default}, leave it out, or raise the cgroup's limit");
            member.warning(problem, remedy);
        }
    }
}

/// Reads a number of base64 bytes that may be at most the end of `recommended`, and warns if it is
/// less than the start.
fn size(
    section: &Section<'_>,
    name: &str,
    default: usize,
    recommended: std::ops::RangeInclusive<usize>,
) -> Option<usize> {
    let (minimum, maximum) = recommended.into_inner();
    let size = section.integer_or(name, 0..=maximum as u64, "a number of bytes", default)?;
    if let Some(member) = section.get(name)
        && size < minimum
    {
        let problem = format!("{size} is less than the XKS specification requires of a proxy");
        member.warning(problem, format!("write at least {minimum}"));
    }
    Some(size)
}

fn timeouts(section: &Section<'_>) -> Option<Timeouts> {
    let time = |name, default| {
        let range = 1..=MAX_TIMEOUT_MILLI;
        section.integer_or(name, range, "a number of milliseconds", default)
    };
    let request = time("request_deadline_milli", DEFAULT_REQUEST_DEADLINE_MILLI);
    let head = time("head_timeout_milli", DEFAULT_HEAD_TIMEOUT_MILLI);
    let body = time("body_timeout_milli", DEFAULT_BODY_TIMEOUT_MILLI);
    let idle = time("idle_timeout_milli", DEFAULT_IDLE_TIMEOUT_MILLI);
    let write = time("write_timeout_milli", DEFAULT_WRITE_TIMEOUT_MILLI);
    let handshake = time("handshake_timeout_milli", DEFAULT_HANDSHAKE_TIMEOUT_MILLI);
    if let (Some(milli), Some(member)) = (request, section.get("request_deadline_milli"))
        && milli > KMS_TIMEOUT_MILLI
    {
        member.warning(
            format!("KMS hangs up after {KMS_TIMEOUT_MILLI} ms, which is sooner than {milli} ms"),
            format!("write {DEFAULT_REQUEST_DEADLINE_MILLI}, or leave it out"),
        );
    }
    Some(Timeouts {
        request: Duration::from_millis(request?),
        head: Duration::from_millis(head?),
        body: Duration::from_millis(body?),
        idle: Duration::from_millis(idle?),
        write: Duration::from_millis(write?),
        handshake: Duration::from_millis(handshake?),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use std::path::Path;

    use toml::de::DeTable;

    use crate::limits::MAX_AAD_BYTES;
    use crate::settings::report::Report;
    use crate::settings::{Finding, Severity};

    fn read_within(memory: u64, text: &str) -> (Limits, Vec<Finding>) {
        let report = Report::new(Path::new("settings.toml"), text, true);
        let document = DeTable::parse(text).unwrap();
        let memory = MemoryLimit { bytes: memory, file: "/memory.max".into(), exports: 0 };
        let root = Section::root(document.get_ref(), &report);
        let limits = read(&root, Some(&memory)).unwrap();
        (limits, report.into_findings())
    }

    /// A limit for which there is too little memory is a warning that names both; one that is
    /// smaller than the default is not, whatever the other one is.
    #[test]
    fn too_little_memory() {
        const MEMORY: u64 = 64 << 20;
        for text in ["", "[limits]\n", "[limits]\nmax_connections = 9\n"] {
            let (limits, findings) = read_within(MEMORY, text);
            assert_eq!((limits.max_buffered_bytes, findings.len()), (8 << 20, 0), "{text}");
        }
        let text = "[limits]\nmax_connections = 20000\nmax_buffered_bytes = 5000000\n";
        let (limits, findings) = read_within(MEMORY, text);
        assert_eq!((limits.max_connections, limits.max_buffered_bytes), (20_000, 5_000_000));
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!(finding.severity, Severity::Warning);
        let shown = finding.to_string();
        for part in ["settings.toml:2", "= 20000", "/memory.max is 67108864 bytes", "write 512"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert_eq!(read_within(1 << 40, text).1.len(), 0);
    }

    /// The bounds in warnings and mistakes are those of the specification.
    #[test]
    fn base64_of_the_specifications_sizes() {
        assert_eq!(base64_bytes(MIN_MAX_PLAINTEXT_BYTES), 5736);
        assert_eq!(base64_bytes(MIN_MAX_AAD_BYTES), 10_924);
        assert_eq!(base64_bytes(MAX_AAD_BYTES), 87_380);
    }
}

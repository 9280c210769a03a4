#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn origin(kind: Kind) -> Origin {
    Origin::new("host.example", "xks-proxy", 17, Facility::Daemon, kind)
}

fn message(kind: Kind, line: &str, framing: Framing) -> String {
    let mut out = Vec::new();
    origin(kind).append(&mut out, line.as_bytes(), framing);
    String::from_utf8(out).unwrap()
}

const TIME: &str = "2026-11-25T08:16:31.123456Z";

/// The lines of each log and format, with the severity and the time that they had there.
#[test]
fn known_messages() {
    let header = |pri: u8, app: &str, id: &str| {
        format!("<{pri}>1 {TIME} host.example {app} 17 {id} [meta sequenceId=\"1\"] ")
    };
    let json =
        |level: &str, rest: &str| format!("{{\"time\":\"{TIME}\",\"level\":\"{level}\",{rest}}}");
    let audit =
        format!("{{\"seq\":7,\"previous\":\"00ff\",\"time\":\"{TIME}\",\"event\":\"call\"}}");
    for (kind, line, expected) in [
        (
            Kind::Log,
            format!("{TIME} INFO call=decrypt status=200"),
            header(30, "xks-proxy", "access") + "call=decrypt status=200",
        ),
        (
            Kind::Log,
            format!("{TIME} WARN a message key=value"),
            header(28, "xks-proxy", "event") + "a message key=value",
        ),
        (
            Kind::Log,
            format!("{TIME} ERROR call=encrypt status=500"),
            header(27, "xks-proxy", "access") + "call=encrypt status=500",
        ),
        (Kind::Log, format!("{TIME} DEBUG x"), header(31, "xks-proxy", "event") + "x"),
        (
            Kind::Log,
            json("WARN", "\"message\":\"x\""),
            header(28, "xks-proxy", "event") + &json("WARN", "\"message\":\"x\""),
        ),
        (
            Kind::Log,
            json("INFO", "\"call\":\"decrypt\""),
            header(30, "xks-proxy", "access") + &json("INFO", "\"call\":\"decrypt\""),
        ),
        (Kind::Audit, audit.clone(), header(30, "xks-proxy-audit", "audit") + &audit),
        (Kind::Log, String::new(), header(30, "xks-proxy", "event").replace(TIME, "-")),
    ] {
        assert_eq!(message(kind, &line, Framing::Datagram), expected);
        let counted = format!("{} {expected}", expected.len());
        assert_eq!(message(kind, &line, Framing::OctetCount), counted);
        assert_eq!(message(kind, &line, Framing::Newline), format!("{expected}\n"));
    }
}

/// Lost lines leave a gap, and the numbers begin again after the largest one.
#[test]
fn sequence_numbers() {
    let mut origin = origin(Kind::Log);
    for number in 1..=2 {
        let mut out = Vec::new();
        origin.append(&mut out, b"", Framing::Datagram);
        let sequence = format!("[meta sequenceId=\"{number}\"]");
        assert!(String::from_utf8(out).unwrap().contains(&sequence));
    }
    origin.leave_out(5);
    assert_eq!(origin.sequence, 8);
    origin.leave_out(MAX_SYSLOG_SEQUENCE - 8);
    assert_eq!(origin.sequence, MAX_SYSLOG_SEQUENCE);
    origin.leave_out(1);
    assert_eq!(origin.sequence, 1);
}

/// A host without a usable name.
#[test]
fn strange_host_names() {
    for name in ["", "a b", "h\u{e9}", &"h".repeat(256)] {
        let mut out = Vec::new();
        let mut origin = Origin::new(name, "t", 1, Facility::Local7, Kind::Log);
        origin.append(&mut out, b"", Framing::Datagram);
        assert!(out.starts_with(b"<190>1 - - t 1 event ["), "{}", String::from_utf8_lossy(&out));
    }
}

proptest! {
    /// Whatever a line consists of, its message is of printable ASCII, not too long, and marked if
    /// it was truncated: nothing in it ends the message, begins another, or controls a terminal.
    #[test]
    fn nothing_escapes(
        line in prop::collection::vec(any::<u8>(), 0..200),
        repeated in 1..100_usize,
        is_audit in any::<bool>(),
        is_timed in any::<bool>(),
    ) {
        let mut whole = if is_timed { format!("{TIME} INFO ").into_bytes() } else { Vec::new() };
        whole.extend(line.repeat(repeated));
        let kind = if is_audit { Kind::Audit } else { Kind::Log };
        let mut out = Vec::new();
        origin(kind).append(&mut out, &whole, Framing::Newline);
        prop_assert_eq!(out.pop(), Some(b'\n'));
        prop_assert!(out.iter().all(|byte| matches!(byte, b' '..=b'~')));
        prop_assert!(out.len() <= MAX_SYSLOG_MESSAGE_BYTES);
        if whole.len() > MAX_SYSLOG_MESSAGE_BYTES {
            prop_assert!(out.ends_with(CUT));
            prop_assert_eq!(out.len(), MAX_SYSLOG_MESSAGE_BYTES);
        }
        let mut counted = Vec::new();
        origin(kind).append(&mut counted, &whole, Framing::OctetCount);
        let prefix = format!("{} ", out.len()).into_bytes();
        prop_assert_eq!(counted.strip_prefix(prefix.as_slice()), Some(out.as_slice()));
    }
}

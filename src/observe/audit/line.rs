//! The format of a line of the audit log: `{"seq":7,...,"mac":"64 hexadecimal digits"}`.
//!
//! The code covers everything before `,"mac":`. In the first line of a file, the second member,
//! `"previous"`, is the code of the last line of the previous file.

use memchr::{memchr, memchr_iter};

use super::chain::{CODE_BYTES, Chain, from_hex, push_hex};
use crate::decimal::push_decimal;

/// The beginning of each line.
pub(super) const BEGIN: &[u8] = b"{\"seq\":";
const PREVIOUS: &[u8] = b",\"previous\":\"";
const MAC: &[u8] = b",\"mac\":\"";
const END: &[u8] = b"\"}";
const CODE_DIGITS: usize = 2 * CODE_BYTES;

/// Appends a line that consists of `members` (`,"name":value,...`) and the chain's own members.
pub(super) fn write(out: &mut Vec<u8>, chain: &mut Chain, members: &[u8], is_first_of_file: bool) {
    let start = out.len();
    out.extend_from_slice(BEGIN);
    push_decimal(out, chain.seq());
    if is_first_of_file {
        out.extend_from_slice(PREVIOUS);
        push_hex(out, chain.previous());
        out.push(b'"');
    }
    out.extend_from_slice(members);
    let code = chain.seal(out.get(start..).unwrap_or_default());
    out.extend_from_slice(MAC);
    push_hex(out, &code);
    out.extend_from_slice(END);
    out.push(b'\n');
}

/// The parts of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parsed<'l> {
    /// `seq`
    pub(super) seq: u64,
    /// `previous`, if present.
    pub(super) previous: Option<[u8; CODE_BYTES]>,
    /// The bytes that the code covers.
    pub(super) covered: &'l [u8],
    /// `mac`
    pub(super) code: [u8; CODE_BYTES],
}

/// Parses a line without its line end; `None` if it is not in this format.
pub(super) fn parse(line: &[u8]) -> Option<Parsed<'_>> {
    let (covered, tail) =
        line.split_at_checked(line.len().checked_sub(MAC.len() + CODE_DIGITS + END.len())?)?;
    let code = from_hex(tail.strip_prefix(MAC)?.strip_suffix(END)?)?;
    let rest = covered.strip_prefix(BEGIN)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = rest.split_at(digits);
    let seq = std::str::from_utf8(number).ok()?.parse().ok()?;
    // A string contains no unescaped quote, so this can only be the member.
    let previous = rest
        .strip_prefix(PREVIOUS)
        .and_then(|rest| rest.split_at_checked(CODE_DIGITS))
        .and_then(|(digits, _)| from_hex(digits));
    Some(Parsed { seq, previous, covered, code })
}

/// Returns a string member of a line, still escaped.
pub(super) fn string<'l>(line: &'l [u8], name: &str) -> Option<&'l str> {
    // A string contains no unescaped quote, so this can only be the member.
    let value = memchr_iter(b',', line).find_map(|at| {
        let rest = line.get(at..)?.strip_prefix(b",\"")?.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"\":\"")
    })?;
    let end = memchr(b'"', value)?;
    std::str::from_utf8(value.get(..end)?).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::observe::audit::chain::key_of;

    /// A line reads back, is JSON, and its code is right.
    #[test]
    fn there_and_back() {
        let mut chain = Chain::begin(key_of(&[1; CODE_BYTES]));
        let check = chain.clone();
        let mut out = Vec::new();
        write(&mut out, &mut chain, b",\"event\":\"start\"", true);
        let first = out.clone();
        out.clear();
        write(&mut out, &mut chain, b",\"event\":\"call\"", false);

        let parsed = parse(first.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((parsed.seq, parsed.previous), (0, Some([0; CODE_BYTES])));
        assert!(check.fits(&[0; CODE_BYTES], parsed.covered, &parsed.code));
        assert_eq!(string(&first, "event"), Some("start"));
        let parsed = parse(out.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((parsed.seq, parsed.previous), (1, None));
        assert_eq!(*chain.previous(), parsed.code);
        let json: serde_json::Value = serde_json::from_slice(&first).unwrap();
        assert_eq!((&json["seq"], &json["event"]), (&0.into(), &"start".into()));
        assert_eq!(json["previous"], "0".repeat(64));
    }

    /// A member is found by its name alone: neither by a value, nor by a part of a name.
    #[test]
    fn members_by_name() {
        let line = br#"{"seq":1,"event":"time","timeOut":"1","x":"\",\"time\":\"2\"","time":"3","#;
        assert_eq!(string(line, "time"), Some("3"));
        assert_eq!(string(line, "event"), Some("time"));
        assert_eq!(string(line, "Out"), None);
        assert_eq!(string(line, "seq"), None);
    }

    /// Text in any other format is not parsed as a line.
    #[test]
    fn what_is_no_line() {
        let code = "a".repeat(CODE_DIGITS);
        let good = format!("{{\"seq\":7,\"mac\":\"{code}\"}}");
        assert!(parse(good.as_bytes()).is_some());
        for wrong in [
            String::new(),
            good.replace('7', ""),
            good.replace('7', "99999999999999999999"),
            good.replace('7', "-7"),
            good.replace("a\"}", "A\"}"),
            good.replace("a\"}", "\"}"),
            format!("{good} "),
            format!("{good}\r"),
            good[1..].to_owned(),
        ] {
            assert!(parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}

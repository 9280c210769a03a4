//! Calls that differ only in time, number and request id, counted together.
//!
//! A log has millions of lines, but few kinds of calls. A line is parsed only if it is the first of
//! its kind: the text of all others is compared, which takes a tenth of the time.

use std::collections::HashMap;

use memchr::{memchr, memmem};

use super::call::{Call, Outcome};
use super::table::Span;
use crate::limits::{MAX_AUDIT_REPORT_KIND_BYTES, MAX_AUDIT_REPORT_KINDS};

const EVENT: &[u8] = b",\"event\":\"";
const REQUEST_ID: &[u8] = b",\"kmsRequestId\":\"";
const CODE: &[u8] = b",\"mac\":\"";

/// Calls of one kind.
pub(super) struct Kind {
    pub(super) call: Call,
    pub(super) calls: u64,
    pub(super) span: Span,
}

/// Kinds of calls, up to a number and a size.
pub(super) struct Kinds {
    /// Indices of [`Self::kinds`], by the text of the line.
    by_text: HashMap<Box<[u8]>, usize>,
    /// In the order in which they occurred.
    kinds: Vec<Kind>,
    text_bytes: usize,
    request_id: memmem::Finder<'static>,
    code: memmem::FinderRev<'static>,
    event: memmem::Finder<'static>,
    /// The text of the present line.
    text: Vec<u8>,
}

impl Default for Kinds {
    fn default() -> Self {
        Self {
            by_text: HashMap::new(),
            kinds: Vec::new(),
            text_bytes: 0,
            request_id: memmem::Finder::new(REQUEST_ID),
            code: memmem::FinderRev::new(CODE),
            event: memmem::Finder::new(EVENT),
            text: Vec::new(),
        }
    }
}

impl Kinds {
    /// Counts the call of a line, and returns its outcome; `None` if it is not such a line.
    pub(super) fn count(&mut self, line: &[u8], micros: u64) -> Option<Outcome> {
        self.set_text(line)?;
        if let Some(kind) = self.by_text.get(&*self.text).and_then(|at| self.kinds.get_mut(*at)) {
            kind.calls += 1;
            kind.span.extend(Span::at(micros));
            return Some(kind.call.outcome);
        }
        let call = Call::parse(line)?;
        let outcome = call.outcome;
        self.by_text.insert(self.text.as_slice().into(), self.kinds.len());
        self.text_bytes += self.text.len();
        self.kinds.push(Kind { call, calls: 1, span: Span::at(micros) });
        Some(outcome)
    }

    /// Keeps the part of the line that is the same in all of its kind.
    fn set_text(&mut self, line: &[u8]) -> Option<()> {
        self.text.clear();
        let begin = self.event.find(line)?;
        let kept = line.get(begin..self.code.rfind(line)?)?;
        let Some(at) = self.request_id.find(kept) else {
            self.text.extend_from_slice(kept);
            return Some(());
        };
        let (before, rest) = kept.split_at_checked(at)?;
        let rest = rest.get(REQUEST_ID.len()..)?;
        self.text.extend_from_slice(before);
        // An escaped quote ends it early: the rest then makes the line a kind of its own.
        self.text.extend_from_slice(rest.get(memchr(b'"', rest)?..)?);
        Some(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.kinds.len() >= MAX_AUDIT_REPORT_KINDS || self.text_bytes >= MAX_AUDIT_REPORT_KIND_BYTES
    }

    /// Returns all kinds, in the order in which they occurred, and forgets them.
    pub(super) fn take(&mut self) -> Vec<Kind> {
        self.by_text.clear();
        self.text_bytes = 0;
        std::mem::take(&mut self.kinds)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn line(seq: u64, principal: &str, request_id: &str, status: u16) -> String {
        format!(
            r#"{{"seq":{seq},"time":"t{seq}","event":"call","operation":"decrypt","awsPrincipalArn":"{principal}","kmsRequestId":"{request_id}","status":{status},"mac":"{seq}"}}"#
        )
    }

    /// Number, time and request id make no kind; everything else does, and nothing in a request id
    /// can make one call look like another.
    #[test]
    fn what_makes_a_kind() {
        let mut kinds = Kinds::default();
        let hostile = r#"x\",\"status\":200,\"y\":\""#;
        for (seq, principal, id, status) in [
            (1, "alice", "a", 200),
            (2, "alice", "b", 200),
            (3, "bob", "c", 200),
            (4, "alice", "d", 403),
            (5, "alice", hostile, 403),
        ] {
            let outcome = kinds.count(line(seq, principal, id, status).as_bytes(), seq).unwrap();
            assert_eq!(outcome == Outcome::Served, status == 200);
        }
        let found: Vec<_> = kinds.take().into_iter().map(|kind| (kind.calls, kind.span)).collect();
        let one = |at| (1, Span::at(at));
        assert_eq!(found, [(2, Span { first: 1, last: 2 }), one(3), one(4), one(5)]);
        assert!(kinds.take().is_empty());
        let unknown = br#"{"seq":1,"event":"call","status":"x","mac":"0"}"#;
        assert_eq!((kinds.count(unknown, 1), kinds.count(b"{}", 1)), (None, None));
    }

    /// The memory for kinds is bounded.
    #[test]
    fn when_it_is_full() {
        let mut kinds = Kinds::default();
        for seq in 0..MAX_AUDIT_REPORT_KINDS as u64 {
            assert!(!kinds.is_full());
            kinds.count(line(seq, &format!("user {seq}"), "", 200).as_bytes(), seq).unwrap();
        }
        assert!(kinds.is_full());
        kinds.take();
        let long = "x".repeat(MAX_AUDIT_REPORT_KIND_BYTES / 2);
        kinds.count(line(1, &long, "", 200).as_bytes(), 1).unwrap();
        assert!(!kinds.is_full());
        kinds.count(line(1, &long, "", 403).as_bytes(), 1).unwrap();
        assert!(kinds.is_full());
    }
}

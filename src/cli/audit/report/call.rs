//! The members of a call's line that a report is about.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

/// A name in a line; `None` if the line has no such member. Tables share it.
pub(super) type Name = Option<Arc<str>>;

/// A string of a line. A type of its own, because serde copies an optional `Cow`.
#[derive(Default, Deserialize)]
pub(super) struct Text<'l>(#[serde(borrow)] Cow<'l, str>);

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Members that each line has.
pub(super) struct Head<'c> {
    pub(super) seq: u64,
    pub(super) event: &'c str,
    pub(super) time: &'c str,
}

/// A line.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Call<'l> {
    seq: u64,
    #[serde(borrow)]
    event: Text<'l>,
    #[serde(borrow)]
    time: Text<'l>,
    #[serde(borrow)]
    pub(super) operation: Option<Text<'l>>,
    #[serde(borrow)]
    pub(super) store: Option<Text<'l>>,
    #[serde(borrow)]
    pub(super) access_key_id: Option<Text<'l>>,
    #[serde(borrow)]
    pub(super) external_key_id: Option<Text<'l>>,
    pub(super) key_version: Option<u32>,
    #[serde(borrow)]
    pub(super) aws_principal_arn: Option<Text<'l>>,
    #[serde(borrow)]
    pub(super) kms_operation: Option<Text<'l>>,
    #[serde(borrow)]
    pub(super) kms_via_service: Option<Text<'l>>,
    pub(super) status: Option<u16>,
    #[serde(borrow)]
    pub(super) error_name: Option<Text<'l>>,
    #[serde(borrow)]
    pub(super) reason: Option<Text<'l>>,
}

impl<'l> Call<'l> {
    /// Parses a line; `None` if it is not JSON with these members.
    pub(super) fn parse(line: &'l [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Parses the members that each line has, and leaves out all others.
    pub(super) fn parse_head(line: &'l [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Members<'l> {
            seq: u64,
            #[serde(borrow)]
            event: Text<'l>,
            #[serde(borrow)]
            time: Text<'l>,
        }
        let Members { seq, event, time } = serde_json::from_slice(line).ok()?;
        Some(Self { seq, event, time, ..Self::default() })
    }

    pub(super) fn head(&self) -> Head<'_> {
        Head { seq: self.seq, event: self.event.as_str(), time: self.time.as_str() }
    }

    pub(super) fn outcome(&self) -> Outcome {
        Outcome::of(self.status)
    }

    pub(super) fn is(&self, operation: &str) -> bool {
        self.operation.as_ref().is_some_and(|text| text.as_str() == operation)
    }
}

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Status 200.
    Served,
    /// Status 4xx: the caller may not, or asked for something that cannot be.
    Refused,
    /// Any other status: the proxy or the HSM could not.
    Failed,
    /// The peer had disconnected before there was an answer. The HSM may have done the work.
    Abandoned,
}

impl Outcome {
    pub(super) const ALL: [Self; 4] = [Self::Served, Self::Refused, Self::Failed, Self::Abandoned];

    fn of(status: Option<u16>) -> Self {
        match status {
            Some(200) => Self::Served,
            Some(400..=499) => Self::Refused,
            Some(_) => Self::Failed,
            None => Self::Abandoned,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Strings are read back, and a line of another form is none.
    #[test]
    fn lines() {
        let line = br#"{"seq":7,"time":"t","event":"call","store":"","reason":"a \"b\" \u00e9","status":403,"x":[1]}"#;
        let call = Call::parse(line).unwrap();
        assert_eq!(call.reason.as_ref().unwrap().as_str(), "a \"b\" \u{e9}");
        assert!(call.store.as_ref().unwrap().as_str().is_empty() && call.operation.is_none());
        assert_eq!(call.outcome(), Outcome::Refused);
        let other = br#"{"seq":7,"time":"t","event":"laser","status":"x"}"#;
        assert!(Call::parse(other).is_none() && Call::parse_head(br#"{"seq":7}"#).is_none());
        for read in [call, Call::parse_head(other).unwrap()] {
            let Head { seq, event, time } = read.head();
            assert!(seq == 7 && time == "t" && matches!(event, "call" | "laser"));
        }
        for (status, outcome) in [
            (Some(200), Outcome::Served),
            (Some(404), Outcome::Refused),
            (Some(503), Outcome::Failed),
            (None, Outcome::Abandoned),
        ] {
            assert_eq!(Outcome::of(status), outcome);
        }
    }
}

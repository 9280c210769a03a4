//! The members of a call's line that a report is about.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

/// A string of a line. A type of its own, because serde copies an optional `Cow`.
#[derive(Deserialize)]
struct Text<'l>(#[serde(borrow)] Cow<'l, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members<'l> {
    #[serde(borrow)]
    operation: Option<Text<'l>>,
    #[serde(borrow)]
    store: Option<Text<'l>>,
    #[serde(borrow)]
    access_key_id: Option<Text<'l>>,
    #[serde(borrow)]
    external_key_id: Option<Text<'l>>,
    key_version: Option<u32>,
    #[serde(borrow)]
    aws_principal_arn: Option<Text<'l>>,
    #[serde(borrow)]
    kms_operation: Option<Text<'l>>,
    #[serde(borrow)]
    kms_via_service: Option<Text<'l>>,
    status: Option<u16>,
    #[serde(borrow)]
    error_name: Option<Text<'l>>,
    #[serde(borrow)]
    reason: Option<Text<'l>>,
}

/// A name in a line; `None` if the line has no such member. Tables share it.
pub(super) type Name = Option<Arc<str>>;

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

/// A call, without what distinguishes it from others of its kind: time, number and request id.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) operation: Name,
    pub(super) store: Name,
    pub(super) access_key_id: Name,
    pub(super) key_id: Name,
    pub(super) key_version: Option<u32>,
    pub(super) principal: Name,
    pub(super) kms_operation: Name,
    pub(super) via_service: Name,
    pub(super) status: Option<u16>,
    pub(super) error_name: Name,
    pub(super) reason: Name,
    pub(super) outcome: Outcome,
}

impl Call {
    /// Parses a line; `None` if it is not JSON with these members.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let members: Members<'_> = serde_json::from_slice(line).ok()?;
        let name = |text: Option<Text<'_>>| text.map(|text| Arc::from(&*text.0));
        Some(Self {
            operation: name(members.operation),
            store: name(members.store),
            access_key_id: name(members.access_key_id),
            key_id: name(members.external_key_id),
            key_version: members.key_version,
            principal: name(members.aws_principal_arn),
            kms_operation: name(members.kms_operation),
            via_service: name(members.kms_via_service),
            status: members.status,
            error_name: name(members.error_name),
            reason: name(members.reason),
            outcome: Outcome::of(members.status),
        })
    }

    pub(super) fn is(&self, operation: &str) -> bool {
        self.operation.as_deref() == Some(operation)
    }
}

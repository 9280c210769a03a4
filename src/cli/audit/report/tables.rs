//! The tables of a report.

use super::call::{Call, Outcome, Text};
use super::recent::{NONE, Names, Symbol, SymbolKey, symbols};

/// Members of a call that are counted together: a table is made from the rows of one group, of which
/// there are fewer than of all members together, and more of which stay the same from call to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// Principal and key.
    Who,
    /// Operation, service, credential and outcome.
    How,
    /// Principal, key and error of calls that were not served.
    Refused,
}

/// A table by the names that make its rows.
pub(super) struct Definition {
    /// Name in CSV and JSON.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) note: &'static str,
    /// Names of the columns in CSV and JSON, and their titles.
    pub(super) names: &'static [(&'static str, &'static str)],
    /// True if rows say how keys were used, and not only how often they occurred.
    pub(super) has_uses: bool,
    pub(super) group: Group,
    /// Returns the names of a call's row; `None` if the call is not of this table. They are of
    /// [`Self::group`].
    pub(super) key_of: fn(&Row) -> Option<SymbolKey>,
}

const STORE: (&str, &str) = ("store", "Key store");
const KEY: (&str, &str) = ("externalKeyId", "External key");
const PRINCIPAL: (&str, &str) = ("awsPrincipalArn", "Principal");
const ERROR: (&str, &str) = ("errorName", "Error");
const REASON: (&str, &str) = ("reason", "Reason");
const OPERATION: (&str, &str) = ("operation", "Operation");

/// The tables of a report.
pub(super) const TABLES: [Definition; 9] = [
    Definition {
        id: "keys",
        title: "Keys",
        note: "Calls by external key.",
        names: &[STORE, KEY],
        has_uses: true,
        group: Group::Who,
        key_of: |row| (row.key_id != NONE).then(|| symbols([row.store, row.key_id])),
    },
    Definition {
        id: "keyVersions",
        title: "Key versions",
        note: "Calls by version, for keys that have versions. The first use of a version is the \
               rotation.",
        names: &[STORE, KEY, ("keyVersion", "Version")],
        has_uses: true,
        group: Group::Who,
        key_of: |row| (row.version != NONE).then(|| symbols([row.store, row.key_id, row.version])),
    },
    Definition {
        id: "principals",
        title: "Principals",
        note: "Calls by the AWS principal on whose behalf KMS called. Calls without a valid \
               signature, and KMS's own health checks, have none.",
        names: &[PRINCIPAL],
        has_uses: true,
        group: Group::Who,
        key_of: |row| Some(symbols([row.principal])),
    },
    Definition {
        id: "access",
        title: "Who used which key",
        note: "Calls by principal and external key.",
        names: &[PRINCIPAL, STORE, KEY],
        has_uses: true,
        group: Group::Who,
        key_of: |row| (row.key_id != NONE).then(|| symbols([row.principal, row.store, row.key_id])),
    },
    Definition {
        id: "viaServices",
        title: "Services",
        note: "Calls by the AWS service through which the principal used the key; none if it called \
               KMS itself.",
        names: &[("kmsViaService", "Via service")],
        has_uses: true,
        group: Group::How,
        key_of: |row| Some(symbols([row.via_service])),
    },
    Definition {
        id: "credentials",
        title: "Credentials",
        note: "Calls by the access key id with which KMS signed. First and last use show a rotation.",
        names: &[STORE, ("accessKeyId", "Access key id")],
        has_uses: true,
        group: Group::How,
        key_of: |row| Some(symbols([row.store, row.access_key_id])),
    },
    Definition {
        id: "operations",
        title: "Operations",
        note: "Calls by the proxy's operation and by that of KMS which led to it.",
        names: &[OPERATION, ("kmsOperation", "KMS operation")],
        has_uses: true,
        group: Group::How,
        key_of: |row| Some(symbols([row.operation, row.kms_operation])),
    },
    Definition {
        id: "outcomes",
        title: "Outcomes",
        note: "Calls by status, error and reason. Refused: status 4xx. Failed: any other error. \
               Abandoned: the peer had disconnected before there was an answer.",
        names: &[("outcome", "Outcome"), ("status", "Status"), ERROR, REASON],
        has_uses: false,
        group: Group::How,
        key_of: |row| Some(symbols([row.outcome, row.status, row.error_name, row.reason])),
    },
    Definition {
        id: "refusals",
        title: "Refused calls",
        note: "Who was refused what, and why: calls that were not served.",
        names: &[ERROR, REASON, OPERATION, STORE, KEY, PRINCIPAL],
        has_uses: false,
        group: Group::Refused,
        key_of: |row| Some(symbols(row.refused())),
    },
];

/// A call by the numbers of its names.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    operation: Symbol,
    store: Symbol,
    access_key_id: Symbol,
    key_id: Symbol,
    version: Symbol,
    principal: Symbol,
    kms_operation: Symbol,
    via_service: Symbol,
    status: Symbol,
    error_name: Symbol,
    reason: Symbol,
    outcome: Symbol,
}

impl Row {
    /// Replaces the call before by this one.
    pub(super) fn set(&mut self, names: &mut Names, call: &Call<'_>, outcome: Outcome) {
        let members = [
            (&mut self.operation, &call.operation),
            (&mut self.store, &call.store),
            (&mut self.access_key_id, &call.access_key_id),
            (&mut self.key_id, &call.external_key_id),
            (&mut self.principal, &call.aws_principal_arn),
            (&mut self.kms_operation, &call.kms_operation),
            (&mut self.via_service, &call.kms_via_service),
            (&mut self.error_name, &call.error_name),
            (&mut self.reason, &call.reason),
        ];
        for (number, text) in members {
            names.set(number, text.as_ref().map(Text::as_str));
        }
        names.set(&mut self.version, digits(&mut [0; 10], call.key_version));
        names.set(&mut self.status, digits(&mut [0; 10], call.status.map(u32::from)));
        names.set(&mut self.outcome, Some(outcome.name()));
    }
}

impl Row {
    /// Returns the members of [`Group::Who`].
    pub(super) fn who(&self) -> [Symbol; 4] {
        [self.principal, self.store, self.key_id, self.version]
    }

    /// Makes a row of [`Group::Who`].
    pub(super) fn of_who([principal, store, key_id, version]: [Symbol; 4]) -> Self {
        Self { principal, store, key_id, version, ..Self::default() }
    }

    /// Returns the members of [`Group::How`].
    pub(super) fn how(&self) -> [Symbol; 9] {
        [
            self.operation,
            self.kms_operation,
            self.via_service,
            self.store,
            self.access_key_id,
            self.outcome,
            self.status,
            self.error_name,
            self.reason,
        ]
    }

    /// Makes a row of [`Group::How`].
    pub(super) fn of_how(members: [Symbol; 9]) -> Self {
        let [
            operation,
            kms_operation,
            via_service,
            store,
            access_key_id,
            outcome,
            status,
            error_name,
            reason,
        ] = members;
        Self {
            operation,
            kms_operation,
            via_service,
            store,
            access_key_id,
            outcome,
            status,
            error_name,
            reason,
            ..Self::default()
        }
    }

    /// Returns the members of [`Group::Refused`].
    pub(super) fn refused(&self) -> [Symbol; 6] {
        [self.error_name, self.reason, self.operation, self.store, self.key_id, self.principal]
    }

    /// Makes a row of [`Group::Refused`].
    pub(super) fn of_refused(members: [Symbol; 6]) -> Self {
        let [error_name, reason, operation, store, key_id, principal] = members;
        Self { error_name, reason, operation, store, key_id, principal, ..Self::default() }
    }
}

/// Writes a number into the buffer.
fn digits(buffer: &mut [u8; 10], number: Option<u32>) -> Option<&str> {
    let mut number = number?;
    let mut begin = buffer.len();
    for (index, digit) in buffer.iter_mut().enumerate().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        begin = index;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(buffer.get(begin..)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (number, text) in [(0, "0"), (1, "1"), (200, "200"), (u32::MAX, "4294967295")] {
            assert_eq!(digits(&mut [0; 10], Some(number)), Some(text));
        }
        assert_eq!(digits(&mut [0; 10], None), None);
    }
}

//! Rules about all answers alike.

use super::prober::Observed;
use super::report::{Outcome, Report, Rule};

const ERROR_FORM: Rule = Rule::must(
    "errors.form",
    "Error codes",
    "Every error is a JSON object with an errorName of the table, its status, and maybe an \
     errorMessage of under 512 characters of printable ASCII.",
);
const CONTENT_TYPE: Rule = Rule::must(
    "http.content-type",
    "API content type",
    "Every answer has the Content-Type application/json.",
);
const VERSION: Rule = Rule::must(
    "http.version",
    "API content type",
    "HTTP/1.1 or later must be supported, with a way back to 1.1.",
);
const KEEP_ALIVE: Rule = Rule::should(
    "http.keep-alive",
    "GetKeyMetadata, KMS considerations",
    "Connections are kept, after errors too: a new one takes round trips of KMS's 250 ms.",
);
const IN_TIME: Rule = Rule::should(
    "http.in-time",
    "Encrypt, KMS considerations",
    "Every answer comes within 250 ms, errors too.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[&ERROR_FORM, &CONTENT_TYPE, &VERSION, &KEEP_ALIVE, &IN_TIME];

/// Judges what was observed.
pub fn examine(observed: &Observed, report: &mut Report) {
    let none_of = |found: &[String], all: usize| match found {
        [] if all == 0 => Outcome::Untried("there was no answer to judge by".to_owned()),
        [] => Outcome::Held(format!("{all} answers")),
        found => Outcome::Broken(found.join("; ")),
    };
    let all = observed.answers;
    report.add(&ERROR_FORM, None, none_of(&observed.malformed_errors, observed.errors));
    report.add(&CONTENT_TYPE, None, none_of(&observed.content_types, all));
    report.add(&VERSION, None, none_of(&observed.old_versions, all));
    report.add(&KEEP_ALIVE, None, none_of(&observed.closes, all));
    report.add(&IN_TIME, None, none_of(&observed.late, all));
}

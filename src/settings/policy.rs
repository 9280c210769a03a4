//! `[security] secondary_auth`, and the policy that it requires.

use std::path::Path;
use std::sync::Arc;

use super::file;
use super::report::Severity;
use super::section::{Section, shown, shown_path};
use super::unknown::nearest;
use crate::limits::MAX_POLICY_BYTES;
use crate::policy::{Language, Policy};

const REMEDY: &str = "write \"Cedar\" or \"Rego\", or remove the member if you do not need a \
                      second check of each call";

/// Reads the policy; returns `Some(None)` if none is required. An unsupported one is a mistake,
/// because a security control must never be dropped silently.
pub(super) fn read(security: &Section<'_>) -> Option<Option<Arc<Policy>>> {
    let sections = ["security.oso", "security.cedar", "security.rego"];
    let asked = match security.get("secondary_auth") {
        Some(member) => Some((member.string(REMEDY)?, member)),
        None => None,
    };
    let language = match asked {
        None => None,
        Some(("Cedar", _)) => Some((Language::Cedar, "security.cedar")),
        Some(("Rego", _)) => Some((Language::Rego, "security.rego")),
        Some(("Oso", member)) => {
            member.mistake(
                "Oso policies are not supported, and starting without them would permit what \
                 they forbid",
                "set it to \"Cedar\" or \"Rego\": configuration/oso.cedar and \
                 configuration/oso.rego are the sample policy in these languages, for \
                 [security.cedar] policy_file or [security.rego] policy_file, and the model for \
                 your own; until then keep your current proxy",
            );
            return None;
        }
        Some((other, member)) => {
            let near = nearest(other, ["Cedar", "Rego"]);
            let remedy = near.map_or_else(|| REMEDY.to_owned(), |it| format!("did you mean {it}?"));
            member.mistake(format!("\"{}\" is not supported", shown(other)), remedy);
            return None;
        }
    };
    for path in sections.into_iter().filter(|path| language.is_none_or(|(_, own)| own != *path)) {
        if let Some(section) = security.section(path) {
            let problem = "it has no effect: secondary_auth does not select it";
            security.report().notice(&section.location(), problem, "it may be kept or removed");
        }
    }
    match language {
        Some((language, path)) => load(security, language, path).map(Some),
        None => Some(None),
    }
}

fn load(security: &Section<'_>, language: Language, path: &'static str) -> Option<Arc<Policy>> {
    let remedy = format!("add it with policy_file, the file of the {} policy", language.name());
    let section = security.require_section(path, &remedy)?;
    let remedy = format!("name the file of the {} policy", language.name());
    let member = section.require("policy_file", &remedy)?;
    let name = member.string(&remedy)?;
    let file = Path::new(name);
    let (bytes, ownership) = match file::read(file, MAX_POLICY_BYTES) {
        Ok(read) => read,
        Err(error) => {
            member.mistake(format!("{} cannot be read: {error}", shown_path(file)), remedy);
            return None;
        }
    };
    let report = member.report();
    report.add_file(file);
    file::check(&ownership, file, false, member.location(), report);
    let Ok(text) = std::str::from_utf8(&bytes) else {
        member.mistake(format!("{} is not UTF-8", shown_path(file)), remedy);
        return None;
    };
    let (policy, remarks) = match Policy::load(language, name, text) {
        Ok((policy, remarks)) => (Some(Arc::new(policy)), remarks),
        Err(remarks) => (None, remarks),
    };
    for remark in remarks {
        let severity = if remark.is_mistake { Severity::Mistake } else { Severity::Warning };
        report.elsewhere(severity, file, remark.position, remark.problem, remark.remedy);
    }
    policy
}

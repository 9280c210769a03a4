//! `[encryption_count]`: the limit of encryptions per key.

use super::section::Section;
use crate::hsm::config::TokenConfig;
use crate::hsm::usage::Limit;
use crate::limits::{DETERMINISTIC_IV_LIMIT, RANDOM_IV_LIMIT};

const REMEDY: &str = "write \"warn\" or \"refuse\"";

/// Reads the section, which may be missing.
pub(super) fn read(root: &Section<'_>, tokens: Option<&[TokenConfig]>) -> Option<Limit> {
    // A key is on all tokens, so a single one that uses random IVs decides.
    let is_deterministic =
        tokens.is_some_and(|tokens| tokens.iter().all(|it| it.rules.makes_deterministic_ivs));
    let most = if is_deterministic { DETERMINISTIC_IV_LIMIT } else { RANDOM_IV_LIMIT };
    if root.get("encryption_count").is_none() {
        return Some(Limit { encrypts: most, refuses: false });
    }
    let section = root.section("encryption_count")?;
    let refuses = match section.get("at_limit") {
        None => Some(false),
        Some(member) => match member.string(REMEDY)? {
            "warn" => Some(false),
            "refuse" => Some(true),
            _ => {
                member.mistake("it is neither \"warn\" nor \"refuse\"", REMEDY);
                None
            }
        },
    };
    let encrypts = match section.get("limit") {
        None => Some(most),
        Some(member) => member.integer(1..=RANDOM_IV_LIMIT, "a number of encryptions"),
    };
    Some(Limit { encrypts: encrypts?, refuses: refuses? })
}

//! `[state]`: the directory for state that survives a restart.

use std::path::PathBuf;

use super::section::Section;

const REMEDY: &str = "write the path of a directory for the proxy alone, such as \
                      \"/var/lib/xks-proxy\"";

/// Reads the section; returns `Some(None)` if it is missing.
pub(super) fn read(root: &Section<'_>) -> Option<Option<PathBuf>> {
    if root.get("state").is_none() {
        return Some(None);
    }
    let section = root.section("state")?;
    let member = section.require("directory", REMEDY)?;
    let text = member.string(REMEDY)?;
    if !text.starts_with('/') {
        member.mistake("it is not an absolute path", REMEDY);
        return None;
    }
    Some(Some(PathBuf::from(text)))
}

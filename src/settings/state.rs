//! `[state]`: where the proxy keeps what it knows from one life to the next.

use std::path::PathBuf;

use super::section::Section;

const REMEDY: &str = "write the path of a directory of the proxy's own, such as \
                      \"/var/lib/xks-proxy\"";

/// `Some(None)` without the section.
pub(super) fn read(root: &Section<'_>) -> Option<Option<PathBuf>> {
    if root.get("state").is_none() {
        return Some(None);
    }
    let section = root.section("state")?;
    let member = section.require("directory", REMEDY)?;
    let text = member.string(REMEDY)?;
    if !text.starts_with('/') {
        member.mistake("it is no absolute path", REMEDY);
        return None;
    }
    Some(Some(PathBuf::from(text)))
}

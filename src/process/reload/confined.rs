//! Files that a reload cannot read because the process has confined itself by Landlock at the start.

use rustix::io::Errno;

use crate::settings::Finding;

const REMEDY: &str = "as [security] landlock is on, a reload reads only files in directories whose files \
                      were named at the start, and what landlock_read lists: put the file into one of \
                      them, or restart the proxy";

/// Adds to each finding about a file that may not be read that Landlock can be the reason, and the
/// remedy. The system's error is the same as for a file's mode.
pub(super) fn explain(mut findings: Vec<Finding>, is_confined: bool) -> Vec<Finding> {
    let denied = std::io::Error::from(Errno::ACCESS).to_string();
    let concerned = findings.iter_mut().filter(|it| is_confined && it.problem.contains(&denied));
    for finding in concerned {
        let separator = if finding.remedy.is_empty() { "" } else { "; " };
        finding.remedy = format!("{}{separator}{REMEDY}", finding.remedy);
    }
    findings
}

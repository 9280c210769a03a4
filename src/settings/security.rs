//! `[security]`, and `[tls]` if it is switched on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::section::{Section, shown_path};
use super::tls::Tls;
use super::{policy, tls};
use crate::policy::Policy;

/// `[security]`: restrictions of the process, and of access to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// `allow_core_dumps`, which also lets processes of the same user read this one's memory.
    pub allow_core_dumps: bool,
    /// `landlock`, if it is on.
    pub landlock: Option<LandlockPaths>,
}

/// `[security] landlock_read`, `landlock_write`: access that a vendor's library needs in addition
/// to that of the proxy itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LandlockPaths {
    /// Files and directories that may be read, including everything below them.
    pub read: Vec<PathBuf>,
    /// Files and directories that may be read and written, including everything below them.
    pub write: Vec<PathBuf>,
    /// Directories of the files that a reload reads again (settings, certificates, secrets), or such
    /// a file itself if it is in the root directory.
    pub reload: Vec<PathBuf>,
}

pub(super) struct Security {
    pub(super) is_sigv4_auth_enabled: bool,
    pub(super) tls: Option<Tls>,
    pub(super) confinement: Confinement,
    pub(super) policy: Option<Arc<Policy>>,
}

/// Reads both sections. `region` is that of the key stores, if it is known.
pub(super) fn read(root: &Section<'_>, region: Option<&str>) -> Option<Security> {
    let remedy = "add it with is_sigv4_auth_enabled, is_tls_enabled and is_mtls_enabled";
    let section = root.require_section("security", remedy)?;
    let switch = |name| {
        let remedy = format!("write {name} = true or {name} = false");
        section.require(name, &remedy).and_then(|member| member.bool())
    };
    let is_sigv4_auth_enabled = switch("is_sigv4_auth_enabled");
    let is_tls_enabled = switch("is_tls_enabled");
    let is_mtls_enabled = switch("is_mtls_enabled");
    if is_sigv4_auth_enabled == Some(false) {
        let location = section.location_of("is_sigv4_auth_enabled");
        let problem = "anyone who can reach the port can encrypt and decrypt";
        section.report().warning(&location, problem, "set it to true unless this is a test");
    }
    if is_tls_enabled == Some(false) {
        let location = section.location_of("is_tls_enabled");
        let problem = "KMS speaks only HTTPS: a load balancer in front must terminate TLS";
        section.report().notice(&location, problem, "set it to true unless one does");
    }
    let policy = policy::read(&section);
    let confinement = confinement(&section);
    let (is_tls_enabled, is_mtls_enabled) = (is_tls_enabled?, is_mtls_enabled?);
    if is_mtls_enabled && !is_tls_enabled {
        let location = section.location_of("is_mtls_enabled");
        let problem = "client certificates are required, but TLS is off";
        section.report().mistake(
            &location,
            problem,
            "set is_tls_enabled to true, or this to false",
        );
        return None;
    }
    let tls = if is_tls_enabled {
        let remedy = "add it with tls_cert_pem and tls_key_pem, or set is_tls_enabled to false";
        let section = root.require_section("tls", remedy)?;
        Some(tls::read(&section, is_mtls_enabled, region)?)
    } else {
        None
    };
    Some(Security {
        is_sigv4_auth_enabled: is_sigv4_auth_enabled?,
        tls,
        confinement: confinement?,
        policy: policy?,
    })
}

/// Returns the member; false if it or the section is missing.
pub(super) fn strict_file_permissions(root: &Section<'_>) -> Option<bool> {
    // Mistakes about the section as a whole are reported by `read`.
    let Some(member) = root.member_of("security", "strict_file_permissions") else {
        return Some(false);
    };
    member.bool()
}

fn confinement(section: &Section<'_>) -> Option<Confinement> {
    let allow_core_dumps = section.switch("allow_core_dumps");
    if allow_core_dumps == Some(true) {
        let location = section.location_of("allow_core_dumps");
        let problem = "core files contain plaintext, secrets and the PIN, and processes of the \
                       same user can read them in memory";
        section.report().warning(&location, problem, "remove it once you have found the fault");
    }
    let is_on = section.switch("landlock");
    let read = paths(section, "landlock_read");
    let write = paths(section, "landlock_write");
    let (is_on, read, write) = (is_on?, read?, write?);
    let names = [("landlock_read", &read), ("landlock_write", &write)];
    for (name, _) in names.iter().filter(|(_, paths)| !is_on && !paths.is_empty()) {
        let problem = "it has no effect: landlock is off";
        section.report().notice(&section.location_of(name), problem, "set landlock to true");
    }
    let landlock = is_on.then_some(LandlockPaths { read, write, reload: Vec::new() });
    Some(Confinement { allow_core_dumps: allow_core_dumps?, landlock })
}

/// Reads paths that must exist: access to a missing path cannot be granted.
fn paths(section: &Section<'_>, name: &str) -> Option<Vec<PathBuf>> {
    let Some(member) = section.get(name) else {
        return Some(Vec::new());
    };
    let remedy = "write a list of files and directories, such as [\"/opt/vendor\"]";
    let mut paths = Vec::new();
    let mut is_right = true;
    for (location, text) in member.strings(remedy)? {
        if let Err(error) = std::fs::metadata(text) {
            let problem = format!("{} cannot be found: {error}", shown_path(Path::new(text)));
            section.report().mistake(&location, problem, remedy);
            is_right = false;
        }
        paths.push(PathBuf::from(text));
    }
    is_right.then_some(paths)
}

//! `[security]`, and `[tls]` if it is switched on

use super::section::{Section, shown};
use super::{Tls, tls};

pub(super) struct Security {
    pub(super) is_sigv4_auth_enabled: bool,
    pub(super) tls: Option<Tls>,
}

pub(super) fn read(root: &Section<'_>) -> Option<Security> {
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
        let place = section.place_of("is_sigv4_auth_enabled");
        let problem = "whoever reaches the port can encrypt and decrypt";
        section.report().warning(&place, problem, "set it to true unless this is a test");
    }
    if is_tls_enabled == Some(false) {
        let place = section.place_of("is_tls_enabled");
        let problem = "KMS speaks HTTPS only: something in front has to do it";
        section.report().notice(&place, problem, "set it to true where nothing does");
    }
    secondary_authorization(&section);
    let (is_tls_enabled, is_mtls_enabled) = (is_tls_enabled?, is_mtls_enabled?);
    if is_mtls_enabled && !is_tls_enabled {
        let place = section.place_of("is_mtls_enabled");
        let problem = "client certificates are asked for, but there is no TLS to send them in";
        section.report().mistake(&place, problem, "set is_tls_enabled to true, or this to false");
        return None;
    }
    let tls = if is_tls_enabled {
        let remedy = "add it with tls_cert_pem and tls_key_pem, or set is_tls_enabled to false";
        let section = root.require_section("tls", remedy)?;
        Some(tls::read(&section, is_mtls_enabled)?)
    } else {
        None
    };
    Some(Security { is_sigv4_auth_enabled: is_sigv4_auth_enabled?, tls })
}

/// A security control is never dropped in silence: whoever asks for one that is not here is told.
fn secondary_authorization(section: &Section<'_>) {
    let Some(member) = section.get("secondary_auth") else {
        if let Some(oso) = section.section("security.oso") {
            let problem = "it has no effect: secondary_auth is not set";
            section.report().notice(&oso.place(), problem, "it may stay or go");
        }
        return;
    };
    let remedy = "remove the member if you can do without a second check of each call";
    match member.string(remedy) {
        Some("Oso") => member.mistake(
            "Oso policies are not supported, and starting without them would let through what \
             they forbid",
            "move their rules into the policy of the KMS key and into xks_key_id_set, then \
             remove secondary_auth and [security.oso]; until then keep the present proxy",
        ),
        Some(other) => {
            member.mistake(format!("\"{}\" is not supported", shown(other)), remedy);
        }
        None => {}
    }
}

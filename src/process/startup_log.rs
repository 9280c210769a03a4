//! Log lines written at the start: enabled features, addresses, and the contents of the HSM.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use crate::admin::Admin;
use crate::hsm::Hsm;
use crate::hsm::inventory::TokenInventory;
use crate::limits::MAX_LABELS_PER_LINE;
use crate::server::Server;
use crate::settings::{Finding, Settings, Severity};

/// Logs the settings and the findings in them.
pub(super) fn settings(settings: &Settings, findings: &[Finding]) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        settings = %settings.file.display(),
        region = settings.server.region,
        service = settings.server.service,
        "starting"
    );
    in_use(settings, findings);
}

/// Logs the settings that are now in use.
pub(super) fn in_use(settings: &Settings, findings: &[Finding]) {
    let tls = settings.tls.as_ref();
    tracing::info!(
        sigv4 = settings.is_sigv4_auth_enabled,
        tls = tls.is_some(),
        mtls = tls.is_some_and(|tls| tls.is_client_certificate_required),
        secondary_auth = settings.policy.as_ref().map(|policy| policy.language().name()),
        ciphertext_metadata_bytes = settings.server.ciphertext_metadata.as_ref().map(Vec::len),
        request_deadline = ?settings.limits.timeouts.request,
        fips = tls.is_some_and(|tls| tls.config.fips()),
        core_dumps = settings.confinement.allow_core_dumps,
        landlock = settings.confinement.landlock.is_some(),
        "switched on"
    );
    if !settings.is_sigv4_auth_enabled {
        tracing::warn!(
            "is_sigv4_auth_enabled = false: anybody who reaches the port can use the keys"
        );
    }
    if let Some(tls) = tls {
        tracing::info!(
            subject = tls.certificate.subject,
            names = tls.certificate.names.join(","),
            not_after_unix_secs = tls.certificate.not_after_unix_secs,
            client_name = tls.client_name,
            "certificate"
        );
    }
    for store in &settings.stores {
        let ids = store.credentials.iter().map(|credential| credential.access_key_id.as_str());
        tracing::info!(
            uri_path_prefix = store.uri_path_prefix,
            access_key_ids = ids.collect::<Vec<_>>().join(","),
            keys = store.key_ids().count(),
            disabled = store.disabled,
            disabled_keys = store.disabled_keys.len(),
            "external key store"
        );
    }
    self::findings(findings);
}

/// Logs the findings in the settings.
pub(super) fn findings(findings: &[Finding]) {
    for finding in findings {
        if finding.severity == Severity::Notice {
            tracing::info!("{finding}");
        } else {
            tracing::warn!("{finding}");
        }
    }
}

/// Logs the addresses of the proxy.
pub(super) fn listening(
    server: &Server,
    settings: &Settings,
    admin: Option<&Admin>,
    inherited: usize,
) {
    tracing::info!(
        api = %server.api_address(),
        ping = %server.ping_address(),
        admin = admin.map(|admin| tracing::field::display(admin.address())),
        tls = settings.tls.is_some(),
        event_loops = server.event_loops(),
        inherited_sockets = inherited,
        "listening"
    );
}

/// Logs modules, tokens and keys in a separate thread, so that a hanging HSM delays these lines
/// only.
pub(super) fn hsm(hsm: Arc<Hsm>, settings: &Settings) {
    let stores: Vec<(String, Vec<String>)> = settings
        .stores
        .iter()
        .map(|store| {
            let names: BTreeSet<&str> = store.key_names().collect();
            let names = names.into_iter().map(str::to_owned).collect();
            (store.uri_path_prefix.clone(), names)
        })
        .collect();
    let log = move || {
        for token in hsm.inventory() {
            log_token(&token);
            for (prefix, key_names) in &stores {
                log_store(prefix, key_names, &token);
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("inventory".to_owned()).spawn(log) {
        tracing::warn!(%error, "the HSM's keys are not listed");
    }
}

fn log_token(token: &TokenInventory) {
    let module = token.module.display();
    if let Some(trouble) = &token.trouble {
        tracing::error!(%module, trouble, "HSM token cannot be used");
    }
    if let Some(slot) = &token.slot {
        tracing::info!(
            %module,
            library = token.library,
            slot = slot.id,
            label = slot.label,
            serial = slot.serial,
            model = slot.model,
            firmware = slot.firmware,
            max_sessions = token.max_sessions,
            aes_keys = token.keys.len(),
            "HSM token"
        );
    }
}

fn log_store(prefix: &str, key_names: &[String], token: &TokenInventory) {
    if token.trouble.is_some() {
        return;
    }
    let is_missing = |name: &&String| token.missing.iter().any(|label| **label == ***name);
    let is_ambiguous = |name: &&String| token.ambiguous.iter().any(|(label, _)| **label == ***name);
    let missing: Vec<&String> = key_names.iter().filter(is_missing).collect();
    let ambiguous: Vec<&String> = key_names.iter().filter(is_ambiguous).collect();
    tracing::info!(
        uri_path_prefix = prefix,
        found = key_names.len() - missing.len(),
        missing = missing.len(),
        "keys of the external key store"
    );
    if !missing.is_empty() {
        tracing::warn!(
            uri_path_prefix = prefix,
            labels = list(&missing),
            "no AES token key has this CKA_LABEL (id: CKA_ID): calls for it get KeyNotFoundException"
        );
    }
    if !ambiguous.is_empty() {
        tracing::warn!(
            uri_path_prefix = prefix,
            labels = list(&ambiguous),
            "several keys have this CKA_LABEL (id: CKA_ID)"
        );
    }
}

/// Returns the first few labels, and the number of the others.
fn list(labels: &[&String]) -> String {
    let mut text = labels
        .iter()
        .take(MAX_LABELS_PER_LINE)
        .map(|label| label.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    if labels.len() > MAX_LABELS_PER_LINE {
        text.push_str(&format!(" and {} more", labels.len() - MAX_LABELS_PER_LINE));
    }
    text
}

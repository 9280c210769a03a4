//! The names of all members, so that a misspelt one can be named.

use super::report::{Location, Report};
use toml::de::DeTable;

/// Sections and their members. A section's name is its path; `""` is the file itself.
pub(super) const MEMBERS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "server",
            "tracing",
            "security",
            "tls",
            "external_key_stores",
            "pkcs11",
            "pkcs11_logger",
            "limits",
            "hsm_capabilities",
            "admin",
            "audit",
            "state",
        ],
    ),
    ("state", &["directory"]),
    (
        "server",
        &[
            "ip",
            "port",
            "port_http_ping",
            "region",
            "service",
            "ciphertext_metadata_b64",
            "tcp_keepalive",
            "event_loops",
            "drain_delay_milli",
            "drain_timeout_milli",
            "fleet_size",
            "pid_file",
            "proxy_protocol_from",
        ],
    ),
    (
        "server.tcp_keepalive",
        &["tcp_keepalive_secs", "tcp_keepalive_interval_secs", "tcp_keepalive_retries"],
    ),
    (
        "tracing",
        &[
            "is_stdout_writer_enabled",
            "is_file_writer_enabled",
            "level",
            "directory",
            "file_prefix",
            "rotation_kind",
            "format",
        ],
    ),
    (
        "security",
        &[
            "is_sigv4_auth_enabled",
            "is_tls_enabled",
            "is_mtls_enabled",
            "secondary_auth",
            "oso",
            "cedar",
            "rego",
            "strict_file_permissions",
            "allow_core_dumps",
            "landlock",
            "landlock_read",
            "landlock_write",
        ],
    ),
    ("security.oso", &["polar_file_path"]),
    ("security.cedar", &["policy_file"]),
    ("security.rego", &["policy_file"]),
    ("tls", &["tls_cert_pem", "tls_key_pem", "mtls_client_ca_pem", "mtls_client_dns_name"]),
    (
        "external_key_stores",
        &[
            "uri_path_prefix",
            "sigv4_access_key_id",
            "sigv4_secret_access_key",
            "sigv4_secret_access_key_file",
            "credentials",
            "xks_key_id_set",
            "max_requests_per_sec",
            "max_in_flight",
            "disabled",
            "disabled_keys",
        ],
    ),
    (
        "external_key_stores.credentials",
        &[
            "sigv4_access_key_id",
            "sigv4_secret_access_key",
            "sigv4_secret_access_key_file",
            "name",
            "created",
        ],
    ),
    (
        "pkcs11",
        &[
            "session_pool_max_size",
            "session_pool_timeout_milli",
            "session_eager_close",
            "user_pin",
            "user_pin_file",
            "PKCS11_HSM_MODULE",
            "context_read_timeout_milli",
            "allow_ambiguous_labels",
            "require_private_keys",
            "initialize_parameters",
            "hedge_after_milli",
            "hedge_budget_percent",
            "exit_when_wedged",
            "health_key",
            "trust_token",
            "tokens",
        ],
    ),
    (
        "pkcs11.tokens",
        &[
            "label",
            "serial",
            "slot",
            "module",
            "user_pin",
            "user_pin_file",
            "session_pool_max_size",
            "weight",
            "priority",
            "initialize_parameters",
            "profile",
            "can_generate_iv",
            "is_zero_iv_required",
            "ask_output_length",
            "gcm_params_without_iv_bits",
        ],
    ),
    (
        "pkcs11_logger",
        &["PKCS11_LOGGER_LIBRARY_PATH", "PKCS11_LOGGER_LOG_FILE_PATH", "PKCS11_LOGGER_FLAGS"],
    ),
    (
        "limits",
        &[
            "max_plaintext_in_base64",
            "max_aad_in_base64",
            "max_connections",
            "max_connections_per_address",
            "max_requests_per_connection",
            "max_buffered_bytes",
            "max_tls_handshakes_per_sec",
            "request_deadline_milli",
            "head_timeout_milli",
            "body_timeout_milli",
            "idle_timeout_milli",
            "write_timeout_milli",
            "handshake_timeout_milli",
        ],
    ),
    (
        "hsm_capabilities",
        &[
            "can_generate_iv",
            "is_zero_iv_required",
            "profile",
            "ask_output_length",
            "gcm_params_without_iv_bits",
        ],
    ),
    (
        "admin",
        &["ip", "port", "tls_cert_pem", "tls_key_pem", "client_ca_pem", "allow_plain_remote"],
    ),
    (
        "audit",
        &[
            "directory",
            "file_prefix",
            "key_file",
            "hsm_key",
            "when_full",
            "sync",
            "rotation_kind",
            "max_file_bytes",
            "retain_files",
        ],
    ),
];

/// Reports each member of `table` that `section` does not have. `path` is the section's path as
/// findings show it.
pub(super) fn report_unknown(section: &str, path: &str, table: &DeTable<'_>, report: &Report<'_>) {
    let known = members(section);
    for name in table.keys() {
        let text: &str = name.get_ref();
        if known.contains(&text) {
            continue;
        }
        let member = if path.is_empty() { text.to_owned() } else { format!("{path}.{text}") };
        let location = Location { member, offset: Some(name.span().start) };
        let problem = "there is no such member".to_owned();
        report.unknown(&location, problem, remedy(section, text, known));
    }
}

fn members(section: &str) -> &'static [&'static str] {
    MEMBERS.iter().find(|(name, _)| *name == section).map_or(&[], |(_, members)| *members)
}

fn remedy(section: &str, name: &str, known: &[&str]) -> String {
    if let Some(nearest) = nearest(name, known.iter().copied()) {
        return format!("did you mean {nearest}?");
    }
    let elsewhere = MEMBERS
        .iter()
        .find(|(other, members)| *other != section && !other.is_empty() && members.contains(&name));
    match elsewhere {
        Some((other, _)) => format!("it belongs in [{other}]"),
        None => format!("remove it, or write one of {}", known.join(", ")),
    }
}

/// The name that `name` was most probably meant to be, if one is near enough.
pub(super) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that no file mentions is one that nobody finds. (Oso's section is known, and
    /// refused.)
    #[test]
    fn each_member_is_in_the_documented_file() {
        let text = include_str!("../../configuration/settings.toml");
        for (section, members) in MEMBERS.iter().skip(1) {
            for member in
                members.iter().filter(|member| *section != "security.oso" && **member != "oso")
            {
                let is_line = |line: &str| {
                    let line = line.trim_start_matches(['#', '[']);
                    line.strip_prefix(member).is_some_and(|rest| rest.starts_with(" = "))
                        || line.trim_end_matches(']') == format!("{section}.{member}")
                };
                assert!(text.lines().any(is_line), "[{section}] {member}");
            }
        }
    }

    /// A slip of the finger is recognised, another word is not taken for one.
    #[test]
    fn nearest_is_near() {
        let names = ["port", "ip", "region", "xks_key_id_set"];
        assert_eq!(nearest("prot", names), Some("port"));
        assert_eq!(nearest("Region", names), Some("region"));
        assert_eq!(nearest("xks_key_ids", names), Some("xks_key_id_set"));
        assert_eq!(nearest("user_pin", names), None);
    }
}

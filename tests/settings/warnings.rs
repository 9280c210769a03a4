//! Settings that load with a warning.

use xks_proxy::hsm::config::IvMode;
use xks_proxy::settings::{Finding, Severity};

use crate::{Place, RIGHT, edited, mistakes};

fn only(findings: &[Finding], severity: Severity, member: &str) -> Finding {
    let found: Vec<_> =
        findings.iter().filter(|it| it.severity == severity && it.member == member).collect();
    assert_eq!(found.len(), 1, "{member}: {findings:#?}");
    found[0].clone()
}

/// Each of these files loads, and the operator gets a warning.
#[test]
fn warnings_name_the_member_and_the_remedy() {
    let place = Place::new();
    #[rustfmt::skip]
    let cases = [
        ("is_sigv4_auth_enabled = true", "is_sigv4_auth_enabled = false", "security.is_sigv4_auth_enabled", "can encrypt and decrypt", "true"),
        ("[\"foo\", \"cat\"]", "[]", "external_key_stores[0].xks_key_id_set", "empty", "CKA_LABEL"),
        ("[\"foo\", \"cat\"]", "[\"foo\", \"foo\"]", "external_key_stores[0].xks_key_id_set[1]", "already", "remove"),
        ("uri_path_prefix = \"\"", "uri_path_prefix = \"/abc/kms/xks/v1\"", "external_key_stores[0].uri_path_prefix", "there twice", "leave /kms/xks/v1 out"),
        ("max_plaintext_in_base64 = 8192", "max_plaintext_in_base64 = 5735", "limits.max_plaintext_in_base64", "specification", "5736"),
        ("max_aad_in_base64 = 16384", "max_aad_in_base64 = 10923", "limits.max_aad_in_base64", "specification", "10924"),
        ("request_deadline_milli = 180", "request_deadline_milli = 251", "limits.request_deadline_milli", "250 ms", "180"),
        ("\"MODULE\"", "\"libsofthsm2.so\"", "pkcs11.PKCS11_HSM_MODULE", "loader", "full path"),
        ("tcp_keepalive_secs = 60\n", "", "server.tcp_keepalive", "sent only with", "tcp_keepalive_secs"),
        ("proxy_protocol_from", "proxy_protocol = \"accept\"\nproxy_protocol_from", "server.proxy_protocol", "change-over", "\"require\""),
        ("proxy_protocol_from = [\"10.0.0.0/8\", \"2001:db8::/32\"]", "proxy_protocol = \"require\"", "server.proxy_protocol", "no effect", "proxy_protocol_from"),
        ("directory = \"/var/local/xks-proxy/logs\"", "directory = \"\"", "tracing.directory", "working directory", "directory"),
        ("\"HushHushHushHushHushHushHushHushHushHushHushHush\"", "\"PleaseReplaceThisWithSomeSecretOfLength43To64\"", "external_key_stores[0].sigv4_secret_access_key", "published", "replace"),
    ];
    for (from, to, member, problem, remedy) in cases {
        let (_, findings) = place.load(&edited(from, to)).unwrap();
        let warning = only(&findings, Severity::Warning, member);
        assert!(warning.problem.contains(problem), "{warning}");
        assert!(warning.remedy.contains(remedy), "{warning}");
        assert!(warning.position.is_some(), "{warning}");
    }
}

/// A drain that ends before the load balancer has stopped opening connections is reported, where the
/// file says that there is one. In a pod it has been deregistered too, which takes longer.
#[test]
fn drains_too_short_for_the_load_balancer() {
    let place = Place::new();
    let in_pod = |name: &str| (name == "KUBERNETES_SERVICE_HOST").then(|| "10.96.0.1".into());
    let elsewhere = |_: &str| None;
    let nlb = "load_balancer = \"nlb\"\n";
    // The file has proxy_protocol_from: without load_balancer, the remedy tells of that member too.
    for (said, milli, needed, in_a_pod) in [
        (nlb, 59_999, Some("60000"), false),
        (nlb, 60_000, None, false),
        ("", 5_000, Some("or, for another load balancer, add load_balancer = \"other\""), false),
        ("", 60_000, None, false),
        (nlb, 119_999, Some("120000"), true),
        (nlb, 120_000, None, true),
        ("load_balancer = \"other\"\n", 0, None, true),
    ] {
        let text = edited("load_balancer = \"other\"\n", said)
            .replace("drain_delay_milli = 5000", &format!("drain_delay_milli = {milli}"));
        let environment: &dyn Fn(&str) -> _ = if in_a_pod { &in_pod } else { &elsewhere };
        let (_, findings) = place.load_with(&text, false, environment).unwrap();
        let Some(needed) = needed else {
            let warnings: Vec<_> =
                findings.iter().filter(|it| it.severity == Severity::Warning).collect();
            assert!(warnings.is_empty(), "{warnings:?}");
            continue;
        };
        let warning = only(&findings, Severity::Warning, "server.drain_delay_milli");
        assert!(warning.remedy.contains(needed), "{warning}");
        assert!(warning.position.is_some(), "{warning}");
    }
    // Where nothing tells of a load balancer, nothing is said, as in a developer's file.
    let alone = edited("load_balancer = \"other\"\n", "")
        .replace("proxy_protocol_from = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n", "");
    let (_, findings) = place.load_with(&alone, false, &in_pod).unwrap();
    assert!(findings.iter().all(|it| it.severity != Severity::Warning), "{findings:?}");
    // The default delay, without a line of its own, is reported at the member that tells.
    let default = edited("load_balancer = \"other\"", "load_balancer = \"nlb\"")
        .replace("drain_delay_milli = 5000\n", "");
    let (_, findings) = place.load(&default).unwrap();
    only(&findings, Severity::Warning, "server.load_balancer");
}

/// A store without a credential loads, as in the reference proxy's sample files, but can't be
/// called. `mistakes` tests stores with an incomplete credential.
#[test]
fn a_store_without_credential_is_unusable_and_said_to_be() {
    let text = RIGHT.replacen("\"ABCDEFGHIJKLMNOPQRSTUVWX\"", "\"\"", 1).replacen(
        "\"HushHushHushHushHushHushHushHushHushHushHushHush\"",
        "\"\"",
        1,
    );
    let (settings, findings) = Place::new().load(&text).unwrap();
    let warning = only(&findings, Severity::Warning, "external_key_stores[0].sigv4_access_key_id");
    assert!(warning.problem.contains("refused"), "{warning}");
    assert!(settings.stores[0].credentials.is_empty());
    assert!(settings.service().store("").unwrap().credentials().is_empty());
}

/// Unknown members: a warning with the most similar name; under a strict check, a mistake.
#[test]
fn unknown_members() {
    let place = Place::new();
    let cases = [
        ("port = 443", "port = 443\nprot = 1", "server.prot", "did you mean port?"),
        (
            "[limits]",
            "[limits]\nmax_add_in_base64 = 1",
            "limits.max_add_in_base64",
            "max_aad_in_base64",
        ),
        ("[limits]", "[limits]\nuser_pin = \"\"", "limits.user_pin", "it belongs in [pkcs11]"),
        ("[limits]", "[limits]\nzzzzzzzz = 1", "limits.zzzzzzzz", "remove it"),
        ("[limits]", "[limts]\n[limits]", "limts", "did you mean limits?"),
        (
            "xks_key_id_set",
            "xks_key_ids = []\nxks_key_id_set",
            "external_key_stores[0].xks_key_ids",
            "xks_key_id_set",
        ),
        (
            "tcp_keepalive_secs = 60",
            "tcp_keepalive_secs = 60\nkeepalive = 1",
            "server.tcp_keepalive.keepalive",
            "remove it",
        ),
    ];
    for (from, to, member, remedy) in cases {
        let text = edited(from, to);
        let (_, findings) = place.load(&text).unwrap();
        let warning = only(&findings, Severity::Warning, member);
        assert!(warning.remedy.contains(remedy), "{warning}");
        let findings = place.load_with(&text, true, &|_| None).unwrap_err();
        assert_eq!(mistakes(&findings).len(), 1, "{findings:#?}");
        only(&findings, Severity::Mistake, member);
    }
    assert!(place.load_with(RIGHT, true, &|_| None).is_ok());
}

/// In `[security]`, and in the sections below it, a name that resembles a known one is a mistake:
/// what it was meant to switch on would stay off.
#[test]
fn misspelt_members_of_security() {
    let place = Place::new();
    for (line, member, remedy) in [
        ("landlok = true", "security.landlok", "landlock"),
        ("strict_permissions = true", "security.strict_permissions", "strict_file_permissions"),
        ("Landlock = true", "security.Landlock", "landlock"),
        ("secondary_aut = \"Cedar\"", "security.secondary_aut", "secondary_auth"),
        ("[security.ceder]\npolicy_file = \"x\"", "security.ceder", "cedar"),
        ("[security.oso]\nlandlock = true", "security.oso.landlock", "[security]"),
        ("[security.oso]\nlandlok = true", "security.oso.landlok", "[security]"),
    ] {
        let text = edited("[[external", &format!("{line}\n\n[[external"));
        let findings = place.load(&text).unwrap_err();
        assert_eq!(mistakes(&findings).len(), 1, "{findings:#?}");
        let mistake = only(&findings, Severity::Mistake, member);
        assert!(mistake.remedy.contains(remedy), "{mistake}");
        assert!(mistake.problem.contains("as if it were not there"), "{mistake}");
    }
    // A name that resembles none is a warning, as elsewhere.
    let text = edited("[[external", "frobnicate = true\n\n[[external");
    let (_, findings) = place.load(&text).unwrap();
    only(&findings, Severity::Warning, "security.frobnicate");
}

/// The same is true of other protections, misspelt or in the wrong section.
#[test]
fn misspelt_protections() {
    let place = Place::new();
    for (before, line, member, remedy) in [
        ("[[external", "[securty]\nlandlock = true\n", "securty", "did you mean security?"),
        ("[[external", "[audits]\ndirectory = \"/x\"\n", "audits", "did you mean audit?"),
        ("[security]", "landlock = true\n", "tracing.landlock", "it belongs in [security]"),
        ("xks_key_id_set", "disable = true", "disable", "did you mean disabled?"),
        ("xks_key_id_set", "disabled_key = []", "disabled_key", "did you mean disabled_keys?"),
        ("xks_key_id_set", "max_in_fligth = 1", "max_in_fligth", "did you mean max_in_flight?"),
        ("xks_key_id_set", "retired = true", "retired", "it belongs in"),
        ("user_pin", "require_private_key = true", "require_private_key", "require_private_keys?"),
        ("[[external", "[admin]\nclient_ca_pm = \"x\"\n", "admin.client_ca_pm", "did you mean"),
    ] {
        let text = edited(before, &format!("{line}\n{before}"));
        let findings = place.load(&text).unwrap_err();
        let mistake = findings.iter().find(|finding| {
            finding.severity == Severity::Mistake && finding.member.ends_with(member)
        });
        let mistake = mistake.unwrap_or_else(|| panic!("{line}: {findings:#?}"));
        assert!(mistake.remedy.contains(remedy), "{mistake}");
    }
}

/// Members that have no effect here are listed once, at the start.
#[test]
fn members_without_effect_are_noticed() {
    let text = edited(
        "user_pin",
        "session_pool_timeout_milli = 0\nsession_eager_close = false\n\
         context_read_timeout_milli = 10\nuser_pin",
    );
    let (_, findings) = Place::new().load(&text).unwrap();
    let notice = only(&findings, Severity::Notice, "pkcs11.session_pool_timeout_milli");
    for name in ["session_pool_timeout_milli", "session_eager_close", "context_read_timeout_milli"]
    {
        assert!(notice.problem.contains(name), "{notice}");
    }
}

/// The two old switches and the profiles select the same IV modes.
#[test]
fn profiles_and_switches() {
    let place = Place::new();
    let old = "can_generate_iv = false\nis_zero_iv_required = false";
    let iv_mode = |to: &str| {
        let (settings, _) = place.load(&edited(old, to)).unwrap();
        settings.pkcs11.tokens[0].iv_mode
    };
    let cases = [
        ("can_generate_iv = false\nis_zero_iv_required = true", IvMode::Random),
        ("can_generate_iv = true\nis_zero_iv_required = true", IvMode::ZeroedBuffer),
        ("can_generate_iv = true\nis_zero_iv_required = false", IvMode::Appended),
        ("profile = \"softhsm2\"", IvMode::Random),
        ("profile = \"kryoptic\"", IvMode::Random),
        ("profile = \"nss\"", IvMode::Random),
        ("profile = \"opencryptoki\"", IvMode::Random),
        ("profile = \"nshield\"", IvMode::ZeroedBuffer),
        ("profile = \"cloudhsm\"", IvMode::ZeroedBuffer),
        ("profile = \"luna\"", IvMode::Appended),
        ("profile = \"fortanix\"", IvMode::Random),
        ("profile = \"primus\"", IvMode::Random),
        ("profile = \"utimaco\"", IvMode::Random),
        ("profile = \"vault\"", IvMode::Random),
        ("profile = \"vault\"\nhandles_per_session = true", IvMode::Random),
        ("profile = \"luna\"\ncan_generate_iv = true", IvMode::Appended),
        (
            "profile = \"softhsm2\"\ncan_generate_iv = false\nis_zero_iv_required = true",
            IvMode::Random,
        ),
        ("profile = \"nshield\"\nis_zero_iv_required = true", IvMode::ZeroedBuffer),
    ];
    for (to, wanted) in cases {
        assert_eq!(iv_mode(to), wanted, "{to}");
    }
}

/// A file without any optional member gets the documented defaults.
#[test]
fn defaults() {
    let text = "[server]\nip = \"::1\"\nport = 0\nregion = \"r\"\nservice = \"s\"\n\
                [security]\nis_sigv4_auth_enabled = false\nis_tls_enabled = false\n\
                is_mtls_enabled = false\n[[external_key_stores]]\nuri_path_prefix = \"\"\n\
                xks_key_id_set = [\"a\"]\n[pkcs11]\nsession_pool_max_size = 1\nuser_pin = \"\"\n\
                PKCS11_HSM_MODULE = \"MODULE\"\n[hsm_capabilities]\nprofile = \"softhsm2\"\n";
    let (settings, _) = Place::new().load(text).unwrap();
    assert_eq!((settings.server.port, settings.server.port_http_ping), (0, 80));
    assert_eq!((settings.server.event_loops, settings.server.fleet_size), (0, 1));
    assert!(settings.server.tcp_keepalive.is_none());
    assert_eq!(settings.server.drain_delay.as_millis(), 5_000);
    assert!(settings.tracing.stdout && settings.tracing.file.is_none());
    assert_eq!(settings.limits.max_plaintext_in_base64, 8192);
    assert_eq!(settings.limits.max_aad_in_base64, 16_384);
    assert_eq!(settings.limits.timeouts.request.as_millis(), 180);
    assert_eq!(settings.limits.timeouts.idle.as_millis(), 75_000);
    assert!(!settings.pkcs11.allow_ambiguous_labels);
    assert!(settings.pkcs11.environment.is_empty());
}

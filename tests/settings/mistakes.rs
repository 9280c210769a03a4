//! Each mistake is found alone, with its line, its member and a remedy.

use crate::{Place, RIGHT, edited, line_of, mistakes};

/// An edit of the right file: `from` becomes `to`. The mistake must be in the line that contains
/// `at`, about `member`, with these words in its problem and its remedy.
struct Case {
    from: &'static str,
    to: &'static str,
    at: &'static str,
    member: &'static str,
    problem: &'static str,
    remedy: &'static str,
}

const fn case(
    (from, to): (&'static str, &'static str),
    at: &'static str,
    member: &'static str,
    problem: &'static str,
    remedy: &'static str,
) -> Case {
    Case { from, to, at, member, problem, remedy }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    // [server]
    case(("ip = \"0.0.0.0\"\n", ""), "[server]", "server.ip", "missing", "IPv4 or IPv6"),
    case(("\"0.0.0.0\"", "\"localhost\""), "localhost", "server.ip", "localhost", "IPv4 or IPv6"),
    case(("\"0.0.0.0\"", "\"1.2.3\""), "1.2.3", "server.ip", "not an IP address", "IPv4 or IPv6"),
    case(("\"0.0.0.0\"", "0"), "ip = 0", "server.ip", "whole number", "IPv4 or IPv6"),
    case(("port = 443\n", ""), "[server]", "server.port", "missing", "443"),
    case(("port = 443", "port = 65536"), "65536", "server.port", "out of range", "0 to 65535"),
    case(("port = 443", "port = -1"), "port = -1", "server.port", "out of range", "0 to 65535"),
    case(("port = 443", "port = \"443\""), "\"443\"", "server.port", "a string", "without quotes"),
    case(("port = 443", "port = 4.43"), "4.43", "server.port", "fraction", "0 to 65535"),
    case(("port_http_ping = 8080", "port_http_ping = true"), "ping = true", "server.port_http_ping", "boolean", "65535"),
    case(("region = \"us-east-1\"\n", ""), "[server]", "server.region", "missing", "us-east-1"),
    case(("\"us-east-1\"", "\"\""), "region", "server.region", "empty", "us-east-1"),
    case(("\"us-east-1\"", "\"us east 1\""), "region", "server.region", "us east 1", "us-east-1"),
    case(("\"kms-xks-proxy\"", "\"kms/xks\""), "kms/xks", "server.service", "characters", "kms-xks-proxy"),
    case(("service = \"kms-xks-proxy\"\n", ""), "[server]", "server.service", "missing", "kms-xks-proxy"),
    case(("\"djEuMC4w\"", "\"djEu MC4w\""), "djEu", "server.ciphertext_metadata_b64", "canonical base64", "base64"),
    case(("\"djEuMC4w\"", "\"djEuMC4\""), "djEu", "server.ciphertext_metadata_b64", "canonical base64", "base64"),
    case(("\"djEuMC4w\"", "\"djF=\""), "djF=", "server.ciphertext_metadata_b64", "canonical base64", "base64"),
    case(("\"djEuMC4w\"", "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAA\""), "AAAA", "server.ciphertext_metadata_b64", "21 bytes", "20 bytes"),
    case(("event_loops = 0", "event_loops = 65"), "65", "server.event_loops", "65", "0 to 64"),
    case(("drain_delay_milli = 5000", "drain_delay_milli = \"5s\""), "5s", "server.drain_delay_milli", "a string", "milliseconds"),
    case(("drain_timeout_milli = 5000", "drain_timeout_milli = 99999999999"), "999", "server.drain_timeout_milli", "out of range", "milliseconds"),
    case(("fleet_size = 1", "fleet_size = 0"), "fleet_size", "server.fleet_size", "0", "from 1"),
    case(("tcp_keepalive_secs = 60", "tcp_keepalive_secs = 0"), "_secs = 0", "server.tcp_keepalive.tcp_keepalive_secs", "0", "1 to 32767"),
    case(("tcp_keepalive_secs = 60", "tcp_keepalive_secs = 40000"), "40000", "server.tcp_keepalive.tcp_keepalive_secs", "40000", "1 to 32767"),
    case(("interval_secs = 1", "interval_secs = 0"), "interval_secs = 0", "server.tcp_keepalive.tcp_keepalive_interval_secs", "0", "1 to 32767"),
    case(("retries = 3", "retries = 128"), "128", "server.tcp_keepalive.tcp_keepalive_retries", "128", "1 to 127"),
    case(("[server.tcp_keepalive]", "[[server.tcp_keepalive]]"), "[[server", "server.tcp_keepalive", "list", "[server.tcp_keepalive]"),
    case(("\"10.0.0.0/8\"", "\"10.0.0.1/8\""), "10.0.0.1", "server.proxy_protocol_from[0]", "10.0.0.1/8", "first address"),
    case(("\"2001:db8::/32\"", "\"lb.example.com\""), "lb.ex", "server.proxy_protocol_from[1]", "not a network", "[\"10.0.0.0/8\"]"),
    case(("proxy_protocol_from", "proxy_protocol = \"acept\"\nproxy_protocol_from"), "acept", "server.proxy_protocol", "not a valid value", "did you mean accept"),
    case(("proxy_protocol_from", "proxy_protocol = \"on\"\nproxy_protocol_from"), "\"on\"", "server.proxy_protocol", "not a valid value", "require, accept"),
    case(("proxy_protocol_from", "proxy_protocol = true\nproxy_protocol_from"), "= true", "server.proxy_protocol", "not a string", "require, accept"),
    case(("[\"10.0.0.0/8\", \"2001:db8::/32\"]", "true"), "= true", "server.proxy_protocol_from", "not a list", "[\"10.0.0.0/8\"]"),
    case(("load_balancer = \"other\"", "load_balancer = \"alb\""), "alb", "server.load_balancer", "\"alb\" is not a valid value", "write one of nlb, other"),
    case(("load_balancer = \"other\"", "load_balancer = \"haproxy\""), "haproxy", "server.load_balancer", "not a valid value", "write one of nlb, other"),
    case(("load_balancer = \"other\"", "load_balancer = true"), "= true", "server.load_balancer", "boolean", "write one of nlb, other"),
    case(("load_balancer = \"other\"", "load_balancer = [\"nlb\"]"), "[\"nlb\"]", "server.load_balancer", "list", "write one of nlb, other"),
    // [tracing]
    case(("format = \"text\"", "format = \"text\"\njournal = \"field\""), "\"field\"", "tracing.journal", "not a valid value", "did you mean fields? Or write one of"),
    case(("format = \"text\"", "format = \"text\"\njournal = false"), "journal = false", "tracing.journal", "boolean", "plain"),
    case(("format = \"text\"", "format = \"text\"\njournal = \"\""), "journal = \"\"", "tracing.journal", "not a valid value", "plain"),
    case(("is_stdout_writer_enabled = true\n", ""), "[tracing]", "tracing.is_stdout_writer_enabled", "missing", "true"),
    case(("is_file_writer_enabled = true", "is_file_writer_enabled = \"true\""), "\"true\"", "tracing.is_file_writer_enabled", "a string", "without quotes"),
    case(("\"INFO\"", "\"INFOS\""), "INFOS", "tracing.level", "INFOS", "mean INFO?"),
    case(("\"INFO\"", "\"loud\""), "loud", "tracing.level", "loud", "TRACE, DEBUG, INFO, WARN, ERROR"),
    case(("format = \"text\"", "format = \"xml\""), "xml", "tracing.format", "xml", "json"),
    case(("directory = \"/var/local/xks-proxy/logs\"\n", ""), "[tracing]", "tracing.directory", "missing", "is_file_writer_enabled"),
    case(("file_prefix = \"xks-proxy.log\"\n", ""), "[tracing]", "tracing.file_prefix", "missing", "xks-proxy.log"),
    case(("\"xks-proxy.log\"", "\"a/b\""), "a/b", "tracing.file_prefix", "name", "xks-proxy.log"),
    case(("\"HOURLY\"", "\"HOURLI\""), "HOURLI", "tracing.rotation_kind", "HOURLI", "mean HOURLY?"),
    case(("\"HOURLY\"", "\"often\""), "often", "tracing.rotation_kind", "often", "MINUTELY, HOURLY, DAILY, NEVER"),
    case(("\"HOURLY\"", "\"HOURLY\"\nfile_mode = \"0666\""), "0666", "tracing.file_mode", "not one of these modes", "0640"),
    case(("rotation_kind = \"HOURLY\"\n", ""), "[tracing]", "tracing.rotation_kind", "missing", "NEVER"),
    // [security]
    case(("is_sigv4_auth_enabled = true\n", ""), "[security]", "security.is_sigv4_auth_enabled", "missing", "true"),
    case(("is_tls_enabled = false", "is_tls_enabled = 0"), "is_tls_enabled", "security.is_tls_enabled", "whole number", "true or false"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = true"), "is_mtls_enabled", "security.is_mtls_enabled", "TLS is off", "is_tls_enabled"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = false\nsecondary_auth = \"Oso\""), "Oso", "security.secondary_auth", "would permit", "configuration/oso.cedar"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = false\nsecondary_auth = \"OPA\""), "OPA", "security.secondary_auth", "OPA", "remove"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = false\nsecondary_auth = \"cedar\""), "cedar", "security.secondary_auth", "cedar", "mean Cedar?"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = false\nsecondary_auth = \"Cedar\""), "", "security.cedar", "section [security.cedar] is missing", "policy_file"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = false\nsecondary_auth = \"Rego\"\n[security.rego]"), "[security.rego]", "security.rego.policy_file", "missing", "Rego policy"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = false\nsecondary_auth = \"Rego\"\n[security.rego]\npolicy_file = 1"), "policy_file = 1", "security.rego.policy_file", "whole number", "Rego policy"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = false\nsecondary_auth = \"Rego\"\n[security.rego]\npolicy_file = \"/no/such.rego\""), "/no/such", "security.rego.policy_file", "/no/such.rego", "Rego policy"),
    case(("is_mtls_enabled = false", "is_mtls_enabled = false\nsecondary_auth = true"), "secondary", "security.secondary_auth", "boolean", "remove"),
    case(("is_tls_enabled = false", "is_tls_enabled = true"), "", "tls", "section [tls] is missing", "tls_cert_pem"),
    // [[external_key_stores]]
    case(("uri_path_prefix = \"/example/prefix\"", "uri_path_prefix = \"\""), "-second store-", "external_key_stores[1].uri_path_prefix", "already the prefix of external_key_stores[0]", "its own prefix"),
    case(("uri_path_prefix = \"\"", "uri_path_prefix = \"/short\""), "/short", "external_key_stores[0].uri_path_prefix", "6 characters", "9 to 117"),
    case(("uri_path_prefix = \"\"", "uri_path_prefix = \"example/prefix2\""), "prefix2", "external_key_stores[0].uri_path_prefix", "begin with '/'", "9 to 117"),
    case(("uri_path_prefix = \"\"", "uri_path_prefix = \"/example/prefix2/\""), "prefix2", "external_key_stores[0].uri_path_prefix", "ends with '/'", "9 to 117"),
    case(("uri_path_prefix = \"\"", "uri_path_prefix = \"/example/pre.fix\""), "pre.fix", "external_key_stores[0].uri_path_prefix", "not allowed", "'-' or '_'"),
    case(("uri_path_prefix = \"\"\n", ""), "[[external", "external_key_stores[0].uri_path_prefix", "missing", "9 to 117"),
    case(("uri_path_prefix = \"\"", "uri_path_prefix = 1"), "prefix = 1", "external_key_stores[0].uri_path_prefix", "whole number", "9 to 117"),
    case(("sigv4_access_key_id = \"ABCDEFGHIJKLMNOPQRSTUVWX\"\n", ""), "[[external", "external_key_stores[0].sigv4_access_key_id", "missing", "20 to 30"),
    case(("\"ABCDEFGHIJKLMNOPQRSTUVWX\"", "\"ABCDEFGHIJKLMNOPQRS\""), "OPQRS\"", "external_key_stores[0].sigv4_access_key_id", "19 characters", "20 to 30"),
    case(("\"ABCDEFGHIJKLMNOPQRSTUVWX\"", "\"ABCDEFGHIJKLMNOPQRS1\""), "QRS1", "external_key_stores[0].sigv4_access_key_id", "not allowed", "A-Z and 2-7"),
    case(("\"ABCDEFGHIJKLMNOPQRSTUVWX\"", "\"\""), "sigv4_access_key_id", "external_key_stores[0].sigv4_access_key_id", "other half", "20 to 30"),
    case(("\"HushHushHushHushHushHushHushHushHushHushHushHush\"", "\"\""), "sigv4_secret", "external_key_stores[0].sigv4_secret_access_key", "other half", "43 to 64"),
    case(("\"HushHushHushHushHushHushHushHushHushHushHushHush\"", "\"HushHush\""), "sigv4_secret", "external_key_stores[0].sigv4_secret_access_key", "8 characters", "43 to 64"),
    case(("\"HushHushHushHushHushHushHushHushHushHushHushHush\"", "\"HushHushHushHushHushHushHushHushHushHushHushHus!\""), "sigv4_secret", "external_key_stores[0].sigv4_secret_access_key", "not allowed", "43 to 64"),
    case(("xks_key_id_set = [\"foo\", \"cat\"]\n", ""), "[[external", "external_key_stores[0].xks_key_id_set", "missing", "CKA_LABEL"),
    case(("[\"foo\", \"cat\"]", "\"foo\""), "= \"foo\"", "external_key_stores[0].xks_key_id_set", "a string, not a list", "[\"my-key\"]"),
    case(("[\"foo\", \"cat\"]", "[\"foo\",\n  7]"), "  7", "external_key_stores[0].xks_key_id_set[1]", "whole number", "CKA_LABEL"),
    case(("[\"foo\", \"cat\"]", "[\"foo\",\n  \"c t\"]"), "c t", "external_key_stores[0].xks_key_id_set[1]", "c t", "1 to 128"),
    case(("[\"foo\", \"cat\"]", "[\"..\"]"), "..", "external_key_stores[0].xks_key_id_set[0]", "path", "1 to 128"),
    case(("[\"foo\", \"cat\"]", "[\"\"]"), "[\"\"]", "external_key_stores[0].xks_key_id_set[0]", "empty", "1 to 128"),
    case(("max_requests_per_sec = 1800", "max_requests_per_sec = 0"), "sec = 0", "external_key_stores[0].max_requests_per_sec", "0", "calls a second from 1"),
    case(("max_in_flight = 100", "max_in_flight = 0.5"), "0.5", "external_key_stores[0].max_in_flight", "fraction", "calls from 1"),
    // [pkcs11]
    case(("session_pool_max_size = 30\n", ""), "[pkcs11]", "pkcs11.session_pool_max_size", "missing", "30"),
    case(("session_pool_max_size = 30", "session_pool_max_size = 0"), "size = 0", "pkcs11.session_pool_max_size", "0", "1 to 1024"),
    case(("session_pool_max_size = 30", "session_pool_max_size = 1025"), "1025", "pkcs11.session_pool_max_size", "1025", "1 to 1024"),
    case(("user_pin = \"hush-4711\"\n", ""), "[pkcs11]", "pkcs11.user_pin", "missing", "in quotes"),
    case(("\"hush-4711\"", "4711"), "4711", "pkcs11.user_pin", "whole number", "in quotes"),
    case(("PKCS11_HSM_MODULE = \"MODULE\"\n", ""), "[pkcs11]", "pkcs11.PKCS11_HSM_MODULE", "missing", "environment variable PKCS11_HSM_MODULE"),
    case(("\"MODULE\"", "\"/no/such/module.so\""), "/no/such", "pkcs11.PKCS11_HSM_MODULE", "/no/such/module.so", "environment variable PKCS11_HSM_MODULE"),
    case(("\"MODULE\"", "\"/\""), "HSM_MODULE", "pkcs11.PKCS11_HSM_MODULE", "not a file", "environment variable PKCS11_HSM_MODULE"),
    case(("\"MODULE\"", "\"\""), "HSM_MODULE", "pkcs11.PKCS11_HSM_MODULE", "empty", "environment variable PKCS11_HSM_MODULE"),
    case(("allow_ambiguous_labels = false", "allow_ambiguous_labels = \"no\""), "labels", "pkcs11.allow_ambiguous_labels", "a string", "true or false"),
    case(("allow_ambiguous_labels = false", "initialize_parameters = 1"), "init", "pkcs11.initialize_parameters", "whole number", "C_Initialize"),
    case(("PKCS11_LOGGER_FLAGS = \"0\"", "PKCS11_LOGGER_FLAGS = 0"), "FLAGS", "pkcs11_logger.PKCS11_LOGGER_FLAGS", "whole number", "in quotes"),
    // [limits]
    case(("max_plaintext_in_base64 = 8192", "max_plaintext_in_base64 = -5"), "-5", "limits.max_plaintext_in_base64", "-5", "bytes"),
    case(("max_aad_in_base64 = 16384", "max_aad_in_base64 = 87381"), "87381", "limits.max_aad_in_base64", "87381", "87380"),
    case(("max_connections = 20000", "max_connections = 0"), "connections = 0", "limits.max_connections", "0", "from 1"),
    case(("max_connections_per_address = 0", "max_connections_per_address = -1"), "address = -1", "limits.max_connections_per_address", "-1", "0: no limit"),
    case(("max_requests_per_connection = 1000000", "max_requests_per_connection = \"no\""), "\"no\"", "limits.max_requests_per_connection", "a string", "0: no limit"),
    case(("max_buffered_bytes = 268435456", "max_buffered_bytes = 4096"), "bytes = 4096", "limits.max_buffered_bytes", "4096", "from 4194304"),
    case(("max_tls_handshakes_per_sec = 2000", "max_tls_handshakes_per_sec = 1000001"), "1000001", "limits.max_tls_handshakes_per_sec", "1000001", "to 1000000"),
    case(("request_deadline_milli = 180", "request_deadline_milli = 0"), "milli = 0", "limits.request_deadline_milli", "0", "milliseconds from 1"),
    case(("head_timeout_milli = 10000", "head_timeout_milli = 1e4"), "1e4", "limits.head_timeout_milli", "fraction", "milliseconds"),
    // [hsm_capabilities]
    case(("can_generate_iv = false\n", ""), "[hsm_cap", "hsm_capabilities.can_generate_iv", "missing", "profile"),
    case(("is_zero_iv_required = false\n", ""), "[hsm_cap", "hsm_capabilities.is_zero_iv_required", "missing", "profile"),
    case(("can_generate_iv = false", "can_generate_iv = false\nprofile = \"nshild\""), "nshild", "hsm_capabilities.profile", "nshild", "nshield"),
    case(("can_generate_iv = false", "can_generate_iv = false\nprofile = \"x\""), "profile", "hsm_capabilities.profile", "not a profile", "cloudhsm, fortanix"),
    case(("can_generate_iv = false", "can_generate_iv = false\nprofile = \"yubihsm2\""), "yubi", "hsm_capabilities.profile", "no AES-GCM", "another HSM"),
    case(("can_generate_iv = false", "can_generate_iv = false\nprofile = \"azure\""), "azure", "hsm_capabilities.profile", "no AES keys", "another HSM"),
    case(("can_generate_iv = false", "can_generate_iv = false\nprofile = \"luna\""), "can_gen", "hsm_capabilities.can_generate_iv", "contradicts", "can_generate_iv = true"),
    case(("can_generate_iv = false", "can_generate_iv = false\nprofile = \"vault\"\nhandles_per_session = false"), "handles_per", "hsm_capabilities.handles_per_session", "contradicts", "handles_per_session = true"),
    case(("can_generate_iv = false", "can_generate_iv = false\nhandles_per_session = \"true\""), "handles_per", "hsm_capabilities.handles_per_session", "a string", "true or false"),
    case(("can_generate_iv = false", "can_generate_iv = false\nhandles_per_session = 1"), "handles_per", "hsm_capabilities.handles_per_session", "whole number", "true or false"),
    case(("can_generate_iv = false\nis_zero_iv_required = false", "can_generate_iv = true\nis_zero_iv_required = false\nprofile = \"nshield\""), "is_zero", "hsm_capabilities.is_zero_iv_required", "contradicts", "is_zero_iv_required = true"),
    // Grammar
    case(("port = 443", "port = 443\nport = 444"), "444", "", "duplicate", "keep one"),
    case(("[limits]", "[server]\n[limits]"), "-second [server]-", "", "duplicate", "keep one"),
    case(("port = 443", "port 443"), "port 443", "", "invalid TOML", "'='"),
    case(("ip = \"0.0.0.0\"", "ip = 0.0.0.0"), "ip = 0.0", "", "invalid TOML", "quotes"),
    case(("\"us-east-1\"", "\"us-east-1"), "region", "", "invalid TOML", "quotes"),
];

#[test]
fn each_is_found_in_its_line_with_member_and_remedy() {
    let place = Place::new();
    let mut found = 0;
    for case in CASES {
        let text = edited(case.from, case.to);
        let what = format!("{:?} -> {:?}", case.from, case.to);
        let result = place.load(&text);
        let findings = match result {
            Ok(_) => panic!("{what} loaded"),
            Err(findings) => findings,
        };
        let mistakes = mistakes(&findings);
        let [mistake] = mistakes.as_slice() else {
            panic!("{what}: {} mistakes: {mistakes:#?}", mistakes.len());
        };
        assert_eq!(mistake.member, case.member, "{what}: {mistake}");
        assert!(mistake.problem.contains(case.problem), "{what}: {mistake}");
        assert!(mistake.remedy.contains(case.remedy), "{what}: {mistake}");
        let line = match case.at {
            "" => None,
            "-second store-" => Some(last_line(&text, "[[external_key_stores]]") + 1),
            "-second [server]-" => Some(last_line(&text, "[server]")),
            at => Some(line_of(&text, at)),
        };
        assert_eq!(mistake.position.map(|(line, _)| line), line, "{what}: {mistake}");
        if let Some((line, column)) = mistake.position {
            let shown = mistake.to_string();
            assert!(
                shown.contains(&format!("settings.toml:{line}:{column}: mistake: ")),
                "{shown}"
            );
        }
        found += 1;
    }
    assert!(found >= 50, "{found}");
    assert!(place.load(RIGHT).is_ok());
}

fn last_line(text: &str, line: &str) -> usize {
    text.lines().count() - text.lines().rev().position(|it| it == line).unwrap()
}

/// Sections of the wrong shape are explained, not merely refused.
#[test]
fn shapes_of_sections_are_explained() {
    let place = Place::new();
    let cut = |heading: &str| {
        let (before, rest) = RIGHT.split_once(heading).unwrap();
        let end = rest.find("\n[").map_or(rest.len(), |at| at + 1);
        (before.to_owned(), rest[..end].to_owned(), rest[end..].to_owned())
    };
    // One store, in single brackets.
    let stores_at = RIGHT.find("[[external_key_stores]]").unwrap();
    let after = RIGHT.find("[pkcs11]").unwrap();
    let (head, tail) = (&RIGHT[..stores_at], &RIGHT[after..]);
    let store = "[external_key_stores]\nuri_path_prefix = \"\"\nxks_key_id_set = []\n";
    let findings = place.load(&format!("{head}{store}{tail}")).unwrap_err();
    let found = mistakes(&findings);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].member, "external_key_stores");
    assert!(found[0].remedy.contains("[[external_key_stores]]"), "{}", found[0]);
    // No store, and an empty list.
    for none in ["", "external_key_stores = []\n"] {
        let text = format!("{none}{head}{tail}");
        let findings = place.load(&text).unwrap_err();
        let found = mistakes(&findings);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].problem.contains("no external key store"), "{}", found[0]);
        assert!(found[0].remedy.contains("[[external_key_stores]]"), "{}", found[0]);
    }
    // A number, and a list that contains a number.
    for (line, member) in [
        ("external_key_stores = 1\n", "external_key_stores"),
        ("external_key_stores = [1]\n", "external_key_stores[0]"),
    ] {
        let findings = place.load(&format!("{line}{head}{tail}")).unwrap_err();
        assert!(findings.iter().any(|it| it.member == member), "{findings:#?}");
    }
    // Each required section, absent and as a plain value.
    for section in ["server", "security", "pkcs11", "hsm_capabilities"] {
        let (before, _, rest) = cut(&format!("[{section}]\n"));
        let before = before.replace("[server.tcp_keepalive]", "[x]");
        let rest = rest.replace("[server.tcp_keepalive]", "[x]");
        let findings = place.load(&format!("{before}{rest}")).unwrap_err();
        let found = mistakes(&findings);
        assert!(found.iter().any(|it| it.problem.contains(&format!("[{section}] is missing"))));
        let findings = place.load(&format!("{section} = 1\n{before}{rest}")).unwrap_err();
        let found = mistakes(&findings);
        let it = found.iter().find(|it| it.member == section).unwrap();
        assert!(it.problem.contains("not a section"), "{it}");
        assert!(it.remedy.contains(&format!("[{section}]")), "{it}");
    }
}

/// All mistakes in a file are reported at once, in the order of the file.
#[test]
fn all_at_once_in_the_files_order() {
    let text = edited("port = 443", "port = 70000")
        .replace("\"0.0.0.0\"", "\"nowhere\"")
        .replace("\"HOURLY\"", "\"SOMETIMES\"")
        .replace("[\"bar\"]", "[\"b r\", \"..\"]")
        .replace("max_size = 30", "max_size = 0")
        .replace(
            "max_aad_in_base64 = 16384",
            "max_aad_in_base64 = 99999999\nmax_aad_in_base64 = 1",
        );
    let findings = Place::new().load(&text).unwrap_err();
    let members: Vec<&str> = mistakes(&findings).iter().map(|it| it.member.as_str()).collect();
    assert_eq!(
        members,
        [
            "server.ip",
            "server.port",
            "tracing.rotation_kind",
            "external_key_stores[1].xks_key_id_set[0]",
            "external_key_stores[1].xks_key_id_set[1]",
            "pkcs11.session_pool_max_size",
            "limits.max_aad_in_base64",
            "", // the doubled key
        ]
    );
}

/// Sections that are switched off, and those that the reference proxy does without, are not
/// checked.
#[test]
fn what_is_switched_off_is_not_checked() {
    let place = Place::new();
    let tls = "[tls]\ntls_cert_pem = \"\"\ntls_key_pem = 7\nmtls_client_ca_pem = \"/no\"\n[limits]";
    place.load(&edited("[limits]", tls)).unwrap();
    let file = "is_file_writer_enabled = true";
    let off = edited(file, "is_file_writer_enabled = false")
        .replace("\"HOURLY\"", "\"NONSENSE\"")
        .replace("directory = \"/var/local/xks-proxy/logs\"\n", "");
    place.load(&off).unwrap();
    let all_off = edited(file, "is_file_writer_enabled = false")
        .replace("is_stdout_writer_enabled = true", "is_stdout_writer_enabled = false")
        .replace("\"INFO\"", "\"NONSENSE\"");
    place.load(&all_off).unwrap();
    let unsigned = edited("is_sigv4_auth_enabled = true", "is_sigv4_auth_enabled = false")
        .replace("\"ABCDEFGHIJKLMNOPQRSTUVWX\"", "\"short\"");
    place.load(&unsigned).unwrap();
    // Level and rotation in upper or lower case, as the reference proxy accepts them.
    place.load(&edited("\"INFO\"", "\"info\"").replace("\"HOURLY\"", "\"hourly\"")).unwrap();
}

/// A file that is missing, not text or too large is reported as just that.
#[test]
fn unreadable_files() {
    let place = Place::new();
    let load = |path: &std::path::Path| xks_proxy::settings::load(path, false, &|_| None);
    let findings = load(&place.path("absent.toml")).unwrap_err();
    assert!(findings[0].problem.contains("cannot be read"), "{}", findings[0]);
    assert!(findings[0].remedy.contains("XKS_PROXY_SETTINGS_TOML"), "{}", findings[0]);
    place.write("binary.toml", b"a = 1\nb = \"\xff\"\n");
    let findings = load(&place.path("binary.toml")).unwrap_err();
    assert!(findings[0].problem.contains("line 2 is not UTF-8"), "{}", findings[0]);
    assert!(findings[0].problem.contains("0xff"), "{}", findings[0]);
    place.write("utf16.toml", b"\xff\xfea\0 \0=\0");
    let findings = load(&place.path("utf16.toml")).unwrap_err();
    assert!(findings[0].problem.contains("it is UTF-16"), "{}", findings[0]);
    let findings = load(place.directory.path()).unwrap_err();
    assert!(findings[0].problem.contains("cannot be read"), "{}", findings[0]);
    let size = usize::try_from(xks_proxy::limits::MAX_SETTINGS_BYTES).unwrap() + 1;
    place.write("large.toml", vec![b'#'; size]);
    let findings = load(&place.path("large.toml")).unwrap_err();
    assert!(findings[0].problem.contains("larger than"), "{}", findings[0]);
    // In an empty file, every required section is missing.
    place.write("empty.toml", "");
    assert!(mistakes(&load(&place.path("empty.toml")).unwrap_err()).len() >= 5);
}

/// Characters that look like others, or like none, are named where they break the syntax; those
/// that could be part of a secret are not shown.
#[test]
fn bytes_that_break_the_syntax_are_shown_as_text() {
    let place = Place::new();
    for (text, shown) in [
        ("a = \u{201c}x\u{201d}\n", Some("(here is \u{201c}, U+201C)")),
        ("a\u{a0}= 1\n", Some("U+00A0")),
        ("a = \"\u{1}\"\n", Some("(here is the control character U+0001)")),
        ("a = s3cret\n", None),
        ("a = \u{e4}secret\n", None),
    ] {
        place.write("broken.toml", text);
        let path = place.path("broken.toml");
        let findings = xks_proxy::settings::load(&path, false, &|_| None).unwrap_err();
        let problem = &findings[0].problem;
        assert!(problem.contains("invalid TOML"), "{problem}");
        match shown {
            Some(shown) => assert!(problem.contains(shown), "{problem}"),
            None => assert!(!problem.contains("here is"), "{problem}"),
        }
    }
}

//! Files written for the reference proxy work unchanged.

use xks_proxy::hsm::config::IvMode;
use xks_proxy::settings::Severity;

use crate::tls_files::{is_of_authority, self_signed};
use crate::{Place, mistakes};

/// Differences between the reference proxy's sample files (version 3.1.2), which are otherwise
/// identical.
struct Sample {
    name: &'static str,
    port: u16,
    region: &'static str,
    is_file_writer_enabled: bool,
    is_tls_enabled: bool,
    /// Set if there is a `secondary_auth`.
    oso: bool,
    /// The four members of `[tls]`: with paths, or empty; `None` without the section.
    tls: Option<bool>,
    /// Presence of a credential in the first store (if there is one) and in the second.
    stores: (Option<bool>, bool),
    user_pin: &'static str,
    module: &'static str,
    /// `[pkcs11_logger]`: the library, or "" for a section with empty members.
    logger: Option<&'static str>,
    iv: (bool, bool),
    wanted: IvMode,
}

const LOGGER: &str = "/local/centos/pkcs11-logger/build/linux/pkcs11-logger-x64.so";
const SOFTHSM: &str = "/usr/local/lib/softhsm/libsofthsm2.so";

const BASE: Sample = Sample {
    name: "settings_softhsmv2.toml",
    port: 80,
    region: "us-east-1",
    is_file_writer_enabled: true,
    is_tls_enabled: false,
    oso: false,
    tls: Some(true),
    stores: (Some(false), false),
    user_pin: "1234",
    module: LOGGER,
    logger: Some(SOFTHSM),
    iv: (false, false),
    wanted: IvMode::Random,
};

#[rustfmt::skip]
const SAMPLES: [Sample; 7] = [
    Sample { name: "settings.toml", oso: true, module: SOFTHSM, logger: None, ..BASE },
    BASE,
    Sample { name: "settings_softhsmv2_osx.toml", module: "/usr/local/lib/pkcs11-logger-x64.dylib", ..BASE },
    Sample { name: "settings_docker.toml", is_file_writer_enabled: false, tls: None, stores: (None, true),
             module: "/usr/lib/softhsm/libsofthsm2.so", logger: Some(""), ..BASE },
    Sample { name: "settings_cloudhsm.toml", port: 443, region: "us-east-2", is_tls_enabled: true,
             user_pin: "xks_proxy:1234567", logger: Some("/opt/cloudhsm/lib/libcloudhsm_pkcs11.so"),
             iv: (true, true), wanted: IvMode::ZeroedBuffer, ..BASE },
    Sample { name: "settings_luna.toml", port: 443, is_tls_enabled: true, user_pin: "1q@W3e$R",
             logger: Some("/usr/safenet/lunaclient/lib/libCryptoki2_64.so"),
             iv: (true, false), wanted: IvMode::Appended, ..BASE },
    Sample { name: "settings_nshield.toml", tls: Some(false), stores: (Some(false), true),
             user_pin: "replaceme", module: "/opt/nfast/toolkits/pkcs11/libcknfast.so", logger: None,
             iv: (true, true), wanted: IvMode::ZeroedBuffer, ..BASE },
];

impl Sample {
    fn text(&self, cert: &str, key: &str) -> String {
        let store = |prefix: &str, has_credential: bool, ids: &str| {
            let (id, secret) = if has_credential {
                ("BETWEEN2TENAND3TENCHARACTERS", "PleaseReplaceThisWithSomeSecretOfLength43To64")
            } else {
                ("", "")
            };
            format!(
                "[[external_key_stores]]\nuri_path_prefix = \"{prefix}\"\n\
                 sigv4_access_key_id = \"{id}\"\nsigv4_secret_access_key = \"{secret}\"\n\
                 xks_key_id_set = {ids}\n"
            )
        };
        let mut text = format!(
            "[server]\nip = \"0.0.0.0\"\nport = {}\nregion = \"{}\"\nservice = \"kms-xks-proxy\"\n\
             [server.tcp_keepalive]\ntcp_keepalive_secs = 60\ntcp_keepalive_retries = 3\n\
             tcp_keepalive_interval_secs = 1\n\
             [tracing]\nis_stdout_writer_enabled = true\nis_file_writer_enabled = {}\n\
             level = \"DEBUG\"\n",
            self.port, self.region, self.is_file_writer_enabled
        );
        if self.is_file_writer_enabled {
            text += "directory = \"/var/local/xks-proxy/logs\"\nfile_prefix = \"xks-proxy.log\"\n\
                     rotation_kind = \"HOURLY\"\n";
        }
        text += &format!(
            "[security]\nis_sigv4_auth_enabled = true\nis_tls_enabled = {}\n\
             is_mtls_enabled = false\n",
            self.is_tls_enabled
        );
        if self.oso {
            text += "secondary_auth = \"Oso\"\n[security.oso]\n\
                     polar_file_path = \"configuration/oso.polar\"\n";
        }
        let name = "us-east-1.alpha.cks.kms.aws.internal.amazonaws.com";
        let tls = match self.tls {
            Some(true) => Some((cert, key, "tls/client_ca.pem", name)),
            Some(false) => Some(("", "", "", "")),
            None => None,
        };
        if let Some((cert, key, ca, name)) = tls {
            text += &format!(
                "[tls]\ntls_cert_pem = \"{cert}\"\ntls_key_pem = \"{key}\"\n\
                 mtls_client_ca_pem = \"{ca}\"\nmtls_client_dns_name = \"{name}\"\n"
            );
        }
        if let Some(has_credential) = self.stores.0 {
            text += &store("", has_credential, "[\"foo\", \"cat\", \"dog\"]");
        }
        text += &store("/example/uri/path/prefix", self.stores.1, "[\"foo\", \"bar\"]");
        text += &format!(
            "[pkcs11]\nsession_pool_max_size = 30\nsession_pool_timeout_milli = 0\n\
             session_eager_close = false\nuser_pin = \"{}\"\nPKCS11_HSM_MODULE = \"{}\"\n\
             context_read_timeout_milli = 10\n",
            self.user_pin, self.module
        );
        if let Some(library) = self.logger {
            let log = if library.is_empty() { "" } else { "/var/local/xks-proxy/logs/p.log" };
            text += &format!(
                "[pkcs11_logger]\nPKCS11_LOGGER_LIBRARY_PATH = \"{library}\"\n\
                 PKCS11_LOGGER_LOG_FILE_PATH = \"{log}\"\nPKCS11_LOGGER_FLAGS = \"0\"\n"
            );
        }
        text += "[limits]\nmax_plaintext_in_base64 = 8192\nmax_aad_in_base64 = 16384\n";
        text += &format!(
            "[hsm_capabilities]\ncan_generate_iv = {}\nis_zero_iv_required = {}\n",
            self.iv.0, self.iv.1
        );
        text
    }
}

/// Even a strict check finds no unknown member; it warns only about values that the samples leave
/// to be filled in.
#[test]
fn each_of_its_files_loads() {
    let place = Place::new();
    let (cert, key) = self_signed(&["xks.example.com"]).write(&place, "server");
    let module = place.module();
    let environment = |name: &str| (name == "PKCS11_HSM_MODULE").then(|| module.clone().into());
    for sample in SAMPLES {
        let text = sample.text(&cert, &key);
        let result = place.load_with(&text, true, &environment);
        if sample.oso {
            // A security control is never dropped silently; this is the only mistake.
            let findings = result.unwrap_err();
            let mistakes = mistakes(&findings);
            assert_eq!(mistakes.len(), 1, "{}: {findings:#?}", sample.name);
            assert_eq!(mistakes[0].member, "security.secondary_auth");
            let without = text.replace("secondary_auth = \"Oso\"\n", "");
            place.load_with(&without, true, &environment).unwrap();
            continue;
        }
        let (settings, findings) = result.unwrap_or_else(|it| panic!("{}: {it:#?}", sample.name));
        for warning in findings.iter().filter(|it| it.severity == Severity::Warning) {
            let is_expected = warning.member.contains("sigv4_") || is_of_authority(warning);
            assert!(is_expected, "{}: {warning}", sample.name);
        }
        assert_eq!(settings.server.port, sample.port, "{}", sample.name);
        assert_eq!(settings.server.region, sample.region, "{}", sample.name);
        assert_eq!(settings.tls.is_some(), sample.is_tls_enabled, "{}", sample.name);
        assert_eq!(settings.tracing.file.is_some(), sample.is_file_writer_enabled);
        assert_eq!(settings.stores.len(), 1 + usize::from(sample.stores.0.is_some()));
        let token = &settings.pkcs11.tokens[0];
        assert_eq!(token.iv_mode, sample.wanted, "{}", sample.name);
        assert_eq!(token.user_pin.expose(), sample.user_pin);
        assert_eq!(token.max_sessions, 30);
        let variables = match sample.logger {
            None => 0,
            Some("") => 1, // only FLAGS is not empty
            Some(_) => 3,
        };
        assert_eq!(settings.pkcs11.environment.len(), variables, "{}", sample.name);
    }
}

/// Without a path from the environment, the module's path is that of the file, and is checked.
#[test]
fn the_module_of_a_sample_is_looked_for() {
    let place = Place::new();
    let findings = place.load(&SAMPLES[6].text("", "")).unwrap_err();
    let mistakes = mistakes(&findings);
    assert_eq!(mistakes.len(), 1, "{findings:#?}");
    assert!(mistakes[0].problem.contains("libcknfast.so"), "{}", mistakes[0]);
}

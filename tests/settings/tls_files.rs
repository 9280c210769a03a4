//! `[tls]`: mistakes in certificates and keys, and the configuration made from valid ones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use xks_proxy::settings::{Finding, Settings, Severity};

use crate::{Place, edited, line_of, mistakes};

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate and its key.
pub struct Identity {
    pub certificate: rcgen::Certificate,
    pub params: CertificateParams,
    pub key: KeyPair,
}

impl Identity {
    /// Writes both files and returns their paths.
    pub fn write(&self, place: &Place, name: &str) -> (String, String) {
        let cert = place.write(&format!("{name}.crt"), self.certificate.pem());
        let key = place.write(&format!("{name}.key"), self.key.serialize_pem());
        (cert, key)
    }

    /// Issues a certificate signed by this one.
    pub fn issue(&self, mut params: CertificateParams) -> Identity {
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Identity { certificate, params, key }
    }
}

pub fn params(names: &[&str], common_name: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

pub fn from_params(params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Identity { certificate, params, key }
}

pub fn self_signed(names: &[&str]) -> Identity {
    from_params(params(names, names.first().unwrap_or(&"the proxy")))
}

pub fn authority(name: &str) -> Identity {
    let mut params = params(&[], name);
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    from_params(params)
}

/// Loads settings with TLS on; `more` is appended to `[tls]`.
pub fn load_tls(
    place: &Place,
    (cert, key): (&str, &str),
    more: &str,
) -> Result<(Settings, Vec<Finding>), Vec<Finding>> {
    let is_mtls = more.contains("mtls_client_ca_pem");
    let text = tls_text((cert, key), more, is_mtls);
    place.load(&text)
}

fn tls_text((cert, key): (&str, &str), more: &str, is_mtls: bool) -> String {
    edited("is_tls_enabled = false", "is_tls_enabled = true")
        .replace("is_mtls_enabled = false", &format!("is_mtls_enabled = {is_mtls}"))
        + &format!("[tls]\ntls_cert_pem = \"{cert}\"\ntls_key_pem = \"{key}\"\n{more}\n")
}

/// Returns whether the finding is that KMS does not know the certificate's authority.
pub fn is_of_authority(finding: &Finding) -> bool {
    finding.member == "tls.tls_cert_pem" && finding.problem.contains("authorities that KMS accepts")
}

/// Returns the warnings without that of the authority, of which KMS knows none that a test can use,
/// and whether there was one.
fn warnings_of(findings: Vec<Finding>) -> (Vec<String>, bool) {
    let warnings = findings.into_iter().filter(|it| it.severity == Severity::Warning);
    let (of_authority, others): (Vec<_>, Vec<_>) = warnings.partition(is_of_authority);
    assert!(of_authority.len() <= 1, "{of_authority:?}");
    (others.iter().map(Finding::to_string).collect(), !of_authority.is_empty())
}

/// The key inside a PKCS#8 structure: SEC1 or PKCS#1 (RFC 5958, 2: the third member).
fn inner_key(key: &KeyPair) -> Vec<u8> {
    use x509_parser::der_parser::parse_der;
    let der = key.serialize_der();
    let (_, sequence) = parse_der(&der).unwrap();
    sequence.as_sequence().unwrap()[2].as_slice().unwrap().to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = base64_simd::STANDARD.encode_to_string(der);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn each_kind_of_key_is_taken() {
    let place = Place::new();
    let ec = self_signed(&["a.example"]);
    let rsa_key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let rsa_params = params(&["a.example"], "a.example");
    let rsa = Identity {
        certificate: rsa_params.self_signed(&rsa_key).unwrap(),
        params: rsa_params,
        key: rsa_key,
    };
    let cases = [
        (&ec, ec.key.serialize_pem()),
        (&ec, pem("EC PRIVATE KEY", &inner_key(&ec.key))),
        (&ec, format!("{}{}", ec.certificate.pem(), ec.key.serialize_pem())),
        (&rsa, rsa.key.serialize_pem()),
        (&rsa, pem("RSA PRIVATE KEY", &inner_key(&rsa.key))),
    ];
    for (identity, key) in cases {
        let (cert, _) = identity.write(&place, "server");
        let key = place.write("server.key", key);
        let (settings, findings) = load_tls(&place, (&cert, &key), "").unwrap();
        assert_eq!(warnings_of(findings), (vec![], true));
        let tls = settings.tls.unwrap();
        assert_eq!(tls.certificate.names, ["a.example"]);
        assert!(!tls.is_client_certificate_required && tls.client_name.is_none());
        assert!(tls.certificate.subject.starts_with("CN="), "{}", tls.certificate.subject);
    }
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let place = Place::new();
    let (cert, key) = self_signed(&["a.example"]).write(&place, "server");
    let (_, other_key) = self_signed(&["a.example"]).write(&place, "other");
    let (issuer_cert, _) = authority("an issuer").write(&place, "issuer");
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let empty = place.write("empty", "\n");
    let swapped = place.write("swapped", read(&issuer_cert) + &read(&cert));
    let encrypted = place.write("encrypted", pem("ENCRYPTED PRIVATE KEY", b"0123456789"));
    let old_encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: \
                         AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let old_encrypted = place.write("old_encrypted", old_encrypted);
    let broken =
        place.write("broken", "-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n");
    let garbage = place.write("garbage", pem("PRIVATE KEY", b"0123456789"));
    let not_x509 = place.write("not_x509", pem("CERTIFICATE", b"0123456789"));
    let torn = place.write("torn", &read(&cert)[..200]);
    #[rustfmt::skip]
    let cases = [
        ("/no/such", key.as_str(), "tls_cert_pem", "\"/no/such\" cannot be read", "certificate"),
        ("", &key, "tls_cert_pem", "empty", "certificate"),
        (&empty, &key, "tls_cert_pem", "empty\" is empty", "certificate"),
        (&key, &key, "tls_cert_pem", "no CERTIFICATE", "certificate"),
        (&torn, &key, "tls_cert_pem", "not PEM", "certificate"),
        (&not_x509, &key, "tls_cert_pem", "not X.509", "with a new one"),
        (&swapped, &key, "tls_cert_pem", "not the first", "first"),
        (&cert, "/no/such", "tls_key_pem", "\"/no/such\" cannot be read", "private key"),
        (&cert, &cert, "tls_key_pem", "no PRIVATE KEY", "private key"),
        (&cert, &empty, "tls_key_pem", "empty\" is empty", "private key"),
        (&cert, &encrypted, "tls_key_pem", "encrypted", "openssl pkey"),
        (&cert, &old_encrypted, "tls_key_pem", "encrypted", "openssl pkey"),
        (&cert, &broken, "tls_key_pem", "not PEM", "private key"),
        (&cert, &garbage, "tls_key_pem", "not usable", "RSA key"),
        (&cert, &other_key, "tls_key_pem", "does not belong", "requested with"),
    ];
    for (cert, key, member, problem, remedy) in cases {
        let findings = load_tls(&place, (cert, key), "").unwrap_err();
        let mistakes = mistakes(&findings);
        assert_eq!(mistakes.len(), 1, "{member} {problem}: {findings:#?}");
        assert_eq!(mistakes[0].member, format!("tls.{member}"), "{}", mistakes[0]);
        assert!(mistakes[0].problem.contains(problem), "{}", mistakes[0]);
        assert!(mistakes[0].remedy.contains(remedy), "{}", mistakes[0]);
        let line = line_of(&tls_text((cert, key), "", false), &format!("{member} = "));
        assert_eq!(mistakes[0].position.unwrap().0, line, "{}", mistakes[0]);
    }
}

#[test]
fn what_is_wrong_with_client_verification_is_said() {
    let place = Place::new();
    let (cert, key) = self_signed(&["a.example"]).write(&place, "server");
    let (ca, _) = authority("a CA").write(&place, "ca");
    let empty = place.write("empty", "");
    let not_x509 = place.write("not_x509", pem("CERTIFICATE", b"0123456789"));
    let name = "mtls_client_dns_name = \"cks.kms.us-east-1.amazonaws.com\"\n";
    #[rustfmt::skip]
    let cases = [
        (format!("mtls_client_ca_pem = \"/no/such\"\n{name}"), "mtls_client_ca_pem", "cannot be read"),
        (format!("mtls_client_ca_pem = \"{empty}\"\n{name}"), "mtls_client_ca_pem", "is empty"),
        (format!("mtls_client_ca_pem = \"{key}\"\n{name}"), "mtls_client_ca_pem", "no CERTIFICATE"),
        (format!("mtls_client_ca_pem = \"{not_x509}\"\n{name}"), "mtls_client_ca_pem", "not usable"),
        (format!("# mtls_client_ca_pem\n{name}"), "mtls_client_ca_pem", "missing"),
        (format!("mtls_client_ca_pem = \"{ca}\"\nmtls_client_dns_name = \"\"\n"), "mtls_client_dns_name", "not a DNS name"),
        (format!("mtls_client_ca_pem = \"{ca}\"\nmtls_client_dns_name = \"10.0.0.1\"\n"), "mtls_client_dns_name", "not a DNS name"),
        (format!("mtls_client_ca_pem = \"{ca}\"\nmtls_client_dns_name = 7\n"), "mtls_client_dns_name", "not a string"),
    ];
    for (more, member, problem) in cases {
        let findings = load_tls(&place, (&cert, &key), &more).unwrap_err();
        let mistakes = mistakes(&findings);
        assert_eq!(mistakes.len(), 1, "{more}: {findings:#?}");
        assert_eq!(mistakes[0].member, format!("tls.{member}"), "{}", mistakes[0]);
        assert!(mistakes[0].problem.contains(problem), "{}", mistakes[0]);
    }
    // A missing name is allowed with a warning, and so is a leaf in place of a CA.
    let more = format!("mtls_client_ca_pem = \"{cert}\"\n");
    let (settings, findings) = load_tls(&place, (&cert, &key), &more).unwrap();
    let tls = settings.tls.unwrap();
    assert!(tls.is_client_certificate_required && tls.client_name.is_none());
    let warned = |member: &str, problem: &str| {
        findings.iter().any(|it| {
            it.severity == Severity::Warning && it.member == member && it.problem.contains(problem)
        })
    };
    assert!(warned("tls.mtls_client_dns_name", "missing"), "{findings:#?}");
    assert!(warned("tls.mtls_client_ca_pem", "not a CA's"), "{findings:#?}");
}

/// An expired certificate causes a loud warning and is served: see `settings::certificate`.
#[test]
fn dates_names_and_order_are_warned_of() {
    let place = Place::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let epoch = date_time_ymd(1970, 1, 1);
    let warnings = |identity: &Identity, also: &str| {
        let (cert, key) = identity.write(&place, "server");
        place.write("server.crt", std::fs::read_to_string(&cert).unwrap() + also);
        let (settings, findings) = load_tls(&place, (&cert, &key), "").unwrap();
        assert!(settings.tls.is_some());
        let (warnings, is_private) = warnings_of(findings);
        assert!(is_private);
        warnings
    };
    let lasting = |begin: Duration, end: Duration| {
        let mut params = params(&["a.example"], "a.example");
        params.not_before = epoch + begin;
        params.not_after = epoch + end;
        from_params(params)
    };
    let expired = warnings(&lasting(DAY, now - DAY), "");
    assert!(expired.len() == 1 && expired[0].contains("EXPIRED on 20"), "{expired:?}");
    let early = warnings(&lasting(now + DAY, now + DAY * 99), "");
    assert!(early.len() == 1 && early[0].contains("not valid before"), "{early:?}");
    let soon = warnings(&lasting(DAY, now + DAY * 10 + DAY / 2), "");
    assert!(soon.len() == 1 && soon[0].contains("in 10 days"), "{soon:?}");
    assert!(warnings(&lasting(DAY, now + DAY * 31), "").is_empty());
    let nameless = warnings(&self_signed(&[]), "");
    assert!(nameless.len() == 1 && nameless[0].contains("no DNS name"), "{nameless:?}");
    let (root, stranger) = (authority("root"), authority("stranger"));
    let issued = root.issue(params(&["a.example"], "a.example"));
    assert!(warnings(&issued, &root.certificate.pem()).is_empty());
    let unordered = warnings(&issued, &stranger.certificate.pem());
    assert!(unordered.len() == 1 && unordered[0].contains("not the issuer"), "{unordered:?}");
}

/// Properties of a certificate with which the proxy can serve, but which KMS refuses.
#[test]
fn what_kms_refuses_is_warned_of() {
    let place = Place::new();
    let warnings = |server: &Identity, pem: &str| {
        let (cert, key) = server.write(&place, "server");
        place.write("server.crt", pem);
        let (_, findings) = load_tls(&place, (&cert, &key), "").unwrap();
        // Without the issuer's certificate, the authority is not known.
        let (warnings, is_private) = warnings_of(findings);
        assert_eq!(is_private, !warnings.iter().any(|it| it.contains("certificate alone")));
        warnings
    };
    let root_key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let mut root_params = params(&[], "the root");
    root_params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = root_params.self_signed(&root_key).unwrap();
    let root = Identity { certificate, params: root_params, key: root_key };
    let leaf = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = params(&["a.example"], "a.example");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        root.issue(params)
    };
    let chain = |leaf: &Identity| leaf.certificate.pem() + &root.certificate.pem();
    let right = leaf(&|_| {});
    assert_eq!(warnings(&right, &chain(&right)), [""; 0]);
    let own = self_signed(&["a.example"]);
    assert_eq!(warnings(&own, &own.certificate.pem()), [""; 0]);

    let alone = warnings(&right, &right.certificate.pem());
    assert!(
        alone.len() == 1
            && alone[0].contains("issuer, CN=the root, which is no root that KMS accepts: KMS"),
        "{alone:?}"
    );
    type Change = &'static dyn Fn(&mut CertificateParams);
    let cases: [(Change, &str); 3] = [
        (
            &|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "extendedKeyUsage lacks serverAuth",
        ),
        (
            &|it| it.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
            "keyUsage lacks digitalSignature",
        ),
        (
            &|it| {
                let must_staple = vec![0x30, 3, 2, 1, 5];
                let oid = &[1, 3, 6, 1, 5, 5, 7, 1, 24];
                it.custom_extensions.push(CustomExtension::from_oid_content(oid, must_staple));
            },
            "must-staple",
        ),
    ];
    for (change, expected) in cases {
        let leaf = leaf(change);
        let found = warnings(&leaf, &chain(&leaf));
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
    }
    // sha256WithRSAEncryption becomes sha1WithRSAEncryption; no one here verifies the signature.
    let with_sha1 = |identity: &Identity| {
        let mut der = identity.certificate.der().to_vec();
        let sha256 = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
        let at = |der: &[u8]| der.windows(sha256.len()).position(|part| part == sha256);
        let mut changed = 0;
        while let Some(at) = at(&der) {
            der[at + sha256.len() - 1] = 0x05;
            changed += 1;
        }
        assert_eq!(changed, 2);
        pem("CERTIFICATE", &der)
    };
    let weak = warnings(&right, &(with_sha1(&right) + &root.certificate.pem()));
    assert!(weak.len() == 1 && weak[0].contains("certificate 1 of the file is signed with SHA-1"));
    // A root's own signature does not matter.
    assert_eq!(warnings(&right, &(right.certificate.pem() + &with_sha1(&root))), [""; 0]);
}

/// What KMS wants and other clients do not: `probe` checks the same from outside.
#[test]
fn what_kms_alone_wants_is_warned_of() {
    let place = Place::new();
    let load = |server: &Identity, more: &str| {
        let (cert, key) = server.write(&place, "server");
        place.write("server.crt", server.certificate.pem() + more);
        warnings_of(load_tls(&place, (&cert, &key), "").unwrap().1)
    };
    let named = |common_name: &str| from_params(params(&["a.example", "*.b.example"], common_name));
    for right in ["a.example", "A.EXAMPLE.", "*.b.example"] {
        assert_eq!(load(&named(right), ""), (vec![], true), "{right}");
    }
    let (other, _) = load(&named("a\u{1b}.other"), "");
    let expected = "certificate's common name (CN), a\\u{1b}.other, is none of its DNS names";
    assert!(other.len() == 1 && other[0].contains(expected), "{other:?}");
    let mut nameless = params(&["a.example"], "");
    nameless.distinguished_name = rcgen::DistinguishedName::new();
    let (none, _) = load(&from_params(nameless), "");
    assert!(none.len() == 1 && none[0].contains("no common name (CN)"), "{none:?}");

    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let edwards = params(&["a.example"], "a.example");
    let certificate = edwards.self_signed(&key).unwrap();
    let (unusable, _) = load(&Identity { certificate, params: edwards, key }, "");
    assert!(unusable.len() == 1 && unusable[0].contains("1.3.101.112"), "{unusable:?}");

    // A root of the list by its name, whatever the order of the parts; it need not be in the file.
    let mut root = params(&[], "Amazon Root CA 1");
    root.distinguished_name.push(DnType::OrganizationName, "Amazon");
    root.distinguished_name.push(DnType::CountryName, "US");
    root.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = from_params(root);
    let mut intermediate = params(&[], "an intermediate");
    intermediate.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let intermediate = root.issue(intermediate);
    let leaf = intermediate.issue(params(&["a.example"], "a.example"));
    assert_eq!(load(&leaf, &intermediate.certificate.pem()), (vec![], false));
    let direct = root.issue(params(&["a.example"], "a.example"));
    assert_eq!(load(&direct, ""), (vec![], false));
}

/// A name of KMS in another Region or partition than the settings' is warned of; another name may
/// be meant for a test.
#[test]
fn the_name_of_kms_belongs_to_the_region() {
    let place = Place::new();
    let (cert, key) = self_signed(&["a.example"]).write(&place, "server");
    let (ca, _) = authority("a CA").write(&place, "ca");
    let found = |region: &str, name: &str| {
        let more = format!("mtls_client_ca_pem = \"{ca}\"\n{name}");
        let text = tls_text((&cert, &key), &more, true);
        let text = text.replace("region = \"us-east-1\"", &format!("region = \"{region}\""));
        let (_, findings) = place.load(&text).unwrap();
        let findings = findings.into_iter().filter(|it| {
            ["server.region", "tls.mtls_client_dns_name"].contains(&it.member.as_str())
        });
        findings.map(|it| it.to_string()).collect::<Vec<_>>()
    };
    let name = |name: &str| format!("mtls_client_dns_name = \"{name}\"\n");
    for (region, right) in [
        ("us-east-1", "cks.kms.us-east-1.amazonaws.com"),
        ("eusc-de-east-1", "cks.kms.eusc-de-east-1.amazonaws.eu"),
        ("cn-north-1", "cks.kms.cn-north-1.amazonaws.com.cn"),
        ("us-east-1", "us-east-1.alpha.cks.kms.aws.internal.amazonaws.com"),
    ] {
        assert_eq!(found(region, &name(right)), [""; 0]);
        if right.starts_with("cks.") {
            let missing = found(region, "");
            assert!(missing.len() == 1 && missing[0].contains(right), "{missing:?}");
        }
    }
    for (region, wrong, right) in [
        ("us-east-1", "cks.kms.us-east-2.amazonaws.com", "cks.kms.us-east-1.amazonaws.com"),
        ("cn-north-1", "cks.kms.cn-north-1.amazonaws.com", "cks.kms.cn-north-1.amazonaws.com.cn"),
    ] {
        let found = found(region, &name(wrong));
        assert!(found.len() == 1 && found[0].contains("is not the name of KMS in"), "{found:?}");
        assert!(found[0].contains(&format!("\"{right}\"")), "{found:?}");
    }
    let unknown = found("xx-north-1", &name("cks.kms.xx-north-1.amazonaws.com"));
    assert!(unknown.len() == 1 && unknown[0].contains("of no partition"), "{unknown:?}");
}

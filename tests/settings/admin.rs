//! `[admin]`: off by default, and accessible to others only as far as intended.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use xks_proxy::settings::{Admin, Finding, Severity};

use crate::tls_files::{authority, params, self_signed};
use crate::{Place, RIGHT, line_of, mistakes};

/// Loads the right file with these members in `[admin]`.
fn load(place: &Place, members: &str) -> Result<(Option<Admin>, Vec<Finding>), Vec<Finding>> {
    place
        .load_with(&format!("{RIGHT}\n[admin]\n{members}\n"), true, &|_| None)
        .map(|(settings, findings)| (settings.admin, findings))
}

/// A file from before the admin listener existed opens no port.
#[test]
fn without_the_section_there_is_none() {
    let (settings, _) = Place::new().load(RIGHT).unwrap();
    assert!(settings.admin.is_none());
}

#[test]
fn the_default_is_this_machine_alone() {
    let (admin, findings) = load(&Place::new(), "port = 9443").unwrap();
    let admin = admin.unwrap();
    assert_eq!(admin.address, "127.0.0.1:9443".parse().unwrap());
    assert!(admin.tls.is_none());
    assert!(!findings.iter().any(|it| it.severity == Severity::Warning), "{findings:?}");
    for ip in ["127.8.8.8", "::1"] {
        let (admin, _) = load(&Place::new(), &format!("ip = \"{ip}\"\nport = 9443")).unwrap();
        assert_eq!(admin.unwrap().address.ip().to_string(), ip);
    }
}

/// Metrics reveal information to strangers: each way of opening the port must be explicit.
#[test]
fn other_machines_need_tls_or_a_word() {
    let place = Place::new();
    let open = "ip = \"0.0.0.0\"\nport = 9443\n";
    let findings = load(&place, open).unwrap_err();
    let [mistake] = mistakes(&findings)[..] else { panic!("{findings:#?}") };
    assert_eq!(mistake.member, "admin.ip");
    assert!(mistake.remedy.contains("allow_plain_remote"), "{mistake}");
    assert_eq!(
        mistake.position.unwrap().0,
        line_of(&format!("{RIGHT}\n[admin]\n{open}"), "[admin]") + 1
    );

    assert!(load(&place, &format!("{open}allow_plain_remote = false")).is_err());
    let (admin, _) = load(&place, &format!("{open}allow_plain_remote = true")).unwrap();
    assert!(admin.unwrap().tls.is_none());

    let (cert, key) = self_signed(&["xks.example.com"]).write(&place, "admin");
    let tls = format!("{open}tls_cert_pem = \"{cert}\"\ntls_key_pem = \"{key}\"\n");
    let (admin, findings) = load(&place, &tls).unwrap();
    assert!(!admin.unwrap().tls.unwrap().is_client_certificate_required);
    let warned = findings.iter().any(|it| {
        it.severity == Severity::Warning
            && it.member == "admin.ip"
            && it.remedy.contains("client_ca_pem")
    });
    assert!(warned, "{findings:#?}");

    let (ca, _) = authority("admins").write(&place, "ca");
    let (admin, findings) = load(&place, &format!("{tls}client_ca_pem = \"{ca}\"")).unwrap();
    assert!(admin.unwrap().tls.unwrap().is_client_certificate_required);
    assert!(!findings.iter().any(|it| it.severity == Severity::Warning), "{findings:#?}");
}

/// Each mistake is found alone, with its member and a remedy.
#[test]
fn mistakes_of_the_section() {
    let place = Place::new();
    let (cert, key) = self_signed(&["xks.example.com"]).write(&place, "admin");
    let cases = [
        (String::new(), "admin.port", "missing", "9443"),
        ("port = 70000".to_owned(), "admin.port", "out of range", "65535"),
        ("port = 443".to_owned(), "admin.port", "server.port already uses", "9443"),
        ("port = 8080".to_owned(), "admin.port", "server.port_http_ping already uses", "9443"),
        ("port = 9443\nip = \"localhost\"".to_owned(), "admin.ip", "not an IP", "address"),
        (
            "port = 9443\nallow_plain_remote = 1".to_owned(),
            "admin.allow_plain_remote",
            "number",
            "true",
        ),
        (format!("port = 9443\ntls_cert_pem = \"{cert}\""), "admin.tls_key_pem", "missing", "both"),
        (format!("port = 9443\ntls_key_pem = \"{key}\""), "admin.tls_cert_pem", "missing", "both"),
        (
            format!("port = 9443\nclient_ca_pem = \"{cert}\""),
            "admin.client_ca_pem",
            "TLS is off",
            "tls_cert_pem",
        ),
        (
            format!(
                "port = 9443\ntls_cert_pem = \"{cert}\"\ntls_key_pem = \"{key}\"\nclient_ca_pem = \"/no/such\""
            ),
            "admin.client_ca_pem",
            "cannot be read",
            "administrators",
        ),
        (
            "port = 9443\ntls_cert = \"\"".to_owned(),
            "admin.tls_cert",
            "no such member",
            "tls_cert_pem",
        ),
    ];
    for (members, member, problem, remedy) in cases {
        let findings = load(&place, &members).unwrap_err();
        let [mistake] = mistakes(&findings)[..] else { panic!("{members}: {findings:#?}") };
        assert_eq!(mistake.member, member, "{mistake}");
        assert!(mistake.problem.contains(problem), "{mistake}");
        assert!(mistake.remedy.contains(remedy), "{mistake}");
    }
}

/// KMS never sees this listener's certificate: nothing is said about KMS, its authorities or the DNS
/// name that it calls. What other clients refuse is still warned of.
#[test]
fn the_certificate_is_no_matter_of_kms() {
    let place = Place::new();
    let warnings = |params: CertificateParams, name: &str| -> Vec<String> {
        let (cert, key) = authority("private").issue(params).write(&place, name);
        let members = format!("port = 9443\ntls_cert_pem = \"{cert}\"\ntls_key_pem = \"{key}\"");
        let (_, findings) = load(&place, &members).unwrap();
        let of_admin = findings.iter().filter(|it| it.member == "admin.tls_cert_pem");
        of_admin.map(|it| it.problem.clone()).collect()
    };
    assert_eq!(warnings(params(&["127.0.0.1"], "metrics"), "address"), Vec::<String>::new());
    let mut client = params(&["metrics.internal"], "another name");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    client.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    let found = warnings(client, "client");
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found.iter().all(|it| it.ends_with("clients refuse the handshake")), "{found:#?}");
    let found = warnings(params(&[], "nameless"), "nameless");
    assert!(matches!(&found[..], [one] if one.contains("clients will reject it")), "{found:#?}");
}

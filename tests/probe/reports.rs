//! Reports for programs, and the update of the list of authorities.

use std::path::{Path, PathBuf};
use std::process::Command;

use xks_proxy::certificate::Authorities;

use crate::run::probe;
use crate::stand_in::StandIn;

/// The document has each check of the JSON report, with the same verdicts.
#[test]
fn junit() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("probe.xml");
    let junit = file.to_str().unwrap();
    let stand_in = StandIn::http("encrypt.cdiv");
    let url = format!("http://127.0.0.1:{}/store", stand_in.port());
    let run = probe(&[&url, "--key-id", "key", "--insecure-http", "--junit", junit]);
    let xml = std::fs::read_to_string(&file).unwrap();
    let checks = run.json["checks"].as_array().unwrap();
    let count = |verdict: &str| checks.iter().filter(|it| it["verdict"] == verdict).count();
    assert_eq!(xml.matches("<testcase ").count(), checks.len());
    assert_eq!(xml.matches("<failure ").count(), count("fail"));
    assert_eq!(xml.matches("<skipped ").count(), count("skip"));
    assert_eq!(xml.matches("<system-out>WARN: ").count(), count("warn"));
    assert!(xml.contains("name=\"encrypt.cdiv [key]\"><failure type=\"KMSInvalidStateException\""));
    let totals = format!("tests=\"{}\" failures=\"{}\"", checks.len(), count("fail"));
    assert!(xml.contains(&totals), "{xml}");

    // A proxy that cannot be reached is reported too.
    let nobody = format!("http://127.0.0.1:{}/store", crate::common::proxy::free_port());
    let run = probe(&[&nobody, "--key-id", "key", "--insecure-http", "--junit", junit]);
    assert_eq!((run.code, run.failed()), (Some(69), vec!["network.reachable"]), "{}", run.text);
    let xml = std::fs::read_to_string(&file).unwrap();
    assert!(xml.contains("name=\"network.reachable\"><failure"), "{xml}");
}

fn update(file: &Path) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/certificate/update-authorities");
    let output = Command::new(script).arg(file).arg("2026-11-29").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The script that updates the list keeps names and fingerprints, and refuses a file in which one
/// is missing.
#[test]
fn authorities_are_updated() {
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("TrustedCertificateAuthorities");
    let digits = |byte: &str| vec![byte; 32].join(":");
    let (one, two) = (digits("0A"), digits("FF"));
    let entry = |name: &str, more: &str| {
        format!(
            "Alias name: x\nOwner: {name}\nIssuer: {name}\nValid from: x until: y\n{more}*****\n"
        )
    };
    let first =
        entry("CN=One, O=\"Example, Inc.\", C=US", &format!("\t SHA1: 00\n\t SHA256: {one}\n"));
    let second = entry("CN=Főtanúsítvány", &format!("\t SHA256: {two}     .7\n"));
    std::fs::write(&file, format!("{first}{second}")).unwrap();
    let (is_right, list) = update(&file);
    assert!(is_right, "{list}");
    let lines: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        "Owner: CN=One, O=\"Example, Inc.\", C=US".to_owned(),
        format!("SHA256: {one}"),
        "Owner: CN=Főtanúsítvány".to_owned(),
        format!("SHA256: {two}"),
    ];
    assert_eq!(lines, expected);
    let parsed = Authorities::parse(&list).unwrap();
    assert_eq!((parsed.count(), parsed.date.as_deref()), (2, Some("2026-11-29")));
    assert!(list.contains("# Source: https://github.com/aws/aws-kms-xksproxy-api-spec"));
    // The proxy reads AWS's own file as well.
    let own = Authorities::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert!(own.has(&[0x0a; 32]) && own.has(&[0xff; 32]) && own.count() == 2);

    std::fs::write(&file, format!("{first}{}", entry("CN=Two", ""))).unwrap();
    let (is_right, told) = update(&file);
    assert!(!is_right && told.contains("2 names and 1 fingerprints"), "{told}");
}

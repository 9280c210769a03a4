//! `[[syslog]]`: nothing is forwarded by default, and nothing in the clear to other machines.

use std::path::PathBuf;

use xks_proxy::observe::syslog::{Address, Facility, SyslogConfig};
use xks_proxy::settings::{Finding, Severity};

use crate::tls_files::self_signed;
use crate::{Place, RIGHT, mistakes};

/// Loads the right file with this text at its end.
fn load(place: &Place, text: &str) -> Result<(Vec<SyslogConfig>, Vec<Finding>), Vec<Finding>> {
    let loaded = place.load_with(&format!("{RIGHT}\n{text}\n"), true, &|_| None);
    loaded.map(|(settings, findings)| (settings.syslog, findings))
}

fn section(members: &str) -> String {
    format!("[[syslog]]\n{members}")
}

fn audit(place: &Place) -> String {
    let key = place.write("key", "0123456789abcdef".repeat(4));
    format!("[audit]\ndirectory = \"/var/log\"\nkey_file = \"{key}\"\n")
}

fn code(facility: Option<Facility>) -> Option<u8> {
    facility.map(|facility| facility as u8 >> 3)
}

#[test]
fn none_by_default() {
    assert!(load(&Place::new(), "").unwrap().0.is_empty());
}

/// The audit log's lines are sent only if there is an audit log.
#[test]
fn defaults() {
    let place = Place::new();
    let text = section("server = \"unix:/dev/log\"");
    for (text, of_audit) in [(text.clone(), None), (audit(&place) + &text, Some(10))] {
        let (collectors, findings) = load(&place, &text).unwrap();
        assert!(!findings.iter().any(|it| it.severity == Severity::Warning), "{findings:?}");
        let [collector] = collectors.as_slice() else { panic!("{collectors:?}") };
        assert_eq!(collector.address, Address::UnixDatagram(PathBuf::from("/dev/log")));
        assert_eq!(collector.tag, "xks-proxy");
        assert_eq!((code(collector.log), code(collector.audit)), (Some(3), of_audit));
    }
}

/// Several collectors, with all members.
#[test]
fn all_members() {
    let place = Place::new();
    let (cert, key) = self_signed(&["proxy"]).write(&place, "client");
    let text = audit(&place)
        + &section(
            "server = \"unix:/run/socket\"\ntransport = \"stream\"\nsend = \"log\"\n\
             facility = \"local7\"\ntag = \"kms\"\n",
        )
        + &section(&format!(
            "server = \"[2001:db8::1]:6514\"\ntransport = \"tls\"\nsend = \"audit\"\n\
             audit_facility = \"local0\"\nserver_ca_pem = \"{cert}\"\ntls_cert_pem = \"{cert}\"\n\
             tls_key_pem = \"{key}\"\n"
        ))
        + &section(
            "server = \"logs.example.com:601\"\ntransport = \"tcp\"\nallow_plain_remote = true\n",
        )
        + &section("server = \"127.0.0.1:601\"\ntransport = \"tcp\"\n");
    let (collectors, _) = load(&place, &text).unwrap();
    assert_eq!(collectors[0].address, Address::UnixStream(PathBuf::from("/run/socket")));
    assert_eq!(collectors[0].tag, "kms");
    assert_eq!((code(collectors[0].log), code(collectors[0].audit)), (Some(23), None));
    assert_eq!(collectors[1].address.name(), "[2001:db8::1]:6514");
    assert!(matches!(collectors[1].address, Address::Tls(..)));
    assert_eq!((code(collectors[1].log), code(collectors[1].audit)), (None, Some(16)));
    assert_eq!(collectors[2].address, Address::Tcp("logs.example.com:601".to_owned()));
    assert_eq!(collectors[3].address, Address::Tcp("127.0.0.1:601".to_owned()));
    assert!(!collectors[0].is_same(&collectors[1]) && collectors[1].is_same(&collectors[1]));
}

/// Each mistake is reported with its member, and with a way out.
#[test]
fn mistakes_in_it() {
    let place = Place::new();
    let (cert, _) = self_signed(&["proxy"]).write(&place, "client");
    let tls = "server = \"logs.example.com:6514\"\n";
    for (members, member, problem) in [
        ("".to_owned(), "server", "it is missing"),
        ("server = \"\"".to_owned(), "server", "neither a socket nor host and port"),
        ("server = \"logs\"".to_owned(), "server", "neither a socket nor host and port"),
        ("server = \"logs:0\"".to_owned(), "server", "neither a socket nor host and port"),
        ("server = \"a b:1\"".to_owned(), "server", "neither a socket nor host and port"),
        ("server = \"2001:db8::1\"".to_owned(), "server", "neither a socket nor host and port"),
        ("server = \"unix:log\"".to_owned(), "server", "is not the path of a socket"),
        (format!("server = \"unix:/{}\"", "d".repeat(107)), "server", "is not the path"),
        (
            "server = \"unix:/dev/log\"\ntransport = \"tcp\"".to_owned(),
            "transport",
            "does not fit the server",
        ),
        (format!("{tls}transport = \"datagram\""), "transport", "does not fit the server"),
        (format!("{tls}transport = \"tcp\""), "transport", "can be another machine, without TLS"),
        (format!("{tls}transport = \"udp\""), "transport", "is not a valid value"),
        (format!("{tls}send = \"audit\""), "send", "there is no audit log to send"),
        (format!("{tls}tag = \"two words\""), "tag", "cannot be the name of the program"),
        (format!("{tls}tag = \"{}\"", "t".repeat(43)), "tag", "cannot be the name of the program"),
        (format!("{tls}facility = \"kern\""), "facility", "is not a valid value"),
        (format!("{tls}tls_cert_pem = \"{cert}\""), "tls_key_pem", "it is missing"),
        (format!("{tls}tls_key_pem = \"{cert}\""), "tls_key_pem", "no PRIVATE KEY section"),
        (format!("{tls}server_ca_pem = \"/nonexistent\""), "server_ca_pem", "cannot be read"),
    ] {
        let findings = load(&place, &section(&members)).unwrap_err();
        let told = mistakes(&findings);
        let member = format!("syslog[0].{member}");
        let found = told.iter().find(|it| it.member == member && it.problem.contains(problem));
        let found = found.unwrap_or_else(|| panic!("{members}: {told:#?}"));
        assert!(!found.remedy.is_empty() && found.position.is_some(), "{found}");
    }
    let findings = load(&place, "[syslog]\nserver = \"unix:/dev/log\"").unwrap_err();
    assert!(mistakes(&findings)[0].remedy.contains("[[syslog]]"), "{findings:?}");
    let many = section("server = \"unix:/dev/log\"\n").repeat(9);
    let findings = load(&place, &many).unwrap_err();
    assert!(mistakes(&findings)[0].problem.contains("more than 8"), "{findings:?}");
}

/// Files for TLS that is not used.
#[test]
fn without_effect() {
    let place = Place::new();
    let text = section("server = \"unix:/dev/log\"\nserver_ca_pem = \"ca.pem\"");
    let (_, findings) = load(&place, &text).unwrap();
    let warning = findings.iter().find(|it| it.member == "syslog[0].server_ca_pem").unwrap();
    assert!(warning.problem.contains("no effect without TLS"), "{warning}");
}

/// The same lines are not sent to a collector twice; each log may have its own section.
#[test]
fn a_server_that_is_named_twice() {
    let place = Place::new();
    let server = "server = \"unix:/dev/log\"\n";
    let twice = |one: &str, other: &str| {
        let text = [one, other].map(|send| section(&format!("{server}send = \"{send}\"\n")));
        load(&place, &(audit(&place) + &text.concat()))
    };
    for (one, other) in [("all", "log"), ("audit", "all"), ("log", "log")] {
        let findings = twice(one, other).unwrap_err();
        let told = mistakes(&findings);
        let [mistake] = told.as_slice() else { panic!("{told:#?}") };
        assert_eq!(mistake.member, "syslog[1].server");
        assert!(mistake.problem.contains("syslog[0]"), "{mistake}");
        assert!(mistake.remedy.contains("send") && mistake.position.is_some(), "{mistake}");
    }
    assert_eq!(twice("log", "audit").unwrap().0.len(), 2);
}

//! No message and no `Debug` output contains a PIN or secret.

use crate::tls_files::self_signed;
use crate::{PIN, Place, RIGHT, SECRET, edited, quoted};

#[test]
fn debug_shows_no_secret() {
    let (settings, _) = Place::new().load(RIGHT).unwrap();
    let shown = format!("{settings:?} {:?}", settings.service());
    assert!(!shown.contains(PIN) && !shown.contains(SECRET), "{shown}");
}

/// Common ways to get a secret wrong: swapped, without quotes, with a space, truncated.
#[test]
fn no_message_shows_a_secret() {
    let place = Place::new();
    let id = "\"ABCDEFGHIJKLMNOPQRSTUVWX\"";
    let secret = format!("\"{SECRET}\"");
    let pin = format!("\"{PIN}\"");
    let texts = [
        edited(id, &secret),
        edited(&secret, &format!("\"{SECRET} \"")),
        edited(&secret, &format!("\"{SECRET}{SECRET}\"")),
        edited(&secret, SECRET),
        edited(&secret, &format!("\"{SECRET}")),
        edited(&secret, &format!("[\"{SECRET}\"]")),
        edited(&pin, PIN),
        edited(&pin, &format!("\"{PIN}")),
        edited(&pin, &format!("[\"{PIN}\"]")),
        edited("user_pin = ", "user_pin "),
        edited("user_pin = ", "user_pni = "),
        edited("user_pin", "user_pin = \"x\"\nuser_pin"),
    ];
    for text in texts {
        let findings = match place.load(&text) {
            Ok((_, findings)) | Err(findings) => findings,
        };
        assert!(!findings.is_empty());
        for finding in findings {
            let shown = format!("{finding} {finding:?}");
            assert!(!shown.contains(PIN) && !shown.contains(&SECRET[..16]), "{shown}");
        }
    }
}

/// Members that name a file, and a secret, or a PEM text, in place of the name.
#[test]
fn a_secret_in_place_of_a_path_is_not_shown() {
    let place = Place::new();
    let (cert, key) = self_signed(&["xks.example.com"]).write(&place, "server");
    let pem = format!("'''\n{}'''", std::fs::read_to_string(&key).unwrap());
    let tls_on = |text: &str| text.replacen("is_tls_enabled = false", "is_tls_enabled = true", 1);
    let tls = |cert: &str, key: &str, more: &str| {
        let tls = format!("[tls]\ntls_cert_pem = {cert}\ntls_key_pem = {key}\n{more}\n[pkcs11]\n");
        tls_on(&edited("[pkcs11]\n", &tls))
    };
    let (cert, key) = (quoted(&cert), quoted(&key));
    let slashed = "/Hush/HushHushHushHushHushHushHushHushHushHushHush";
    let add = |section: &str, members: &str| format!("{RIGHT}\n[{section}]\n{members}\n");
    let security = |members: &str| edited("[security]", &format!("[security]\n{members}"));
    for secret in [quoted(PIN), quoted(SECRET), quoted(slashed), pem] {
        let pin_file = format!("user_pin_file = {secret}");
        let key_file = format!("sigv4_secret_access_key_file = {secret}");
        let policy = |language: &str, section: &str| {
            let policy = format!("[security.{section}]\npolicy_file = {secret}\n[[external_key");
            security(&format!("secondary_auth = \"{language}\"")).replacen(
                "[[external_key",
                &policy,
                1,
            )
        };
        let texts = [
            edited(&format!("user_pin = \"{PIN}\""), &pin_file),
            edited(&format!("sigv4_secret_access_key = \"{SECRET}\""), &key_file),
            edited("PKCS11_HSM_MODULE = \"MODULE\"", &format!("PKCS11_HSM_MODULE = {secret}")),
            add("[pkcs11.tokens]", &format!("label = \"a\"\nmodule = {secret}")),
            add("[pkcs11.tokens]", &format!("label = \"a\"\n{pin_file}")),
            tls(&secret, &key, ""),
            tls(&cert, &secret, ""),
            tls(&cert, &key, &format!("mtls_client_ca_pem = {secret}")).replacen(
                "is_mtls_enabled = false",
                "is_mtls_enabled = true",
                1,
            ),
            add("admin", &format!("port = 9\ntls_cert_pem = {secret}\ntls_key_pem = {key}")),
            add("admin", &format!("port = 9\ntls_cert_pem = {cert}\ntls_key_pem = {secret}")),
            add(
                "admin",
                &format!(
                    "port = 9\ntls_cert_pem = {cert}\ntls_key_pem = {key}\nclient_ca_pem = {secret}"
                ),
            ),
            add("audit", &format!("directory = \"/no/such\"\nkey_file = {secret}")),
            policy("Cedar", "cedar"),
            policy("Rego", "rego"),
            security(&format!("landlock = true\nlandlock_read = [{secret}]")),
            security(&format!("landlock = true\nlandlock_write = [{secret}]")),
        ];
        for text in texts {
            let findings = match place.load(&text) {
                Ok((_, findings)) | Err(findings) => findings,
            };
            let shown: Vec<String> = findings.iter().map(|it| format!("{it} {it:?}")).collect();
            assert!(shown.iter().any(|it| it.contains("(not shown)")), "{shown:#?}\n{text}");
            for part in [PIN, &SECRET[..16], "PRIVATE KEY", "MIGHAg"] {
                assert!(!shown.iter().any(|it| it.contains(part)), "{shown:#?}\n{text}");
            }
        }
    }
}

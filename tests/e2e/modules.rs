//! PKCS#11 modules other than SoftHSM2, which differ in handles, errors and empty inputs.

use std::path::Path;

use crate::calls::four_calls;
use crate::common::token::{self, Module};
use crate::common::{Interposed, Setup, settings, tools, xks};

#[test]
fn kryoptic() {
    serves(Setup::with_module(Module::Kryoptic));
}

/// Each call of p11-kit's C_GetFunctionList returns a separate instance, which does not know the
/// others' sessions. It also shows the tokens of other modules.
#[test]
fn p11_kit_proxy() {
    let tokens = tokens_of(Module::P11Kit);
    serves(Setup::with_module(Module::P11Kit).set("pkcs11.tokens", tokens));
}

/// Two entries that lead to one token, in one module or in two that both show it: the proxy does not
/// start, `check --hsm` fails, and a reload is refused, all for this reason.
#[test]
fn one_token_named_twice() {
    let softhsm2 = tools::softhsm2_module();
    let named = |module: &Path, name: &str, value: &str| {
        let members = [("module", module.to_str().unwrap()), ("user_pin", "1234"), (name, value)];
        let members = members.map(|(name, value)| (name.to_owned(), toml::Value::from(value)));
        toml::Value::Table(members.into_iter().collect())
    };
    let by_label = named(&softhsm2, "label", token::LABEL);
    let mut proxy = Setup::new().set("pkcs11.tokens", vec![by_label.clone()]).start();
    let log = proxy.log_with("serial=");
    let serial = log.split_once("serial=").unwrap().1.split(' ').next().unwrap().to_owned();
    for module in [softhsm2.clone(), tools::p11_kit_proxy()] {
        let both = vec![by_label.clone(), named(&module, "serial", &serial)];
        proxy.change_settings(|table| settings::set(table, "pkcs11.tokens", both));
        // p11-kit-proxy initialises SoftHSM2 too, which crashes if two threads do so at once.
        for _ in 0..10 {
            let (code, printed) = proxy.run(&["check", "--hsm"]);
            assert!(code.is_some_and(|code| code != 0), "{code:?}: {printed}");
            assert!(printed.contains("lead to one token"), "{printed}");
        }
    }
    // A module that takes as long to initialise as p11-kit's may be found out only after the start,
    // which waits for no HSM.
    let both = vec![by_label.clone(), named(&softhsm2, "serial", &serial)];
    proxy.change_settings(|table| settings::set(table, "pkcs11.tokens", both));
    let (code, printed) = proxy.run(&[]);
    assert_eq!(code, Some(78), "{printed}");
    assert!(printed.contains("lead to one token"), "{printed}");
    proxy.signal("HUP");
    proxy.wait_for("the new settings to be refused", |proxy| {
        let log = proxy.log();
        log.contains("lead to one token") && log.contains("the new settings are refused")
    });
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
}

/// Returns `[[pkcs11.tokens]]` with the module's token only.
fn tokens_of(module: Module) -> toml::Value {
    let named = toml::Table::from_iter([("label".to_owned(), module.token_label().into())]);
    toml::Value::Array(vec![named.into()])
}

fn serves(setup: Setup) {
    let mut proxy = setup.tls().start();
    four_calls(&proxy, b"");

    let client = proxy.client();
    let mut encrypted = xks::encrypt_here(&token::FULL, b"plaintext", None, b"");
    encrypted["authenticationTag"] = xks::base64(&[0; 16]).into();
    let decrypt = xks::decrypt(&encrypted, None);
    client.call("keys/foo/decrypt", &decrypt).assert_error(400, "InvalidCiphertextException");
    let encrypt = xks::encrypt(b"plaintext", None);
    let refused = client.call("keys/decrypt_only_key/encrypt", &encrypt);
    refused.assert_error(400, "InvalidKeyUsageException");
    let missing = client.call("keys/later_key/encrypt", &encrypt);
    missing.assert_error(404, "KeyNotFoundException");
    proxy.token().add(&token::LATER);
    proxy.wait_for("the new key to be found", |_| {
        client.call("keys/later_key/encrypt", &encrypt).status == 200
    });
}

/// If a token has more objects than the proxy lists, keys are looked up individually, and none is
/// reported as missing.
#[test]
fn more_objects_than_are_listed() {
    let mut proxy = Interposed::with(Setup::new(), "[odd]\nfind_strays = 100000");
    four_calls(&proxy, b"");
    let client = proxy.client();
    let missing = client.call("keys/later_key/encrypt", &xks::encrypt(b"plaintext", None));
    missing.assert_error(404, "KeyNotFoundException");
    proxy.wait_for("the log to tell", |proxy| {
        let log = proxy.log();
        log.contains("the token has more AES keys than are listed") && log.contains("missing=")
    });
    let log = proxy.log();
    assert!(log.contains("found=10 missing=0") && !log.contains("were deleted"), "{log}");
}

/// The log warns of the cost of a module that allows only one calling thread at a time.
#[test]
fn a_module_that_is_not_thread_safe() {
    let proxy = Interposed::with(Setup::new(), "[odd]\ninitialize = \"no_os_locking\"");
    four_calls(&proxy, b"");
    let log = proxy.log();
    assert!(log.contains("is not thread-safe") && log.contains("CKR_CANT_LOCK"), "{log}");
}

/// The profile that `probe-hsm` prints for each module works once pasted into the settings. The
/// command runs without `[hsm_capabilities]`, which it is meant to determine. (For opencryptoki,
/// which has no AES-GCM, `opencryptoki_cannot_serve` of tests/hsm/real/modules.rs tests the
/// output.)
#[test]
fn a_probed_profile_serves() {
    for (module, name) in
        [(Module::SoftHsm2, "softhsm2"), (Module::Kryoptic, "kryoptic"), (Module::Nss, "nss")]
    {
        let setup = Setup::with_module(module).set("pkcs11.tokens", tokens_of(module));
        let mut proxy = setup.start();
        proxy.change_settings(|table| {
            table.remove("hsm_capabilities").expect("the section");
        });
        let probe = ["probe-hsm", "--max-sessions", "2", "--milli", "10"];
        let (code, printed) = proxy.run(&probe);
        assert_eq!(code, Some(0), "{printed}");
        let (_, profile) = printed.split_once("[hsm_capabilities]\n").expect("a profile to paste");
        let members: Vec<_> = profile.lines().take_while(|line| !line.trim().is_empty()).collect();
        assert_eq!(members[0].trim(), format!("profile = \"{name}\""), "{printed}");
        let section: toml::Table = members.join("\n").parse().unwrap();
        proxy.change_settings(|table| {
            table.insert("hsm_capabilities".to_owned(), section.into());
        });
        proxy.signal("TERM");
        proxy.wait_for_end();
        proxy.restart();
        four_calls(&proxy, b"");
    }
}

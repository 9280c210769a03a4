//! Another PKCS#11 module than SoftHSM2, with its own ideas of handles, errors and empty inputs.

use crate::calls::four_calls;
use crate::common::token::{self, Module};
use crate::common::{Interposed, Setup, xks};

#[test]
fn kryoptic() {
    serves(Setup::with_module(Module::Kryoptic));
}

/// Each call of its C_GetFunctionList gives an instance of its own, which knows no other's sessions.
/// It shows tokens of other modules too.
#[test]
fn p11_kit_proxy() {
    let tokens = tokens_of(Module::P11Kit);
    serves(Setup::with_module(Module::P11Kit).set("pkcs11.tokens", tokens));
}

/// `[[pkcs11.tokens]]` that names the module's token alone.
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

/// Keys of a token that has more objects than are listed are looked up one by one, and none of them is
/// said to be missing.
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

/// The log says what a module costs that is called by one thread at a time.
#[test]
fn a_module_that_is_not_thread_safe() {
    let proxy = Interposed::with(Setup::new(), "[odd]\ninitialize = \"no_os_locking\"");
    four_calls(&proxy, b"");
    let log = proxy.log();
    assert!(log.contains("is not thread-safe") && log.contains("CKR_CANT_LOCK"), "{log}");
}

/// The profile that `probe-hsm` prints for each module serves once it is pasted into the settings.
/// The command is run without `[hsm_capabilities]`, which it is there to find. (Of opencryptoki, which
/// has no AES-GCM, `opencryptoki_cannot_serve` of tests/hsm/real/modules.rs tests what is printed.)
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

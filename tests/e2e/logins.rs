//! The number of times that a running proxy tries a PIN, and the operator's command to retry.

use std::time::Duration;

use crate::common::{Interposed, Setup, xks};

/// Settings of the module for a token with CKF_USER_PIN_FINAL_TRY.
const FINAL_TRY: &str = "[odd]\ntoken_flags_set = 0x20000\n";

/// Returns the number of logins, after the module has written its counts (every 100 ms).
fn logins(proxy: &Interposed) -> i64 {
    std::thread::sleep(Duration::from_millis(500));
    proxy.counts().calls("C_Login")
}

/// Ten reloads, each with other tokens, do not retry a refused PIN, but a new PIN in the settings
/// is tried. Another process tries once for itself.
#[test]
fn a_wrong_pin_through_reloads() {
    let setup = Setup::new().set("pkcs11.user_pin", "4321").set("server.pid_file", "proxy.pid");
    let mut proxy = Interposed::listening(setup, "");
    proxy.log_with("CKR_PIN_INCORRECT");
    for sessions in 11..21 {
        proxy.change_settings(|table| {
            table["pkcs11"]["session_pool_max_size"] = sessions.into();
        });
        let (code, output) = proxy.reload();
        assert_eq!(code, Some(0), "{output}");
        proxy.log_with(&format!("max_sessions={sessions}"));
    }
    assert_eq!(logins(&proxy), 1);

    proxy.signal("TERM");
    proxy.start_again();
    proxy.log_with("CKR_PIN_INCORRECT");
    assert_eq!(logins(&proxy), 1, "of the new process");

    proxy.change_settings(|table| {
        table["pkcs11"]["user_pin"] = crate::common::token::PIN.into();
    });
    let (code, output) = proxy.reload();
    assert_eq!(code, Some(0), "{output}");
    proxy.wait_for("the PIN that is right now", |proxy| proxy.get("/readyz").status == 200);
    assert_eq!(logins(&proxy), 2);
}

/// A token that one more wrong PIN would lock gets no login, even over restarts, until an operator
/// asks for one.
#[test]
fn the_final_try_is_an_operators() {
    let mut proxy = Interposed::listening(Setup::new(), FINAL_TRY);
    for _ in 0..2 {
        proxy.log_with("retry-login");
        assert_eq!(proxy.get("/readyz").status, 503);
        assert_eq!(logins(&proxy), 0);
        proxy.signal("TERM");
        proxy.start_again();
    }
    proxy.log_with("retry-login");
    let pid = proxy.pid().to_string();
    let (code, output) = proxy.run(&["hsm", "retry-login", "--pid", &pid]);
    assert_eq!(code, Some(0), "{output}");
    proxy.wait_for("the login", |proxy| proxy.get("/readyz").status == 200);
    proxy.client().call("keys/foo/encrypt", &xks::encrypt(b"x", None)).ok();
    assert_eq!(logins(&proxy), 1);

    // Only a proxy that handles the signal gets it: it would end any other program.
    let own = std::process::id().to_string();
    let (code, output) = proxy.run(&["hsm", "retry-login", "--pid", &own]);
    assert_eq!(code, Some(69), "{output}");
}

//! Number of times that a PIN is tried: C_Login counted by the interposer, across reloads and lost
//! tokens.

use std::time::Duration;

use crate::caller::*;
use crate::interposed::*;
use crate::tokens::*;
use crate::tools;
use xks_proxy::hsm::config::TokenSelector;
use xks_proxy::hsm::pkcs11::pin_tries;
use xks_proxy::job::Failure;

const REFUSE: &str = "[[fault]]\nfunctions = [\"C_Login\"]\nreturn = ";
const FINAL_TRY: &str = "[odd]\ntoken_flags_set = 0x20000\n";
const LOCKED: &str = "[odd]\ntoken_flags_set = 0x40000\n";

fn trouble(caller: &Caller) -> String {
    caller.hsm.stats().remove(0).trouble.unwrap_or_default()
}

fn stop(caller: &Caller) {
    assert!(caller.hsm.stop(Duration::from_secs(10)));
}

/// Number of times that the PIN is passed to the token "one" by ten consecutive fleets, as reloads
/// start them, each of which gets a request and an inventory, and by three that find the token away
/// at first.
fn logins(interposed: &mut Interposed, pin: &str, settings: &str) -> u64 {
    interposed.set(settings);
    let before = interposed.count("C_Login");
    let mut slot = 0;
    for _ in 0..10 {
        let mut caller = Interposed::start(&["one"], pin);
        assert_eq!(caller.encrypt(0, b"x"), Err(Failure::NoToken));
        let inventory = caller.hsm.inventory().remove(0);
        assert!(inventory.trouble.is_some());
        slot = inventory.slot.unwrap().id;
        stop(&caller);
    }
    for _ in 0..3 {
        interposed.set(&format!("[[fault]]\nremove_token = true\nslot = {slot}\n{settings}"));
        let caller = Interposed::start(&["one"], pin);
        let is_away = || {
            let trouble = trouble(&caller);
            ["PRESENT", "REMOVED", "no initialised token"].iter().any(|it| trouble.contains(it))
        };
        eventually("the token is known to be away", is_away);
        interposed.set(settings);
        eventually("it is there, and not logged in to", || !is_away());
        stop(&caller);
    }
    interposed.count("C_Login") - before
}

/// A code about the PIN, another user's login or a login at the device: one try during the
/// process's life. Any other refusal, whatever its code: two.
#[test]
fn a_pin_is_spent_once() {
    in_child!("a_pin_is_spent_once", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        assert_eq!(logins(&mut interposed, "4321", ""), 1, "a wrong PIN");
        let by_code = [
            ("CKR_PIN_INVALID", 1),
            ("CKR_PIN_LEN_RANGE", 1),
            ("CKR_PIN_EXPIRED", 1),
            ("CKR_PIN_LOCKED", 1),
            ("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", 1),
            ("CKR_FUNCTION_FAILED", 2),
            ("CKR_ATTRIBUTE_TYPE_INVALID", 2),
        ];
        for (code, expected) in by_code {
            // Each code gets a different PIN, since tries are counted for each PIN.
            let settings = format!("{REFUSE}\"{code}\"\n");
            assert_eq!(logins(&mut interposed, code, &settings), expected, "{code}");
        }
        assert_eq!(logins(&mut interposed, "vendor", &format!("{REFUSE}0x80000001\n")), 2);
        let by_device = "[odd]\ntoken_flags_set = 0x100\n";
        assert_eq!(logins(&mut interposed, "", by_device), 1, "a protected authentication path");
        // The correct PIN differs from all of these.
        interposed.set("");
        assert_eq!(round_trip(&mut Interposed::start(&["one"], PIN), 1), Ok(()));
    });
}

/// A failure before the PIN is checked uses up no try, so logins are repeated until one succeeds.
#[test]
fn failures_before_the_check_do_not_count() {
    in_child!("failures_before_the_check_do_not_count", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        for code in ["CKR_TOKEN_NOT_PRESENT", "CKR_DEVICE_REMOVED", "CKR_SESSION_HANDLE_INVALID"] {
            interposed.set(&format!("{REFUSE}\"{code}\"\n"));
            let before = interposed.count("C_Login");
            let mut caller = Interposed::start(&["one"], PIN);
            eventually("it was tried often", || interposed.count("C_Login") - before > 4);
            interposed.set("");
            eventually("it is logged in", || round_trip(&mut caller, 1).is_ok());
            stop(&caller);
        }
    });
}

/// With one try left before the token locks, none is made unless an operator allows it, for one
/// try.
#[test]
fn the_final_try_is_an_operators() {
    in_child!("the_final_try_is_an_operators", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        assert_eq!(logins(&mut interposed, PIN, FINAL_TRY), 0);
        interposed.set(FINAL_TRY);
        let before = interposed.count("C_Login");
        let mut caller = Interposed::start(&["one"], PIN);
        assert!(trouble(&caller).contains("retry-login"), "{}", trouble(&caller));
        assert_eq!(pin_tries::grant_one_more(), 1);
        eventually("it is logged in", || round_trip(&mut caller, 1).is_ok());
        assert_eq!(interposed.count("C_Login") - before, 1);
        assert_eq!(pin_tries::grant_one_more(), 0, "it is used up");
    });
}

/// A token that was locked and no longer is gets one more try, without an operator.
#[test]
fn an_unlocked_token_is_tried_once_more() {
    in_child!("an_unlocked_token_is_tried_once_more", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        let locked = format!("{REFUSE}\"CKR_PIN_LOCKED\"\n{LOCKED}");
        assert_eq!(logins(&mut interposed, PIN, &locked), 1);
        let mut caller = Interposed::start(&["one"], PIN);
        assert!(trouble(&caller).contains("locked"), "{}", trouble(&caller));
        let before = interposed.count("C_Login");
        interposed.set("");
        eventually("it is logged in", || round_trip(&mut caller, 1).is_ok());
        assert_eq!(interposed.count("C_Login") - before, 1);
    });
}

/// If the slot's token has been replaced since the configured one was found, it does not get the
/// PIN.
#[test]
fn a_stranger_gets_no_pin() {
    in_child!("a_stranger_gets_no_pin", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        // The first C_GetTokenInfo of each slot is that of the listing. Sessions cannot be opened
        // until the slot's token has been replaced.
        interposed.set("[[fault]]\nfunctions = [\"C_OpenSession\"]\nhang = \"20s\"");
        let before = interposed.count("C_Login");
        let mut caller = Interposed::start(&["one"], PIN);
        eventually("a session is about to be opened", || interposed.count("C_OpenSession") > 0);
        interposed.set("[odd]\nserial = \"a stranger's\"");
        eventually("it is seen", || {
            trouble(&caller).contains("stranger") || trouble(&caller).contains("no initialised")
        });
        assert_eq!(interposed.count("C_Login") - before, 0);
        interposed.set("");
        eventually("it is the one that was meant again", || round_trip(&mut caller, 1).is_ok());
    });
}

/// A token that is reached through two module files is one token: its PIN is not tried once for
/// each file.
#[test]
fn another_module_file_is_no_other_token() {
    in_child!("another_module_file_is_no_other_token", Interposed::environment, |directory| {
        let interposed = Interposed::new(directory);
        let before = interposed.count("C_Login");
        let select = TokenSelector::Label("one".to_owned());
        let direct = token(tools::softhsm2_module(), select, "4321", 4);
        let caller = Caller::start(config(vec![direct], &LABELS));
        assert!(trouble(&caller).contains("CKR_PIN_INCORRECT"), "{}", trouble(&caller));
        stop(&caller);
        let caller = Interposed::start(&["one"], "4321");
        assert!(trouble(&caller).contains("CKR_PIN_INCORRECT"), "{}", trouble(&caller));
        assert_eq!(interposed.count("C_Login") - before, 0);
        stop(&caller);
    });
}

/// A token that requires no login may refuse the empty PIN and still serve. The refusal counts like
/// any other: the next fleet does not log in again.
#[test]
fn a_needless_login_is_tried_once() {
    in_child!("a_needless_login_is_tried_once", Interposed::environment, |directory| {
        /// Token flags without CKF_LOGIN_REQUIRED.
        const NOT_REQUIRED: &str = "[odd]\ntoken_flags_cleared = 0x4\n";
        let mut interposed = Interposed::new(directory);
        interposed.set(NOT_REQUIRED);
        let before = interposed.count("C_Login");
        for _ in 0..10 {
            let mut caller = Interposed::start(&["one"], "");
            // The token's keys are private, so none is visible without a login.
            assert_eq!(caller.encrypt(0, b"x"), Err(Failure::KeyNotFound));
            stop(&caller);
        }
        assert_eq!(interposed.count("C_Login") - before, 1);
    });
}

/// A token that was removed during the login has not shown that it needs no login.
#[test]
fn an_absent_token_needs_its_login() {
    in_child!("an_absent_token_needs_its_login", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        interposed
            .set(&format!("{REFUSE}\"CKR_DEVICE_REMOVED\"\n[odd]\ntoken_flags_cleared = 0x4\n"));
        let before = interposed.count("C_Login");
        let caller = Interposed::start(&["one"], "");
        eventually("it is tried again", || interposed.count("C_Login") - before > 2);
        stop(&caller);
    });
}

/// CKR_USER_ALREADY_LOGGED_IN says nothing about the PIN, so it does not cancel earlier refusals.
#[test]
fn a_login_of_another_is_no_success() {
    in_child!("a_login_of_another_is_no_success", Interposed::environment, |directory| {
        let mut interposed = Interposed::new(directory);
        interposed.set(&format!(
            "{REFUSE}\"CKR_FUNCTION_FAILED\"\ncount = 1\n\
             {REFUSE}\"CKR_USER_ALREADY_LOGGED_IN\"\ncount = 1\n\
             {REFUSE}\"CKR_FUNCTION_FAILED\"\n"
        ));
        let before = interposed.count("C_Login");
        let caller = Interposed::start(&["one"], PIN);
        eventually("it is not tried again", || trouble(&caller).contains("refused 2 times"));
        assert_eq!(interposed.count("C_Login") - before, 3, "two refusals and the one between");
        stop(&caller);
    });
}

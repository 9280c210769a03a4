//! `[[pkcs11.tokens]]`, hedging, and the effect of profiles.

use std::time::Duration;

use xks_proxy::hsm::config::{HedgeAfter, Hedging, IvMode, TokenConfig, TokenSelector};
use xks_proxy::settings::Finding;

use crate::{Place, RIGHT, edited, mistakes};

/// [`RIGHT`] with this text after the members of `[pkcs11]`.
fn with(text: &str) -> String {
    edited("allow_ambiguous_labels = false\n", &format!("{text}\n"))
}

fn tokens(text: &str) -> Vec<TokenConfig> {
    let (settings, findings) = Place::new().load(text).unwrap();
    assert!(mistakes(&findings).is_empty());
    settings.pkcs11.tokens
}

/// A file of the reference proxy names no token, and gets the first one.
#[test]
fn without_tokens_it_is_the_first() {
    let tokens = tokens(RIGHT);
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].select, TokenSelector::First);
    assert_eq!((tokens[0].weight, tokens[0].priority), (1, 0));
}

/// A token inherits the members of `[pkcs11]` that it does not set itself.
#[test]
fn tokens_inherit() {
    let place = Place::new();
    let own = place.write("own.so", "");
    let text = with(&format!(
        "initialize_parameters = \"p\"\n\
         [[pkcs11.tokens]]\nlabel = \"a  \"\n\
         [[pkcs11.tokens]]\nserial = \"01\"\nuser_pin = \"other\"\nsession_pool_max_size = 3\n\
         weight = 5\npriority = 1\n\
         [[pkcs11.tokens]]\nslot = 7\nmodule = \"{own}\"\nuser_pin = \"its\"\n\
         profile = \"cloudhsm\""
    ));
    let (settings, _) = place.load(&text).unwrap();
    let [a, b, c] = settings.pkcs11.tokens.as_slice() else { panic!("three") };
    assert_eq!(a.select, TokenSelector::Label("a".to_owned()));
    assert_eq!((a.user_pin.expose().as_str(), a.max_sessions), ("hush-4711", 30));
    assert_eq!((a.iv_mode, a.initialize_parameters.as_deref()), (IvMode::Random, Some("p")));
    assert_eq!(b.select, TokenSelector::Serial("01".to_owned()));
    assert_eq!((b.user_pin.expose().as_str(), b.max_sessions), ("other", 3));
    assert_eq!((b.weight, b.priority), (5, 1));
    assert_eq!(c.select, TokenSelector::Slot(7));
    assert_eq!((c.module.to_str(), c.initialize_parameters.as_deref()), (Some(&*own), None));
    assert_eq!(c.iv_mode, IvMode::ZeroedBuffer);
    assert_eq!(c.rules.max_operation_bytes, Some(16 * 1024));
    assert!(c.rules.is_read_write_only && !a.rules.is_read_write_only);
}

/// A PIN is never passed to another module's token by default. A different path to the same module
/// does not make it another module.
#[test]
fn a_pin_is_for_its_module() {
    let place = Place::new();
    let own = place.write("own.so", "");
    let token = format!("[[pkcs11.tokens]]\nlabel = \"a\"\nmodule = \"{own}\"\n");
    let findings = place.load(&with(&token)).unwrap_err();
    let mistakes = mistakes(&findings);
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert_eq!(mistakes[0].member, "pkcs11.tokens[0].user_pin");
    assert!(mistakes[0].problem.contains("only for the module there"), "{mistakes:?}");
    place.load(&with(&format!("{token}user_pin = \"\"\n"))).unwrap();
    place.load(&with("[[pkcs11.tokens]]\nlabel = \"a\"\nmodule = \"MODULE\"\n")).unwrap();
}

/// If each token sets all members, `[pkcs11]` and `[hsm_capabilities]` may be left out.
#[test]
fn tokens_that_say_all() {
    let token = "[[pkcs11.tokens]]\nlabel = \"a\"\nmodule = \"MODULE\"\nuser_pin = \"x\"\n\
                 session_pool_max_size = 2\nprofile = \"luna\"\n";
    let text = with(token)
        .replacen("session_pool_max_size = 30\n", "", 1)
        .replacen("user_pin = \"hush-4711\"\n", "", 1)
        .replacen("PKCS11_HSM_MODULE = \"MODULE\"\n", "", 1)
        .replacen(
            "[hsm_capabilities]\ncan_generate_iv = false\nis_zero_iv_required = false\n",
            "",
            1,
        );
    let tokens = tokens(&text);
    assert_eq!((tokens.len(), tokens[0].iv_mode), (1, IvMode::Appended));
}

/// Every mistake is reported with its place.
#[test]
fn slips() {
    for (text, member, problem) in [
        ("tokens = 3", "pkcs11.tokens", "not a list"),
        ("tokens = []", "pkcs11.tokens", "there are 0"),
        ("[pkcs11.tokens]\nlabel = \"a\"", "pkcs11.tokens", "single section"),
        ("[[pkcs11.tokens]]\nlabel = 1", "pkcs11.tokens[0].label", "not a string"),
        ("[[pkcs11.tokens]]\nlabel = \" \"", "pkcs11.tokens[0].label", "empty"),
        ("[[pkcs11.tokens]]\nslot = -1", "pkcs11.tokens[0].slot", "out of range"),
        (
            "[[pkcs11.tokens]]\nlabel = \"a\"\nserial = \"b\"",
            "pkcs11.tokens[0].serial",
            "label and serial",
        ),
        (
            "[[pkcs11.tokens]]\nlabel = \"a\"\n[[pkcs11.tokens]]\nweight = 2",
            "pkcs11.tokens[1]",
            "does not identify",
        ),
        (
            "[[pkcs11.tokens]]\nlabel = \"a\"\n[[pkcs11.tokens]]\nlabel = \"a\"",
            "pkcs11.tokens[1]",
            "same token as pkcs11.tokens[0]",
        ),
        ("[[pkcs11.tokens]]\nweight = 0", "pkcs11.tokens[0].weight", "out of range"),
        ("[[pkcs11.tokens]]\npriority = 1001", "pkcs11.tokens[0].priority", "out of range"),
        ("[[pkcs11.tokens]]\nmodule = \"/no\"", "pkcs11.tokens[0].module", "cannot be read"),
        ("[[pkcs11.tokens]]\nprofile = \"yubihsm2\"", "pkcs11.tokens[0].profile", "no AES-GCM"),
        (
            "[[pkcs11.tokens]]\ncan_generate_iv = true",
            "pkcs11.tokens[0].is_zero_iv_required",
            "missing",
        ),
        ("hedge_after_milli = -5", "pkcs11.hedge_after_milli", "out of range"),
        ("hedge_budget_percent = 101", "pkcs11.hedge_budget_percent", "out of range"),
        ("exit_when_wedged = 1", "pkcs11.exit_when_wedged", "not a boolean"),
    ] {
        let findings = Place::new().load(&with(text)).unwrap_err();
        let is_it = |it: &&Finding| it.member == member && it.problem.contains(problem);
        assert!(mistakes(&findings).iter().any(is_it), "{text}: {findings:#?}");
    }
}

/// A member that is set in neither place is reported as missing.
#[test]
fn nowhere_said() {
    let text =
        with("[[pkcs11.tokens]]\nlabel = \"a\"").replacen("user_pin = \"hush-4711\"\n", "", 1);
    let findings = Place::new().load(&text).unwrap_err();
    let mistakes = mistakes(&findings);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert_eq!(mistakes[0].member, "pkcs11.tokens[0].user_pin");
    assert!(mistakes[0].remedy.contains("[pkcs11]"));
}

/// A misspelt member is reported as in all other sections.
#[test]
fn unknown_members() {
    let text = with("[[pkcs11.tokens]]\nlable = \"a\"");
    let (_, findings) = Place::new().load(&text).unwrap();
    let warning = findings.iter().find(|it| it.member == "pkcs11.tokens[0].lable").unwrap();
    assert!(warning.remedy.contains("label"));
}

/// The three ways of setting when to hedge.
#[test]
fn hedging() {
    let hedging = |text: &str| Place::new().load(&with(text)).unwrap().0.pkcs11.hedging;
    assert_eq!(hedging(""), Hedging::default());
    assert_eq!(hedging("").budget_percent, 5);
    assert_eq!(hedging("hedge_after_milli = 0").after, HedgeAfter::Off);
    let fixed = HedgeAfter::Fixed(Duration::from_millis(20));
    let set = hedging("hedge_after_milli = 20\nhedge_budget_percent = 9");
    assert_eq!((set.after, set.budget_percent), (fixed, 9));
}

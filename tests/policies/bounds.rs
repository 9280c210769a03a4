//! Bounds on the time and the stack that a decision takes.

use std::sync::Arc;

use xks_proxy::limits::{EVENT_LOOP_STACK_BYTES, MAX_POLICY_NESTING};
use xks_proxy::policy::Attributes;
use xks_proxy::policy::decisions::Decisions;

use crate::{ENCRYPT, mistakes, of_text};

/// An evaluation that would never end is stopped, and its result is not cached.
#[test]
fn endless() {
    let text = "package xks\n\
        allow if {\n\tinput.store == \"/slow\"\n\tsome a in numbers.range(1, 5000)\n\
        \tsome b in numbers.range(1, 5000)\n\ta * b == -1\n}\n\
        allow if input.store == \"/fast\"\n";
    let policy = Arc::new(of_text("x.rego", text));
    let slow = Attributes { store: "/slow", ..ENCRYPT };
    let decision = policy.decide(&slow);
    assert!(!decision.is_allowed && !decision.is_lasting, "{decision:?}");
    assert!(decision.reason.contains("time"), "{decision:?}");
    // The engine still works as before.
    assert!(policy.decide(&Attributes { store: "/fast", ..ENCRYPT }).is_allowed);
    let mut decisions = Decisions::default();
    for _ in 0..2 {
        assert!(!decisions.decide(&policy, &slow).was_remembered);
    }
}

/// Deep nesting is reported as a mistake, and never overflows the stack.
#[test]
fn depth() {
    for (open, close) in [("(", ")"), ("[true].contains(", ")"), ("true && ", ""), ("!", "")] {
        for depth in [100, 10_000] {
            let condition = format!("{}true{}", open.repeat(depth), close.repeat(depth));
            let text = format!("permit (principal, action, resource) when {{ {condition} }};");
            let remarks = mistakes("x.cedar", &text);
            assert!(remarks[0].problem.contains("nests"), "{remarks:?}");
        }
    }
    let nested = format!("allow if {}true{}", "(".repeat(10_000), ")".repeat(10_000));
    let chain = |last: &str| {
        let rules: String = (1..100).map(|rule| format!("r{rule} if r{}\n", rule + 1)).collect();
        format!("allow if r1\n{rules}r100 if {last}")
    };
    for (rules, words) in [
        (nested, "nesting"),
        (chain("true"), "deep"),
        ("f(x) := y if y := f(x)\nallow if f(input.store)".to_owned(), "calls itself"),
        (
            "f(x) if data.xks.g(x)\ng(x) if data[\"xks\"].f(x)\nallow if g(1)".to_owned(),
            "calls itself",
        ),
        ("f(x) if r\nr if f(1)\nallow if r".to_owned(), "recursion"),
        ("allow if r\nr if s\ns if allow".to_owned(), "recursion"),
    ] {
        let remarks = mistakes("x.rego", &format!("package xks\n{rules}\n"));
        assert!(remarks[0].problem.contains(words), "{remarks:?}");
    }
}

/// The deepest nesting allowed can be evaluated on an event loop's stack, as in production.
#[test]
fn allowed_depth() {
    let depth = MAX_POLICY_NESTING - 10;
    let cedar = [
        format!("{}true", "context.call != \"x\" && ".repeat(depth)),
        format!("{}true{}", "(".repeat(depth), ")".repeat(depth)),
        format!("{}true", "if context.call == \"x\" then false else ".repeat(depth)),
    ];
    let rules: String = (1..depth).map(|rule| format!("r{rule} if r{}\n", rule + 1)).collect();
    let functions: String =
        (1..depth).map(|f| format!("f{f}(x) := y if y := f{}(x)\n", f + 1)).collect();
    let rego = [
        format!("allow if r1\n{rules}r{depth} if true"),
        format!("allow if f1(true)\n{functions}f{depth}(x) := x"),
    ];
    let texts = cedar
        .map(|condition| format!("permit (principal, action, resource) when {{ {condition} }};"))
        .map(|text| ("x.cedar", text))
        .into_iter()
        .chain(rego.map(|rules| ("x.rego", format!("package xks\n{rules}\n"))));
    for (file, text) in texts {
        let policy = of_text(file, &text);
        let decide = move || policy.decide(&ENCRYPT);
        let thread = std::thread::Builder::new().stack_size(EVENT_LOOP_STACK_BYTES).spawn(decide);
        let decision = thread.unwrap().join().unwrap();
        assert!(decision.is_allowed, "{decision:?}");
    }
}

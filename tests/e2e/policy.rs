//! Secondary authorization, through the whole proxy: what a policy denies never reaches the HSM.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::common::proxy::free_port;
use crate::common::{Client, Interposed, Proxy, Setup, Store, settings, xks};

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configuration");

/// A setup with a policy: `("Cedar", "policy.cedar")` or `("Rego", "policy.rego")`.
fn with_policy(setup: Setup, language: &str, file: &str) -> Setup {
    setup.set("security.secondary_auth", language).set(
        &format!("security.{}.policy_file", language.to_lowercase()),
        format!("{CONFIGURATION}/{file}"),
    )
}

/// Replaces a member of a body's requestMetadata.
fn changed(mut body: Value, member: &str, value: Value) -> Value {
    body["requestMetadata"][member] = value;
    body
}

fn deny(client: &Client, call: &str, body: &Value) {
    let answer = client.call(call, body);
    answer.assert_error(403, "AccessDeniedException");
    // The answer does not disclose what is allowed.
    assert!(!String::from_utf8_lossy(&answer.body).contains("our-"), "{answer:?}");
}

/// Waits for a log line: it is written after the answer.
fn wait_for_line(proxy: &mut Proxy, words: &[&str]) {
    proxy.wait_for(&format!("a line with {words:?}"), |proxy| {
        proxy.log().lines().any(|line| words.iter().all(|word| line.contains(word)))
    });
}

/// Allowed calls succeed. Denied ones get 403 in the specification's form, and the log names the
/// policy. A repeated call, whose decision is cached, has the same outcome.
fn serve(language: &str, file: &str) {
    let mut proxy = with_policy(Setup::new(), language, file).set("admin.port", 0).start();
    proxy.log_with(&format!("secondary_auth={language}"));
    let client = proxy.client();
    let encrypted = client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    let decrypt = xks::decrypt(&encrypted, None);
    let foreign = "arn:aws:kms:us-east-2:210987654321:key/1";
    for _ in 0..2 {
        let decrypted = client.call("keys/foo/decrypt", &decrypt).ok();
        assert_eq!(xks::bytes(&decrypted["plaintext"]), b"plaintext");
        client.call("keys/foo/metadata", &xks::metadata("DescribeKey")).ok();

        deny(&client, "keys/foo/metadata", &xks::metadata("Unheard"));
        deny(&client, "keys/foo/decrypt", &changed(decrypt.clone(), "kmsKeyArn", json!(foreign)));
        deny(&client, "keys/foo/decrypt", &changed(decrypt.clone(), "kmsViaService", json!("rds")));
        let words = ["status=403", "AccessDeniedException", "services", file, "kmsViaService=rds"];
        wait_for_line(&mut proxy, &words);
    }
    // Other checks still apply, before or after the policy.
    client
        .call("keys/unknown/encrypt", &xks::encrypt(b"", None))
        .assert_error(404, "KeyNotFoundException");
    client.post("keys/foo/encrypt", b"{}").assert_error(400, "ValidationException");
    let mut forger = proxy.client();
    forger.signer.store.secret_access_key = "x".repeat(43);
    forger
        .call("keys/foo/metadata", &xks::metadata("Unheard"))
        .assert_error(401, "AuthenticationFailedException");
    for _ in 0..3 {
        client.call("health", &xks::health()).ok();
    }
    let metrics = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let store = Store::first().prefix;
    for sample in [
        format!(
            "xks_proxy_requests_total{{store=\"{store}\",call=\"decrypt\",outcome=\"AccessDeniedException\"}} 4"
        ),
        format!(
            "xks_proxy_requests_total{{store=\"{store}\",call=\"metadata\",outcome=\"AccessDeniedException\"}} 2"
        ),
        "xks_proxy_policy_decisions_total{by=\"evaluation\"} 6".to_owned(),
        "xks_proxy_policy_decisions_total{by=\"memory\"} 5".to_owned(),
    ] {
        assert!(metrics.lines().any(|line| line == sample), "{sample}\n{metrics}");
    }
}

#[test]
fn cedar() {
    serve("Cedar", "policy.cedar");
}

#[test]
fn rego() {
    serve("Rego", "policy.rego");
}

/// A policy that denies everything does not affect health calls, and the HSM has no work.
#[test]
fn health_is_exempt() {
    let setup = Setup::new();
    let prepared = with_policy(setup, "Rego", "policy.rego").prepare();
    let policy = prepared.settings_file.with_file_name("none.rego");
    std::fs::write(&policy, "package xks\ndefault allow := false\n").unwrap();
    let text = std::fs::read_to_string(&prepared.settings_file).unwrap();
    let text = text.replace(&format!("{CONFIGURATION}/policy.rego"), policy.to_str().unwrap());
    std::fs::write(&prepared.settings_file, text).unwrap();
    let mut proxy = prepared.start();
    let client = proxy.client();
    client.call("health", &xks::health()).ok();
    deny(&client, "keys/foo/encrypt", &xks::encrypt(b"plaintext", None));
    deny(&client, "keys/foo/metadata", &xks::metadata("DescribeKey"));
    let words = ["AccessDeniedException", "data.xks.allow in", "none.rego is false"];
    wait_for_line(&mut proxy, &words);
    client.call("health", &xks::health()).ok();
}

/// A denied request costs the HSM no call.
#[test]
fn the_hsm_is_not_asked() {
    let mut proxy = Interposed::new(with_policy(Setup::new(), "Cedar", "policy.cedar"));
    let client = proxy.client();
    let body = changed(xks::encrypt(b"plaintext", None), "kmsViaService", json!("rds"));
    client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    // Any HSM call from now on takes longer than the deadline.
    proxy.set("hsm_milli = 2000");
    for _ in 0..20 {
        deny(&client, "keys/foo/encrypt", &body);
    }
}

/// A changed policy applies from the reload on, regardless of cached decisions; one with a mistake
/// leaves the old policy in force.
#[test]
fn changed_by_a_reload() {
    let setup = Setup::new().set("admin.port", free_port()).set("server.pid_file", "proxy.pid");
    let proxy = setup.start();
    let client = proxy.client();
    let policy = proxy.directory().join("policy.cedar");
    let reload = |text: &str| {
        std::fs::write(&policy, text).unwrap();
        let (code, printed) = proxy.reload();
        eprintln!("{code:?} {printed}");
        (code, printed)
    };
    let encrypt = || client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None));
    encrypt().ok();
    proxy.change_settings(|table| {
        settings::set(table, "security.secondary_auth", "Cedar");
        settings::set(table, "security.cedar.policy_file", policy.to_str().unwrap());
    });
    let alice = "principal == Principal::\"arn:aws:iam::123456789012:user/Alice\"";
    let (forbid, permit) = ("forbid (principal, action, resource);", "action, resource);");
    assert_eq!(reload(forbid).0, Some(0));
    for _ in 0..2 {
        encrypt().assert_error(403, "AccessDeniedException");
    }
    let (code, printed) = reload("permit (principal, action);");
    assert!(code != Some(0) && printed.contains("policy.cedar:1:"), "{printed}");
    encrypt().assert_error(403, "AccessDeniedException");
    assert_eq!(reload(&format!("permit ({alice}, {permit}")).0, Some(0));
    for _ in 0..2 {
        encrypt().ok();
    }
}

fn policy_test(policy: &str, request: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xks-proxy"));
    command.args(["policy", "test", policy, request]).current_dir(CONFIGURATION).output().unwrap()
}

/// The offline command prints the decision and the reason, and sets an exit code.
#[test]
fn tried_offline() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let example: Value =
        serde_json::from_str(include_str!("../../configuration/policy_request.json")).unwrap();
    let mut rds = example.clone();
    rds["requestMetadata"]["kmsViaService"] = json!("rds");
    let rds = write("rds.json", &rds.to_string());
    for file in ["policy.cedar", "policy.rego", "oso.cedar", "oso.rego"] {
        for (request, code, word) in [("policy_request.json", 0, "allow: "), (&rds, 1, "deny: ")] {
            let output = policy_test(file, request);
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(output.status.code(), Some(code), "{file} {request}: {text}");
            assert!(text.starts_with(word) && text.contains(file), "{text}");
            assert!(output.stderr.is_empty());
        }
    }
    let without = |member: &str| {
        let mut request = example.clone();
        request.as_object_mut().unwrap().remove(member);
        write(&format!("{member}.json"), &request.to_string())
    };
    let mut number = example.clone();
    number["requestMetadata"]["kmsKeyArn"] = json!(1);
    let mut health = example.clone();
    health["call"] = json!("health");
    for (policy, request, words) in [
        ("no.cedar", "policy_request.json".to_owned(), "no.cedar: No such file"),
        ("policy.cedarschema", "policy_request.json".to_owned(), "neither with .cedar"),
        (&write("bad.cedar", "permit (x);"), "policy_request.json".to_owned(), "bad.cedar:1:"),
        (
            &write("bad.rego", "package xks\nallow if"),
            "policy_request.json".to_owned(),
            "bad.rego:2:",
        ),
        ("policy.cedar", "no.json".to_owned(), "no.json: No such file"),
        ("policy.cedar", write("bad.json", "{\n]"), "line 2"),
        ("policy.cedar", without("call"), "call is missing"),
        ("policy.cedar", without("store"), "store is missing"),
        ("policy.cedar", without("externalKeyId"), "externalKeyId is missing"),
        ("policy.cedar", without("requestMetadata"), "requestMetadata is missing"),
        (
            "policy.cedar",
            write("number.json", &number.to_string()),
            "requestMetadata.kmsKeyArn is not a string",
        ),
        ("policy.cedar", write("health.json", &health.to_string()), "exempt"),
    ] {
        let output = policy_test(policy, &request);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{policy} {request}: {text}");
        assert!(text.contains(words), "{text}");
    }
}

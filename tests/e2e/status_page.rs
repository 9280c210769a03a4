//! The status page in a real browser: under load, and with its token down.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Interposed, Proxy, tools, xks};
use crate::metrics::watched;

/// Renders the page with Chromium, which fails on any console output, a request to another origin,
/// a page wider than the screen, or one that stops changing. Returns the page's text.
fn look(proxy: &Proxy, name: &str) -> String {
    let directory: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("status-page").join(name);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/status-page/screenshot.sh");
    let output = tools::run(
        Command::new(script).arg(format!("http://{}/status", proxy.admin())).arg(&directory),
        "the test needs Python 3 and Chromium:\n  Debian, Ubuntu: apt-get install chromium\n  \
         Amazon Linux, Fedora: dnf install chromium",
    );
    for view in ["desk", "desk-dark", "phone", "phone-dark"] {
        let file = directory.join(format!("status-{view}.png"));
        let png =
            std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(png.starts_with(b"\x89PNG") && png.len() > 10_000, "{}", file.display());
    }
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn under_load_and_with_the_token_down() {
    let mut proxy = Interposed::new(watched());
    let is_over = Arc::new(AtomicBool::new(false));
    let load = {
        let (client, is_over) = (proxy.client(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            let body = xks::encrypt(b"load", None).to_string();
            let mut connection = client.connect();
            let mut calls = 0;
            while !is_over.load(Ordering::Relaxed) {
                client.send(&mut connection, "keys/foo/encrypt", body.as_bytes());
                // While no token works, an answer that reports it ends the connection.
                if connection.receive().unwrap().header("connection") == Some("close") {
                    connection = client.connect();
                }
                calls += 1;
            }
            calls
        })
    };
    proxy.wait_for("two samples with calls in them", |proxy| {
        let status = proxy.admin_get("/status.json").json();
        let rates = status["history"]["ok"].as_array().unwrap();
        rates.iter().filter(|rate| rate.as_f64() > Some(0.0)).count() >= 2
    });
    let text = look(&proxy, "load");
    for part in ["ready", "xks-proxy", "active", "/example/uri/path/prefix", "foo"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("not ready") && !text.contains("unavailable"), "{text}");

    proxy.set("[[fault]]\nreturn = \"CKR_DEVICE_REMOVED\"");
    proxy.wait_for("readiness to go", |proxy| proxy.admin_get("/readyz").status == 503);
    let text = look(&proxy, "token-down");
    for part in ["not ready", "unavailable", "CKR_DEVICE_REMOVED"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(load.join().unwrap() > 0);
}

//! Words that may occur only in certain folders, or nowhere.

use crate::sources::sources;

/// Returns the code without comments and without the tests at the end, which may use any word.
fn code_of(text: &str) -> String {
    let is_tests = |at: &usize| {
        let mut lines = text[*at..].lines().skip_while(|line| line.starts_with("#["));
        lines.next().is_some_and(|line| line.starts_with("mod "))
    };
    let mut marks = text.match_indices("#[cfg(test)]\n").map(|(at, _)| at);
    let text = &text[..marks.find(is_tests).unwrap_or(text.len())];
    let mut code = String::new();
    for line in text.lines() {
        code.push_str(line.split("//").next().unwrap_or_default());
        code.push('\n');
    }
    code
}

/// Returns whether `word` occurs in the code as a whole word.
fn names(code: &str, word: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    code.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).map(|at| code.as_bytes()[at]);
        let after = code.as_bytes().get(at + word.len()).copied();
        let goes_on = word.ends_with(char::is_alphanumeric) && after.is_some_and(is_part);
        !before.is_some_and(is_part) && !goes_on
    })
}

/// Asserts that no file below `directory` (a directory or a file) names any of `words`, and that at
/// least one file exists there.
fn never(directory: &str, words: &[&str]) {
    let mut looked_at = 0;
    for source in sources().iter().filter(|source| source.path.starts_with(directory)) {
        looked_at += 1;
        for word in words {
            assert!(!names(&code_of(&source.text), word), "src/{} names {word}", source.path);
        }
    }
    assert!(looked_at > 0, "src/{directory} is not there");
}

/// Asserts that `word` is named in these places only.
fn only(word: &str, places: &[&str]) {
    for source in sources().iter().filter(|source| !source.path.ends_with("_tests.rs")) {
        if names(&code_of(&source.text), word) {
            assert!(
                places.iter().any(|place| source.path.starts_with(place)),
                "src/{} names {word}, which is for {places:?}",
                source.path
            );
        }
    }
}

/// The protocol core has no I/O, threads or clock, and does not depend on the HSM.
#[test]
fn proto_is_sans_io() {
    never(
        "proto/",
        &[
            "hsm::",
            "server::",
            "settings::",
            "cryptoki",
            "cryptoki_sys",
            "mio",
            "rustls",
            "socket2",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "std::fs",
            "std::io::Read",
            "std::thread",
            "thread::",
            "now()",
            "elapsed()",
        ],
    );
}

/// The only type of std::net in the core is the address, for the log.
#[test]
fn proto_takes_only_addresses_from_std_net() {
    for source in sources().iter().filter(|source| source.path.starts_with("proto/")) {
        let rest = code_of(&source.text).replace("std::net::IpAddr", "");
        assert!(!rest.contains("std::net"), "src/{}", source.path);
    }
}

/// The HSM side does not depend on the protocol.
#[test]
fn hsm_knows_no_protocol() {
    never("hsm/", &["proto::", "server::", "httparse", "simd_json", "mio", "rustls"]);
}

/// Queues and workers handle outcomes; CK_RV values do not leave pkcs11/.
#[test]
fn queue_and_worker_name_no_pkcs11_type() {
    for source in sources() {
        let name = source.path.strip_prefix("hsm/").unwrap_or_default();
        if !(name.starts_with("queue") || name.starts_with("worker")) {
            continue;
        }
        for word in ["cryptoki", "cryptoki_sys", "CK_", "CKR_", "CKM_", "CKA_"] {
            assert!(!names(&code_of(&source.text), word), "src/{} names {word}", source.path);
        }
    }
}

/// The vocabulary that protocol and HSM share depends on neither, and the limits depend on nothing.
#[test]
fn the_shared_words_know_nobody() {
    never("job.rs", &["proto", "hsm", "server", "settings", "observe", "cryptoki"]);
    never("limits.rs", &["crate"]);
    never("limits/", &["crate"]);
    never("observe/", &["proto::", "hsm::", "server::"]);
}

/// Only one file calls C. The demo makes its token with `cryptoki`, as an administrator would,
/// separately from the proxy.
#[test]
fn unsafe_code_is_in_one_file() {
    // Not the word alone, which a text for browsers has.
    for word in ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern", "unsafe("]
    {
        only(word, &["hsm/pkcs11/ffi.rs"]);
    }
    only("cryptoki_sys", &["hsm/pkcs11/"]);
    only("cryptoki", &["demo/"]);
}

/// Another TLS library would affect only the server's TLS file, its configuration in the settings,
/// the command line's client, and the admin listener, syslog and the export by OTLP, which use blocking
/// I/O.
#[test]
fn rustls_is_in_few_places() {
    let places = [
        "server/tls.rs",
        "server/tls_tests.rs",
        "settings/",
        "client/tls.rs",
        "admin/tls.rs",
        "observe/otlp/export/transport.rs",
        "observe/syslog/tls.rs",
    ];
    only("rustls", &places);
    only("rustls_pki_types", &places);
}

/// Policies have a single interface, whatever their language, and do not depend on their callers.
#[test]
fn policies_know_nobody() {
    never("policy/", &["proto::", "hsm::", "server::", "settings::", "simd_json", "std::fs"]);
    only("cedar_policy", &["policy/cedar.rs"]);
    only("miette", &["policy/cedar.rs"]);
    only("regorus", &["policy/rego.rs", "policy/recursion.rs"]);
}

/// Only the server uses sockets, readiness and wakers.
#[test]
fn sockets_are_in_the_server() {
    for word in ["mio", "socket2", "slab"] {
        only(word, &["server/"]);
    }
}

/// These macros panic once the output's reader has exited.
#[test]
fn output_goes_through_one_file() {
    for word in ["println!", "print!", "eprintln!", "eprint!"] {
        only(word, &[]);
    }
    // The log's writer has a handle of its own.
    only("stdout()", &["output.rs", "observe/log/mod.rs"]);
    only("stderr()", &["output.rs"]);
    // Clap prints without telling of failures.
    for word in ["::parse()", ".exit()"] {
        only(word, &[]);
    }
}

/// Names that differ by partition of AWS are made in one file.
#[test]
fn partitions_are_in_one_file() {
    only("amazonaws", &["partition.rs"]);
    // The call with which a module is tried when it is loaded.
    only("arn:aws", &["partition.rs", "policy/rego.rs"]);
}

/// Code that hands work from one thread to another is model-checked, and so takes locks, atomics,
/// threads, the clock and random numbers from one module.
#[test]
fn the_hand_off_can_be_modelled() {
    // What no other thread waits for: calls of modules, statistics, and records of keys.
    let excepted = ["hsm/pkcs11/", "hsm/latency.rs", "hsm/usage.rs", "hsm/witness.rs"];
    let models = ["hsm/models/", "server/models.rs"];
    let raw = ["parking_lot", "std::sync::atomic", "std::sync::mpsc"];
    let of_hsm = ["std::thread", "Instant::now", "elapsed()", "RandomState", "rustix::time"];
    let mut looked_at = 0;
    for source in sources() {
        let path = source.path.as_str();
        let is_of = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
        let is_hsm = is_of(&["hsm/", "job.rs", "backoff.rs"]);
        let is_excepted = is_of(&excepted) || is_of(&models) || path.ends_with("_tests.rs");
        // Only the tests have this file.
        if !(is_hsm || is_of(&["server/"])) || is_excepted || path == "server/faults.rs" {
            continue;
        }
        looked_at += 1;
        let words = raw.iter().chain(of_hsm.iter().filter(|_| is_hsm));
        let code = code_of(&source.text);
        let used: Vec<_> = words.filter(|word| names(&code, word)).collect();
        assert!(used.is_empty(), "src/{path} names {used:?}: use crate::sync");
    }
    assert!(looked_at > 60, "{looked_at}");
}

/// The helpers above detect violations.
#[test]
fn the_rules_can_fail() {
    let code = code_of("use mio::Poll; // not rustls\nfn f() { Instant::now(); }\n");
    assert!(names(&code, "mio") && names(&code, "now()") && !names(&code, "rustls"));
    assert!(!names("let armio = 1; minow()", "mio"));
    assert!(!names("unsafe_code", "unsafe"));
    assert!(
        names("let a = unsafe { f() };", "unsafe {") && names("#[unsafe(no_mangle)]", "unsafe(")
    );
    assert!(names("CK_RV", "CK_"));
    let tested = code_of("fn f() {}\n#[cfg(test)]\nmod tests { use std::net::TcpStream; }\n");
    assert!(!names(&tested, "TcpStream"));
    let tested = code_of("fn f() {}\n#[cfg(test)]\n#[expect(x)]\nmod tests { use mio; }\n");
    assert!(!names(&tested, "mio"));
    assert!(names(&code_of("#[cfg(test)]\nuse mio::Poll;\nmod a;\n"), "mio"));
}

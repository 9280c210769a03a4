//! After plaintexts have gone through the proxy, none is left in its memory or its log.
//!
//! The test searches for text that all plaintexts share, both plain and in base64 at each of the
//! three alignments. The PKCS#11 module is in the same process, and the proxy cannot wipe what it
//! leaves in its own heap. Its memory is recognised by the mapping: the module uses the C library's
//! allocator, which `MALLOC_ARENA_MAX=1` confines to `[heap]`, and the proxy an allocator with its
//! own mappings.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use memchr::memmem::Finder;
use sha2::Sha256;

use crate::common::{Proxy, Setup, Store, token, xks};

/// Text in every plaintext.
const MARKER: &[u8] = b"<<a marked plaintext to be found nowhere>>";
const PLAINTEXTS: usize = 1_000;
/// Name of the mapping with the module's allocations.
const MODULE_HEAP: &str = "[heap]";

/// Returns the marker itself, and its base64 after any number of preceding bytes.
fn needles() -> Vec<Vec<u8>> {
    let mut needles = vec![MARKER.to_vec()];
    for before in 0..3_usize {
        let padded = [&[0; 3][..before], MARKER].concat();
        let encoded = xks::base64(&padded).into_bytes();
        // Characters that also depend on bytes before or after the marker are left out.
        let whole = padded.len() / 3 * 4;
        needles.push(encoded[if before == 0 { 0 } else { 4 }..whole].to_vec());
    }
    needles
}

/// Returns the mapping's name and the address of each needle in the process's memory.
fn search(proxy: &Proxy, needles: &[Vec<u8>]) -> Vec<(String, u64)> {
    let finders: Vec<Finder<'_>> = needles.iter().map(Finder::new).collect();
    let open = |file: &str| File::open(format!("/proc/{}/{file}", proxy.pid())).unwrap();
    let (memory, pages) = (open("mem"), open("pagemap"));
    let mut found = Vec::new();
    for line in std::io::read_to_string(open("maps")).unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (fields.next().unwrap(), fields.next().unwrap());
        let name = fields.nth(3).unwrap_or("anonymous");
        if !access.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let address = |text| u64::from_str_radix(text, 16).unwrap();
        // Only runs of populated pages: most of an allocator's mapping is still empty.
        for (at, length) in present(&pages, address(start), address(end)) {
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            // A mapping may disappear during the search.
            if memory.read_exact_at(&mut bytes, at).is_err() {
                continue;
            }
            for place in finders.iter().flat_map(|finder| finder.find_iter(&bytes)) {
                found.push((name.to_owned(), at + u64::try_from(place).unwrap()));
            }
        }
    }
    found
}

/// Returns the addresses and lengths of the runs of pages, between `start` and `end`, that are in
/// memory or swapped out (proc_pid_pagemap(5)).
fn present(pages: &File, start: u64, end: u64) -> Vec<(u64, u64)> {
    const PAGE: u64 = 4096;
    let mut entries = vec![0; usize::try_from((end - start) / PAGE * 8).unwrap()];
    pages.read_exact_at(&mut entries, start / PAGE * 8).unwrap();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (entry, at) in entries.as_chunks().0.iter().zip((start..).step_by(4096)) {
        if u64::from_ne_bytes(*entry) >> 62 == 0 {
            continue;
        }
        match runs.last_mut() {
            Some((first, length)) if *first + *length == at => *length += PAGE,
            _ => runs.push((at, PAGE)),
        }
    }
    runs
}

fn plaintext(number: usize) -> Vec<u8> {
    // Various sizes and all alignments, so that several kinds of buffers are used.
    let before = "x".repeat(number % 7 + if number.is_multiple_of(10) { 3_000 } else { 0 });
    [before.as_bytes(), MARKER, format!(" {number}").as_bytes()].concat()
}

#[test]
fn no_plaintext_stays_in_memory_or_log() {
    for is_tls in [true, false] {
        let mut setup = Setup::new()
            .set("tracing.level", "TRACE")
            .set("security.allow_core_dumps", true)
            .set("limits.body_timeout_milli", 2_000)
            .set("limits.request_deadline_milli", 10_000)
            .env("MALLOC_ARENA_MAX", "1");
        if is_tls {
            setup = setup.tls();
        }
        let mut proxy = setup.start();
        let client = proxy.client();
        let mut connection = client.connect();
        for number in 0..PLAINTEXTS {
            let plaintext = plaintext(number);
            let body = match number % 2 {
                0 => xks::encrypt(&plaintext, None),
                _ => xks::encrypt_with_cdiv(&plaintext, Some(b"aad")),
            };
            client.send(&mut connection, "keys/foo/encrypt", body.to_string().as_bytes());
            let encrypted = connection.receive().unwrap().ok();
            let aad = (number % 2 == 1).then_some(&b"aad"[..]);
            let body = xks::decrypt(&encrypted, aad).to_string();
            client.send(&mut connection, "keys/foo/decrypt", body.as_bytes());
            let decrypted = connection.receive().unwrap().ok();
            assert_eq!(xks::bytes(&decrypted["plaintext"]), plaintext);
        }
        // Requests that fail, and one that is incomplete.
        let body = xks::encrypt(&plaintext(1), None).to_string();
        client.post("keys/foo/encrypt", &body.as_bytes()[1..]);
        client.post("keys/no_such_key/encrypt", body.as_bytes());
        client.post("keys/foo/encrypt", format!("{body} more").as_bytes());

        // The search works: it finds a request that is still incomplete.
        let target = client.target("keys/foo/encrypt");
        let headers = client.headers(&target, body.as_bytes());
        let head = headers.iter().fold(
            format!("POST {target} HTTP/1.1\r\nhost: {}\r\n", client.host()),
            |head, (name, value)| format!("{head}{name}: {value}\r\n"),
        );
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let mut unfinished = client.connect();
        unfinished.send(&request.as_bytes()[..request.len() - 1]).unwrap();
        proxy.wait_for("the unfinished request to arrive", |proxy| {
            search(proxy, &needles()).iter().any(|(name, _)| name != MODULE_HEAP)
        });
        drop(unfinished);

        proxy.wait_for("the unfinished request to be forgotten", |proxy| {
            let found = search(proxy, &needles());
            let is_gone = found.iter().all(|(name, _)| name == MODULE_HEAP);
            eprintln!("TLS {is_tls}: {found:x?}");
            is_gone
        });
        let log = proxy.log();
        let marker = String::from_utf8_lossy(MARKER).into_owned();
        let mut secrets =
            vec![marker, Store::first().secret_access_key, Store::second().secret_access_key];
        secrets.extend(needles().iter().map(|it| String::from_utf8_lossy(it).into_owned()));
        assert!(log.lines().filter(|line| line.contains("arn:aws:iam")).count() >= PLAINTEXTS);
        for secret in secrets {
            assert!(!log.contains(&secret), "{secret} is in the log");
        }
        // The PIN is a number, and lines about calls contain many numbers.
        let words = log
            .lines()
            .filter(|line| !line.contains(" call="))
            .flat_map(|line| line.split(|it: char| !it.is_ascii_alphanumeric()));
        assert!(words.into_iter().all(|word| word != token::PIN), "the PIN is in the log");
    }
}

/// An attacker who takes over the machine can find the key of the audit log's next line in the
/// process's memory, but no earlier key, which would allow changing an earlier line.
#[test]
fn no_former_key_of_the_audit_log_stays_in_memory() {
    let prepared = Setup::new()
        .set("audit.directory", "audit")
        .set("audit.key_file", "key")
        .set("security.allow_core_dumps", true)
        .set("limits.request_deadline_milli", 10_000)
        .prepare();
    let first: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 7 + 1).unwrap());
    xks_proxy::observe::audit::key::write_new(&prepared.directory().join("key"), &first).unwrap();
    let mut proxy = prepared.start();
    let client = proxy.client();
    for _ in 0..100 {
        client.call("keys/foo/encrypt", &xks::encrypt(b"plaintext", None)).ok();
    }
    let lines = |proxy: &Proxy| {
        let file = proxy.directory().join("audit/audit.jsonl");
        std::fs::read_to_string(file).unwrap().lines().count()
    };
    // 100 calls, and the lines written at start.
    proxy.wait_for("all lines", |proxy| lines(proxy) == 102);
    let mut keys = vec![first.to_vec()];
    for number in 0..102 {
        let key = Hmac::<Sha256>::new_from_slice(&keys[number]).unwrap();
        keys.push(key.chain_update([2]).finalize().into_bytes().to_vec());
    }
    let next = keys.split_off(102);
    let digits: String = first.iter().map(|byte| format!("{byte:02x}")).collect();
    keys.push(digits.into_bytes());
    proxy.wait_for("the search to find what is there", |proxy| !search(proxy, &next).is_empty());
    let found = search(&proxy, &keys);
    assert!(found.is_empty(), "{found:x?}");
}

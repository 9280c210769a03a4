//! From the socket to the HSM and back, our code allocates nothing once it is warm.

#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../common/template.rs"]
mod template;
#[path = "../hsm/support/tokens.rs"]
mod tokens;
#[path = "../common/tools.rs"]
mod tools;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use template::{set, template};
use tokens::*;
use toml::{Table, Value};
use xks_proxy::client::Signer;
use xks_proxy::hsm::Hsm;
use xks_proxy::observe::audit::{Audit, key};
use xks_proxy::observe::log;
use xks_proxy::observe::metrics::Metrics;
use xks_proxy::observe::redaction::Secret;
use xks_proxy::observe::syslog::copies::Copies;
use xks_proxy::server::Server;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Set on the client's thread, whose allocations are not counted.
    static IS_CLIENT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if !IS_CLIENT.get() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is delegated to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the contract of the system allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUESTS: usize = 500;
const RUNS: usize = 30;
/// Allocations by rustls 0.23 for a request and its answer, one record each: the plaintext of the
/// received record and the ciphertext of the sent one.
const TLS_ALLOCATIONS_PER_REQUEST: usize = 2;

const SECRET: &str = "sssssssssssssssssssssssssssssssssssssssssss";

fn signer() -> Signer {
    Signer {
        access_key_id: "BETWEEN2TENAND3TENCHARACTERS".to_owned(),
        secret_access_key: Secret::new(SECRET.to_owned()),
        region: "us-east-1".to_owned(),
        service: "kms-xks-proxy".to_owned(),
    }
}

fn settings(
    directory: &Path,
    is_tls_enabled: bool,
    policy: Option<&str>,
) -> xks_proxy::settings::Settings {
    let path = directory.join("settings.toml");
    let module = tools::softhsm2_module();
    let in_directory = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let mut table = template();
    set(&mut table, "tracing.is_stdout_writer_enabled", false);
    set(&mut table, "tracing.is_file_writer_enabled", true);
    set(&mut table, "tracing.directory", in_directory("logs"));
    set(&mut table, "tracing.file_prefix", "xks");
    set(&mut table, "tracing.rotation_kind", "NEVER");
    set(&mut table, "security.is_tls_enabled", is_tls_enabled);
    if let Some(policy) = policy {
        set(&mut table, "security.secondary_auth", "Cedar");
        set(&mut table, "security.cedar.policy_file", policy);
    }
    set(&mut table, "tls.tls_cert_pem", in_directory("cert.pem"));
    set(&mut table, "tls.tls_key_pem", in_directory("key.pem"));
    let store = Table::from_iter([
        ("uri_path_prefix".to_owned(), Value::from("")),
        ("sigv4_access_key_id".to_owned(), signer().access_key_id.into()),
        ("sigv4_secret_access_key".to_owned(), SECRET.into()),
        ("xks_key_id_set".to_owned(), vec!["key"].into()),
        ("keys".to_owned(), versioned_key()),
    ]);
    set(&mut table, "external_key_stores", vec![Value::from(store)]);
    set(&mut table, "pkcs11.session_pool_max_size", 4);
    set(&mut table, "pkcs11.PKCS11_HSM_MODULE", module.to_str().unwrap());
    set(&mut table, "limits.request_deadline_milli", 10_000);
    set(&mut table, "audit.directory", in_directory("audit"));
    set(&mut table, "audit.key_file", in_directory("audit.key"));
    std::fs::write(&path, table.to_string()).unwrap();
    match xks_proxy::settings::load(&path, false, &|_| None) {
        Ok((settings, _)) => settings,
        Err(findings) => panic!("{findings:?}"),
    }
}

/// `[[external_key_stores.keys]]`, with an external key id that encrypts with its third version.
fn versioned_key() -> Value {
    let version = |(number, label): (i64, &str)| {
        let members = [("version".to_owned(), number.into()), ("label".to_owned(), label.into())];
        Value::from(Table::from_iter(members))
    };
    let versions: Vec<Value> = [(1, "first"), (2, "second"), (3, "third")].map(version).to_vec();
    let key = Table::from_iter([
        ("id".to_owned(), "versioned".into()),
        ("versions".to_owned(), versions.into()),
        ("encrypt_with".to_owned(), 3.into()),
    ]);
    vec![Value::from(key)].into()
}

fn request(key_id: &str, call: &str, body: &str) -> Vec<u8> {
    let path = format!("/kms/xks/v1/keys/{key_id}/{call}");
    let signed = signer().sign("POST", "localhost", &path, body.as_bytes(), SystemTime::now());
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nX-Amz-Date: {}\r\nAuthorization: {}\r\n\r\n{body}",
        body.len(),
        signed.date,
        signed.authorization
    )
    .into_bytes()
}

/// Sends one request and returns the body of its answer.
fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the proxy has closed: {}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&received);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            assert!(head.starts_with("HTTP/1.1 200"), "{text}");
            let (_, length) = head.split_once("Content-Length: ").unwrap();
            if body.len() == length.split("\r\n").next().unwrap().parse::<usize>().unwrap() {
                return body.to_owned();
            }
        }
    }
}

/// The fewest allocations of up to [`RUNS`] runs of [`REQUESTS`], of which the first that has no more
/// than `expected` is the last: health checks and the log's writer run on their own schedule, so they
/// affect some runs only, though many on a slow machine.
fn allocations(stream: &mut (impl Read + Write), request: &[u8], expected: usize) -> usize {
    let run = |stream: &mut _| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..REQUESTS {
            exchange(stream, request);
        }
        ALLOCATIONS.load(Ordering::Relaxed) - before
    };
    run(stream);
    let mut fewest = usize::MAX;
    for _ in 0..RUNS {
        fewest = fewest.min(run(stream));
        if fewest <= expected {
            break;
        }
    }
    fewest
}

/// Measures before and after the settings change under the open connection.
fn measure(stream: &mut (impl Read + Write), per_request: usize, change: impl FnOnce()) {
    measure_calls(stream, "key", per_request);
    measure_calls(stream, "versioned", per_request);
    change();
    measure_calls(stream, "key", per_request);
}

fn measure_calls(stream: &mut (impl Read + Write), key_id: &str, per_request: usize) {
    let metadata = r#""requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-1:123456789012:key/1","kmsOperation":"Encrypt","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae"}"#;
    let algorithm = r#""encryptionAlgorithm":"AES_GCM","additionalAuthenticatedData":"AAAA""#;
    let encrypt = format!(r#"{{{metadata},{algorithm},"plaintext":"cGxhaW50ZXh0"}}"#);
    let cdiv = format!(
        r#"{{{metadata},{algorithm},"plaintext":"cGxhaW50ZXh0","ciphertextDataIntegrityValueAlgorithm":"SHA_256"}}"#
    );
    let sealed = exchange(stream, &request(key_id, "encrypt", &encrypt));
    // Encrypt's answer has the members that decrypt's request needs, and no others.
    let (_, parts) = sealed.split_once('{').unwrap();
    let decrypt = format!("{{{metadata},{algorithm},{parts}");
    // The tag of version 3, in base64.
    assert_eq!(decrypt.contains("\"ciphertextMetadata\":\"AGsAAAAD\""), key_id == "versioned");
    for (call, body) in [
        ("decrypt", &decrypt),
        ("encrypt", &encrypt),
        ("encrypt", &cdiv),
        ("metadata", &format!("{{{metadata}}}")),
    ] {
        let expected = per_request * REQUESTS;
        let count = allocations(stream, &request(key_id, call, body), expected);
        println!("{key_id}, {call}: {count} allocations in {REQUESTS} requests");
        assert_eq!(count, expected, "{key_id}, {call}");
    }
}

fn serve(directory: &Path, is_tls_enabled: bool, policy: Option<&str>, is_audited: bool) {
    let pkcs11 = initialize(&tools::softhsm2_module());
    let slot = make_token(&pkcs11, "token");
    let session = login(&pkcs11, slot);
    for (label, byte) in [("key", 1), ("first", 2), ("second", 3), ("third", 4)] {
        add_key(&session, label, &[byte; 32], ENCRYPT | DECRYPT, true);
    }
    drop(session);
    pkcs11.finalize().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();

    key::write_new(&directory.join("audit.key"), &[1; 32]).unwrap();
    let settings = settings(directory, is_tls_enabled, policy);
    let log = log::start(&settings.tracing, Copies::default(), None).unwrap();
    let audit = match is_audited {
        true => Audit::open(settings.audit.as_ref().unwrap()).unwrap(),
        false => Audit::off(),
    };
    let server = Server::bind(&settings.server_config()).unwrap();
    let service = Arc::new(settings.service());
    let hsm = Hsm::start(settings.hsm_config(&service), server.completions()).unwrap();
    let (address, lifecycle) = (server.api_address(), server.lifecycle());
    let changes = server.changes();
    let metrics = Metrics::new(server.event_loops(), Arc::default());
    let ended = |reason: &str| panic!("a loop ended: {reason}");
    let loops = server
        .start(&service, &hsm, || log.access_log().with_audit(audit.handle()), &metrics, ended)
        .unwrap();

    let change = || {
        let service = Arc::new(settings.service_after(Some(&service), None));
        changes.put(service, Arc::clone(&hsm), &settings.server_config());
        assert!(changes.wait(std::time::Duration::from_secs(20)));
    };

    IS_CLIENT.set(true);
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_nodelay(true).unwrap();
    if is_tls_enabled {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        measure(&mut rustls::StreamOwned::new(client, tcp), TLS_ALLOCATIONS_PER_REQUEST, change);
    } else {
        measure(&mut tcp, 0, change);
    }
    lifecycle.stop();
    for event_loop in loops {
        event_loop.join().unwrap();
    }
    hsm.stop(std::time::Duration::from_secs(5));
    assert!(audit.stop());
    if is_audited {
        let stats = audit.stats().unwrap();
        // Two runs at least of each of twelve calls, of which three ask for metadata.
        assert!(stats.written_lines > (9 * 2 * REQUESTS) as u64, "{stats:?}");
        assert_eq!((stats.dropped_lines, stats.refused_calls), (0, 0));
    }
}

#[test]
fn plain_requests_allocate_nothing() {
    in_child!("plain_requests_allocate_nothing", softhsm_environment, |directory| {
        serve(directory, false, None, false);
    });
}

/// Lines of the audit log are formatted, chained and written in preallocated memory.
#[test]
fn audited_requests_allocate_nothing() {
    in_child!("audited_requests_allocate_nothing", softhsm_environment, |directory| {
        serve(directory, false, None, true);
    });
}

#[test]
fn tls_requests_allocate_what_rustls_does() {
    in_child!("tls_requests_allocate_what_rustls_does", softhsm_environment, |directory| {
        serve(directory, true, None, false);
    });
}

/// A policy's decision is cached, so it is not evaluated again for the same caller and key.
#[test]
fn requests_under_a_policy_allocate_nothing() {
    in_child!("requests_under_a_policy_allocate_nothing", softhsm_environment, |directory| {
        let file = directory.join("policy.cedar");
        let text = "permit (principal, action, resource) \
                    when { context has kmsKey && context.kmsKey.account == \"123456789012\" };";
        std::fs::write(&file, text).unwrap();
        serve(directory, false, Some(file.to_str().unwrap()), false);
    });
}

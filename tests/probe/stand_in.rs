//! A proxy that keeps what it encrypts in a table and has at most one fault. A fault's name is that
//! of the check that has to find it; further ones concern `ciphertextMetadata` (metadata.rs).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, DigitallySignedStruct, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Map, Value, json};

use crate::common::certificates::Certificates;
use crate::common::signing::Signer;
use crate::common::{Store, xks};
use crate::metadata;
use crate::wire::{Answer, Request};

/// The store's path prefix.
const PREFIX: &str = "/store";

/// An encryption: plaintext, AAD and all members of its answer.
#[derive(Clone, Debug)]
struct Sealed {
    plaintext: Vec<u8>,
    aad: Option<String>,
    answer: Map<String, Value>,
}

struct Shared {
    fault: String,
    host: String,
    sealed: Mutex<Vec<Sealed>>,
    count: AtomicU64,
    connections: AtomicUsize,
    /// By connection number: number of requests, and whether the first was a decrypt.
    seen: Mutex<HashMap<usize, (usize, bool)>>,
}

/// A server with one thread for each connection; it lives as long as the test program.
pub struct StandIn(u16);

impl StandIn {
    /// Plain HTTP with this fault; none if the name is empty.
    pub fn http(fault: &str) -> Self {
        Self::serve(fault, "127.0.0.1", None)
    }

    /// TLS with the certificate of this name and no fault.
    pub fn tls(certificates: &Certificates, name: &str) -> Self {
        Self::serve("", "localhost", Some(config(certificates, name, Kind::Plain)))
    }

    /// TLS with the certificate of this name, called by this host's name, with this fault.
    pub fn named(certificates: &Certificates, name: &str, host: &str, fault: &str) -> Self {
        Self::serve(fault, host, Some(config(certificates, name, Kind::Plain)))
    }

    /// Plain HTTP at this port.
    pub fn at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        Self::serve_at(listener, "", "127.0.0.1", None)
    }

    /// mTLS that accepts any client certificate.
    pub fn careless_mtls(certificates: &Certificates) -> Self {
        Self::serve("", "localhost", Some(config(certificates, "server", Kind::Careless)))
    }

    /// TLS that offers only suites with AES-128.
    pub fn aes_128_alone(certificates: &Certificates) -> Self {
        Self::serve("", "localhost", Some(config(certificates, "server", Kind::Aes128)))
    }

    /// TLS without version 1.3.
    pub fn tls_12_alone(certificates: &Certificates) -> Self {
        Self::serve("", "localhost", Some(config(certificates, "server", Kind::Tls12)))
    }

    /// Returns the port on the loopback address.
    pub fn port(&self) -> u16 {
        self.0
    }

    fn serve(fault: &str, host: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        Self::serve_at(listener, fault, host, tls)
    }

    fn serve_at(
        listener: TcpListener,
        fault: &str,
        host: &str,
        tls: Option<Arc<ServerConfig>>,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            fault: fault.to_owned(),
            host: format!("{host}:{port}"),
            sealed: Mutex::default(),
            count: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        std::thread::spawn(move || {
            for (number, socket) in listener.incoming().enumerate() {
                let (mut socket, shared, tls) = (socket.unwrap(), Arc::clone(&shared), tls.clone());
                socket.set_nodelay(true).unwrap();
                std::thread::spawn(move || match tls {
                    None => shared.connection(number, &mut socket),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        shared.connection(number, &mut StreamOwned::new(connection, socket));
                    }
                });
            }
        });
        Self(port)
    }
}

impl Shared {
    fn connection(&self, number: usize, stream: &mut (impl Read + Write)) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        while let Ok(Some(request)) = Request::read(stream) {
            let is_decrypt = request.path.ends_with("/decrypt");
            let mut seen = self.seen.lock().unwrap();
            let entry = seen.entry(number).or_insert((0, is_decrypt));
            entry.0 += 1;
            let (index, is_measured) = *entry;
            drop(seen);
            let mut answer = self.answer(&request);
            self.spoil(&request, index, is_measured, &mut answer);
            if answer.write(stream).is_err() || answer.is_last {
                break;
            }
        }
        self.connections.fetch_sub(1, Ordering::SeqCst);
    }

    /// Applies faults that affect all answers alike.
    fn spoil(&self, request: &Request, index: usize, is_measured: bool, answer: &mut Answer) {
        let is_error = answer.status != 200 && request.method == "POST";
        let slow = Duration::from_millis(300);
        let throttled = || error(429, "ThrottlingException");
        match self.fault.as_str() {
            "errors.form" if is_error => {
                answer.body = answer.body.replace('}', ",\"errorMessage\":\"\u{e9}\"}");
            }
            "http.content-type" if is_error => answer.content_type = "text/plain",
            "http.version" => answer.version = "HTTP/1.0",
            "http.keep-alive" if is_error => answer.is_last = true,
            "closes each connection" => answer.is_last = true,
            "slow" if is_measured || request.path.ends_with("/health") => std::thread::sleep(slow),
            "http.in-time" if request.path.contains("no-such-store") => std::thread::sleep(slow),
            "health.time" if request.path.ends_with("/health") => std::thread::sleep(slow),
            "authentication.clock" => {
                let unix_secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                let minute = unix_secs / 60 + 3;
                // For the probe's arithmetic the day matters only at midnight.
                let (hour, minute) = (minute / 60 % 24, minute % 60);
                let (year, month, day) = today(unix_secs + 180);
                let date = format!("Day, {day:02} {month} {year} {hour:02}:{minute:02}:00 GMT");
                answer.date = Some(date);
            }
            "latency.new-connection" if is_measured && index == 1 => *answer = throttled(),
            "latency.one-at-a-time" if is_measured && index >= 10 => *answer = throttled(),
            "latency.concurrent" if self.connections.load(Ordering::SeqCst) >= 4 => {
                *answer = throttled();
            }
            _ => {}
        }
    }

    fn is(&self, fault: &str) -> bool {
        self.fault == fault
    }

    /// Answers with the refusal that the check `name` expects; if that check's fault is set, with
    /// another error, or with success where that is the danger.
    fn refuse(&self, name: &str, status: u16, error_name: &str) -> Answer {
        if !self.is(name) {
            return error(status, error_name);
        }
        match name.split('.').next() {
            Some("binding" | "tampering") => ok(&json!({"plaintext": "AAAA"})),
            _ => error(500, "InternalException"),
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        let Some(call) = request.path.strip_prefix(&format!("{PREFIX}/kms/xks/v1/")) else {
            return self.refuse("path.unknown-prefix", 404, "InvalidUriPathException");
        };
        let parts: Vec<&str> = call.split('/').collect();
        let (key, call) = match parts.as_slice() {
            ["health"] => ("", "health"),
            ["keys", key, call @ ("metadata" | "encrypt" | "decrypt")] => (*key, *call),
            _ => return self.refuse("path.unknown-call", 404, "InvalidUriPathException"),
        };
        if request.method == "GET" {
            return if self.is("path.get") {
                ok(&json!({}))
            } else {
                Answer::new(405, String::new())
            };
        }
        if self.not_authentic(request).is_some_and(|rule| !self.is(rule)) {
            return error(401, "AuthenticationFailedException");
        }
        let mut values = serde_json::Deserializer::from_slice(&request.body).into_iter::<Value>();
        let Some(Ok(body)) = values.next() else {
            let name = if request.body.is_empty() { "empty-body" } else { "not-json" };
            return self.refuse(&format!("validation.{name}"), 400, "ValidationException");
        };
        if values.byte_offset() != request.body.len() {
            return self.refuse("validation.bytes-after-json", 400, "ValidationException");
        }
        if let Some(refusal) = self.metadata_refusal(&body, call) {
            return refusal;
        }
        if call != "health" && !["key", "no-encrypt", "no-decrypt"].contains(&key) {
            return self.refuse(&format!("key.unknown-{call}"), 404, "KeyNotFoundException");
        }
        match call {
            "health" => self.health(),
            "metadata" => self.metadata(key),
            "encrypt" => self.encrypt(key, &body),
            _ => self.decrypt(key, &body),
        }
    }

    /// Returns the check that covers the defect of the signature, if there is one.
    fn not_authentic(&self, request: &Request) -> Option<&'static str> {
        let given = request.header("authorization");
        if given.is_empty() {
            return Some("authentication.unsigned");
        }
        let Some(rest) = given.strip_prefix("AWS4-HMAC-SHA256 Credential=") else {
            return Some("authentication.garbage");
        };
        let store = Store { prefix: PREFIX.to_owned(), ..Store::first() };
        if !rest.starts_with(&store.access_key_id) {
            return Some("authentication.unknown-access-key");
        }
        if !rest.contains("/us-east-1/kms-xks-proxy/aws4_request") {
            return Some("authentication.other-service");
        }
        let time = amz_time(request.header("x-amz-date"));
        let mut signer = Signer { time, ..Signer::new(&store) };
        let url = |path: &str| format!("http://{}{path}", self.host);
        let sign = |signer: &Signer, path: &str| {
            let signed = signer.sign("POST", &url(path), &[], &request.body);
            signed.into_iter().find(|(name, _)| name == "authorization").unwrap().1
        };
        if sign(&signer, &request.path) != given {
            if sign(&signer, &request.path.replace("encrypt", "metadata")) == given {
                return Some("authentication.altered-path");
            }
            let secret = &mut signer.store.secret_access_key;
            *secret = secret.chars().rev().collect();
            let is_other_secret = sign(&signer, &request.path) == given;
            return Some(match is_other_secret {
                true => "authentication.wrong-secret",
                false => "authentication.altered-body",
            });
        }
        let now = SystemTime::now();
        let late = now.duration_since(time).unwrap_or_default().as_secs() / 60;
        let early = time.duration_since(now).unwrap_or_default().as_secs() / 60;
        match (late, early) {
            (30.., _) => Some("authentication.old"),
            (_, 30..) => Some("authentication.future"),
            (5.., _) | (_, 5..) => Some("authentication.six-minutes"),
            (3.., _) | (_, 3..) if self.is("authentication.four-minutes") => Some("too strict"),
            _ => None,
        }
    }

    fn metadata_refusal(&self, body: &Value, call: &str) -> Option<Answer> {
        let metadata = &body["requestMetadata"];
        let text = |name: &str| metadata[name].as_str().unwrap_or_default();
        let refuse = |name: &str| Some(self.refuse(name, 400, "ValidationException"));
        if text("kmsRequestId").is_empty() {
            return refuse(match (call, metadata) {
                ("health", _) => "validation.health-metadata",
                (_, Value::Null) => "validation.no-request-metadata",
                _ => "validation.empty-request-metadata",
            });
        }
        if call == "encrypt" && text("kmsKeyArn").is_empty() {
            return refuse("validation.no-key-arn");
        }
        // Oddities that a proxy must tolerate.
        let minds = match self.fault.as_str() {
            "tolerance.operation" => call == "encrypt" && text("kmsOperation") == "BulkEncrypt",
            "tolerance.health-operation" => {
                call == "health" && text("kmsOperation") == "BulkEncrypt"
            }
            "tolerance.request-id" => text("kmsRequestId").len() != 36,
            "tolerance.metadata-member" => metadata.get("sourceIdentity").is_some(),
            "tolerance.body-member" => body.get("futureMember").is_some(),
            "tolerance.optional-members" => {
                call == "encrypt" && metadata.get("kmsViaService").is_none()
            }
            "tolerance.long-arn" => text("awsPrincipalArn").len() == 2048,
            "tolerance.service-principal" => text("awsPrincipalArn") == "AWS Internal",
            _ => false,
        };
        minds.then(|| error(400, "ValidationException"))
    }

    fn health(&self) -> Answer {
        let status = match () {
            () if self.is("health.status") => "DEGRADED",
            () if self.is("health.usable") => "UNAVAILABLE",
            () => "ACTIVE",
        };
        let size = if self.is("health.answer") { 0 } else { 1 };
        ok(&json!({
            "xksProxyFleetSize": size,
            "xksProxyVendor": "tests",
            "xksProxyModel": "stand-in",
            "ekmVendor": "tests",
            "ekmFleetDetails": [{"id": "1", "model": "table", "healthStatus": status}],
        }))
    }

    fn metadata(&self, key: &str) -> Answer {
        let usage = match key {
            "no-encrypt" => json!(["DECRYPT"]),
            "no-decrypt" => json!(["ENCRYPT"]),
            _ => json!(["ENCRYPT", "DECRYPT"]),
        };
        let spec = if self.is("metadata.usable") { "AES_128" } else { "AES_256" };
        let status = if self.is("metadata.answer") { "SUSPENDED" } else { "ENABLED" };
        ok(&json!({"keySpec": spec, "keyUsage": usage, "keyStatus": status}))
    }

    fn encrypt(&self, key: &str, body: &Value) -> Answer {
        let has_cdiv = !body["ciphertextDataIntegrityValueAlgorithm"].is_null();
        if key == "no-encrypt" {
            return self.refuse("encrypt.usage", 400, "InvalidKeyUsageException");
        }
        if key == "no-decrypt" && has_cdiv {
            return self.refuse("encrypt.usage-cdiv", 400, "InvalidKeyUsageException");
        }
        let refuse = |name: &str| self.refuse(name, 400, "ValidationException");
        let plaintext = match &body["plaintext"] {
            Value::Null => return refuse("validation.no-plaintext"),
            Value::String(text) => match base64_simd::STANDARD.decode_to_vec(text) {
                Ok(plaintext) => plaintext,
                Err(_) if text.contains('_') => return refuse("validation.base64url"),
                Err(_) => return refuse("validation.base64"),
            },
            _ => return refuse("validation.plaintext-type"),
        };
        match body["encryptionAlgorithm"].as_str() {
            None => return refuse("validation.no-algorithm"),
            Some("AES_GCM") => {}
            Some(_) => return refuse("validation.algorithm"),
        }
        if has_cdiv && body["ciphertextDataIntegrityValueAlgorithm"] != "SHA_256" {
            return refuse("validation.cdiv-algorithm");
        }
        if plaintext.len() == 4300 && self.is("sizes.largest") {
            return error(501, "UnsupportedOperationException");
        }
        let aad = body["additionalAuthenticatedData"].as_str().map(str::to_owned);
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let unique = if self.is("encrypt.fresh-iv") { 0 } else { count };
        let iv = [&[0; 4], unique.to_be_bytes().as_slice()].concat();
        let tag = [count.to_be_bytes(); 2].concat();
        let tag = if self.is("encrypt.answer") { &tag[..15] } else { &tag };
        let ciphertext: Vec<u8> = plaintext.iter().map(|byte| !byte).collect();
        let mut answer = json!({
            "ciphertext": xks::base64(&ciphertext),
            "initializationVector": xks::base64(&iv),
            "authenticationTag": xks::base64(tag),
        });
        if let Some(metadata) = metadata::sent(&self.fault) {
            answer["ciphertextMetadata"] = metadata;
        }
        let sealed =
            Sealed { plaintext, aad: aad.clone(), answer: answer.as_object().unwrap().clone() };
        if has_cdiv {
            let aad = aad.map(|aad| xks::bytes(&json!(aad)));
            let mut cdiv = xks::cdiv(aad.as_deref(), &answer);
            let name = if aad.is_some() { "encrypt.cdiv" } else { "encrypt.cdiv-without-aad" };
            let is_one_byte = sealed.plaintext.len() == 1;
            if self.is(name) && !is_one_byte || self.is("sizes.one-byte") && is_one_byte {
                cdiv[0] ^= 1;
            }
            answer["ciphertextDataIntegrityValue"] = json!(xks::base64(&cdiv));
        }
        self.sealed.lock().unwrap().push(sealed);
        ok(&answer)
    }

    fn decrypt(&self, key: &str, body: &Value) -> Answer {
        if key == "no-decrypt" {
            return self.refuse("decrypt.usage", 400, "InvalidKeyUsageException");
        }
        for (member, name) in [
            ("authenticationTag", "validation.no-tag"),
            ("initializationVector", "validation.no-iv"),
            ("ciphertext", "validation.no-ciphertext"),
        ] {
            if body[member].is_null() {
                return self.refuse(name, 400, "ValidationException");
            }
        }
        let aad = body["additionalAuthenticatedData"].as_str().map(str::to_owned);
        let table = self.sealed.lock().unwrap();
        let fits = |sealed: &&Sealed| {
            let is_same = |member: &str| sealed.answer.get(member) == body.get(member);
            let sent = sealed.answer.get("ciphertextMetadata");
            let given = body.get("ciphertextMetadata");
            ["ciphertext", "initializationVector", "authenticationTag"].into_iter().all(is_same)
                && metadata::fits(&self.fault, sent, given)
                && sealed.aad == aad
        };
        let Some(sealed) = table.iter().find(fits) else {
            if metadata::is_unknown_version(&self.fault, body.get("ciphertextMetadata")) {
                return error(500, "InternalException");
            }
            return self.refuse(self.altered(&table, body), 400, "InvalidCiphertextException");
        };
        let name = if aad.is_some() { "decrypt.answer" } else { "decrypt.without-aad" };
        let is_sample = sealed.plaintext.len() == 32;
        let plaintext = if self.is(name) && is_sample { b"other" } else { &*sealed.plaintext };
        ok(&json!({"plaintext": xks::base64(plaintext)}))
    }

    /// Returns the check that covers the difference between the request and what was encrypted.
    fn altered(&self, table: &[Sealed], body: &Value) -> &'static str {
        let bytes = |member: &str| body.get(member).map(xks::bytes).unwrap_or_default();
        let given_out =
            |member: &str| table.iter().any(|it| it.answer.get(member) == body.get(member));
        let metadata = bytes("ciphertextMetadata");
        if metadata.len() > 20 {
            "binding.long-metadata"
        } else if body.get("ciphertextMetadata").is_none() {
            let aad = bytes("additionalAuthenticatedData");
            let is_shifted = aad.ends_with(b"version=1");
            if is_shifted { "binding.metadata-as-aad" } else { "binding.no-metadata" }
        } else if !given_out("ciphertextMetadata") {
            "binding.other-metadata"
        } else if bytes("authenticationTag").len() < 16 {
            "tampering.short-tag"
        } else if bytes("initializationVector").len() < 12 {
            "tampering.short-iv"
        } else if bytes("ciphertext").len() < 32 {
            "tampering.truncated"
        } else if !given_out("authenticationTag") {
            "tampering.tag"
        } else if !given_out("initializationVector") {
            "tampering.iv"
        } else if !given_out("ciphertext") {
            "tampering.ciphertext"
        } else if body.get("additionalAuthenticatedData").is_none() {
            "binding.no-aad"
        } else {
            "binding.other-aad"
        }
    }
}

fn ok(body: &Value) -> Answer {
    Answer::new(200, body.to_string())
}

fn error(status: u16, name: &str) -> Answer {
    Answer::new(status, json!({"errorName": name}).to_string())
}

/// `YYYYMMDDTHHMMSSZ`
fn amz_time(text: &str) -> SystemTime {
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().unwrap();
    let (year, month, day) = (number(0..4), number(4..6), number(6..8));
    let days = xks_proxy::observe::timestamp::days_from_civil(
        i64::try_from(year).unwrap(),
        u32::try_from(month).unwrap(),
        u32::try_from(day).unwrap(),
    );
    let seconds = number(9..11) * 3600 + number(11..13) * 60 + number(13..15);
    UNIX_EPOCH + Duration::from_secs(u64::try_from(days).unwrap() * 86_400 + seconds)
}

/// Year, three-letter month, day.
fn today(unix_secs: u64) -> (i64, &'static str, u32) {
    let days = i64::try_from(unix_secs / 86_400).unwrap();
    let (year, month, day) = xks_proxy::observe::timestamp::civil_from_days(days);
    let at = usize::try_from(month - 1).unwrap() * 3;
    (year, &"JanFebMarAprMayJunJulAugSepOctNovDec"[at..at + 3], day)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Careless,
    Aes128,
    Tls12,
}

/// TLS with the usual certificate.
pub fn server_config(certificates: &Certificates) -> Arc<ServerConfig> {
    config(certificates, "server", Kind::Plain)
}

fn config(certificates: &Certificates, name: &str, kind: Kind) -> Arc<ServerConfig> {
    let mut provider = aws_lc_rs::default_provider();
    if kind == Kind::Aes128 {
        provider.cipher_suites.retain(|suite| {
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            ]
            .contains(&suite.suite())
        });
    }
    let versions: &[_] = if kind == Kind::Tls12 { &[&TLS12] } else { &[&TLS12, &TLS13] };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap();
    let builder = match kind {
        Kind::Careless => builder.with_client_cert_verifier(Arc::new(Careless)),
        _ => builder.with_no_client_auth(),
    };
    let chain = CertificateDer::pem_file_iter(certificates.path(&format!("{name}_cert.pem")));
    let chain: Result<Vec<_>, _> = chain.unwrap().collect();
    let key = PrivateKeyDer::from_pem_file(certificates.path(&format!("{name}_key.pem")));
    Arc::new(builder.with_single_cert(chain.unwrap(), key.unwrap()).unwrap())
}

/// Requests a client certificate and accepts any.
#[derive(Debug)]
struct Careless;

impl ClientCertVerifier for Careless {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

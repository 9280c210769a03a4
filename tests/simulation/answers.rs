//! Reading of answers, strict and fast: a million of them are compared in a second.

use base64_simd::STANDARD;
use xks_proxy::job::KeyAttributes;
use xks_proxy::observe::metrics::labels::CallLabel;
use zeroize::{Zeroize as _, Zeroizing};

use crate::hsm;
use crate::model::{Answer, Body, Waiting};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An answer on the wire.
#[derive(Default)]
struct Parts<'a> {
    status: u16,
    is_last: bool,
    announces_keep_alive: bool,
    is_json: bool,
    length: Option<usize>,
    body: &'a [u8],
}

fn digits(bytes: &[u8]) -> usize {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}

fn parse(out: &[u8]) -> Parts<'_> {
    assert!(out.starts_with(b"HTTP/1.1 "), "an answer begins with its status");
    let status = u16::try_from(digits(&out[9..])).expect("a status");
    let mut parts = Parts { status, ..Parts::default() };
    let mut rest = out;
    loop {
        let end = memchr::memchr(b'\n', rest).expect("an answer's head ends");
        let (line, after) =
            (rest[..end].strip_suffix(b"\r").expect("a line's end"), &rest[end + 1..]);
        rest = after;
        match line {
            [] => break,
            b"Connection: close" => parts.is_last = true,
            b"Connection: keep-alive" => parts.announces_keep_alive = true,
            b"Content-Type: application/json" => parts.is_json = true,
            _ => {
                if let Some(length) = line.strip_prefix(b"Content-Length: ") {
                    parts.length = Some(digits(length));
                }
            }
        }
    }
    parts.body = rest;
    parts
}

/// Expected content of answers, in memory that is wiped each time.
#[derive(Default)]
pub struct Results {
    json: Zeroizing<Vec<u8>>,
    raw: Zeroizing<Vec<u8>>,
}

impl Results {
    pub fn new() -> Self {
        let memory = || Zeroizing::new(Vec::with_capacity(64 * 1024));
        Self { json: memory(), raw: memory() }
    }

    pub fn clear(&mut self) {
        for bytes in [&mut self.json, &mut self.raw] {
            bytes.as_mut_slice().zeroize();
            bytes.clear();
        }
    }

    fn text(&mut self, text: &str) {
        self.json.extend_from_slice(text.as_bytes());
    }

    fn base64(&mut self, before: &str, bytes: &[u8]) {
        self.text(before);
        STANDARD.encode_append(bytes, &mut *self.json);
    }

    fn raw_base64(&mut self, before: &str) {
        self.text(before);
        STANDARD.encode_append(&self.raw, &mut *self.json);
    }

    /// Notes the answer to a call for which the HSM has done job `number`.
    pub fn expect(&mut self, waiting: &Waiting, number: u64) {
        self.clear();
        let call = waiting.call;
        match call.label {
            CallLabel::Encrypt => {
                self.base64("{\"authenticationTag\":\"", &hsm::tag(number));
                hsm::push_ciphertext(&mut self.raw, number, call.input.len());
                self.raw_base64("\",\"ciphertext\":\"");
                if call.has_cdiv {
                    let cdiv = hsm::cdiv_of(number);
                    self.base64("\",\"ciphertextDataIntegrityValue\":\"", &cdiv);
                }
                if !waiting.metadata.bytes().is_empty() {
                    self.base64("\",\"ciphertextMetadata\":\"", waiting.metadata.bytes());
                }
                self.base64("\",\"initializationVector\":\"", hsm::iv(number).as_slice());
            }
            _ => {
                let length = call.input.len() - 16;
                hsm::push_plaintext(&mut self.raw, number, length);
                self.raw_base64("{\"plaintext\":\"");
            }
        }
        self.text("\"}");
    }

    /// Notes the answer to GetKeyMetadata.
    pub fn expect_attributes(&mut self, attributes: &KeyAttributes, is_disabled: bool) {
        self.clear();
        let usages = [
            (attributes.encrypt, "\"ENCRYPT\""),
            (attributes.decrypt, "\"DECRYPT\""),
            (attributes.wrap, "\"WRAP\""),
        ];
        let usages = usages.iter().filter(|(may, _)| *may).map(|(_, name)| *name);
        let usages = usages.collect::<Vec<_>>().join(",");
        let status = if is_disabled { "DISABLED" } else { "ENABLED" };
        let bits = attributes.bits;
        self.text(&format!(
            "{{\"keySpec\":\"AES_{bits}\",\"keyUsage\":[{usages}],\"keyStatus\":\"{status}\"}}"
        ));
    }

    /// Asserts that `out` is exactly the expected answer.
    pub fn check(&self, out: &[u8], expected: &Answer) {
        let answer = parse(out);
        assert_eq!(answer.status, expected.status, "the status");
        assert_eq!(answer.is_last, expected.is_last, "whether the answer is the last");
        let announces = answer.announces_keep_alive;
        assert_eq!(announces, expected.announces_keep_alive, "whether keep-alive is announced");
        if expected.is_head_method {
            assert!(answer.body.is_empty(), "an answer to HEAD has no body");
            return;
        }
        assert_eq!(Some(answer.body.len()), answer.length, "the length of the body");
        assert_eq!(answer.is_json, expected.body != Body::Text, "the type of the body");
        match expected.body {
            Body::Text => {}
            Body::Health => {
                assert!(
                    answer.body.starts_with(b"{\"xksProxyFleetSize\":1,"),
                    "the fleet's health"
                );
            }
            Body::Error(error) => {
                let name = answer.body.strip_prefix(b"{\"errorName\":\"").unwrap_or_default();
                let name = name.split(|byte| *byte == b'"').next().unwrap_or_default();
                assert_eq!(String::from_utf8_lossy(name), error.text(), "the name of the error");
            }
            Body::Result => {
                assert!(answer.body == &self.json[..], "the answer is another request's");
            }
        }
    }
}

/// Asserts that `out` is `100 Continue` if that is due, and nothing otherwise.
pub fn check_interim(out: &[u8], is_continue: bool) {
    assert_eq!(out, if is_continue { CONTINUE } else { b"" }, "bytes without an answer");
}

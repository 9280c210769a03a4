//! The requests that simulated peers send: signed once, then only sent again and again.
//!
//! Plaintexts contain a marked text that is kept in a masked form: at the end the program's own
//! memory is searched for it.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use sha2::{Digest as _, Sha256};
use xks_proxy::observe::metrics::labels::{CallLabel, OutcomeLabel};

use crate::rig::{NOON, OTHER_PREFIX, PREFIX, REGION, SERVICE};

/// The marked text, masked by [`toggle`].
const MASKED_MARKER: [u8; 48] = *b"(a masked text, which is to be found nowhere..)!";
/// Changes each byte of it.
pub const MASK: u8 = 0x5a;
/// Length of the marked text.
pub const MARKER_BYTES: usize = MASKED_MARKER.len();
/// Length of its base64.
const ENCODED_MARKER_BYTES: usize = MARKER_BYTES / 3 * 4;

/// Times at which requests are signed: at noon, and around the midnight after it.
pub const TIMES: [u64; 3] = [NOON, NOON + 12 * 3600 - 5, NOON + 12 * 3600 + 5];

/// Access key id and secret access key of each credential. The second has the id of the first.
pub const CREDENTIALS: [(&str, &str); 5] = [
    ("AKIDSIMULATIONSIMULATION", "wJalrXUtnFEMIK7MDENG/bPxRfiCYEXAMPLEKEY+abcdefg"),
    ("AKIDSIMULATIONSIMULATION", "rotatedXUtnFEMIK7MDENG/bPxRfiCYEXAMPLEKEY+abcde"),
    ("AKIDSECONDOFTHEFIRSTSTORE", "secondXUtnFEMIK7MDENG/bPxRfiCYEXAMPLEKEY+abcdef"),
    ("AKIDOFTHEOTHERSTOREOTHER", "otherXXUtnFEMIK7MDENG/bPxRfiCYEXAMPLEKEY+abcdef"),
    ("AKIDOFNOSTOREATALLNOSTORE", "nobodyXUtnFEMIK7MDENG/bPxRfiCYEXAMPLEKEY+abcdef"),
];

/// Masks or unmasks bytes.
pub fn toggle(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte ^= MASK);
}

/// Appends the marked text, unmasked.
pub fn push_marker(bytes: &mut Vec<u8>) {
    let from = bytes.len();
    bytes.extend_from_slice(&MASKED_MARKER);
    toggle(&mut bytes[from..]);
}

/// Returns the marked text and its base64, each masked.
pub fn masked_needles() -> [Vec<u8>; 2] {
    let mut plain = Vec::with_capacity(MARKER_BYTES);
    push_marker(&mut plain);
    let mut encoded = vec![0; ENCODED_MARKER_BYTES];
    let _ = base64_simd::STANDARD.encode(&plain, base64_simd::Out::from_slice(&mut encoded));
    toggle(&mut plain);
    toggle(&mut encoded);
    [plain, encoded]
}

/// A request that is refused without being understood.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// Number of its bytes after which that is clear.
    pub at: usize,
    pub status: u16,
    pub error: OutcomeLabel,
}

/// The destination of a request.
#[derive(Clone, Debug)]
pub enum Target {
    /// `/ping` (or `/readyz`), which need one of these methods.
    LoadBalancer { is_readiness: bool, is_allowed: bool },
    /// A path that names no call.
    Nowhere,
    /// A call.
    Call(Call),
}

/// A call of a store, with what decides about it.
#[derive(Clone, Debug)]
pub struct Call {
    pub label: CallLabel,
    /// Number of the store: the third does not exist.
    pub store: usize,
    pub key: &'static str,
    pub is_post: bool,
    /// Number of the credential that signed it; none if it is unsigned or wrongly signed.
    pub credential: Option<usize>,
    pub is_json_type: bool,
    pub is_valid: bool,
    /// Plaintext, or ciphertext and tag. The marked text at its beginning is masked.
    pub input: Vec<u8>,
    pub is_marked: bool,
    /// Length of plaintext or ciphertext in base64.
    pub encoded_bytes: usize,
    /// Length and SHA-256 of the additional authenticated data.
    pub aad: Option<(u16, [u8; 32])>,
    pub has_cdiv: bool,
    pub iv: Vec<u8>,
    /// Metadata of a ciphertext.
    pub metadata: Option<&'static [u8]>,
}

/// A request on the wire.
#[derive(Clone, Debug)]
pub struct Template {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// Place of the masked base64 of the marked text.
    pub marker: Option<usize>,
    /// Empty lines before it.
    pub leading: usize,
    /// End of its head.
    pub head: usize,
    /// End of the request, which `bytes` may not reach.
    pub end: usize,
    pub content_length: Option<usize>,
    pub expects_continue: bool,
    pub is_last: bool,
    pub announces_keep_alive: bool,
    pub is_head_method: bool,
    pub refusal: Option<Refusal>,
    pub target: Target,
    pub signed_at: u64,
}

impl Template {
    /// Whether nothing can follow it on its connection.
    pub fn ends_input(&self) -> bool {
        self.refusal.is_some() || self.end > self.bytes.len()
    }

    /// Appends the bytes from `from` to `to` as they are sent.
    pub fn write(&self, from: usize, to: usize, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&self.bytes[from..to]);
        if let Some(marker) = self.marker {
            let (first, last) = (marker.max(from), (marker + ENCODED_MARKER_BYTES).min(to));
            if first < last {
                toggle(&mut into[start + first - from..start + last - from]);
            }
        }
    }
}

/// How a request is put together.
struct Draft {
    name: &'static str,
    method: &'static str,
    path: String,
    version: &'static str,
    content_type: &'static str,
    /// Further header fields, not signed.
    fields: &'static str,
    body: Vec<u8>,
    marker: Option<usize>,
    signer: Option<usize>,
    is_forged: bool,
    /// Size of the chunks that the body is sent in.
    chunk: Option<usize>,
    time: u64,
    call: Call,
}

fn encoded(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

impl Draft {
    fn new(
        name: &'static str,
        time: u64,
        call: CallLabel,
        store: usize,
        key: &'static str,
    ) -> Self {
        let prefix = [PREFIX, OTHER_PREFIX, "/example/store-3"][store];
        let path = match call {
            CallLabel::Health => format!("{prefix}/kms/xks/v1/health"),
            _ => format!("{prefix}/kms/xks/v1/keys/{key}/{}", call.text()),
        };
        let signer = if store == 1 { 3 } else { 0 };
        let call = Call {
            label: call,
            store,
            key,
            is_post: true,
            credential: Some(signer),
            is_json_type: true,
            is_valid: true,
            input: Vec::new(),
            is_marked: false,
            encoded_bytes: 0,
            aad: None,
            has_cdiv: false,
            iv: Vec::new(),
            metadata: None,
        };
        let mut draft = Self {
            name,
            method: "POST",
            path,
            version: "HTTP/1.1",
            content_type: "application/json",
            fields: "",
            body: Vec::with_capacity(32 * 1024),
            marker: None,
            signer: Some(signer),
            is_forged: false,
            chunk: None,
            time,
            call,
        };
        let operation = draft.call.label.text();
        draft.text(&format!(
            "{{\"requestMetadata\":{{\"awsPrincipalArn\":\"arn:aws:iam::123456789012:user/Alice\",\
             \"kmsKeyArn\":\"arn:aws:kms:us-east-2:123456789012:/key/1234abcd-12ab-34cd-56ef\",\
             \"kmsOperation\":\"{operation}\",\"kmsRequestId\":\"4112f4d6-{name}\"}}"
        ));
        draft
    }

    fn text(&mut self, text: &str) {
        self.body.extend_from_slice(text.as_bytes());
    }

    /// A call to encrypt a plaintext of this length; the marked text is part of it if it fits.
    fn encrypt(
        name: &'static str,
        time: u64,
        store: usize,
        key: &'static str,
        length: usize,
    ) -> Self {
        let mut draft = Self::new(name, time, CallLabel::Encrypt, store, key);
        draft.text(",\"encryptionAlgorithm\":\"AES_GCM\",\"plaintext\":\"");
        let input = &mut draft.call.input;
        if length >= MARKER_BYTES {
            input.extend_from_slice(&MASKED_MARKER);
            draft.call.is_marked = true;
            draft.marker = Some(draft.body.len());
            let mut masked = masked_needles()[1].clone();
            draft.body.append(&mut masked);
        }
        let start = input.len();
        let filler = name.bytes().chain(draft.time.to_be_bytes()).cycle();
        input.extend(filler.take(length - start));
        draft.call.encoded_bytes = length.div_ceil(3) * 4;
        let rest = encoded(&input[start..]);
        draft.text(&rest);
        draft.text("\"");
        draft
    }

    /// A call to decrypt a ciphertext of this length.
    fn decrypt(name: &'static str, time: u64, key: &'static str, length: usize) -> Self {
        let mut draft = Self::new(name, time, CallLabel::Decrypt, 0, key);
        let filler = name.bytes().chain(time.to_be_bytes()).cycle();
        draft.call.input = filler.take(length + 16).collect();
        draft.call.encoded_bytes = length.div_ceil(3) * 4;
        draft.call.iv = name.bytes().cycle().take(12).collect();
        let (ciphertext, tag) = draft.call.input.split_at(length);
        let text = format!(
            ",\"encryptionAlgorithm\":\"AES_GCM\",\"ciphertext\":\"{}\",\
             \"initializationVector\":\"{}\",\"authenticationTag\":\"{}\"",
            encoded(ciphertext),
            encoded(&draft.call.iv),
            encoded(tag)
        );
        draft.text(&text);
        draft
    }

    fn aad(mut self, length: u16) -> Self {
        let aad: Vec<u8> = self.name.bytes().cycle().take(usize::from(length)).collect();
        self.text(&format!(",\"additionalAuthenticatedData\":\"{}\"", encoded(&aad)));
        self.call.aad = Some((length, Sha256::digest(&aad).into()));
        self
    }

    fn cdiv(mut self) -> Self {
        self.text(",\"ciphertextDataIntegrityValueAlgorithm\":\"SHA_256\"");
        self.call.has_cdiv = true;
        self
    }

    fn metadata(mut self, metadata: &'static [u8]) -> Self {
        self.text(&format!(",\"ciphertextMetadata\":\"{}\"", encoded(metadata)));
        self.call.metadata = Some(metadata);
        self
    }

    fn signed_by(mut self, credential: Option<usize>) -> Self {
        (self.signer, self.call.credential) = (credential, credential);
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The SHA-256 of the body as it is sent.
    fn body_hash(&mut self) -> String {
        let marker = self.marker.map(|at| at..at + ENCODED_MARKER_BYTES);
        let masked = marker.clone().unwrap_or_default();
        toggle(&mut self.body[masked.clone()]);
        let hash = Sha256::digest(&self.body);
        toggle(&mut self.body[masked]);
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The header fields that signing adds.
    fn signature(&mut self) -> String {
        let Some(signer) = self.signer else { return String::new() };
        let (access_key_id, secret) = CREDENTIALS[signer];
        let identity = Credentials::new(access_key_id, secret, None, None, "tests").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name(SERVICE)
            .time(UNIX_EPOCH + Duration::from_secs(self.time))
            .settings(SigningSettings::default())
            .build()
            .expect("all parameters are there")
            .into();
        let hash = self.body_hash();
        let headers = [("host", "xks.example.com"), ("content-type", self.content_type)];
        let uri = format!("https://xks.example.com{}", self.path);
        let body = SignableBody::Precomputed(hash);
        let request = SignableRequest::new(self.method, uri, headers.into_iter(), body)
            .expect("the request can be signed");
        let (instructions, _) = sign(request, &params).expect("the request is signed").into_parts();
        let fields = instructions.headers().map(|(name, value)| format!("{name}: {value}\r\n"));
        fields.collect()
    }

    fn template(mut self) -> Template {
        self.text("}");
        let mut signature = self.signature();
        if self.is_forged {
            let last = signature.trim_end().len() - 1;
            let digit = if &signature[last..=last] == "0" { "1" } else { "0" };
            signature.replace_range(last..=last, digit);
            self.call.credential = None;
        }
        self.call.is_post = self.method == "POST";
        self.call.is_json_type = self.content_type == "application/json";
        let mut bytes = format!(
            "{} {} {}\r\nhost: xks.example.com\r\ncontent-type: {}\r\n{signature}{}",
            self.method, self.path, self.version, self.content_type, self.fields
        )
        .into_bytes();
        let framing = match self.chunk {
            Some(_) => "transfer-encoding: chunked\r\n\r\n".to_owned(),
            None => format!("content-length: {}\r\n\r\n", self.body.len()),
        };
        bytes.extend_from_slice(framing.as_bytes());
        let head = bytes.len();
        match self.chunk {
            Some(size) => {
                for chunk in self.body.chunks(size) {
                    bytes.extend_from_slice(format!("{:x};n=v\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\nX-Trailer: y\r\n\r\n");
            }
            None => bytes.extend_from_slice(&self.body),
        }
        Template {
            name: self.name,
            marker: self.marker.map(|at| head + at),
            leading: 0,
            head,
            end: bytes.len(),
            content_length: self.chunk.is_none().then_some(self.body.len()),
            expects_continue: self.fields.contains("100-continue"),
            is_last: self.fields.contains("close") || self.version == "HTTP/1.0",
            announces_keep_alive: self.version == "HTTP/1.0",
            is_head_method: self.method == "HEAD",
            refusal: None,
            target: Target::Call(self.call),
            signed_at: self.time,
            bytes,
        }
    }
}

/// A request from a load balancer, or one with an unknown path.
fn plain(name: &'static str, text: &str, target: Target) -> Template {
    let is_http_1_0 = text.contains(" HTTP/1.0");
    Template {
        name,
        bytes: text.as_bytes().to_vec(),
        marker: None,
        leading: text.len() - text.trim_start().len(),
        head: text.len(),
        end: text.len(),
        content_length: Some(0),
        expects_continue: false,
        is_last: text.contains("close") || (is_http_1_0 && !text.contains("keep-alive")),
        announces_keep_alive: is_http_1_0,
        is_head_method: text.trim_start().starts_with("HEAD"),
        refusal: None,
        target,
        signed_at: 0,
    }
}

fn refused(
    name: &'static str,
    bytes: &[u8],
    at: usize,
    status: u16,
    error: OutcomeLabel,
) -> Template {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let text = String::from_utf8_lossy(bytes);
    let refusal = Some(Refusal { at, status, error });
    let (bytes, content_length) = (bytes.to_vec(), None);
    Template { head, bytes, content_length, refusal, ..plain(name, &text, Target::Nowhere) }
}

/// All requests.
pub struct Pool {
    /// Those that a customer sends, for each of [`TIMES`].
    pub usual: [Vec<Template>; 3],
    /// All that are signed, or should be, for each of [`TIMES`].
    pub signed: [Vec<Template>; 3],
    /// The others.
    pub unsigned: Vec<Template>,
}

impl Pool {
    /// Signs all requests.
    pub fn new() -> Self {
        Self { usual: TIMES.map(usual), signed: TIMES.map(signed), unsigned: unsigned() }
    }
}

/// Requests that are served if the settings allow them.
fn usual(time: u64) -> Vec<Template> {
    let encrypt = |name, key, length| Draft::encrypt(name, time, 0, key, length);
    let drafts = vec![
        encrypt("encrypt-small", "key-1", 16),
        encrypt("encrypt-key", "key-1", 60),
        encrypt("encrypt-aad", "key-2", 64).aad(20),
        encrypt("encrypt-cdiv", "key-1", 100).aad(30).cdiv(),
        encrypt("encrypt-version", "key-v", 70),
        encrypt("encrypt-second", "key-1", 61).signed_by(Some(2)),
        Draft::encrypt("encrypt-other", time, 1, "key-3", 62),
        Draft::decrypt("decrypt-small", time, "key-1", 9),
        Draft::decrypt("decrypt-key", time, "key-1", 80).metadata(b"meta"),
        Draft::decrypt("decrypt-aad", time, "key-2", 81).aad(21),
        Draft::decrypt("decrypt-original", time, "key-v", 82),
        Draft::decrypt("decrypt-version-2", time, "key-v", 83).metadata(b"\x00k\x00\x00\x00\x02"),
        Draft::decrypt("decrypt-version-3", time, "key-v", 84).metadata(b"\x00k\x00\x00\x00\x03"),
        Draft::decrypt("decrypt-untold", time, "key-1", 85).metadata(b"\x00k\x00\x00\x00\x02"),
        Draft::new("metadata", time, CallLabel::Metadata, 0, "key-1"),
        Draft::new("metadata-version", time, CallLabel::Metadata, 0, "key-v"),
        Draft::new("health", time, CallLabel::Health, 0, ""),
        Draft::new("health-other", time, CallLabel::Health, 1, ""),
    ];
    drafts.into_iter().map(Draft::template).collect()
}

/// Further signed requests, and those that are wrongly signed.
fn signed(time: u64) -> Vec<Template> {
    let encrypt = |name, key, length| Draft::encrypt(name, time, 0, key, length);
    let drafts = vec![
        encrypt("encrypt-large", "key-1", 4_300).aad(8_192),
        encrypt("encrypt-too-large", "key-1", 6_750),
        encrypt("encrypt-aad-too-large", "key-1", 50).aad(13_000),
        encrypt("encrypt-chunks", "key-1", 40).change(|it| it.chunk = Some(50)),
        encrypt("encrypt-tiny-chunks", "key-1", 30).change(|it| it.chunk = Some(1)),
        encrypt("encrypt-expects", "key-1", 63).change(|it| it.fields = "expect: 100-continue\r\n"),
        encrypt("encrypt-closes", "key-1", 65).change(|it| it.fields = "connection: close\r\n"),
        encrypt("encrypt-1.0", "key-1", 66).change(|it| it.version = "HTTP/1.0"),
        encrypt("encrypt-no-key", "key-none", 67),
        encrypt("encrypt-others-key", "key-3", 67),
        encrypt("encrypt-type", "key-1", 68).change(|it| it.content_type = "text/plain"),
        encrypt("encrypt-forged", "key-1", 69).change(|it| it.is_forged = true),
        encrypt("encrypt-unsigned", "key-1", 69).signed_by(None),
        encrypt("encrypt-rotated", "key-1", 71).signed_by(Some(1)),
        encrypt("encrypt-stranger", "key-1", 72).signed_by(Some(4)),
        encrypt("encrypt-others-credential", "key-1", 73).signed_by(Some(3)),
        encrypt("encrypt-put", "key-1", 74).change(|it| it.method = "PUT"),
        Draft::encrypt("encrypt-no-store", time, 2, "key-1", 75),
        Draft::decrypt("decrypt-version-9", time, "key-v", 86).metadata(b"\x00k\x00\x00\x00\x09"),
        Draft::new("encrypt-empty", time, CallLabel::Encrypt, 0, "key-1")
            .change(|it| it.call.is_valid = false),
        Draft::new("health-forged", time, CallLabel::Health, 0, "")
            .change(|it| it.is_forged = true),
        Draft::new("health-json", time, CallLabel::Health, 0, "").change(|it| {
            it.call.is_valid = false;
            it.text("]");
        }),
    ];
    drafts.into_iter().map(Draft::template).collect()
}

fn unsigned() -> Vec<Template> {
    use OutcomeLabel::{InvalidUriPath, UnsupportedOperation, Validation};
    let balancer = |is_readiness, is_allowed| Target::LoadBalancer { is_readiness, is_allowed };
    let huge_head = format!("GET /ping HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(9_000));
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(300));
    let bad_chunk = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabX";
    let bad_version = b"GET /ping HTTP/2.0\r\nHost: a\r\n\r\n";
    let no_host = b"GET /ping HTTP/1.1\r\nX: a\r\n\r\n";
    let both =
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let coding = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n";
    let expectation = b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n";
    let announced = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n0123456789";
    let head = announced.len() - 10;
    let too_large = Template {
        content_length: Some(99_999),
        end: head + 99_999,
        refusal: None,
        ..refused("announces-too-much", announced, 0, 413, Validation)
    };
    vec![
        plain("ping", "GET /ping HTTP/1.1\r\nHost: a\r\n\r\n", balancer(false, true)),
        plain("ping-lines", "\r\n\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n", balancer(false, true)),
        plain("ping-head", "HEAD /ping HTTP/1.1\r\nHost: a\r\n\r\n", balancer(false, true)),
        plain("ping-1.0", "GET /ping HTTP/1.0\r\n\r\n", balancer(false, true)),
        plain(
            "ready-1.0",
            "GET /readyz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            balancer(true, true),
        ),
        plain("ready", "GET http://a/readyz?x HTTP/1.1\r\nHost: a\r\n\r\n", balancer(true, true)),
        plain("ready-put", "PUT /readyz HTTP/1.1\r\nHost: a\r\n\r\n", balancer(true, false)),
        plain(
            "nowhere",
            "POST /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            Target::Nowhere,
        ),
        too_large,
        refused("huge-head", huge_head.as_bytes(), 8_193, 431, Validation),
        refused("long-target", long_target.as_bytes(), long_target.len(), 414, InvalidUriPath),
        refused("bad-chunk", bad_chunk, bad_chunk.len(), 400, Validation),
        refused("bad-version", bad_version, bad_version.len(), 505, UnsupportedOperation),
        refused("no-host", no_host, no_host.len(), 400, Validation),
        refused("two-framings", both, both.len(), 400, Validation),
        refused("coding", coding, coding.len(), 501, UnsupportedOperation),
        refused("expectation", expectation, expectation.len(), 417, Validation),
        refused("lone-line-feed", b"GET /ping HTTP/1.1\nHost: a\n\n", 19, 400, Validation),
        refused("lone-return", b"GET /ping\rHTTP/1.1", 11, 400, Validation),
    ]
}

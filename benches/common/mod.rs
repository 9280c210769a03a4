//! The measured stages, on requests as KMS sends them.

#[allow(dead_code, reason = "its tests use more of it")]
#[path = "../../tests/proto/rig/mod.rs"]
mod rig;

use std::hint::black_box;

use xks_proxy::job::{Completion, Iv, Job, KeyAttributes, Operation, Success};
use xks_proxy::proto::buffer::PADDING_BYTES;
use xks_proxy::proto::http::date::HttpDate;
use xks_proxy::proto::http::request::{find_end, header_slots, parse};
use xks_proxy::proto::http::response::ResponseHead;
use xks_proxy::proto::route::Call;
use xks_proxy::proto::sigv4::signing_key::SigningKeys;
use xks_proxy::proto::sigv4::verify;
use xks_proxy::proto::xks::decode::{Decoder, RequestMetadata};
use xks_proxy::proto::xks::encode;
use xks_proxy::proto::{Connection, Listener, Step};

use rig::signer::Unsigned;
use rig::{KEY, NOON, PREFIX, Rig, service};

/// A stage's name, and a function that runs it; each call does the same work.
pub type Stage = (&'static str, Box<dyn FnMut()>);

/// A data key of the size that GenerateDataKey and Decrypt handle.
const DATA_KEY: [u8; 32] = [0x5A; 32];

fn b64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

/// A body as KMS sends it.
fn body(call: Call) -> String {
    let metadata = r#""requestMetadata":{"awsPrincipalArn":"arn:aws:sts::123456789012:assumed-role/application/i-0123456789abcdef0","kmsKeyArn":"arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab","kmsOperation":"Decrypt","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsViaService":"ebs"}"#;
    let aad = b64(&[0xA5; 80]);
    match call {
        Call::Metadata | Call::Health => format!("{{{metadata}}}"),
        Call::Encrypt => format!(
            r#"{{{metadata},"additionalAuthenticatedData":"{aad}","plaintext":"{}","encryptionAlgorithm":"AES_GCM","ciphertextDataIntegrityValueAlgorithm":"SHA_256"}}"#,
            b64(&DATA_KEY)
        ),
        Call::Decrypt => format!(
            r#"{{{metadata},"additionalAuthenticatedData":"{aad}","encryptionAlgorithm":"AES_GCM","ciphertext":"{}","initializationVector":"{}","authenticationTag":"{}"}}"#,
            b64(&DATA_KEY),
            b64(&[1; 12]),
            b64(&[2; 16])
        ),
    }
}

/// A signed request as KMS sends it: `host` and `x-amz-date` are signed.
fn request(call: Call) -> Vec<u8> {
    let path = match call {
        Call::Health => "health".to_owned(),
        _ => format!("keys/{KEY}/{}", call.name()),
    };
    let mut request = Unsigned::call(&path, body(call));
    request.headers.truncate(1);
    let mut fields = request.headers.clone();
    fields.extend(request.signature_fields());
    for (name, value) in [
        ("content-type", "application/json"),
        ("content-length", &request.body.len().to_string()),
        ("user-agent", "aws-kms"),
        ("accept-encoding", "identity"),
    ] {
        fields.push((name.to_owned(), value.to_owned()));
    }
    request.with_fields(&fields)
}

/// All stages.
pub fn stages() -> Vec<Stage> {
    let mut stages: Vec<Stage> = vec![("http_head", http_head()), ("sigv4_verify", sigv4_verify())];
    for (name, call) in [
        ("json_metadata", Call::Metadata),
        ("json_encrypt", Call::Encrypt),
        ("json_decrypt", Call::Decrypt),
        ("json_health", Call::Health),
    ] {
        stages.push((name, json(call)));
    }
    for (name, length) in [("base64_32_bytes", 32), ("base64_4300_bytes", 4_300)] {
        stages.push((name, base64(length)));
    }
    stages.push(("encode_encrypted", encode_encrypted()));
    stages.push(("encode_decrypted", encode_decrypted()));
    stages.push(("response_head", response_head()));
    for (name, call) in [
        ("request_metadata", Call::Metadata),
        ("request_encrypt_cdiv", Call::Encrypt),
        ("request_decrypt", Call::Decrypt),
        ("request_health", Call::Health),
    ] {
        stages.push((name, whole(request(call))));
    }
    stages.push(("request_ping", whole(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n".to_vec())));
    stages
}

fn http_head() -> Box<dyn FnMut()> {
    let request = request(Call::Decrypt);
    Box::new(move || {
        let end = find_end(black_box(&request), 0).unwrap_or_default();
        let mut slots = header_slots();
        let head = parse(&request[..end], &mut slots);
        assert!(black_box(head).is_ok());
    })
}

fn sigv4_verify() -> Box<dyn FnMut()> {
    let request = request(Call::Decrypt);
    let service = service();
    let mut keys = SigningKeys::new(service.credentials());
    let end = find_end(&request, 0).expect("a whole head");
    // The head is parsed once: parsing is another stage.
    let request: &'static [u8] = request.leak();
    let slots = Box::leak(Box::new(header_slots()));
    let head = parse(&request[..end], slots).expect("a good head");
    Box::new(move || {
        let store = service.store(PREFIX).expect("the store");
        let body = black_box(&request[end..]);
        let verified = verify(&head, body, store.credentials(), service.scope(), &mut keys, NOON);
        assert!(black_box(verified).is_ok());
    })
}

fn json(call: Call) -> Box<dyn FnMut()> {
    let body = body(call).into_bytes();
    let mut padded = vec![0; body.len() + PADDING_BYTES];
    let mut decoder = Decoder::default();
    Box::new(move || {
        // The parser rewrites its input.
        padded[..body.len()].copy_from_slice(&body);
        let mut metadata = RequestMetadata::default();
        let members = decoder.decode(call, &mut padded, body.len(), &mut metadata);
        assert!(black_box(members).is_ok());
    })
}

fn base64(length: usize) -> Box<dyn FnMut()> {
    let bytes = vec![0x5A; length];
    let encoded = b64(&bytes).into_bytes();
    let mut decoded = encoded.clone();
    let mut out = Vec::with_capacity(encoded.len());
    Box::new(move || {
        decoded.copy_from_slice(&encoded);
        assert!(black_box(base64_simd::STANDARD.decode_inplace(&mut decoded)).is_ok());
        out.clear();
        base64_simd::STANDARD.encode_append(black_box(&bytes), &mut out);
        black_box(&out);
    })
}

fn encode_encrypted() -> Box<dyn FnMut()> {
    let iv = Iv::from_slice(&[1; 12]).expect("12 bytes");
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        out.clear();
        encode::encrypted(&mut out, black_box(&DATA_KEY), &iv, &[2; 16], None, Some(&[3; 32]));
        black_box(&out);
    })
}

fn encode_decrypted() -> Box<dyn FnMut()> {
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        out.clear();
        encode::decrypted(&mut out, black_box(&DATA_KEY));
        black_box(&out);
    })
}

fn response_head() -> Box<dyn FnMut()> {
    let mut date = HttpDate::default();
    let mut out = Vec::with_capacity(4096);
    Box::new(move || {
        out.clear();
        let head = ResponseHead {
            status: 200,
            content_type: "application/json",
            content_length: black_box(60),
            date: date.at(NOON),
            close: false,
            announce_keep_alive: false,
            allow: None,
        };
        head.write(&mut out);
        black_box(&out);
    })
}

/// A complete request on a persistent connection: bytes, job, completion, bytes.
fn whole(request: Vec<u8>) -> Box<dyn FnMut()> {
    let rig = Rig::new(service());
    let (mut loop_state, snapshot, attributes) = (rig.loop_state, rig.snapshot, rig.hsm.attributes);
    let mut connection = Connection::new(Listener::Api, None, &snapshot);
    Box::new(move || {
        connection.receive(&mut loop_state, snapshot.now, black_box(&request));
        let mut step = connection.step(&mut loop_state, &snapshot);
        loop {
            step = match step {
                Step::Submit(job) => {
                    let completion = done(job, attributes);
                    connection.complete(&mut loop_state, &snapshot, completion)
                }
                Step::Send => {
                    assert!(black_box(&loop_state.out).starts_with(b"HTTP/1.1 200"));
                    loop_state.clear_out();
                    connection.sent(&mut loop_state, &snapshot)
                }
                Step::Receive => return,
                Step::Close => unreachable!("the connection stays"),
            };
        }
    })
}

/// The answer of an HSM that takes no time.
fn done(mut job: Job, attributes: KeyAttributes) -> Completion {
    job.output.extend_from_slice(&DATA_KEY);
    let success = match job.request.operation {
        Operation::Describe => Success::Described(attributes),
        Operation::Encrypt { .. } => Success::Encrypted {
            iv: Iv::from_slice(&[1; 12]).expect("12 bytes"),
            tag: [2; 16],
            cdiv: Some([3; 32]),
        },
        Operation::Decrypt { .. } => Success::Decrypted,
    };
    Completion {
        reply_to: job.reply_to,
        outcome: Ok(success),
        output: job.output,
        token: None,
        queue_micros: 0,
        hsm_micros: 0,
    }
}

//! The fuzzers' seeds are signed by AWS's signer, so that they get past the signature check.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::calls::{b64, call, decrypt, encrypt, metadata};
use crate::rig::signer::Unsigned;
use crate::rig::{KEY, Rig};

/// Target, name and content of each seed made here. Those of `request` begin with the target's two
/// bytes of options: signatures on, pieces of any size.
fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let metadata_body = json!({"requestMetadata": metadata()});
    let mut encrypt_body = encrypt(b"Hello World!", Some(b"project=nile,department=marketing"));
    encrypt_body["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256".into();
    let answer = json!({
        "ciphertext": b64(b"ciphertext"),
        "initializationVector": b64(&[1; 12]),
        "authenticationTag": b64(&[2; 16]),
        "ciphertextMetadata": b64(b"v1"),
    });
    let decrypt_body = decrypt(&answer, Some(b"aad"));
    let chunked = {
        let body = encrypt_body.to_string();
        let wire = format!("{:x};ext=1\r\n{body}\r\n0\r\nTrailer: x\r\n\r\n", body.len());
        Unsigned::call(&format!("keys/{KEY}/encrypt"), body)
            .signed_with(("transfer-encoding", "chunked"), wire.as_bytes())
    };
    let requests = [
        ("encrypt", call(&format!("keys/{KEY}/encrypt"), &encrypt_body)),
        ("decrypt", call(&format!("keys/{KEY}/decrypt"), &decrypt_body)),
        ("metadata", call(&format!("keys/{KEY}/metadata"), &metadata_body)),
        ("health", call("health", &metadata_body)),
        ("chunked", chunked),
        ("ping", b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        (
            "readyz",
            b"\r\nGET http://a/readyz?x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_vec(),
        ),
        (
            "expect",
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx"
                .to_vec(),
        ),
    ];
    let mut seeds = Vec::new();
    for (name, request) in requests {
        let head = request.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        seeds.push(("head", name, request[..head].to_vec()));
        if head < request.len() && name != "chunked" && name != "expect" {
            seeds.push(("sigv4", name, request.clone()));
        }
        seeds.push(("request", name, [&[1, 255][..], &request].concat()));
        seeds.push(("connection", name, [&[0, 255, 255][..], &request].concat()));
    }
    for (name, selector, body) in [
        ("metadata", 0, &metadata_body),
        ("health", 1, &metadata_body),
        ("encrypt", 2, &encrypt_body),
        ("decrypt", 3, &decrypt_body),
    ] {
        seeds.push(("json", name, [&[selector][..], body.to_string().as_bytes()].concat()));
    }
    seeds.push((
        "body",
        "chunks",
        b"\x035\r\nhello\r\n1;ext=\"a\"\r\n \r\n0\r\nT: x\r\n\r\n".to_vec(),
    ));
    seeds.push(("body", "one_chunk", b"\xff00A \r\n0123456789\r\n0\r\n\r\nPOST".to_vec()));
    // Actions of the fuzzer between the bytes: work, time, the end of the input.
    seeds.push(("connection", "operations", {
        let ping = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n";
        [&[0, 0, 30][..], &ping[..30], &[1, 9, 2, 3, 5, 0, 0, 9], &ping[..9], &[1, 255, 6, 7]]
            .concat()
    }));
    seeds
}

/// The signatures are valid, so that the fuzzers get past them.
#[test]
fn the_seeds_are_authentic() {
    for (target, name, content) in seeds() {
        if target == "request" {
            let mut rig = Rig::usual();
            rig.send(&content[2..]);
            assert!(rig.responses().iter().all(|answer| answer.status != 401), "{name}");
        }
    }
}

/// The committed files are up to date; with UPDATE_SEEDS set, they are written instead.
#[test]
fn the_fuzzers_seeds_are_up_to_date() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, name, content) in seeds() {
        let path = directory.join(target).join(name);
        if std::env::var_os("UPDATE_SEEDS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &content).unwrap();
        }
        let committed = fs::read(&path).unwrap_or_default();
        assert!(committed == content, "{}: run with UPDATE_SEEDS=1", path.display());
    }
}

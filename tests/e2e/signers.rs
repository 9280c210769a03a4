//! Signatures by independent signers. (All other tests sign with AWS's Rust signer.)

use std::process::{Command, Stdio};

use crate::common::{Client, Setup, signing::Signer, tools, xks};

/// `curl --aws-sigv4`, the signer that administrators and the public test client use.
fn curl(client: &Client, call: &str, body: &str) -> String {
    let store = &client.signer.store;
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--fail-with-body", "--max-time", "20"])
        .args(["--header", "Content-Type: application/json"])
        .args(["--aws-sigv4", "aws:amz:us-east-1:kms-xks-proxy"])
        .args(["--user", &format!("{}:{}", store.access_key_id, store.secret_access_key)])
        .args(["--data-binary", body])
        .arg(format!("http://{}{}", client.host(), client.target(call)));
    let output = tools::run(
        &mut command,
        "the tests need curl 7.76 or later: apt-get install curl, or dnf install curl",
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_signs() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let body = xks::encrypt_with_cdiv(b"by curl", Some(b"aad")).to_string();
    let encrypted = serde_json::from_str(&curl(&client, "keys/foo/encrypt", &body)).unwrap();
    let body = xks::decrypt(&encrypted, Some(b"aad")).to_string();
    let decrypted: serde_json::Value =
        serde_json::from_str(&curl(&client, "keys/foo/decrypt", &body)).unwrap();
    assert_eq!(xks::bytes(&decrypted["plaintext"]), b"by curl");
}

/// Reads a body, and prints the header fields that botocore signs and adds, one `name: value` per
/// line.
const BOTOCORE: &str = r#"
import sys
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
url, access_key_id, secret_access_key = sys.argv[1:]
headers = {
    "Content-Type": "application/json",
    "X-Amz-Target": "  spaces   around and    inside  ",
    "User-Agent": "botocore is not signed",
    "X-Repeated": "one,two",
}
request = AWSRequest("POST", url, headers=headers, data=sys.stdin.buffer.read())
credentials = Credentials(access_key_id, secret_access_key)
SigV4Auth(credentials, "kms-xks-proxy", "us-east-1").add_auth(request)
for name, value in request.headers.items():
    print(f"{name}: {value}")
"#;

/// botocore signs every header field that it is given, in its own canonical form.
#[test]
fn botocore_signs() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let target = client.target("keys/foo/encrypt");
    let body = xks::encrypt(b"by botocore", None).to_string();
    let body_file = proxy.directory().join("body.json");
    std::fs::write(&body_file, &body).unwrap();
    let store = &client.signer.store;
    let mut command = tools::python_with_botocore();
    command
        .args(["-c", BOTOCORE, &format!("http://{}{target}", client.host())])
        .args([&store.access_key_id, &store.secret_access_key])
        .stdin(Stdio::from(std::fs::File::open(body_file).unwrap()));
    let output = tools::run(&mut command, tools::BOTOCORE_REMEDY);
    let headers: Vec<(String, String)> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_owned(), value[1..].to_owned()))
        .collect();
    let authorization = &headers.iter().find(|(name, _)| name == "Authorization").unwrap().1;
    assert!(authorization.contains("content-type;host;x-amz-date;x-amz-target;x-repeated"));

    let mut connection = client.connect();
    connection.send_request("POST", &target, &client.host(), &headers, body.as_bytes()).unwrap();
    let encrypted = connection.receive().unwrap().ok();
    let decrypted = client.call("keys/foo/decrypt", &xks::decrypt(&encrypted, None)).ok();
    assert_eq!(xks::bytes(&decrypted["plaintext"]), b"by botocore");
}

/// Any set of header fields may be signed, as long as host and x-amz-date are in it.
#[test]
fn any_set_of_signed_headers() {
    let proxy = Setup::new().start();
    let client = proxy.client();
    let target = client.target("health");
    let body = xks::health().to_string();
    let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for extra in [
        vec![],
        vec![field("x-amz-content-sha256", "UNSIGNED-PAYLOAD")],
        vec![field("x-empty", ""), field("x-spaces", "a  b\tc")],
        vec![field("x-twice", "1"), field("x-twice", "2")],
    ] {
        let mut headers = vec![field("content-type", "application/json")];
        headers.extend(extra);
        headers.extend(client.sign("POST", &target, &headers, body.as_bytes()));
        let mut connection = client.connect();
        connection
            .send_request("POST", &target, &client.host(), &headers, body.as_bytes())
            .unwrap();
        connection.receive().unwrap().ok();
    }
    let no_content_type_signed = Signer::new(&client.signer.store);
    let url = format!("http://{}{target}", client.host());
    let mut headers = no_content_type_signed.sign("POST", &url, &[], body.as_bytes());
    headers.push(field("content-type", "application/json; charset=utf-8"));
    let mut connection = client.connect();
    connection.send_request("POST", &target, &client.host(), &headers, body.as_bytes()).unwrap();
    connection.receive().unwrap().ok();
}

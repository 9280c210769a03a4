//! A strict parser of answers.

use serde_json::Value;

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Header fields, with names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// Returns a header field, which must not occur twice.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter().filter(|(field, _)| field == name);
        let value = fields.next().map(|(_, value)| value.as_str());
        assert!(fields.next().is_none(), "{name} is there twice");
        value
    }

    /// Returns the body's JSON, which must be declared as such.
    pub fn json(&self) -> Value {
        assert_eq!(self.field("content-type"), Some("application/json"));
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }

    /// Returns `errorName`, after checking `errorMessage` (XKS specification, Error codes).
    pub fn error_name(&self) -> String {
        let json = self.json();
        let message = json["errorMessage"].as_str().expect("errorMessage is a string");
        assert!(message.len() < 512 && message.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
        json["errorName"].as_str().expect("errorName is a string").to_owned()
    }

    /// Returns status and `errorName`.
    pub fn error(&self) -> (u16, String) {
        (self.status, self.error_name())
    }

    pub fn closes(&self) -> bool {
        self.field("connection") == Some("close")
    }
}

/// Parses all answers in `bytes`. `100 Continue` and answers to HEAD have no body.
pub fn parse_all(mut bytes: &[u8], to_head: bool) -> Vec<Response> {
    let mut responses = Vec::new();
    while !bytes.is_empty() {
        let mut slots = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Response::new(&mut slots);
        let httparse::Status::Complete(head) = parsed.parse(bytes).expect("an answer is HTTP")
        else {
            panic!("an answer is whole");
        };
        assert_eq!(parsed.version, Some(1));
        let fields: Vec<(String, String)> = parsed
            .headers
            .iter()
            .map(|field| {
                let value = std::str::from_utf8(field.value).expect("fields are ASCII");
                (field.name.to_ascii_lowercase(), value.to_owned())
            })
            .collect();
        let status = parsed.code.expect("a status");
        let mut response = Response { status, fields, body: Vec::new() };
        bytes = &bytes[head..];
        if status != 100 {
            let length: usize =
                response.field("content-length").expect("a length").parse().expect("a number");
            assert!(response.field("date").is_some());
            if !to_head {
                response.body = bytes[..length].to_vec();
                bytes = &bytes[length..];
            }
        }
        responses.push(response);
    }
    responses
}

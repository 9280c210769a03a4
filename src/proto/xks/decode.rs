//! Decoding of JSON to a typed call (XKS specification, API operations).
//!
//! simd-json parses the body and unescapes strings in place. Strings are kept as spans of the body,
//! so nothing is copied.

use std::borrow::Cow;

use simd_json::{Buffers, Node, StaticNode, Tape};

use super::error::ApiError;
use crate::limits::{MAX_ARN_BYTES, MAX_CIPHERTEXT_METADATA_BYTES};
use crate::proto::buffer::PADDING_BYTES;
use crate::proto::route::Call;
use crate::proto::span::Span;

// The error's text contains this number.
const _: () = assert!(MAX_CIPHERTEXT_METADATA_BYTES == 20);

/// `requestMetadata`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestMetadata {
    /// `kmsRequestId`
    pub kms_request_id: Option<Span>,
    /// `kmsOperation`
    pub kms_operation: Option<Span>,
    /// `awsPrincipalArn`
    pub aws_principal_arn: Option<Span>,
    /// `kmsKeyArn`
    pub kms_key_arn: Option<Span>,
    /// `kmsViaService`
    pub kms_via_service: Option<Span>,
    /// `awsSourceVpc`
    pub aws_source_vpc: Option<Span>,
    /// `awsSourceVpce`
    pub aws_source_vpce: Option<Span>,
}

/// A call's members, with base64 decoded in place. Members that the call does not have are absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Members {
    /// `plaintext` (encrypt) or `ciphertext` (decrypt).
    pub data: Option<Decoded>,
    /// `additionalAuthenticatedData`
    pub aad: Option<Decoded>,
    /// `initializationVector`
    pub iv: Option<Decoded>,
    /// `authenticationTag`
    pub tag: Option<Decoded>,
    /// `ciphertextMetadata`
    pub ciphertext_metadata: Option<Decoded>,
    /// `ciphertextDataIntegrityValueAlgorithm` is present (and is SHA_256).
    pub cdiv: bool,
}

/// A base64 member after decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Position of the decoded bytes.
    pub span: Span,
    /// Length of the base64.
    pub base64_len: usize,
}

/// A JSON parser and its memory.
pub struct Decoder {
    buffers: Buffers,
    tape: Option<Tape<'static>>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffers: Buffers::new(4096), tape: Some(Tape::null()) }
    }
}

/// The strings of a call before base64 is decoded.
#[derive(Default)]
struct Strings {
    plaintext: Option<Span>,
    ciphertext: Option<Span>,
    additional_authenticated_data: Option<Span>,
    initialization_vector: Option<Span>,
    authentication_tag: Option<Span>,
    ciphertext_metadata: Option<Span>,
    encryption_algorithm: Option<Span>,
    cdiv_algorithm: Option<Span>,
}

impl Decoder {
    /// Decodes `padded[..length]`, which must be followed by [`PADDING_BYTES`] more; these keep
    /// their value. Fills `metadata` as far as decoding gets, so that a refused call is logged with
    /// its kmsRequestId.
    ///
    /// # Errors
    /// A ValidationException that names the member and the reason.
    pub fn decode(
        &mut self,
        call: Call,
        padded: &mut [u8],
        length: usize,
        metadata: &mut RequestMetadata,
    ) -> Result<Members, ApiError> {
        let base = padded.as_ptr() as usize;
        let is_secret_copied =
            call == Call::Encrypt && memchr::memchr(b'\\', &padded[..length]).is_some();
        let mut tape = self.tape.take().unwrap_or_else(Tape::null).reset();
        let parsed = simd_json::fill_tape_padded(padded, length, &mut self.buffers, &mut tape);
        let strings = match parsed {
            Ok(()) => read_call(call, &tape.0, base, metadata),
            // The parser's own message could repeat the input.
            Err(_) => Err(ApiError::validation("the body is not JSON (RFC 8259)")),
        };
        self.tape = Some(tape.reset());
        if is_secret_copied {
            self.wipe(length);
        }
        let strings = strings?;
        require_metadata(call, metadata)?;
        members(call, &strings, padded)
    }
}

impl Decoder {
    /// Wipes the memory that the parser keeps for unescaping strings. Each string is unescaped at
    /// its start, so a longer string without a secret overwrites it.
    #[cold]
    fn wipe(&mut self, length: usize) {
        let mut text = vec![b'0'; length + PADDING_BYTES];
        if let [b'0', b'0', b'0', .., last] = &mut text[..length] {
            *last = b'"';
            text[..3].copy_from_slice(b"\"\\n");
        }
        let mut tape = Tape::null();
        let _ = simd_json::fill_tape_padded(&mut text, length, &mut self.buffers, &mut tape);
    }
}

/// Walks the top-level object.
fn read_call(
    call: Call,
    nodes: &[Node<'_>],
    base: usize,
    metadata: &mut RequestMetadata,
) -> Result<Strings, ApiError> {
    let mut strings = Strings::default();
    let mut seen_metadata = false;
    let object =
        object_at(nodes, 0).ok_or_else(|| ApiError::validation("the body is not a JSON object"))?;
    for (name, value) in object {
        let slot = match (name, call) {
            ("requestMetadata", _) => {
                if std::mem::replace(&mut seen_metadata, true) {
                    return Err(twice("requestMetadata"));
                }
                read_metadata(nodes, value, base, metadata)?;
                continue;
            }
            ("plaintext", Call::Encrypt) => &mut strings.plaintext,
            ("ciphertextDataIntegrityValueAlgorithm", Call::Encrypt) => &mut strings.cdiv_algorithm,
            ("ciphertext", Call::Decrypt) => &mut strings.ciphertext,
            ("initializationVector", Call::Decrypt) => &mut strings.initialization_vector,
            ("authenticationTag", Call::Decrypt) => &mut strings.authentication_tag,
            ("ciphertextMetadata", Call::Decrypt) => &mut strings.ciphertext_metadata,
            ("additionalAuthenticatedData", Call::Encrypt | Call::Decrypt) => {
                &mut strings.additional_authenticated_data
            }
            ("encryptionAlgorithm", Call::Encrypt | Call::Decrypt) => {
                &mut strings.encryption_algorithm
            }
            // KMS adds members over time (XKS specification, Appendix B).
            _ => continue,
        };
        string_member("", name, nodes, value, base, slot)?;
    }
    if !seen_metadata {
        return Err(missing("requestMetadata"));
    }
    Ok(strings)
}

fn read_metadata(
    nodes: &[Node<'_>],
    at: usize,
    base: usize,
    metadata: &mut RequestMetadata,
) -> Result<(), ApiError> {
    let object = object_at(nodes, at)
        .ok_or_else(|| ApiError::validation("requestMetadata is not an object"))?;
    for (name, value) in object {
        let slot = match name {
            "kmsRequestId" => &mut metadata.kms_request_id,
            "kmsOperation" => &mut metadata.kms_operation,
            "awsPrincipalArn" => &mut metadata.aws_principal_arn,
            "kmsKeyArn" => &mut metadata.kms_key_arn,
            "kmsViaService" => &mut metadata.kms_via_service,
            "awsSourceVpc" => &mut metadata.aws_source_vpc,
            "awsSourceVpce" => &mut metadata.aws_source_vpce,
            _ => continue,
        };
        string_member("requestMetadata.", name, nodes, value, base, slot)?;
    }
    Ok(())
}

/// Stores a string in its slot, once. JSON libraries write null for an absent optional member, but
/// KMS does not, so null is a wrong type here.
#[inline(always)]
fn string_member(
    path: &str,
    name: &str,
    nodes: &[Node<'_>],
    at: usize,
    base: usize,
    slot: &mut Option<Span>,
) -> Result<(), ApiError> {
    let Some(Node::String(text)) = nodes.get(at) else {
        return Err(not_a_string(path, name, nodes.get(at)));
    };
    if slot.replace(Span::of(text, base)).is_some() {
        return Err(twice(&format!("{path}{name}")));
    }
    Ok(())
}

#[cold]
fn not_a_string(path: &str, name: &str, node: Option<&Node<'_>>) -> ApiError {
    let kind = match node {
        Some(Node::Object { .. }) => "an object",
        Some(Node::Array { .. }) => "an array",
        Some(Node::Static(StaticNode::Bool(_))) => "a boolean",
        Some(Node::Static(StaticNode::Null)) => "null",
        _ => "a number",
    };
    ApiError::validation(format!("{path}{name} is {kind}, not a string"))
}

/// The members of the object that begins at node `at`: name, and position of the value.
fn object_at<'t, 'v>(
    nodes: &'t [Node<'v>],
    at: usize,
) -> Option<impl Iterator<Item = (&'v str, usize)> + use<'t, 'v>> {
    let Some(Node::Object { len, .. }) = nodes.get(at) else {
        return None;
    };
    let mut next = at + 1;
    Some((0..*len).map_while(move |_| {
        let Some(Node::String(name)) = nodes.get(next) else {
            return None;
        };
        let value = next + 1;
        next = value
            + match nodes.get(value)? {
                Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
                Node::String(_) | Node::Static(_) => 1,
            };
        Some((*name, value))
    }))
}

#[cold]
fn missing(member: &str) -> ApiError {
    ApiError::validation(format!("{member} is missing"))
}

#[cold]
fn twice(member: &str) -> ApiError {
    ApiError::validation(format!("{member} appears twice"))
}

/// Checks the REQUIRED members of requestMetadata, and the length of ARNs.
fn require_metadata(call: Call, metadata: &RequestMetadata) -> Result<(), ApiError> {
    let is_crypto = matches!(call, Call::Encrypt | Call::Decrypt);
    for (member, value, is_required) in [
        ("kmsRequestId", metadata.kms_request_id, true),
        ("kmsOperation", metadata.kms_operation, true),
        ("awsPrincipalArn", metadata.aws_principal_arn, call != Call::Health),
        ("kmsKeyArn", metadata.kms_key_arn, is_crypto),
    ] {
        if is_required && value.is_none() {
            return Err(missing(&format!("requestMetadata.{member}")));
        }
    }
    for (member, value) in
        [("awsPrincipalArn", metadata.aws_principal_arn), ("kmsKeyArn", metadata.kms_key_arn)]
    {
        if value.is_some_and(|value| value.len() > MAX_ARN_BYTES) {
            return Err(ApiError::validation(format!(
                "requestMetadata.{member} is longer than {MAX_ARN_BYTES} characters"
            )));
        }
    }
    Ok(())
}

/// Checks the call's own members, and decodes their base64 in place.
fn members(call: Call, strings: &Strings, body: &mut [u8]) -> Result<Members, ApiError> {
    let mut members = Members::default();
    let data = match call {
        Call::Metadata | Call::Health => return Ok(members),
        Call::Encrypt => ("plaintext", strings.plaintext),
        Call::Decrypt => ("ciphertext", strings.ciphertext),
    };
    require_value("encryptionAlgorithm", strings.encryption_algorithm, "AES_GCM", body)?;
    if strings.cdiv_algorithm.is_some() {
        let member = "ciphertextDataIntegrityValueAlgorithm";
        require_value(member, strings.cdiv_algorithm, "SHA_256", body)?;
        members.cdiv = true;
    }
    members.data = Some(required_base64(data.0, data.1, body)?);
    if call == Call::Decrypt {
        let iv = strings.initialization_vector;
        members.iv = Some(required_base64("initializationVector", iv, body)?);
        let tag = strings.authentication_tag;
        members.tag = Some(required_base64("authenticationTag", tag, body)?);
        let metadata = strings.ciphertext_metadata;
        members.ciphertext_metadata = optional_base64("ciphertextMetadata", metadata, body)?;
        if members
            .ciphertext_metadata
            .is_some_and(|metadata| metadata.span.len() > MAX_CIPHERTEXT_METADATA_BYTES)
        {
            return Err(ApiError::validation("ciphertextMetadata is longer than 20 bytes"));
        }
    }
    let aad = strings.additional_authenticated_data;
    members.aad = optional_base64("additionalAuthenticatedData", aad, body)?;
    Ok(members)
}

fn require_value(
    member: &str,
    span: Option<Span>,
    expected: &str,
    body: &[u8],
) -> Result<(), ApiError> {
    match span {
        None => Err(missing(member)),
        Some(span) if span.bytes(body) == expected.as_bytes() => Ok(()),
        Some(_) => Err(ApiError::validation(format!("{member} is not {expected}"))),
    }
}

fn required_base64(
    member: &'static str,
    span: Option<Span>,
    body: &mut [u8],
) -> Result<Decoded, ApiError> {
    optional_base64(member, span, body)?.ok_or_else(|| missing(member))
}

/// Decodes base64 of RFC 4648, 4, with padding, without white space, in its canonical form.
fn optional_base64(
    member: &'static str,
    span: Option<Span>,
    body: &mut [u8],
) -> Result<Option<Decoded>, ApiError> {
    let Some(span) = span else {
        return Ok(None);
    };
    let decoded = body
        .get_mut(span.range())
        .and_then(|encoded| base64_simd::STANDARD.decode_inplace(encoded).ok())
        .ok_or_else(|| {
            ApiError::validation(Cow::Owned(format!(
                "{member} is not base64 (RFC 4648, 4, padded, canonical)"
            )))
        })?;
    Ok(Some(Decoded { span: span.with_len(decoded.len()), base64_len: span.len() }))
}

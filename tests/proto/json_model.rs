//! A call's body, read by our decoder and by a model of serde_json and the specification's rules.

use serde::{Deserialize, Deserializer};
use xks_proxy::proto::buffer::PADDING_BYTES;
use xks_proxy::proto::route::Call;
use xks_proxy::proto::span::Span;
use xks_proxy::proto::xks::decode::{Decoded, Decoder, Members, RequestMetadata};

/// Members of a decoded call that come from the body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    metadata: [Option<String>; 7],
    data: Option<Vec<u8>>,
    aad: Option<Vec<u8>>,
    iv: Option<Vec<u8>>,
    tag: Option<Vec<u8>>,
    ciphertext_metadata: Option<Vec<u8>>,
    cdiv: bool,
}

/// Runs our decoder with garbage in the padding, which must stay unchanged.
pub fn decode(decoder: &mut Decoder, call: Call, body: &[u8]) -> Option<Seen> {
    let padding: Vec<u8> = b"}]\"\\,: 1".iter().copied().cycle().take(PADDING_BYTES + 13).collect();
    let mut padded = [body, &padding].concat();
    let mut metadata = RequestMetadata::default();
    let decoded = decoder.decode(call, &mut padded, body.len(), &mut metadata);
    assert_eq!(padded[body.len()..], padding);
    let members: Members = decoded.ok()?;
    let bytes = |member: Option<Decoded>| member.map(|member| member.span.bytes(&padded).to_vec());
    let text = |span: Option<Span>| span.map(|span| span.text(&padded).to_owned());
    Some(Seen {
        metadata: [
            text(metadata.kms_request_id),
            text(metadata.kms_operation),
            text(metadata.aws_principal_arn),
            text(metadata.kms_key_arn),
            text(metadata.kms_via_service),
            text(metadata.aws_source_vpc),
            text(metadata.aws_source_vpce),
        ],
        data: bytes(members.data),
        aad: bytes(members.aad),
        iv: bytes(members.iv),
        tag: bytes(members.tag),
        ciphertext_metadata: bytes(members.ciphertext_metadata),
        cdiv: members.cdiv,
    })
}

/// Reads a member that must be a string if present; null counts as absent.
fn string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelMetadata {
    kms_request_id: String,
    kms_operation: String,
    #[serde(default, deserialize_with = "string")]
    aws_principal_arn: Option<String>,
    #[serde(default, deserialize_with = "string")]
    kms_key_arn: Option<String>,
    #[serde(default, deserialize_with = "string")]
    kms_via_service: Option<String>,
    #[serde(default, deserialize_with = "string")]
    aws_source_vpc: Option<String>,
    #[serde(default, deserialize_with = "string")]
    aws_source_vpce: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelMetadataOnly {
    request_metadata: ModelMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelEncrypt {
    request_metadata: ModelMetadata,
    plaintext: String,
    encryption_algorithm: String,
    #[serde(default, deserialize_with = "string")]
    additional_authenticated_data: Option<String>,
    #[serde(default, deserialize_with = "string")]
    ciphertext_data_integrity_value_algorithm: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModelDecrypt {
    request_metadata: ModelMetadata,
    ciphertext: String,
    initialization_vector: String,
    authentication_tag: String,
    encryption_algorithm: String,
    #[serde(default, deserialize_with = "string")]
    additional_authenticated_data: Option<String>,
    #[serde(default, deserialize_with = "string")]
    ciphertext_metadata: Option<String>,
}

/// Decodes RFC 4648, 4, digit by digit.
fn base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = Vec::new();
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    for digit in digits.bytes() {
        let value = ALPHABET.iter().position(|known| *known == digit)?;
        bits.extend((0..6).rev().map(|bit| value >> bit & 1 == 1));
    }
    let bytes = bits.chunks_exact(8);
    if bytes.remainder().iter().any(|bit| *bit) {
        return None;
    }
    Some(bytes.map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect())
}

/// Decodes the same with serde_json and the specification's rules.
pub fn model(call: Call, body: &[u8]) -> Option<Seen> {
    // In members that it skips, serde_json would accept invalid UTF-8.
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    // serde accepts an array for a struct, member by member.
    if !value.is_object() || !value["requestMetadata"].is_object() {
        return None;
    }
    let optional = |text: Option<String>| match text {
        None => Some(None),
        Some(text) => base64(&text).map(Some),
    };
    let (metadata, mut seen) = match call {
        Call::Metadata | Call::Health => {
            let model: ModelMetadataOnly = serde_json::from_slice(body).ok()?;
            (model.request_metadata, Seen::default())
        }
        Call::Encrypt => {
            let model: ModelEncrypt = serde_json::from_slice(body).ok()?;
            let cdiv = model.ciphertext_data_integrity_value_algorithm;
            if model.encryption_algorithm != "AES_GCM"
                || cdiv.as_deref().is_some_and(|cdiv| cdiv != "SHA_256")
            {
                return None;
            }
            let seen = Seen {
                data: Some(base64(&model.plaintext)?),
                aad: optional(model.additional_authenticated_data)?,
                cdiv: cdiv.is_some(),
                ..Seen::default()
            };
            (model.request_metadata, seen)
        }
        Call::Decrypt => {
            let model: ModelDecrypt = serde_json::from_slice(body).ok()?;
            let ciphertext_metadata = optional(model.ciphertext_metadata)?;
            if model.encryption_algorithm != "AES_GCM"
                || ciphertext_metadata.as_ref().is_some_and(|metadata| metadata.len() > 20)
            {
                return None;
            }
            let seen = Seen {
                data: Some(base64(&model.ciphertext)?),
                iv: Some(base64(&model.initialization_vector)?),
                tag: Some(base64(&model.authentication_tag)?),
                aad: optional(model.additional_authenticated_data)?,
                ciphertext_metadata,
                ..Seen::default()
            };
            (model.request_metadata, seen)
        }
    };
    let is_crypto = matches!(call, Call::Encrypt | Call::Decrypt);
    if (call != Call::Health && metadata.aws_principal_arn.is_none())
        || (is_crypto && metadata.kms_key_arn.is_none())
    {
        return None;
    }
    let is_too_long = |arn: &Option<String>| arn.as_ref().is_some_and(|arn| arn.len() > 2_048);
    if is_too_long(&metadata.aws_principal_arn) || is_too_long(&metadata.kms_key_arn) {
        return None;
    }
    seen.metadata = [
        Some(metadata.kms_request_id),
        Some(metadata.kms_operation),
        metadata.aws_principal_arn,
        metadata.kms_key_arn,
        metadata.kms_via_service,
        metadata.aws_source_vpc,
        metadata.aws_source_vpce,
    ];
    Some(seen)
}

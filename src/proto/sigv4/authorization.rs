//! Parsing of the Authorization header field, without copies.

use super::unauthentic::Unauthentic;
use crate::limits::{MAX_ACCESS_KEY_ID_BYTES, MAX_SIGNED_HEADERS};

// The error's text contains this number.
const _: () = assert!(MAX_SIGNED_HEADERS == 32);

/// The header fields that KMS signs (XKS specification, Appendix A).
pub const KMS_SIGNED_HEADERS: &[u8] = b"host;x-amz-date";

/// `AWS4-HMAC-SHA256 Credential=<akid>/<date>/<region>/<service>/aws4_request,
/// SignedHeaders=<a;b>, Signature=<64 hex>`
#[derive(Debug)]
pub struct Authorization<'b> {
    /// Access key id of the credential.
    pub access_key_id: &'b [u8],
    /// Eight digits. They are checked against `x-amz-date`, which must be a date and begin with
    /// them.
    pub date: &'b [u8],
    /// Region in the scope.
    pub region: &'b [u8],
    /// Service in the scope.
    pub service: &'b [u8],
    /// Last part of the scope.
    pub terminator: &'b [u8],
    /// Scope as sent: date, Region, service and terminator, separated by "/".
    pub scope: &'b [u8],
    /// Lower-case names, sorted, without duplicates, separated by ";".
    pub signed_headers: &'b [u8],
    /// HMAC-SHA256
    pub signature: [u8; 32],
}

impl<'b> Authorization<'b> {
    /// # Errors
    /// [`Unauthentic::Malformed`] with the reason.
    pub fn parse(value: &'b [u8]) -> Result<Self, Unauthentic> {
        use Unauthentic::Malformed;
        let mut rest = value
            .strip_prefix(b"AWS4-HMAC-SHA256 ")
            .ok_or(Malformed("the Authorization scheme is not AWS4-HMAC-SHA256"))?;
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        loop {
            let (parameter, following) = match memchr::memchr(b',', rest) {
                Some(comma) => (&rest[..comma], Some(&rest[comma + 1..])),
                None => (rest, None),
            };
            let parameter = trim_blanks(parameter);
            let (slot, value) = if let Some(value) = parameter.strip_prefix(b"Credential=") {
                (&mut credential, value)
            } else if let Some(value) = parameter.strip_prefix(b"SignedHeaders=") {
                (&mut signed_headers, value)
            } else if let Some(value) = parameter.strip_prefix(b"Signature=") {
                (&mut signature, value)
            } else {
                return Err(Malformed("the Authorization header field has an unknown part"));
            };
            if slot.replace(value).is_some() {
                return Err(Malformed("the Authorization header field has a part twice"));
            }
            match following {
                Some(following) => rest = following,
                None => break,
            }
        }
        let (Some(credential), Some(signed_headers), Some(signature)) =
            (credential, signed_headers, signature)
        else {
            return Err(Malformed(
                "the Authorization header field lacks Credential, SignedHeaders or Signature",
            ));
        };
        let five_parts = Malformed("the Credential does not have five parts");
        let (access_key_id, scope) = cut(credential, b'/').ok_or(five_parts)?;
        let (date, rest) = cut(scope, b'/').ok_or(five_parts)?;
        let (region, rest) = cut(rest, b'/').ok_or(five_parts)?;
        let (service, terminator) = cut(rest, b'/').ok_or(five_parts)?;
        if terminator.contains(&b'/') {
            return Err(five_parts);
        }
        if access_key_id.is_empty() || access_key_id.len() > 2 * MAX_ACCESS_KEY_ID_BYTES {
            return Err(Malformed("the access key id's length is out of range"));
        }
        if date.len() != 8 || !date.iter().all(u8::is_ascii_digit) {
            return Err(Malformed("the credential scope's date is not YYYYMMDD"));
        }
        check_signed_headers(signed_headers)?;
        let signature = decode_hex(signature)
            .ok_or(Malformed("the Signature is not 64 lower-case hexadecimal digits"))?;
        Ok(Self {
            access_key_id,
            date,
            region,
            service,
            terminator,
            scope,
            signed_headers,
            signature,
        })
    }
}

/// Splits at the first `separator`.
fn cut(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn trim_blanks(mut bytes: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = bytes {
        bytes = rest;
    }
    bytes
}

/// Checks the list of signed header fields: sorted, so that a request has one canonical form, and
/// without duplicates, so that no value counts twice.
fn check_signed_headers(names: &[u8]) -> Result<(), Unauthentic> {
    use Unauthentic::Malformed;
    if names == KMS_SIGNED_HEADERS {
        return Ok(());
    }
    if !names.iter().all(|byte| matches!(byte, b'!'..=b'@' | b'['..=b'~')) {
        return Err(Malformed("SignedHeaders is not printable ASCII in lower case"));
    }
    let mut previous: &[u8] = b"";
    for (index, name) in names.split(|byte| *byte == b';').enumerate() {
        if index == MAX_SIGNED_HEADERS {
            return Err(Malformed("there are more than 32 signed header fields"));
        }
        if name.is_empty() {
            return Err(Malformed("SignedHeaders has an empty name"));
        }
        if name <= previous {
            return Err(Malformed("SignedHeaders is not sorted or has a name twice"));
        }
        previous = name;
    }
    Ok(())
}

/// Parses 64 lower-case digits. All are examined before any is refused, which lets the compiler use
/// vector instructions.
fn decode_hex(text: &[u8]) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.try_into().ok()?;
    let mut digits = [0_u8; 64];
    let mut is_hex = true;
    for (digit, byte) in digits.iter_mut().zip(text) {
        let (number, letter) = (byte.wrapping_sub(b'0'), byte.wrapping_sub(b'a'));
        is_hex &= (number < 10) | (letter < 6);
        *digit = if number < 10 { number } else { letter.wrapping_add(10) };
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    is_hex.then_some(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const SIGNATURE: &str = "1164eaa8e79eacaa9c0df54aa42f3b300380d14bedfc08e3b319648d4abfff66";

    fn header(credential: &str, signed: &str, signature: &str) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, \
             Signature={signature}"
        )
    }

    /// The form of the specification's example, with and without blanks after the commas.
    #[test]
    fn the_specification_s_form() {
        let credential = "MUBSXM6K3KMXHN6RRCXI/20211009/us-west-2/kms-xks-proxy/aws4_request";
        let text = header(credential, "host;x-amz-date", SIGNATURE);
        for text in [text.clone(), text.replace(", ", ",")] {
            let parsed = Authorization::parse(text.as_bytes()).unwrap();
            assert_eq!(parsed.access_key_id, b"MUBSXM6K3KMXHN6RRCXI");
            assert_eq!(parsed.date, b"20211009");
            assert_eq!(parsed.region, b"us-west-2");
            assert_eq!(parsed.service, b"kms-xks-proxy");
            assert_eq!(parsed.scope, b"20211009/us-west-2/kms-xks-proxy/aws4_request");
            assert_eq!(parsed.terminator, b"aws4_request");
            assert_eq!(parsed.signed_headers, b"host;x-amz-date");
            assert_eq!(parsed.signature[..2], [0x11, 0x64]);
            assert_eq!(parsed.signature[30..], [0xff, 0x66]);
        }
    }

    /// Nothing that could be read in two ways is accepted.
    #[test]
    fn malformed_fields() {
        let credential = "MUBSXM6K3KMXHN6RRCXI/20211009/us-west-2/kms-xks-proxy/aws4_request";
        let good = header(credential, "host;x-amz-date", SIGNATURE);
        assert!(Authorization::parse(good.as_bytes()).is_ok());
        for bad in [
            String::new(),
            "Basic dXNlcjpwYXNz".to_owned(),
            good.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
            good.replace(", Signature", ", Signature=1, Signature"),
            good.replace(", SignedHeaders=host;x-amz-date", ""),
            good.replace("20211009", "2021100"),
            good.replace("20211009", "2021100٣"),
            good.replace("/aws4_request", "/aws4_request/x"),
            good.replace("/kms-xks-proxy", ""),
            good.replace("MUBSXM6K3KMXHN6RRCXI", ""),
            good.replace("host;x-amz-date", "x-amz-date;host"),
            good.replace("host;x-amz-date", "host;host;x-amz-date"),
            good.replace("host;x-amz-date", "Host;x-amz-date"),
            good.replace("host;x-amz-date", "host;;x-amz-date"),
            good.replace("ff66", "FF66"),
            good.replace("ff66", "ff6"),
            good.replace("ff66", "ff667"),
            good.replace("ff66", "fg66"),
            format!("{good}, Extra=1"),
        ] {
            assert!(
                matches!(Authorization::parse(bad.as_bytes()), Err(Unauthentic::Malformed(_))),
                "{bad}"
            );
        }
    }
}

//! AWS's public SigV4 test suite (github.com/awslabs/aws-c-auth, v4, signatures in the header),
//! turned into requests for this proxy: the same parts, with the signatures given in the suite.

use std::sync::Arc;

use xks_proxy::proto::http::request::{header_slots, parse};
use xks_proxy::proto::sigv4::credential::SigningCredential;
use xks_proxy::proto::sigv4::{Scope, Unauthentic};

use crate::rig::credential;
use crate::sigv4::check_as;

/// 2015-08-30 12:36:00 UTC
const SIGNED_AT_UNIX_SECS: u64 = 1_440_938_160;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    /// The suite leaves the path unchanged, as S3 does; every other service signs a normalized one
    /// (XKS specification, Appendix A).
    Refused,
    /// Not a valid request by RFC 9112: a blank in the target, a folded field.
    NoHttp,
}
use Outcome::{Accepted, NoHttp, Refused};

/// Name in the suite, request line, fields other than `Host` and `X-Amz-Date`, `SignedHeaders`,
/// signature, body.
type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a str, &'a str, &'a str, Outcome);

#[rustfmt::skip]
const SUITE: &[Case<'_>] = &[
    ("get-header-key-duplicate", "GET / HTTP/1.1", &["My-Header1:value2", "My-Header1:value2", "My-Header1:value1"], "host;my-header1;x-amz-date", "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea", "", Accepted),
    ("get-header-value-multiline", "GET / HTTP/1.1", &["My-Header1:value1\r\n  value2\r\n     value3"], "host;my-header1;x-amz-date", "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd", "", NoHttp),
    ("get-header-value-order", "GET / HTTP/1.1", &["My-Header1:value4", "My-Header1:value1", "My-Header1:value3", "My-Header1:value2"], "host;my-header1;x-amz-date", "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01", "", Accepted),
    ("get-header-value-trim", "GET / HTTP/1.1", &["My-Header1: value1", "My-Header2: \"a   b   c\""], "host;my-header1;my-header2;x-amz-date", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736", "", Accepted),
    ("get-relative-normalized", "GET /example/.. HTTP/1.1", &[], "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", "", Accepted),
    ("get-relative-relative-normalized", "GET /example1/example2/../.. HTTP/1.1", &[], "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", "", Accepted),
    ("get-relative-relative-unnormalized", "GET /example1/example2/../.. HTTP/1.1", &[], "host;x-amz-date", "dc33e0856fd4baca4d7aa2146c38958283844764f38c74252a333df5e613003b", "", Refused),
    ("get-relative-unnormalized", "GET /example/.. HTTP/1.1", &[], "host;x-amz-date", "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282", "", Refused),
    ("get-slash-dot-slash-normalized", "GET /./ HTTP/1.1", &[], "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", "", Accepted),
    ("get-slash-dot-slash-unnormalized", "GET /./ HTTP/1.1", &[], "host;x-amz-date", "68714168e6557f8f2de0ef956fc24dc2593a4bd2961f8df51898d8a134695145", "", Refused),
    ("get-slash-normalized", "GET // HTTP/1.1", &[], "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", "", Accepted),
    ("get-slash-pointless-dot-normalized", "GET /./example HTTP/1.1", &[], "host;x-amz-date", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5", "", Accepted),
    ("get-slash-pointless-dot-unnormalized", "GET /./example HTTP/1.1", &[], "host;x-amz-date", "beb03f223f7deae4146464f06e29eebbee9c8afbe15c290cf07aa8b119e14cff", "", Refused),
    ("get-slash-unnormalized", "GET // HTTP/1.1", &[], "host;x-amz-date", "c88bcd3d312d75078c0cd961d6deae3f4c754924b01669efcfcb439fd5e5b76e", "", Refused),
    ("get-slashes-normalized", "GET //example// HTTP/1.1", &[], "host;x-amz-date", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84", "", Accepted),
    ("get-slashes-unnormalized", "GET //example// HTTP/1.1", &[], "host;x-amz-date", "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5", "", Refused),
    ("get-space-normalized", "GET /example space/ HTTP/1.1", &[], "host;x-amz-date", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741", "", NoHttp),
    ("get-space-unnormalized", "GET /example space/ HTTP/1.1", &[], "host;x-amz-date", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741", "", NoHttp),
    ("get-unreserved", "GET /-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz HTTP/1.1", &[], "host;x-amz-date", "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f", "", Accepted),
    ("get-utf8", "GET /ሴ HTTP/1.1", &[], "host;x-amz-date", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85", "", Accepted),
    ("get-vanilla", "GET / HTTP/1.1", &[], "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", "", Accepted),
    ("get-vanilla-empty-query-key", "GET /?Param1=value1 HTTP/1.1", &[], "host;x-amz-date", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb", "", Accepted),
    ("get-vanilla-query", "GET / HTTP/1.1", &[], "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", "", Accepted),
    ("get-vanilla-query-order-encoded", "GET /?Param-3=Value3&Param=Value2&%E1%88%B4=Value1 HTTP/1.1", &[], "host;x-amz-date", "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac", "", Accepted),
    ("get-vanilla-query-order-key-case", "GET /?Param2=value2&Param1=value1 HTTP/1.1", &[], "host;x-amz-date", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500", "", Accepted),
    ("get-vanilla-query-unreserved", "GET /?-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz HTTP/1.1", &[], "host;x-amz-date", "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197", "", Accepted),
    ("get-vanilla-utf8-query", "GET /?ሴ=bar HTTP/1.1", &[], "host;x-amz-date", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04", "", Accepted),
    ("get-vanilla-with-session-token", "GET / HTTP/1.1", &["X-Amz-Security-Token:6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"], "host;x-amz-date;x-amz-security-token", "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8", "", Accepted),
    ("post-header-key-case", "POST / HTTP/1.1", &[], "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", "", Accepted),
    ("post-header-key-sort", "POST / HTTP/1.1", &["My-Header1:value1"], "host;my-header1;x-amz-date", "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c", "", Accepted),
    ("post-header-value-case", "POST / HTTP/1.1", &["My-Header1:VALUE1"], "host;my-header1;x-amz-date", "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d", "", Accepted),
    ("post-sts-header-after", "POST / HTTP/1.1", &["X-Amz-Security-Token:AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="], "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", "", Accepted),
    ("post-sts-header-before", "POST / HTTP/1.1", &["X-Amz-Security-Token:AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="], "host;x-amz-date;x-amz-security-token", "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead", "", Accepted),
    ("post-vanilla", "POST / HTTP/1.1", &[], "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", "", Accepted),
    ("post-vanilla-empty-query-value", "POST /?Param1=value1 HTTP/1.1", &[], "host;x-amz-date", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11", "", Accepted),
    ("post-vanilla-query", "POST /?Param1=value1 HTTP/1.1", &[], "host;x-amz-date", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11", "", Accepted),
    ("post-x-www-form-urlencoded", "POST / HTTP/1.1", &["Content-Type:application/x-www-form-urlencoded", "Content-Length:13", "x-amz-content-sha256:9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"], "content-length;content-type;host;x-amz-content-sha256;x-amz-date", "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b", "Param1=value1", Accepted),
    ("post-x-www-form-urlencoded-parameters", "POST / HTTP/1.1", &["Content-Type:application/x-www-form-urlencoded; charset=utf-8", "Content-Length:13", "x-amz-content-sha256:9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"], "content-length;content-type;host;x-amz-content-sha256;x-amz-date", "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422", "Param1=value1", Accepted),
    // The same query, percent-encoded.
    ("get-vanilla-utf8-query", "GET /?%E1%88%B4=bar HTTP/1.1", &[], "host;x-amz-date", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04", "", Accepted),
];

fn request(case: &Case<'_>) -> Vec<u8> {
    let (_, line, fields, signed, signature, body, _) = case;
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    format!(
        "{line}\r\nHost:example.amazonaws.com\r\n{fields}X-Amz-Date:20150830T123600Z\r\n\
         Authorization:AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/\
         aws4_request, SignedHeaders={signed}, Signature={signature}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[test]
fn the_aws_test_suite() {
    let config = credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    let credential = SigningCredential::new(&config, 0, Arc::default());
    let scope = Scope { region: "us-east-1", service: "service" };
    for case in SUITE {
        let request = request(case);
        if case.6 == NoHttp {
            let end = request.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
            assert!(parse(&request[..end], &mut header_slots()).is_err(), "{}", case.0);
            continue;
        }
        let expected = if case.6 == Accepted { Ok(()) } else { Err(Unauthentic::WrongSignature) };
        let checked = check_as(&request, &credential, scope, SIGNED_AT_UNIX_SECS);
        assert_eq!(checked, expected, "{}", case.0);
        // With one digit of the signature changed, it is refused.
        let at = request.windows(10).position(|it| it == b"Signature=").unwrap() + 10;
        let mut forged = request;
        forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
        let checked = check_as(&forged, &credential, scope, SIGNED_AT_UNIX_SECS);
        assert_eq!(checked, Err(Unauthentic::WrongSignature), "{}", case.0);
    }
}

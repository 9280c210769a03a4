//! Signatures: what AWS's signer makes is accepted, and nothing else.

use std::sync::Arc;

use proptest::prelude::*;
use xks_proxy::limits::{
    MAX_CREDENTIALS_PER_STORE, MAX_SKEWED_VERIFICATIONS_PER_SEC, SIGNING_KEYS_PER_CREDENTIAL,
};
use xks_proxy::proto::StoreConfig;
use xks_proxy::proto::http::request::{find_end, header_slots, parse};
use xks_proxy::proto::sigv4::credential::SigningCredential;
use xks_proxy::proto::sigv4::signing_key::SigningKeys;
use xks_proxy::proto::sigv4::{Scope, Unauthentic, verify};

use crate::rig::signer::Unsigned;
use crate::rig::{
    ACCESS_KEY_ID, NOON, OTHER_ACCESS_KEY_ID, OTHER_PREFIX, OTHER_SECRET, PREFIX, REGION, Rig,
    SECRET, SERVICE,
};

const BODY: &str = r#"{"requestMetadata":{"kmsRequestId":"1","kmsOperation":"KmsHealthCheck"}}"#;

/// Verifies a whole request, head and body, against these credentials.
pub fn check_as(
    request: &[u8],
    credential: &SigningCredential,
    scope: Scope<'_>,
    unix_secs: u64,
) -> Result<(), Unauthentic> {
    let end = find_end(request, 0).expect("a whole head");
    let mut slots = header_slots();
    let head = parse(&request[..end], &mut slots).expect("a good head");
    let mut keys = SigningKeys::new(1);
    let credentials = std::slice::from_ref(credential);
    let body = &request[end..];
    let first = verify(&head, body, credentials, scope, &mut keys, unix_secs).map(|_| ());
    // A cached signing key leads to the same result.
    let second = verify(&head, body, credentials, scope, &mut keys, unix_secs).map(|_| ());
    assert_eq!(first, second);
    first
}

fn check(request: &[u8]) -> Result<(), Unauthentic> {
    let credential =
        SigningCredential::new(&crate::rig::credential(ACCESS_KEY_ID, SECRET), 0, Arc::default());
    check_as(request, &credential, Scope { region: REGION, service: SERVICE }, NOON)
}

fn health() -> Unsigned {
    Unsigned::call("health", BODY)
}

/// Replaces text that must occur exactly once.
fn replaced(request: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(request.to_vec()).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to).into_bytes()
}

/// Signatures by AWS's own signer are accepted.
#[test]
fn a_signed_call_is_accepted() {
    let request = health().signed();
    assert_eq!(check(&request), Ok(()));
    assert_eq!(Rig::usual().ask(&request).status, 200);
}

/// No signed part may change; each error names the part that did.
#[test]
fn forged_requests() {
    use Unauthentic::{
        Malformed, MalformedDate, MissingAuthorization, MissingSignedHeader, NotSigned,
        ScopeDateDiffers, SeveralAuthorizations, Skewed, UnknownAccessKey, WrongRegion,
        WrongService, WrongSignature, WrongTerminator,
    };
    let request = health().signed();
    let with_field = |field: &str| {
        replaced(&request, "\r\ncontent-type", &format!("\r\n{field}\r\ncontent-type"))
    };
    for (forged, expected) in [
        (replaced(&request, "POST ", "PUT "), WrongSignature),
        (replaced(&request, "store-1", "store-2"), WrongSignature),
        (replaced(&request, "v1/health", "v1/health?a=b"), WrongSignature),
        (replaced(&request, "v1/health", "v1/healtH"), WrongSignature),
        (replaced(&request, "xks.example.com", "xks.example.org"), WrongSignature),
        (replaced(&request, "application/json", "text/json"), WrongSignature),
        (replaced(&request, "T120000Z", "T120001Z"), WrongSignature),
        (replaced(&request, "KmsHealthCheck", "KmsHealthcheck"), WrongSignature),
        (replaced(&request, "content-type;host;", "host;"), WrongSignature),
        (
            replaced(&request, "SignedHeaders=content-type;host;x-amz-date", "SignedHeaders=host"),
            NotSigned("x-amz-date"),
        ),
        (replaced(&request, "content-type;host;", "content-type;"), NotSigned("host")),
        (replaced(&request, "content-type;host", "content-type;extra;host"), MissingSignedHeader),
        (
            replaced(&request, "content-type;host", "host;content-type"),
            Malformed("SignedHeaders is not sorted or has a name twice"),
        ),
        (replaced(&request, "Credential=AK", "Credential=BK"), UnknownAccessKey),
        (replaced(&request, "/20240229/", "/20240228/"), ScopeDateDiffers),
        (replaced(&request, "/eu-west-1/", "/eu-west-2/"), WrongRegion),
        (replaced(&request, "/kms-xks-proxy/", "/kms/"), WrongService),
        (replaced(&request, "aws4_request", "aws4_requests"), WrongTerminator),
        (replaced(&request, "x-amz-date: ", "x-amz-dates: "), MalformedDate),
        (replaced(&request, "20240229T120000Z", "20240229T126000Z"), MalformedDate),
        (replaced(&request, "20240229T120000Z", "20240230T120000Z"), MalformedDate),
        (with_field("x-amz-date: 20240229T120000Z"), MalformedDate),
        (replaced(&request, "20240229T120000Z", "20240229T110000Z"), Skewed(None)),
        (replaced(&request, "authorization: ", "authorisation: "), MissingAuthorization),
        (with_field("authorization: x"), SeveralAuthorizations),
    ] {
        assert_eq!(check(&forged), Err(expected), "{}", String::from_utf8_lossy(&forged));
    }
    // An intermediary may add a field that is not signed.
    assert_eq!(check(&with_field("x-forwarded-for: 10.0.0.1")), Ok(()));
}

/// Repeating a signed header changes the canonical form.
#[test]
fn a_signed_header_cannot_be_doubled() {
    let mut request = health();
    request.headers.push(("x-extra".to_owned(), "a".to_owned()));
    let signed = request.signed();
    assert_eq!(check(&signed), Ok(()));
    let forged = replaced(&signed, "x-extra: a", "x-extra: a\r\nx-extra: a");
    assert_eq!(check(&forged), Err(Unauthentic::WrongSignature));
}

/// One store's credential gives no access to another; an unknown one looks like a wrong signature.
#[test]
fn another_store_s_credential() {
    let mut other = health();
    other.access_key_id = OTHER_ACCESS_KEY_ID.to_owned();
    other.secret = OTHER_SECRET.to_owned();
    let mut mixed = health();
    mixed.secret = OTHER_SECRET.to_owned();
    let mut rig = Rig::usual();
    let answers: Vec<_> = [other.clone(), mixed]
        .iter()
        .map(|request| {
            let answer = rig.ask(&request.signed());
            assert_eq!(answer.error(), (401, "AuthenticationFailedException".to_owned()));
            answer.body
        })
        .collect();
    assert_eq!(answers[0], answers[1]);
    other.target = other.target.replace(PREFIX, OTHER_PREFIX);
    assert_eq!(rig.ask(&other.signed()).status, 200);
}

/// XKS specification, Authentication: rotation needs two credentials at once.
#[test]
fn two_credentials_of_one_store() {
    let credentials = [("AKIDNEWEXAMPLEEXAMPLE", OTHER_SECRET), (ACCESS_KEY_ID, SECRET)];
    let mut stores = crate::rig::stores();
    stores.push(crate::rig::store("/rotating", &credentials, &["key-1"]));
    let mut rig = Rig::new(crate::rig::service_of(stores));
    for (access_key_id, secret) in
        [(ACCESS_KEY_ID, SECRET), ("AKIDNEWEXAMPLEEXAMPLE", OTHER_SECRET), (ACCESS_KEY_ID, SECRET)]
    {
        let mut request = health();
        request.target = request.target.replace(PREFIX, "/rotating");
        request.access_key_id = access_key_id.to_owned();
        request.secret = secret.to_owned();
        assert_eq!(rig.ask(&request.signed()).status, 200);
    }
}

/// The maximum number of credentials, used in turn: each is accepted only with its own secret, so
/// no cached signing key is mistaken for another's. An unknown one is refused with the same
/// message.
#[test]
fn all_credentials_of_one_store() {
    let id = |index: usize| format!("AKIDNEWEXAMPLEEXAMPL{}", char::from(b"ABCDEFGHI"[index]));
    let ids: Vec<String> = (0..=MAX_CREDENTIALS_PER_STORE).map(id).collect();
    let secret_of = |index: usize| format!("{index}").repeat(48);
    let listed = ids.iter().take(MAX_CREDENTIALS_PER_STORE).enumerate();
    let listed = listed.map(|(index, id)| crate::rig::credential(id, &secret_of(index)));
    let rotating = crate::rig::store("/rotating", &[], &["key-1"]);
    let rotating = StoreConfig { credentials: listed.collect(), ..rotating };
    let mut stores = crate::rig::stores();
    stores.push(rotating);
    let mut rig = Rig::new(crate::rig::service_of(stores));
    let mut ask = |id: usize, secret: usize| {
        let mut request = health();
        request.target = request.target.replace(PREFIX, "/rotating");
        request.access_key_id = ids[id].clone();
        request.secret = secret_of(secret);
        let answer = rig.ask(&request.signed());
        (answer.status, answer.body)
    };
    let (_, refusal) = ask(MAX_CREDENTIALS_PER_STORE, MAX_CREDENTIALS_PER_STORE);
    for _ in 0..2 {
        for id in 0..=MAX_CREDENTIALS_PER_STORE {
            for secret in 0..=MAX_CREDENTIALS_PER_STORE {
                let (status, body) = ask(id, secret);
                if id == secret && id < MAX_CREDENTIALS_PER_STORE {
                    assert_eq!(status, 200, "{id}");
                } else {
                    assert_eq!((status, &body), (401, &refusal), "{id} {secret}");
                }
            }
        }
    }
}

/// XKS specification, Appendix A: five minutes either way, and not a second more.
#[test]
fn the_clock_s_edges() {
    for (offset, is_good) in
        [(-301, false), (-300, true), (-299, true), (299, true), (300, true), (301, false)]
    {
        let mut request = health();
        request.unix_secs = NOON.checked_add_signed(offset).unwrap();
        let checked = check(&request.signed());
        match checked {
            Ok(()) => assert!(is_good, "{offset}"),
            // The signature is right, so the difference is that of the clocks.
            Err(Unauthentic::Skewed(Some(clock))) => {
                assert_eq!((is_good, clock.ahead_secs), (false, -offset), "{offset}");
            }
            Err(other) => panic!("{offset}: {other:?}"),
        }
    }
}

/// Any date is verified before it is judged, but only so many in a second, and no more of them can
/// displace a signing key in use. A stranger learns nothing from a wrong date.
#[test]
fn wrong_dates_are_verified_within_limits() {
    let credential =
        SigningCredential::new(&crate::rig::credential(ACCESS_KEY_ID, SECRET), 0, Arc::default());
    let mut keys = SigningKeys::new(1);
    let mut verify = |request: &[u8], now: u64| {
        let end = find_end(request, 0).unwrap();
        let mut slots = header_slots();
        let head = parse(&request[..end], &mut slots).unwrap();
        let credentials = std::slice::from_ref(&credential);
        let scope = Scope { region: REGION, service: SERVICE };
        verify(&head, &request[end..], credentials, scope, &mut keys, now).map(|it| it.clock)
    };
    let signed_at = |unix_secs| Unsigned { unix_secs, ..health() }.signed();
    let year = 365 * 24 * 3600;
    let max = u64::from(MAX_SKEWED_VERIFICATIONS_PER_SEC);
    for (second, signed) in [(NOON, NOON - 600), (NOON + 1, NOON + year), (NOON + 2, 0)] {
        let request = signed_at(signed);
        let ahead_secs = i64::try_from(second).unwrap() - i64::try_from(signed).unwrap();
        let forged = String::from_utf8(request.clone()).unwrap().replace("\"1\"", "\"2\"");
        for nth in 0..2 * max {
            let is_forged = nth % 2 == 1;
            let request = if is_forged { forged.as_bytes() } else { &request };
            match verify(request, second) {
                Err(Unauthentic::Skewed(Some(clock))) => {
                    assert!(!is_forged && nth < max && clock.ahead_secs == ahead_secs);
                }
                refused => {
                    assert_eq!(refused, Err(Unauthentic::Skewed(None)));
                    assert!(is_forged || nth >= max, "{nth}");
                }
            }
        }
        // Others are verified as ever.
        let clock = verify(&signed_at(second - 7), second).unwrap();
        assert_eq!(clock.ahead_secs, 7);
    }
}

/// Around midnight, two days' signing keys are in use, and the scope's day is that of x-amz-date,
/// whatever the local clock says.
#[test]
fn scopes_around_midnight() {
    let midnight = NOON + 12 * 3600;
    let mut rig = Rig::usual();
    for now in [midnight - 120, midnight - 1, midnight, midnight + 120] {
        rig.snapshot.unix_secs = now;
        for signed_at in [midnight - 100, midnight + 100, midnight - 1, midnight] {
            let mut request = health();
            request.unix_secs = signed_at;
            assert_eq!(rig.ask(&request.signed()).status, 200, "{now} {signed_at}");
        }
    }
    // Years of days pass through the cache.
    for day in 0..10 * SIGNING_KEYS_PER_CREDENTIAL as u64 {
        rig.snapshot.unix_secs = NOON + day * 86_400;
        let mut request = health();
        request.unix_secs = rig.snapshot.unix_secs;
        assert_eq!(rig.ask(&request.signed()).status, 200);
    }
}

/// RFC 9110, 5.5: white space around a value is not part of it; SigV4 collapses runs inside to one
/// blank.
#[test]
fn odd_spacing() {
    let mut request = health();
    request.headers.push(("x-b".to_owned(), "two  blanks   three".to_owned()));
    request.headers.push(("x-a".to_owned(), "q=\"a  b\"".to_owned()));
    let signed = request.signed();
    assert_eq!(check(&signed), Ok(()));
    let spaced = replaced(&signed, "x-b: two  blanks   three", "X-B:\t  two blanks three \t ");
    assert_eq!(check(&spaced), Ok(()));
    let joined = replaced(&signed, "x-b: two  blanks   three", "x-b: twoblanks three");
    assert_eq!(check(&joined), Err(Unauthentic::WrongSignature));
}

fn names() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_./-]{0,60}"
}

/// A request with a random path, header fields, query and body.
fn requests() -> impl Strategy<Value = Unsigned> {
    let fields = prop::collection::btree_map("x-[a-z0-9-]{1,12}", "[!-~]([ -~]{0,30}[!-~])?", 0..6);
    let query = prop::option::of("[A-Za-z0-9._~=&-]{0,20}");
    let body = prop::collection::vec(any::<u8>(), 0..200);
    (prop::sample::select(vec!["POST", "GET", "PUT"]), names(), query, fields, body).prop_map(
        |(method, path, query, fields, body)| {
            let mut request = health();
            request.method = method.to_owned();
            request.target = format!("/{path}");
            if let Some(query) = query {
                request.target.push('?');
                request.target.push_str(&query);
            }
            request.headers.extend(fields);
            request.body = body;
            request
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Our verifier accepts everything that AWS's signer signs.
    #[test]
    fn whatever_aws_signs_is_accepted(request in requests()) {
        prop_assert_eq!(check(&request.signed()), Ok(()), "{:?}", request);
    }

    /// A request is refused if one bit of its signed parts or of its signature is changed.
    #[test]
    fn one_changed_bit_is_refused(request in requests(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let signed = request.signed();
        let mut forged = signed.clone();
        let at = at.index(forged.len());
        forged[at] ^= 1_u8 << bit;
        let end = find_end(&signed, 0).unwrap();
        prop_assume!(find_end(&forged, 0) == Some(end));
        let (mut slots, mut forged_slots) = (header_slots(), header_slots());
        let head = parse(&signed[..end], &mut slots).unwrap();
        // A request that is no longer valid HTTP is refused earlier.
        let Ok(forged_head) = parse(&forged[..end], &mut forged_slots) else { return Ok(()) };
        // Field names are case-insensitive. Content-Length, the last field, is not signed, but the
        // body that it delimits is.
        let fields = head.headers.len() - 1;
        let is_same = head.headers.len() == forged_head.headers.len()
            && head.headers.iter().zip(forged_head.headers).take(fields).all(|(one, other)| {
                one.name.eq_ignore_ascii_case(other.name) && one.value == other.value
            })
            && head.method == forged_head.method
            && head.path == forged_head.path
            && head.query == forged_head.query
            && signed[end..] == forged[end..];
        prop_assume!(!is_same);
        prop_assert!(check(&forged).is_err(), "{}", String::from_utf8_lossy(&forged));
    }
}

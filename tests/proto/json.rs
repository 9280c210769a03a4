//! JSON and base64: anything but exactly one valid document is refused, and valid ones are read as
//! serde_json reads them.

use proptest::prelude::*;
use xks_proxy::proto::route::Call;
use xks_proxy::proto::xks::decode::Decoder;

use crate::calls::call;
use crate::json_model::{decode, model};
use crate::rig::{KEY, Rig};

/// A JSON string with some characters escaped, each in one of the possible ways.
fn quoted(text: &str, seed: u64) -> String {
    let mut quoted = String::from("\"");
    for (index, character) in text.chars().enumerate() {
        let choice = (seed >> (index % 60)) & 7;
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '/' if choice > 3 => quoted.push_str("\\/"),
            '\n' => quoted.push_str("\\n"),
            _ if choice == 0 || character < ' ' => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    quoted.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// Any JSON value, as text.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<u64>().prop_map(|value| value.to_string()),
        "-?[1-9][0-9]{17,40}([.][0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
        (-1e300..1e300).prop_map(|value: f64| format!("{value:e}")),
        ("\\PC{0,12}", any::<u64>()).prop_map(|(text, seed)| quoted(&text, seed)),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|values| format!("[{}]", values.join(" , "))),
            prop::collection::vec(("\\PC{0,6}", any::<u64>(), inner), 0..5).prop_map(|members| {
                let members: Vec<String> = members
                    .into_iter()
                    .map(|(name, seed, value)| format!("{}:{value}", quoted(&name, seed)))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// An array that holds the members' values is not accepted as an object. (Found by fuzzing, as an
/// error in the model.)
#[test]
fn arrays_are_no_objects() {
    let good = br#"{"requestMetadata":{"kmsRequestId":"id","kmsOperation":"Encrypt"}}"#;
    for (body, is_good) in [
        (&good[..], true),
        (br#"{"requestMetadata":["id","Encrypt"]}"#, false),
        (br#"[{"kmsRequestId":"id","kmsOperation":"Encrypt"}]"#, false),
        (br#"[["id","Encrypt"]]"#, false),
    ] {
        let seen = decode(&mut Decoder::default(), Call::Health, body);
        assert_eq!(seen.is_some(), is_good, "{}", String::from_utf8_lossy(body));
        assert_eq!(seen, model(Call::Health, body));
    }
}

fn base64_text() -> impl Strategy<Value = String> {
    let good = prop::collection::vec(any::<u8>(), 0..40)
        .prop_map(|bytes| base64_simd::STANDARD.encode_to_string(bytes));
    prop_oneof![9 => good, 1 => "[A-Za-z0-9+/=_ -]{0,12}"]
}

/// A member, usually valid.
fn member(name: &'static str) -> impl Strategy<Value = String> {
    let value = match name {
        "encryptionAlgorithm" => Just("AES_GCM".to_owned()).boxed(),
        "ciphertextDataIntegrityValueAlgorithm" => Just("SHA_256".to_owned()).boxed(),
        "plaintext"
        | "ciphertext"
        | "additionalAuthenticatedData"
        | "initializationVector"
        | "authenticationTag"
        | "ciphertextMetadata" => base64_text().boxed(),
        _ => "\\PC{0,20}".boxed(),
    };
    let value = (value, any::<u64>()).prop_map(|(text, seed)| quoted(&text, seed));
    let value = prop_oneof![30 => value, 1 => any_json()];
    (value, any::<u64>()).prop_map(move |(value, seed)| {
        format!("{} :\t{value}", quoted(name, if seed % 4 == 0 { seed } else { u64::MAX }))
    })
}

/// An object with these members in random order, a few missing, a few duplicated, some unknown.
fn object(
    names: &'static [&'static str],
    more: Vec<BoxedStrategy<String>>,
) -> BoxedStrategy<String> {
    let members: Vec<_> = names
        .iter()
        .map(|name| member(name).boxed())
        .chain(more)
        .map(|member| {
            let copies = |count| prop::collection::vec(member.clone(), count..=count);
            prop_oneof![40 => copies(1), 2 => copies(0), 1 => copies(2)]
        })
        .collect();
    let unknown = prop::collection::vec(
        ("[a-z]{1,8}", any_json()).prop_map(|(name, value)| format!("\"{name}\": {value}")),
        0..3,
    );
    (members, unknown)
        .prop_map(|(members, unknown)| members.into_iter().flatten().chain(unknown).collect())
        .prop_shuffle()
        .prop_map(|members: Vec<String>| format!("{{ {} }}", members.join("\r\n,")))
        .boxed()
}

/// A body that is printed as text.
struct Body(Vec<u8>);

impl std::fmt::Debug for Body {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.0))
    }
}

fn bodies() -> impl Strategy<Value = (Call, Body)> {
    let metadata = || {
        let names = &[
            "kmsRequestId",
            "kmsOperation",
            "awsPrincipalArn",
            "kmsKeyArn",
            "kmsViaService",
            "awsSourceVpc",
            "awsSourceVpce",
        ];
        object(names, Vec::new()).prop_map(|object| format!("\"requestMetadata\":{object}")).boxed()
    };
    let encrypt: &[&str] = &[
        "plaintext",
        "encryptionAlgorithm",
        "additionalAuthenticatedData",
        "ciphertextDataIntegrityValueAlgorithm",
    ];
    let decrypt: &[&str] = &[
        "ciphertext",
        "encryptionAlgorithm",
        "additionalAuthenticatedData",
        "initializationVector",
        "authenticationTag",
        "ciphertextMetadata",
    ];
    let body = prop_oneof![
        object(&[], vec![metadata()]).prop_map(|body| (Call::Metadata, body)),
        object(&[], vec![metadata()]).prop_map(|body| (Call::Health, body)),
        object(encrypt, vec![metadata()]).prop_map(|body| (Call::Encrypt, body)),
        object(decrypt, vec![metadata()]).prop_map(|body| (Call::Decrypt, body)),
    ];
    let edits = |count| {
        let edit = (any::<prop::sample::Index>(), 0..3, any::<u8>());
        prop::collection::vec(edit, count..=count)
    };
    (body, prop_oneof![3 => edits(0), 2 => edits(1), 1 => edits(3)]).prop_map(
        |((call, body), edits)| {
            let mut body = body.into_bytes();
            for (at, kind, byte) in edits {
                let at = at.index(body.len().max(1));
                match kind {
                    0 if !body.is_empty() => body[at] = byte,
                    1 if !body.is_empty() => {
                        body.remove(at);
                    }
                    _ => body.insert(at, byte),
                }
            }
            (call, Body(body))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Our decoder accepts the same calls as serde_json, with the same values.
    #[test]
    fn the_decoder_agrees_with_serde_json((call, body) in bodies()) {
        let mut decoder = Decoder::default();
        let seen = decode(&mut decoder, call, &body.0);
        prop_assert_eq!(seen, model(call, &body.0));
    }
}

const GOOD: &str = r#"{"requestMetadata":{"awsPrincipalArn":"p","kmsKeyArn":"k","kmsOperation":"Encrypt","kmsRequestId":"1"},"plaintext":"AAAA","encryptionAlgorithm":"AES_GCM"}"#;

fn is_accepted(body: &[u8]) -> bool {
    decode(&mut Decoder::default(), Call::Encrypt, body).is_some()
}

/// The same body in other forms that JSON allows.
#[test]
fn forms_of_one_document() {
    assert!(is_accepted(GOOD.as_bytes()));
    for body in [
        format!(" \t\r\n{GOOD}\n\n "),
        GOOD.replace("plaintext", "pl\\u0061intext"),
        GOOD.replace("requestMetadata", "\\u0072equestMetadata"),
        GOOD.replace("AES_GCM", "AES\\u005FGCM"),
        GOOD.replace("\"p\"", "\"\\ud83d\\ude00\\u0000\\b\\f\\/\""),
        GOOD.replace("\"p\"", "\"\""),
        GOOD.replace("\"AAAA\"", "\"\""),
        GOOD.replace("\"AAAA\"", "\"\\u0041AAA\""),
        GOOD.replace(
            "{\"req",
            "{\"x\":[[[[{\"a\":[1e308,-0,0.1,123456789012345678901234567890]}]]]],\"req",
        ),
        GOOD.replace("{\"req", "{\"\":1,\"\":2,\"req"),
    ] {
        assert!(is_accepted(body.as_bytes()), "{body}");
    }
}

/// A body that is not exactly one JSON document is refused and does not affect the next call.
#[test]
fn what_is_not_one_document_is_refused() {
    let mut bad: Vec<Vec<u8>> = [
        String::new(),
        " ".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"x\"".to_owned(),
        "{}".to_owned(),
        "{".to_owned(),
        format!("[{GOOD}]"),
        format!("{GOOD}{GOOD}"),
        format!("{GOOD},"),
        format!("{GOOD}x"),
        format!("{GOOD}\0"),
        format!("\u{feff}{GOOD}"),
        GOOD[..GOOD.len() - 1].to_owned(),
        GOOD.replace("{\"req", "{,\"req"),
        GOOD.replace("GCM\"}", "GCM\",}"),
        GOOD.replace("{\"req", "{\"x\":NaN,\"req"),
        GOOD.replace("{\"req", "{\"x\":Infinity,\"req"),
        GOOD.replace("{\"req", "{\"x\":01,\"req"),
        GOOD.replace("{\"req", "{\"x\":.5,\"req"),
        GOOD.replace("{\"req", "{\"x\":1.,\"req"),
        GOOD.replace("{\"req", "{\"x\":+1,\"req"),
        GOOD.replace("{\"req", "{\"x\":1e400,\"req"),
        GOOD.replace("{\"req", "{\"x\":0x1,\"req"),
        GOOD.replace("{\"req", "{\"x\":tru,\"req"),
        GOOD.replace("{\"req", "{\"x\":'a',\"req"),
        GOOD.replace("{\"req", "{x:1,\"req"),
        GOOD.replace("{\"req", "{\"x\":\"\\x\",\"req"),
        GOOD.replace("{\"req", "{\"x\":\"\\u12g4\",\"req"),
        GOOD.replace("{\"req", "{\"x\":\"\t\",\"req"),
        GOOD.replace("{\"req", "{/* */\"req"),
        // Duplicate members, at both levels, also when escaped.
        GOOD.replace("{\"aws", "{\"kmsRequestId\":\"2\",\"aws"),
        GOOD.replace("{\"aws", "{\"kmsRequest\\u0049d\":\"2\",\"aws"),
        GOOD.replace("{\"req", "{\"plaintext\":\"AAAA\",\"req"),
        GOOD.replace("{\"req", "{\"encryptionAlgorithm\":\"AES_GCM\",\"req"),
        GOOD.replace("{\"req", "{\"requestMetadata\":{},\"req"),
        GOOD.replace("\"p\"", "\"p\",\"awsPrincipalArn\":\"p\""),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    bad.push(
        GOOD.replace("\"p\"", "\"\u{7f}\"")
            .into_bytes()
            .iter()
            .map(|byte| if *byte == 0x7f { 0xff } else { *byte })
            .collect(),
    );
    bad.push([GOOD.as_bytes(), b"\xc0\x80"].concat());
    let mut decoder = Decoder::default();
    for body in bad {
        let seen = decode(&mut decoder, Call::Encrypt, &body);
        assert!(seen.is_none(), "{}", String::from_utf8_lossy(&body));
        assert!(decode(&mut decoder, Call::Encrypt, GOOD.as_bytes()).is_some());
    }
}

/// The deepest nesting that fits into a body neither overflows the stack nor ends the connection.
#[test]
fn deep_nesting() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = 30_000 / open.len();
        let value =
            format!("{}1{}", open.repeat(depth), close.repeat(if close == "]" { 0 } else { 1 }));
        let mut rig = Rig::usual();
        let body = GOOD.replace("{\"req", &format!("{{\"x\":{value},\"req"));
        let request = crate::rig::signer::Unsigned::call(&format!("keys/{KEY}/encrypt"), body);
        assert_eq!(rig.ask(&request.signed()).error().0, 400);
        let depth = 8_000 / open.len();
        let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let body = GOOD.replace("{\"req", &format!("{{\"x\":{value},\"req"));
        let request = crate::rig::signer::Unsigned::call(&format!("keys/{KEY}/encrypt"), body);
        let answer = rig.ask(&request.signed());
        assert!([200, 400].contains(&answer.status) && !rig.is_closed());
        let good = serde_json::from_str(GOOD).unwrap();
        assert_eq!(rig.ask(&call(&format!("keys/{KEY}/encrypt"), &good)).status, 200);
    }
}

/// RFC 4648, 4, with padding, in the one canonical form; nothing that lenient decoders accept.
#[test]
fn base64_has_one_form() {
    let accepts = |text: &str| is_accepted(GOOD.replace("AAAA", text).as_bytes());
    for good in ["", "AA==", "AAA=", "AAAA", "+/+/", "SGVsbG8gV29ybGQh"] {
        assert!(accepts(good), "{good}");
    }
    for bad in [
        "A",
        "AA",
        "AAA",
        "AA=",
        "A===",
        "====",
        "=",
        "AAAA=",
        "AAAA====",
        "AAAAA===",
        "AB==",
        "AAB=",
        "-_-_",
        "AA AA",
        "AAAA ",
        " AAAA",
        "AAAA\\n",
        "AA==AA==",
        "AA=A",
        "A=AA",
        "AAA\u{e9}",
        "AA==\\u0000",
        "*AAA",
    ] {
        assert!(!accepts(bad), "{bad}");
    }
}

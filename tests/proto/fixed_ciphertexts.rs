//! Ciphertexts of other proxies, made once with the key whose value is the SHA-256 of its label
//! "foo": these must decrypt for ever.

/// A ciphertext, in base64 as KMS stores it.
pub struct Fixed {
    /// The proxy that made it.
    pub by: &'static str,
    pub plaintext: &'static [u8],
    /// `additionalAuthenticatedData` of the request, if the member was present.
    pub aad: Option<&'static [u8]>,
    pub ciphertext: &'static str,
    pub iv: &'static str,
    pub tag: &'static str,
    /// `ciphertextMetadata`, if the proxy was configured to add any.
    pub metadata: Option<&'static str>,
}

const AAD: Option<&[u8]> = Some(b"project=nile,department=marketing");
/// "key version 7"
const METADATA: Option<&str> = Some("a2V5IHZlcnNpb24gNw==");

const fn fixed(
    (by, plaintext): (&'static str, &'static [u8]),
    aad: Option<&'static [u8]>,
    metadata: Option<&'static str>,
    [ciphertext, iv, tag]: [&'static str; 3],
) -> Fixed {
    Fixed { by, plaintext, aad, ciphertext, iv, tag, metadata }
}

/// aws-samples/aws-kms-xks-proxy 3.1.2, with SoftHSM2.
const SAMPLE: (&str, &[u8]) = ("the sample proxy", b"made by the sample proxy");
/// This program before keys had versions, with SoftHSM2.
const EARLIER: (&str, &[u8]) = ("an earlier release", b"made before versions were");

#[rustfmt::skip]
pub const FIXED: [Fixed; 12] = [
    fixed(SAMPLE, None, None, ["QOqLCjepHxQwCz3j6s541kl+ekFPbMwI", "c8ItX34njSPU5aU4", "V1ZOzGrKgHesXbOrB3ZVkA=="]),
    fixed(SAMPLE, Some(b""), None, ["7ZDe6eZcEqFrbaGSKcbg9YW8kQwyBY8P", "+yp5xOhHfrN32VmD", "573NnhsNH6AQMz9dj8qU/A=="]),
    fixed(SAMPLE, AAD, None, ["G4Qbce4TAr1bDdA+0cMVM7FayCJ8sJsj", "uzjp3ss18yvT5TJr", "jtBKkq7p9WQ26PKtszJIsQ=="]),
    fixed(SAMPLE, None, METADATA, ["4aKov75O6yVlCWUwJJ6+fWBdam32DHKc", "C+6ugd9oKmQab4lp", "Bfo59H1cT24Ok+xTi2IWtA=="]),
    fixed(SAMPLE, Some(b""), METADATA, ["uyolRzRrB9nTmx0lq9UyKbpkK/x32ZHK", "AtefolveOv1ErXJ7", "tolzwmnfiXWHDRtDN42DUw=="]),
    fixed(SAMPLE, AAD, METADATA, ["QdDikK+7lJhxagtvr7B/ddPFNDHMl8sw", "c4z34EAyWekBMfYf", "CgkxWk62HKbOkU9J0Sl6DA=="]),
    fixed(EARLIER, None, None, ["a6jpQHTO+LAUT2s4vyfpfFTXJOQtJsTX8A==", "b4tz9sCCaQFYPjZF", "w6jw2po9HWF/WCqm+010Rg=="]),
    fixed(EARLIER, Some(b""), None, ["0CIQZWEd8ZNtnh1G57D2bF9bCbk34umoRg==", "EGfeFeeZ+FrxId/2", "H+Z9l2INckf2HA2artN/TA=="]),
    fixed(EARLIER, AAD, None, ["AnW/c7H3kjV7cLwo6gGxreEDqC5nn0i/wA==", "SpaIGLjtXh4Vj6+W", "8MubpGk2ywsHrQ3WC/Gugg=="]),
    fixed(EARLIER, None, METADATA, ["PEKvReiZ8OTm60beJjlJ+5apiSug0c8HLw==", "LnKrVboBospvNcNl", "PcTAQOoBcNFK7gqrM1WqIA=="]),
    fixed(EARLIER, Some(b""), METADATA, ["WNSexuYwoVUqfQVNXurvc3orf/0/YZaj3A==", "8YGf416DmLvOAfTy", "61GSGv2vUt9W7BdHw8LOlg=="]),
    fixed(EARLIER, AAD, METADATA, ["rh7SJddcdyY8BzuXLSVijqIKebJj2lrcdQ==", "V2MLMjvlKdwMJX5R", "YWksTQ+AWvhxC7YzcKDHmw=="]),
];

impl Fixed {
    /// The members of encrypt's answer.
    pub fn answer(&self) -> serde_json::Value {
        let mut answer = serde_json::json!({
            "ciphertext": self.ciphertext,
            "initializationVector": self.iv,
            "authenticationTag": self.tag,
        });
        if let Some(metadata) = self.metadata {
            answer["ciphertextMetadata"] = metadata.into();
        }
        answer
    }
}

//! The certificate authorities whose certificates AWS KMS accepts from external key store proxies.
//!
//! The list in `authorities.txt` is AWS's, reduced to the names and fingerprints;
//! `update-authorities` beside it makes it from AWS's file.

use std::sync::OnceLock;

use super::facts::Certificate;

const SHIPPED: &str = include_str!("authorities.txt");

const OWNER: &str = "Owner: ";
const FINGERPRINT: &str = "SHA256: ";
const DATE: &str = "# Date: ";

/// A list of root certificates.
#[derive(Clone, Debug, Default)]
pub struct Authorities {
    /// Date of the list, if the file tells it.
    pub date: Option<String>,
    roots: Vec<Root>,
}

#[derive(Clone, Debug)]
struct Root {
    /// Distinguished name as the file has it.
    owner: String,
    /// Values of the distinguished name, for comparisons.
    values: Vec<String>,
    /// SHA-256 of the certificate.
    fingerprint: [u8; 32],
}

impl Authorities {
    /// Returns the list that this version has.
    #[must_use]
    pub fn shipped() -> &'static Self {
        static LIST: OnceLock<Authorities> = OnceLock::new();
        // A test parses it.
        LIST.get_or_init(|| Self::parse(SHIPPED).unwrap_or_default())
    }

    /// Parses a list: AWS's file, or the one made from it. A line with a name belongs to the line
    /// with the fingerprint that follows.
    ///
    /// # Errors
    /// The text is no such list, for the returned reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        let mut owner = None;
        for (line, number) in text.lines().zip(1..) {
            if let Some(date) = line.strip_prefix(DATE) {
                list.date = Some(date.trim().to_owned());
            } else if let Some(name) = line.strip_prefix(OWNER) {
                owner = Some(name.trim().to_owned());
            } else if let Some(digits) = line.trim_start().strip_prefix(FINGERPRINT) {
                // AWS's file has stray characters after one of them.
                let digits = digits.split_whitespace().next().unwrap_or_default();
                let fingerprint = fingerprint(digits)
                    .ok_or_else(|| format!("line {number} has no SHA-256 fingerprint"))?;
                let owner = owner
                    .take()
                    .ok_or_else(|| format!("line {number}: no line \"Owner:\" belongs to it"))?;
                list.roots.push(Root { values: values(&owner), owner, fingerprint });
            }
        }
        if list.roots.is_empty() {
            return Err("it has no pair of lines \"Owner:\" and \"SHA256:\"".to_owned());
        }
        Ok(list)
    }

    /// Returns the number of root certificates.
    #[must_use]
    pub fn count(&self) -> usize {
        self.roots.len()
    }

    /// Returns whether the list has the certificate with this SHA-256 fingerprint.
    #[must_use]
    pub fn has(&self, fingerprint: &[u8; 32]) -> bool {
        self.roots.iter().any(|root| root.fingerprint == *fingerprint)
    }

    /// Returns the name of the root that a chain leads to by its names alone: the issuer of one of
    /// its certificates, or one of them itself. Signatures are not verified.
    #[must_use]
    pub fn named(&self, chain: &[Certificate]) -> Option<&str> {
        chain.iter().find_map(|certificate| {
            let is_it = |root: &&Root| {
                root.fingerprint == certificate.fingerprint
                    || (!certificate.is_self_issued
                        && !certificate.issuer_values.is_empty()
                        && root.values == certificate.issuer_values)
            };
            self.roots.iter().find(is_it).map(|root| root.owner.as_str())
        })
    }
}

fn fingerprint(digits: &str) -> Option<[u8; 32]> {
    let pairs: Option<Vec<u8>> = digits
        .split(':')
        .map(|pair| if pair.len() == 2 { u8::from_str_radix(pair, 16).ok() } else { None })
        .collect();
    pairs?.try_into().ok()
}

/// Returns the values of a distinguished name in the notation of `keytool`, in order. Keywords and
/// the order of the parts differ between programs, so they do not count.
fn values(name: &str) -> Vec<String> {
    let mut values = Vec::new();
    let mut rest = name;
    while let Some((_, after)) = rest.split_once('=') {
        if let Some(quoted) = after.strip_prefix('"') {
            let (value, left) = quoted.split_once('"').unwrap_or((quoted, ""));
            values.push(value.to_lowercase());
            rest = left;
        } else {
            let end = next_part(after).unwrap_or(after.len());
            let (value, left) = after.split_at(end);
            values.push(value.to_lowercase());
            rest = left;
        }
    }
    values.sort_unstable();
    values
}

/// Returns the place of the comma before the next part, which has a keyword or an OID and "=".
fn next_part(text: &str) -> Option<usize> {
    text.match_indices(", ").map(|(at, _)| at).find(|at| {
        let part = text.get(at + 2..).unwrap_or_default();
        part.split_once('=').is_some_and(|(key, _)| {
            !key.is_empty()
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'.')
        })
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The shipped list is whole: as many names as fingerprints, none twice, with a date.
    #[test]
    fn shipped() {
        let list = Authorities::parse(SHIPPED).unwrap();
        assert_eq!(SHIPPED.matches("\nOwner: ").count(), list.count());
        assert!(list.count() > 100, "{}", list.count());
        let mut fingerprints: Vec<_> = list.roots.iter().map(|root| root.fingerprint).collect();
        fingerprints.sort_unstable();
        fingerprints.dedup();
        assert_eq!(fingerprints.len(), list.count());
        assert_eq!(Authorities::shipped().count(), list.count());
        let date = list.date.unwrap();
        assert!(date.len() == 10 && date.starts_with("20"), "{date}");
        assert!(SHIPPED.contains("\n# Source: https://"));
        let amazon = list.roots.iter().find(|root| root.owner.contains("Amazon Root CA 1"));
        assert_eq!(amazon.unwrap().values, ["amazon", "amazon root ca 1", "us"]);
    }

    #[test]
    fn names() {
        for (name, expected) in [
            ("C=ES, O=ACCV, CN=ACCVRAIZ1", vec!["accv", "accvraiz1", "es"]),
            (
                "CN=A, OU=\"(c) 2006 E, Inc.\", O=\"E, Inc.\"",
                vec!["(c) 2006 e, inc.", "a", "e, inc."],
            ),
            ("CN=B, and more, OID.2.5.4.97=V-1", vec!["b, and more", "v-1"]),
            ("", vec![]),
        ] {
            assert_eq!(values(name), expected, "{name}");
        }
    }

    #[test]
    fn wrong_lists() {
        let digits = "AB:".repeat(31) + "AB";
        for (text, why) in [
            ("", "it has no pair"),
            ("Owner: CN=A\n", "it has no pair"),
            ("SHA256: AB\n", "line 1 has no SHA-256"),
            (&*format!("SHA256: {digits}\n"), "line 1: no line \"Owner:\""),
            (&*format!("Owner: CN=A\nSHA256: {digits}\nSHA256: {digits}\n"), "line 3: no line"),
        ] {
            assert!(Authorities::parse(text).unwrap_err().starts_with(why), "{text}");
        }
        let list = Authorities::parse(&format!("Owner: CN=A\n\t SHA256: {digits}   .7\n")).unwrap();
        assert!(list.has(&[0xab; 32]) && !list.has(&[0xac; 32]) && list.date.is_none());
    }
}

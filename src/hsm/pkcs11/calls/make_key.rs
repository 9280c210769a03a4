//! The making of a token key, with a test of it.

use cryptoki_sys::*;

use super::Calls;
use crate::hsm::inventory::KeyDetails;
use crate::hsm::key_date::Date;
use crate::hsm::pkcs11::codes;
use crate::hsm::pkcs11::keys::details;
use crate::hsm::pkcs11::keys::listing;
use crate::hsm::pkcs11::known_good::KNOWN_PLAINTEXT;
use crate::hsm::pkcs11::native::{Attribute, Error};
use crate::hsm::pkcs11::refusals::remedy;
use crate::hsm::pkcs11::shared::Shared;
use crate::hsm::pkcs11::trouble::Trouble;
use crate::key_name::{KeyName, hex};
use crate::limits::MAX_KEYS_PER_TOKEN;

/// A key to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// `CKA_LABEL`
    pub label: String,
    /// `CKA_ID`
    pub id: Vec<u8>,
    /// CKA_EXTRACTABLE: another key of the token may wrap it.
    pub is_extractable: bool,
    /// CKA_WRAP_WITH_TRUSTED: only a key that the security officer trusts may wrap it.
    pub is_for_trusted_wrapping: bool,
    /// CKA_END_DATE
    pub end_date: Option<Date>,
}

/// A key that was made and works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeKey {
    /// Its attributes, as the token reports them.
    pub details: KeyDetails,
}

/// The reason why no key was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotMade {
    /// The failure and its remedy, for the operator.
    pub reason: String,
    /// What is left on the token, for the operator.
    pub left: String,
}

impl Calls {
    /// Returns whether an object has that name.
    pub fn has_object(&self, name: &KeyName<'_>) -> Result<bool, Error> {
        let closed = Error { function: "C_FindObjectsInit", code: Some(CKR_SESSION_CLOSED) };
        let session = self.session().map_err(|_| closed)?;
        let (kind, value) = match name {
            KeyName::Label(label) => (CKA_LABEL, label.as_bytes()),
            KeyName::CkaId(id) => (CKA_ID, id.as_slice()),
        };
        let template = [Attribute::Bytes(kind, value.to_vec())];
        let handles = match session.find(&template, MAX_KEYS_PER_TOKEN) {
            Ok((handles, _)) => handles,
            // The module may want the kind of object too, or take no template at all.
            Err(_) => listing::find(session, Some(name), MAX_KEYS_PER_TOKEN)?.0,
        };
        for handle in handles {
            // A module that ignores the template returns other objects too.
            match session.attributes(handle, &[kind]) {
                Ok(told) if told.iter().any(|(_, told)| told == value) => return Ok(true),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Makes a key, compares its attributes with those that were asked for, and makes a round trip
    /// with it. If that fails, the key is destroyed.
    pub fn make_key(&mut self, token: &Shared, key: &NewKey) -> Result<MadeKey, NotMade> {
        let handle = match self.generate(key) {
            Ok(handle) => handle,
            Err(error) => {
                token.count(&error);
                let reason = format!("{}: {}", codes::describe_error(&error), remedy(error.code));
                return Err(NotMade { reason, left: self.left_after_refusal(key) });
            }
        };
        self.test(token, handle, key).map_err(|reason| {
            let destroyed = self.session().map(|session| session.destroy(handle));
            let left = match destroyed {
                Ok(Ok(())) => "The key that had been made was destroyed again.".to_owned(),
                Ok(Err(error)) => left_behind(key, handle, &codes::describe_error(&error)),
                Err(fault) => left_behind(key, handle, &fault.failure.to_string()),
            };
            NotMade { reason, left }
        })
    }

    fn generate(&self, key: &NewKey) -> Result<CK_OBJECT_HANDLE, Error> {
        let closed = Error { function: "C_GenerateKey", code: Some(CKR_SESSION_CLOSED) };
        let session = self.session().map_err(|_| closed)?;
        match session.generate_aes_key(&template(key, true)) {
            // Some modules do not accept that a use is denied which they do not offer. The key's
            // attributes are compared later.
            Err(error) if is_about_template(&error) => {
                session.generate_aes_key(&template(key, false)).map_err(|_| error)
            }
            made => made,
        }
    }

    fn test(
        &mut self,
        token: &Shared,
        handle: CK_OBJECT_HANDLE,
        key: &NewKey,
    ) -> Result<MadeKey, String> {
        let session = self.session().map_err(|fault| fault.failure.to_string())?;
        let details = details(session, handle).map_err(|error| {
            format!("its attributes cannot be read: {}", codes::describe_error(&error))
        })?;
        require(&details, key)?;
        self.round_trip(token, handle)?;
        Ok(MadeKey { details })
    }

    fn round_trip(&mut self, token: &Shared, handle: CK_OBJECT_HANDLE) -> Result<(), String> {
        let advice = "does [hsm_capabilities] fit this HSM? `xks-proxy probe-hsm` finds out";
        let mut sealed = Vec::new();
        // No index stands for the key yet. The command records this encryption.
        let iv = self.encrypt_bytes(token, (None, handle), &[], &KNOWN_PLAINTEXT, &mut sealed);
        let iv = iv.map_err(|trouble| {
            let why = match trouble {
                Trouble::StaleHandle(code) => codes::describe(code),
                Trouble::Fault(fault) => fault.failure.to_string(),
            };
            format!("it does not encrypt with AES-GCM: {why}; {advice}")
        })?;
        self.decrypts_to_known(token, handle, &iv, &sealed).map_err(|fault| {
            format!("it does not decrypt what it encrypted: {}; {advice}", fault.failure)
        })
    }

    /// Returns what a refused C_GenerateKey may have left behind: a call that fails may have had
    /// its effect.
    fn left_after_refusal(&self, key: &NewKey) -> String {
        match self.has_object(&KeyName::Label(&key.label)) {
            Ok(false) => "Nothing was made.".to_owned(),
            Ok(true) => format!(
                "ATTENTION: although the call failed, the token now has an object with CKA_LABEL \
                 {:?} (CKA_ID {}): destroy it with the vendor's tool before you try again.",
                key.label,
                hex(&key.id)
            ),
            Err(error) => format!(
                "ATTENTION: it is unknown whether the token now has an object with CKA_LABEL {:?} \
                 (CKA_ID {}), as the search failed ({}): look for it with the vendor's tool.",
                key.label,
                hex(&key.id),
                codes::describe_error(&error)
            ),
        }
    }
}

fn left_behind(key: &NewKey, handle: CK_OBJECT_HANDLE, why: &str) -> String {
    format!(
        "ATTENTION: the key is left on the token, as it could not be destroyed ({why}): CKA_LABEL \
         {:?}, CKA_ID {}, handle {handle}. Destroy it with the vendor's tool; nothing was encrypted \
         with it but a test.",
        key.label,
        hex(&key.id)
    )
}

fn template(key: &NewKey, denies_uses: bool) -> Vec<Attribute> {
    let flag = |is_set| if is_set { CK_TRUE } else { CK_FALSE };
    let mut template = vec![
        Attribute::Flag(CKA_TOKEN, CK_TRUE),
        Attribute::Flag(CKA_PRIVATE, CK_TRUE),
        Attribute::Flag(CKA_SENSITIVE, CK_TRUE),
        Attribute::Flag(CKA_EXTRACTABLE, flag(key.is_extractable)),
        Attribute::Number(CKA_VALUE_LEN, 32),
        Attribute::Flag(CKA_ENCRYPT, CK_TRUE),
        Attribute::Flag(CKA_DECRYPT, CK_TRUE),
        Attribute::Bytes(CKA_LABEL, key.label.as_bytes().to_vec()),
        Attribute::Bytes(CKA_ID, key.id.clone()),
    ];
    if key.is_for_trusted_wrapping {
        template.push(Attribute::Flag(CKA_WRAP_WITH_TRUSTED, CK_TRUE));
    }
    if let Some(date) = key.end_date {
        template.push(Attribute::Bytes(CKA_END_DATE, date.digits().into_bytes()));
    }
    if denies_uses {
        let others = [CKA_SIGN, CKA_VERIFY, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE];
        template.extend(others.map(|kind| Attribute::Flag(kind, CK_FALSE)));
    }
    template
}

fn is_about_template(error: &Error) -> bool {
    matches!(
        error.code,
        Some(
            CKR_ATTRIBUTE_TYPE_INVALID
                | CKR_ATTRIBUTE_VALUE_INVALID
                | CKR_ATTRIBUTE_READ_ONLY
                | CKR_TEMPLATE_INCONSISTENT
        )
    )
}

/// Requires the attributes that protect the key. One that the token does not report is accepted.
fn require(details: &KeyDetails, key: &NewKey) -> Result<(), String> {
    let wrong = [
        ("CKA_SENSITIVE", details.sensitive, true),
        ("CKA_PRIVATE", details.private, true),
        ("CKA_EXTRACTABLE", details.extractable, key.is_extractable),
        ("CKA_ENCRYPT", details.encrypt, true),
        ("CKA_DECRYPT", details.decrypt, true),
    ]
    .into_iter()
    .find(|(_, told, wanted)| told.is_some_and(|told| told != *wanted));
    match wrong {
        None => Ok(()),
        Some((name, _, wanted)) => Err(format!(
            "the token made the key with {name} {}, although {wanted} was asked for: make the key \
             with the vendor's tool under this label",
            !wanted
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: NewKey = NewKey {
        label: String::new(),
        id: Vec::new(),
        is_extractable: false,
        is_for_trusted_wrapping: false,
        end_date: None,
    };

    /// A key that is less protected than was asked for is refused; what the token does not report
    /// is accepted.
    #[test]
    fn protection_is_required() {
        let good = KeyDetails { sensitive: Some(true), ..KeyDetails::default() };
        assert_eq!(require(&good, &KEY), Ok(()));
        assert_eq!(require(&KeyDetails::default(), &KEY), Ok(()));
        for (details, name) in [
            (KeyDetails { sensitive: Some(false), ..good }, "CKA_SENSITIVE false"),
            (KeyDetails { private: Some(false), ..good }, "CKA_PRIVATE false"),
            (KeyDetails { extractable: Some(true), ..good }, "CKA_EXTRACTABLE true"),
            (KeyDetails { decrypt: Some(false), ..good }, "CKA_DECRYPT false"),
        ] {
            assert!(require(&details, &KEY).is_err_and(|why| why.contains(name)), "{name}");
        }
        let extractable = KeyDetails { extractable: Some(true), ..good };
        assert_eq!(require(&extractable, &NewKey { is_extractable: true, ..KEY }), Ok(()));
    }
}

//! Refusal of settings with which an external key could no longer encrypt: no token in use has the
//! key of the version that is to encrypt.

use std::sync::Arc;

use crate::hsm::Hsm;
use crate::hsm::backend::FoundKey;
use crate::hsm::key_search::TokenKeys;
use crate::limits::MAX_START_WAIT;
use crate::settings::Settings;

/// A version that is to encrypt.
struct Encrypting<'s> {
    store: &'s str,
    id: &'s str,
    version: u32,
    key_name: &'s str,
}

/// Checks that the tokens in use have the keys with which the settings encrypt. With `former`, on
/// whose tokens the settings are applied, only external key ids that would encrypt with another key
/// are checked: a key that is missing already is no reason to refuse other changes.
///
/// # Errors
/// The reasons why the settings are refused.
pub(super) fn check(
    hsm: &Hsm,
    settings: &Settings,
    former: Option<&Settings>,
) -> Result<(), Vec<String>> {
    let changed = encrypting(settings, former);
    if changed.is_empty() {
        return Ok(());
    }
    let names: Arc<[Box<str>]> = changed.iter().map(|it| it.key_name.into()).collect();
    let tokens = hsm.search(&names, MAX_START_WAIT);
    let mut refused = Vec::new();
    for (place, encrypting) in changed.iter().enumerate() {
        match holders(&tokens, place) {
            Holders::Unknown => tracing::warn!(
                externalKeyId = encrypting.id,
                keyVersion = encrypting.version,
                key = encrypting.key_name,
                "no token can be asked whether it has the key that is to encrypt"
            ),
            Holders::None => refused.push(encrypting.refusal()),
            Holders::AllBut(others) if others.is_empty() => {}
            Holders::AllBut(others) => tracing::warn!(
                externalKeyId = encrypting.id,
                keyVersion = encrypting.version,
                key = encrypting.key_name,
                tokens = others.join(", "),
                "these tokens do not encrypt with the key that is to encrypt, so that only the \
                 others serve it"
            ),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

/// The external key ids that would encrypt with another key than in the `former` settings.
fn encrypting<'s>(settings: &'s Settings, former: Option<&Settings>) -> Vec<Encrypting<'s>> {
    let mut changed = Vec::new();
    for store in &settings.stores {
        let prefix = store.uri_path_prefix.as_str();
        let former = former.and_then(|former| {
            former.stores.iter().find(|former| former.uri_path_prefix == prefix)
        });
        for key in store.versioned_keys() {
            let Some(key_name) = key.encrypting_key() else { continue };
            if former.and_then(|former| former.encrypting_key(&key.id)) != Some(key_name) {
                let (id, version) = (key.id.as_str(), key.encrypt_with);
                changed.push(Encrypting { store: prefix, id, version, key_name });
            }
        }
    }
    changed
}

impl Encrypting<'_> {
    fn refusal(&self) -> String {
        let Self { store, id, version, key_name } = self;
        format!(
            "the external key id {id:?} of the store {store:?} would encrypt with version {version}, \
             and no usable token has a key {key_name:?} that may encrypt: make the key on each token \
             first, or leave encrypt_with as it was"
        )
    }
}

/// The tokens that encrypt with a key.
enum Holders {
    /// No token has answered.
    Unknown,
    /// No token that has answered.
    None,
    /// All but these, which cannot or have not answered.
    AllBut(Vec<String>),
}

fn holders(tokens: &[TokenKeys], place: usize) -> Holders {
    let encrypts = |key: &FoundKey| key.attributes.encrypt && !key.is_ambiguous;
    let is_holder = |keys: &Vec<Option<FoundKey>>| {
        keys.get(place).and_then(Option::as_ref).is_some_and(encrypts)
    };
    if tokens.iter().all(|token| token.keys.is_err()) {
        return Holders::Unknown;
    }
    let (holders, others): (Vec<_>, Vec<_>) =
        tokens.iter().partition(|token| token.keys.as_ref().is_ok_and(is_holder));
    if holders.is_empty() {
        return Holders::None;
    }
    let tell = |token: &TokenKeys| match &token.keys {
        Ok(_) => token.token.clone(),
        Err(reason) => format!("{} ({reason})", token.token),
    };
    Holders::AllBut(others.into_iter().map(tell).collect())
}

//! Search for keys that need not be configured.

use super::codes;
use super::keys::KeyCache;
use super::session::Pkcs11Session;
use crate::hsm::backend::FoundKey;

/// Searches a token for keys by name. The answers are in the order of `names`.
///
/// # Errors
/// Returns the reason why the token cannot be searched.
pub(super) fn search(
    keys: &KeyCache,
    session: &Pkcs11Session,
    names: &[Box<str>],
) -> Result<Vec<Option<FoundKey>>, String> {
    let (Some(_entry), Some(native)) = (session.enter(), session.native()) else {
        return Err("its module is being initialised again".to_owned());
    };
    let is_allowed = keys.labels().allow_ambiguous;
    let find = |name: &str| {
        let found = keys.search(native, name).map_err(|error| codes::describe_error(&error))?;
        Ok(found.map(|key| FoundKey {
            attributes: key.attributes,
            is_ambiguous: key.count > 1 && !is_allowed,
        }))
    };
    names.iter().map(|name| find(name)).collect()
}

//! The key store that the arguments select.

use crate::exit::{EXIT_ARGUMENTS, Failed};
use crate::settings::{Settings, Store};

/// Part of the API's paths after the prefix (XKS specification, API operations).
pub(super) const API_PATH: &str = "/kms/xks/v1";

/// Returns the store with that `uri_path_prefix`, or the only one. The prefix may be followed by
/// [`API_PATH`], as KMS shows it; "/" is the store without a prefix.
///
/// # Errors
/// [`Failed`] with the prefixes in the settings.
pub(super) fn named<'s>(settings: &'s Settings, prefix: Option<&str>) -> Result<&'s Store, Failed> {
    let stores = &settings.stores;
    let of = |prefix: &str| stores.iter().find(|store| store.uri_path_prefix == prefix);
    let (store, problem) = match (prefix, stores.as_slice()) {
        (None, [only]) => (Some(only), String::new()),
        (None, _) => (None, "there are several key stores: name one of them".to_owned()),
        (Some(prefix), _) => {
            let short = prefix.strip_suffix(API_PATH).unwrap_or(prefix);
            let short = short.strip_suffix('/').unwrap_or(short);
            (of(prefix).or_else(|| of(short)), format!("there is no key store {prefix:?}"))
        }
    };
    store.ok_or_else(|| {
        let prefixes: Vec<String> =
            stores.iter().map(|store| format!("{:?}", store.uri_path_prefix)).collect();
        let file = settings.file.display();
        let known = prefixes.join(", ");
        Failed::new(EXIT_ARGUMENTS, format!("{problem}; {file} has {known}"))
    })
}

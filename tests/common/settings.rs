//! Settings files in the form that installations of the reference proxy use.

use toml::{Table, Value};

pub use super::template::set;
use super::template::template;
use super::token;

/// Prefix and credential of a key store.
#[derive(Clone, Debug)]
pub struct Store {
    /// `uri_path_prefix`
    pub prefix: String,
    /// `sigv4_access_key_id`
    pub access_key_id: String,
    /// `sigv4_secret_access_key`
    pub secret_access_key: String,
}

impl Store {
    /// Returns the store with all keys but [`token::FOREIGN`].
    pub fn first() -> Self {
        Self {
            prefix: "/example/uri/path/prefix".into(),
            access_key_id: "BETWEEN2TENAND3TENCHARACTERS".into(),
            secret_access_key: "PleaseReplaceThisWithSomeSecretOfLength43To64".into(),
        }
    }

    /// Returns the store with [`token::SECOND`] only.
    pub fn second() -> Self {
        Self {
            prefix: "/second/store".into(),
            access_key_id: "SECONDSTORESACCESSKEYID2".into(),
            secret_access_key: "AnotherSecretAccessKeyOfAnother/Store+000000=".into(),
        }
    }
}

/// Keys in the first store's set.
const FIRST_STORES_KEYS: [token::Key; 10] = [
    token::FULL,
    token::SECOND,
    token::ENCRYPT_ONLY,
    token::DECRYPT_ONLY,
    token::IMPOTENT,
    token::SHORT,
    token::TWIN,
    token::GENERIC,
    token::SHARED,
    token::LATER,
];

/// Upper bound of the time that a call takes on any machine.
pub const GENEROUS_DEADLINE_MILLI: i64 = 20_000;

/// Returns valid settings, which a test may change. [`super::Setup`] fills in paths and switches.
///
/// The deadline is generous, since a busy machine must not fail a test. Tests of deadlines ask for
/// [`usual_deadline`].
pub fn standard() -> Table {
    let mut table = template();
    let stores =
        [(Store::first(), FIRST_STORES_KEYS.as_slice()), (Store::second(), &[token::SECOND])];
    let stores = stores.map(|(store, keys)| {
        let keys = keys.iter().map(|key| Value::from(key.label)).collect::<Vec<_>>();
        Value::Table(Table::from_iter([
            ("uri_path_prefix".into(), Value::from(store.prefix)),
            ("sigv4_access_key_id".into(), Value::from(store.access_key_id)),
            ("sigv4_secret_access_key".into(), Value::from(store.secret_access_key)),
            ("xks_key_id_set".into(), Value::from(keys)),
        ]))
    });
    table.insert("external_key_stores".into(), Value::Array(stores.into()));
    set(&mut table, "limits.request_deadline_milli", GENEROUS_DEADLINE_MILLI);
    table
}

/// Sets the proxy's default deadline. The environment variable `XKS_TEST_REQUEST_DEADLINE_MILLI`
/// raises it for slow instrumented builds.
pub fn usual_deadline(table: &mut Table) {
    match std::env::var("XKS_TEST_REQUEST_DEADLINE_MILLI") {
        Ok(milli) => {
            set(table, "limits.request_deadline_milli", milli.parse::<i64>().unwrap());
        }
        Err(_) => {
            table["limits"].as_table_mut().unwrap().remove("request_deadline_milli");
        }
    }
}

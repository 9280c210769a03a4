//! `xks-proxy keys rotate`: makes the next version of a key, and prints the two steps that follow.

use std::time::SystemTime;

use clap::Args;

use super::super::settings_file;
use super::making::{self, Options};
use super::table;
use crate::exit::{EXIT_ARGUMENTS, EXIT_SETTINGS, Failed};
use crate::hsm::key_date::Date;
use crate::key_name::KeyName;
use crate::limits::{MAX_KEY_ID_BYTES, MAX_KEY_VERSIONS, MAX_METADATA_BESIDE_TAG_BYTES};
use crate::observe::timestamp::unix_secs;
use crate::output::outln;
use crate::proto::{Version, VersionedKey};
use crate::settings::{Settings, Store};

/// Makes the key of the next version of an external key id, and prints the two steps of the rotation
///
/// Step 1 lists the new version on every replica, so that each decrypts with it. Step 2 encrypts with
/// it. Nothing changes before you edit the settings. It asks before it writes to the HSM.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The external key id
    #[arg(value_name = "ID")]
    key_id: String,
    /// The CKA_LABEL of the new key; by default the original's, with the year and month
    #[arg(long)]
    label: Option<String>,
    #[command(flatten)]
    options: Options,
}

/// An external key id in one store.
struct OfStore<'s> {
    store: &'s Store,
    key: VersionedKey,
    /// True if the store has a table for it.
    has_table: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Failed`]: the settings are wrong or do not have the id, or no key was made.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    let Arguments { key_id, label, options } = arguments;
    let (settings, _) = settings_file::load(options.file.as_deref(), false)?;
    let stores = stores_with(&settings, key_id)?;
    let number = next_number(&stores)?;
    require_room_for_tag(&settings)?;
    let label = match label {
        Some(label) => label.clone(),
        None => default_label(key_id, &stores, Date::of_unix_secs(unix_secs(SystemTime::now())))?,
    };
    making::make(&settings, &label, options)?;
    print_steps(key_id, number, &label, &stores);
    Ok(())
}

fn stores_with<'s>(settings: &'s Settings, key_id: &str) -> Result<Vec<OfStore<'s>>, Failed> {
    let of_store = |store: &'s Store| {
        let table = store.versioned_keys().iter().find(|key| key.id == *key_id).cloned();
        let has_table = table.is_some();
        let plain = || VersionedKey {
            id: key_id.to_owned(),
            versions: vec![Version { number: 1, key_name: key_id.to_owned(), is_retired: false }],
            encrypt_with: 1,
        };
        OfStore { store, key: table.unwrap_or_else(plain), has_table }
    };
    let stores = settings.stores.iter().filter(|store| store.key_ids().any(|id| id == key_id));
    let found: Vec<OfStore<'s>> = stores.map(of_store).collect();
    if found.is_empty() {
        let message = format!(
            "{}: no store has the external key id {key_id:?}. Nothing was made.",
            settings.file.display()
        );
        return Err(Failed::new(EXIT_ARGUMENTS, message));
    }
    Ok(found)
}

/// Returns a number that no version has in any of the stores.
fn next_number(stores: &[OfStore<'_>]) -> Result<u32, Failed> {
    let versions = || stores.iter().flat_map(|of| &of.key.versions);
    let last = versions().map(|version| version.number).max().unwrap_or(1);
    let is_full = stores.iter().any(|of| of.key.versions.len() >= MAX_KEY_VERSIONS);
    match last.checked_add(1) {
        Some(next) if !is_full => Ok(next),
        _ => {
            let message = format!(
                "the key has {MAX_KEY_VERSIONS} versions, or the last number, which is as far as it \
                 goes: take out retired ones. Nothing was made."
            );
            Err(Failed::new(EXIT_SETTINGS, message))
        }
    }
}

/// Refuses what the settings' check would refuse in step 1.
fn require_room_for_tag(settings: &Settings) -> Result<(), Failed> {
    let length = settings.server.ciphertext_metadata.as_ref().map_or(0, Vec::len);
    if length <= MAX_METADATA_BESIDE_TAG_BYTES {
        return Ok(());
    }
    let message = format!(
        "server.ciphertext_metadata_b64 has {length} bytes once decoded, which leaves no room for \
         the tag of a version: shorten it to {MAX_METADATA_BESIDE_TAG_BYTES} first. Nothing was made."
    );
    Err(Failed::new(EXIT_SETTINGS, message))
}

/// Returns the original's label, or the external key id if it has none, with year and month.
fn default_label(key_id: &str, stores: &[OfStore<'_>], today: Date) -> Result<String, Failed> {
    let mut versions = stores.iter().flat_map(|of| &of.key.versions);
    let original = versions.find(|version| version.number == 1);
    let base = match original.map(|version| KeyName::parse(&version.key_name)) {
        Some(KeyName::Label(label)) => label,
        Some(KeyName::CkaId(_)) | None => key_id,
    };
    let day = today.to_string();
    let month = day.rsplit_once('-').map_or(day.as_str(), |(month, _)| month);
    let label = format!("{base}-{month}");
    if label.len() > MAX_KEY_ID_BYTES {
        let message = format!("{label:?} is too long for a label: give one with --label");
        return Err(Failed::new(EXIT_ARGUMENTS, message));
    }
    Ok(label)
}

fn print_steps(key_id: &str, number: u32, label: &str, stores: &[OfStore<'_>]) {
    outln!(
        "\nSTEP 1, on every replica: list version {number}, so that each can decrypt with it. \
         Encryption stays as it is."
    );
    for OfStore { store, key, has_table } in stores {
        let place = match store.uri_path_prefix.as_str() {
            "" => "the store without a uri_path_prefix".to_owned(),
            prefix => format!("the store with uri_path_prefix {prefix:?}"),
        };
        if *has_table {
            outln!("In {place}, this replaces the table of {key_id:?}:\n");
        } else {
            outln!(
                "In {place}, take {key_id:?} out of xks_key_id_set, and paste this behind the store's \
                 last member:\n"
            );
        }
        outln!("{}\n", table::of_versions(&with_version(key, number, label)));
    }
    let before: Vec<String> = stores.iter().map(|of| of.key.encrypt_with.to_string()).collect();
    outln!(
        "Then `xks-proxy check --hsm` and `xks-proxy reload` on each replica. Go on when every \
         replica lists version {number}: see \"keyVersions\" in its /status.json, or the metric \
         xks_proxy_key_version_decrypts.\n\
         \nSTEP 2, on every replica: encrypt with it. In the same table:\n\n\
         encrypt_with = {number}\n\n\
         Then `xks-proxy reload`. The way back is encrypt_with = {}; leave version {number} listed, \
         as ciphertexts of it exist by then. Former versions go on decrypting: keep their keys in \
         the HSM.",
        before.first().map_or("1", String::as_str)
    );
}

fn with_version(key: &VersionedKey, number: u32, label: &str) -> VersionedKey {
    let mut key = key.clone();
    key.versions.push(Version { number, key_name: label.to_owned(), is_retired: false });
    key
}

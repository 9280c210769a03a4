//! `xks-proxy credentials new`

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::super::{secret_output, settings_file, which_store};
use super::list::day;
use crate::exit::{EXIT_SETTINGS, Failed};
use crate::limits::MAX_CREDENTIALS_PER_STORE;
use crate::observe::redaction::Secret;
use crate::observe::timestamp::unix_secs;
use crate::output::{self, errln};
use crate::random;

/// Length of an access key id: 20 to 30 are allowed. 26 letters out of 32 are 130 random bits, so
/// two ids are never the same.
const ACCESS_KEY_ID_CHARS: usize = 26;
/// Alphabet of access key ids (XKS specification, Appendix A).
const ACCESS_KEY_ID_ALPHABET: [u8; 32] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
/// Length of a secret: the specification asks for 256 bits. 288 bits are 48 characters of base64,
/// without padding.
const SECRET_BYTES: usize = 36;
/// Upper bound of the output: comments, members, and a path in which every character is escaped.
const TEXT_BYTES: usize = 2048;

/// A new credential.
struct New {
    access_key_id: String,
    secret_access_key: Secret<String>,
}

/// Prints a new credential.
///
/// # Errors
/// [`Failed`]: the settings are wrong, the store already has the maximum number of credentials,
/// the secret's file exists, or the system cannot provide random numbers.
pub(super) fn run(
    store: Option<&str>,
    secret_file: Option<&Path>,
    settings: Option<&Path>,
) -> Result<(), Failed> {
    let store = match store {
        Some(prefix) => Some(with_room(prefix, settings)?),
        None => None,
    };
    let made = make().map_err(|error| {
        Failed::unavailable(format!("no random numbers from the system: {error}"))
    })?;
    let secret_member = match secret_file {
        Some(path) => write_secret(path, &made)?,
        None => {
            let secret = made.secret_access_key.expose();
            Zeroizing::new(format!("sigv4_secret_access_key = \"{secret}\""))
        }
    };
    let today = unix_secs(SystemTime::now());
    let text = toml(store.as_deref(), &made.access_key_id, &secret_member, today);
    if let Err(error) = output::print_secret(text.as_bytes()) {
        // Without the id, the secret is of no use, and the file in the way of the next attempt.
        if let Some(path) = secret_file {
            let _ = fs::remove_file(path);
        }
        output::end(&error);
    }
    match secret_file {
        Some(path) => errln!(
            "The secret is in {}: give it to the proxy's user (chown), the only one who should read it.",
            path.display()
        ),
        None => errln!("This output holds the secret: keep it private."),
    }
    Ok(())
}

/// Returns the store's prefix as spelled in the settings, if the store can have another credential.
fn with_room(prefix: &str, settings: Option<&Path>) -> Result<String, Failed> {
    let (settings, _) = settings_file::load(settings, false)?;
    let store = which_store::named(&settings, Some(prefix))?;
    if store.credentials.len() >= MAX_CREDENTIALS_PER_STORE {
        let message = format!(
            "store {prefix:?} has {MAX_CREDENTIALS_PER_STORE} credentials, which is as many as \
             there can be: remove those that KMS does not use, see `xks-proxy credentials list`"
        );
        return Err(Failed::new(EXIT_SETTINGS, message));
    }
    Ok(store.uri_path_prefix.clone())
}

/// Writes the secret to its file, and returns the member that names the file.
fn write_secret(path: &Path, made: &New) -> Result<Zeroizing<String>, Failed> {
    // The proxy may run in another working directory.
    let path = std::path::absolute(path)
        .map_err(|error| Failed::unavailable(format!("{}: {error}", path.display())))?;
    let Some(name) = path.to_str() else {
        return Err(Failed::unavailable(format!("{} is not UTF-8", path.display())));
    };
    let line = Zeroizing::new(format!("{}\n", made.secret_access_key.expose()));
    secret_output::to_new_file(&path, line.as_bytes()).map_err(Failed::unavailable)?;
    let name = toml::Value::from(name);
    Ok(Zeroizing::new(format!("sigv4_secret_access_key_file = {name}")))
}

fn toml(store: Option<&str>, id: &str, secret_member: &str, today: u64) -> Zeroizing<String> {
    let place = match store {
        Some(prefix) => format!("the store with uri_path_prefix = {}", toml::Value::from(prefix)),
        None => "the store".to_owned(),
    };
    let mut text = Zeroizing::new(String::with_capacity(TEXT_BYTES.max(2 * secret_member.len())));
    for part in [
        "# A SigV4 credential: paste it behind the last member of ",
        &place,
        ",\n# and before the next [[external_key_stores]] or other section.\n",
        "[[external_key_stores.credentials]]\ncreated = ",
        &day(today),
        "\nsigv4_access_key_id = \"",
        id,
        "\"\n",
        secret_member,
        "\n",
    ] {
        text.push_str(part);
    }
    text
}

fn make() -> Result<New, io::Error> {
    let mut of_id = [0; ACCESS_KEY_ID_CHARS];
    let mut of_secret = Zeroizing::new([0; SECRET_BYTES]);
    random::fill(&mut of_id)?;
    random::fill(&mut *of_secret)?;
    Ok(New {
        access_key_id: access_key_id(&of_id),
        secret_access_key: Secret::new(
            base64_simd::STANDARD.encode_to_string(of_secret.as_slice()),
        ),
    })
}

/// Returns a letter for each byte. 256 is a multiple of 32, so all letters are equally likely.
fn access_key_id(random: &[u8; ACCESS_KEY_ID_CHARS]) -> String {
    let letter = |byte: &u8| char::from(ACCESS_KEY_ID_ALPHABET[usize::from(byte % 32)]);
    random.iter().map(letter).collect()
}

const _: () = assert!(SECRET_BYTES.is_multiple_of(3), "no padding");

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::limits::{
        MAX_ACCESS_KEY_ID_BYTES, MAX_SECRET_ACCESS_KEY_BYTES, MIN_ACCESS_KEY_ID_BYTES,
        MIN_SECRET_ACCESS_KEY_BYTES,
    };

    /// Lengths and alphabets are as specified, all letters occur, and no two credentials are the
    /// same.
    #[test]
    fn what_is_made_is_allowed_and_new() {
        let (mut ids, mut secrets) = (BTreeSet::new(), BTreeSet::new());
        let (mut id_letters, mut secret_letters) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..200 {
            let made = make().unwrap();
            let secret = made.secret_access_key.expose().clone();
            let id_bytes = MIN_ACCESS_KEY_ID_BYTES..=MAX_ACCESS_KEY_ID_BYTES;
            let secret_bytes = MIN_SECRET_ACCESS_KEY_BYTES..=MAX_SECRET_ACCESS_KEY_BYTES;
            assert!(id_bytes.contains(&made.access_key_id.len()));
            assert!(secret_bytes.contains(&secret.len()));
            id_letters.extend(made.access_key_id.bytes());
            secret_letters.extend(secret.bytes());
            assert!(ids.insert(made.access_key_id) && secrets.insert(secret));
        }
        let id_alphabet: BTreeSet<u8> = (b'A'..=b'Z').chain(b'2'..=b'7').collect();
        assert_eq!(id_letters, id_alphabet);
        let secret_alphabet: BTreeSet<u8> =
            (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain([b'/', b'+']).collect();
        assert_eq!(secret_letters, secret_alphabet);
    }

    /// Each letter corresponds to the same number of byte values.
    #[test]
    fn no_letter_is_likelier() {
        let mut counts = [0; 256];
        for byte in 0..=u8::MAX {
            let id = access_key_id(&[byte; ACCESS_KEY_ID_CHARS]);
            assert!(id.bytes().all(|letter| letter == id.as_bytes()[0]));
            counts[usize::from(id.as_bytes()[0])] += 1;
        }
        let used: Vec<i32> = counts.into_iter().filter(|count| *count > 0).collect();
        assert_eq!(used, [8; 32]);
    }

    /// The output is valid TOML for the settings, no matter what the path contains.
    #[test]
    fn the_text_is_toml() {
        let member = "sigv4_secret_access_key = \"s\"";
        let text = toml(Some("/a \"b"), "AAAA", member, 1_795_564_800);
        let table: toml::Table = text.parse().unwrap();
        let listed = &table["external_key_stores"]["credentials"][0];
        assert_eq!(listed["created"].to_string(), "2026-11-25");
        assert_eq!(listed["sigv4_access_key_id"].as_str(), Some("AAAA"));
        assert_eq!(listed["sigv4_secret_access_key"].as_str(), Some("s"));

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a \"secret\" \\ file");
        let made = make().unwrap();
        let member = write_secret(&path, &made).unwrap();
        let table: toml::Table = member.parse().unwrap();
        assert_eq!(table["sigv4_secret_access_key_file"].as_str(), path.to_str());
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written.strip_suffix('\n'), Some(made.secret_access_key.expose().as_str()));
    }
}

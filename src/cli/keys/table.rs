//! The `[[external_key_stores.keys]]` tables that commands print, to be pasted into settings.

use std::fmt::Write as _;

use toml::Value;

use crate::key_name::{KeyName, hex};
use crate::limits::MAX_KEY_ID_BYTES;
use crate::proto::{Version, VersionedKey};

/// Number of the version that a key has if it was never rotated.
const ORIGINAL: u32 = 1;

/// Returns whether an external key id may be this text.
fn is_key_id(text: &str) -> bool {
    (1..=MAX_KEY_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && !matches!(text, "." | "..")
}

/// Returns the table of an external key id whose only version is a new key.
pub(super) fn of_new_key(label: &str, id: &[u8]) -> String {
    let shown = Value::from(label);
    let (key_id, remark) = if is_key_id(label) {
        (shown.to_string(), format!("# Or add {shown} to xks_key_id_set, which means the same.\n"))
    } else {
        let remark = "# The label cannot be an external key id: choose one.\n".to_owned();
        ("\"\"".to_owned(), remark)
    };
    format!(
        "{remark}[[external_key_stores.keys]]\nid = {key_id}\nversions = [{{ label = {shown} }}]  # \
         or {{ cka_id = \"{}\" }}",
        hex(id)
    )
}

/// Returns the table of an external key id with these versions.
pub(super) fn of_versions(key: &VersionedKey) -> String {
    let mut text = format!(
        "[[external_key_stores.keys]]\nid = {}\nversions = [\n",
        Value::from(key.id.as_str())
    );
    for version in &key.versions {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {},", of_version(version));
    }
    let _ = write!(text, "]\nencrypt_with = {}", key.encrypt_with);
    text
}

fn of_version(version: &Version) -> String {
    let mut members = Vec::new();
    if version.number != ORIGINAL {
        members.push(format!("version = {}", version.number));
    }
    members.push(match KeyName::parse(&version.key_name) {
        KeyName::Label(label) => format!("label = {}", Value::from(label)),
        KeyName::CkaId(id) => format!("cka_id = \"{}\"", hex(&id)),
    });
    if version.is_retired {
        members.push("retired = true".to_owned());
    }
    format!("{{ {} }}", members.join(", "))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parsed(lines: &str) -> toml::Table {
        let table: toml::Table = lines.parse().unwrap();
        table["external_key_stores"]["keys"][0].as_table().unwrap().clone()
    }

    /// The lines are TOML, whatever the label is.
    #[test]
    fn lines_are_toml() {
        for (label, id) in [("foo-2026.11", "foo-2026.11"), ("a \"b\" \\ c", ""), ("..", "")] {
            let lines = of_new_key(label, &[0x0a, 0x0b]);
            let key = parsed(&lines);
            assert_eq!(key["id"].as_str(), Some(id));
            assert_eq!(key["versions"][0]["label"].as_str(), Some(label));
            assert!(lines.contains("cka_id = \"0a0b\""));
        }
    }

    /// All versions are in the table, in the way in which the settings name them.
    #[test]
    fn versions() {
        let version = |number, name: &str, is_retired| Version {
            number,
            key_name: name.to_owned(),
            is_retired,
        };
        let key = VersionedKey {
            id: "foo".to_owned(),
            versions: vec![
                version(1, "foo", true),
                version(2, "id:0a0b", false),
                version(7, "a \"b\"", false),
            ],
            encrypt_with: 2,
        };
        let expected = "id = \"foo\"\nencrypt_with = 2\nversions = [{ label = \"foo\", retired = \
                        true }, { version = 2, cka_id = \"0a0b\" }, { version = 7, label = 'a \
                        \"b\"' }]";
        assert_eq!(parsed(&of_versions(&key)), expected.parse::<toml::Table>().unwrap());
    }
}

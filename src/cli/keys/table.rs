//! The `[[external_key_stores.keys]]` tables that commands print, to be pasted into settings.

use toml::Value;

use crate::key_name::hex;
use crate::limits::MAX_KEY_ID_BYTES;

/// Returns whether an external key id may be this text.
pub(super) fn is_key_id(text: &str) -> bool {
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The lines are TOML, whatever the label is.
    #[test]
    fn lines_are_toml() {
        for (label, id) in [("foo-2026.11", "foo-2026.11"), ("a \"b\" \\ c", ""), ("..", "")] {
            let lines = of_new_key(label, &[0x0a, 0x0b]);
            let table: toml::Table = lines.parse().unwrap();
            let key = &table["external_key_stores"]["keys"][0];
            assert_eq!(key["id"].as_str(), Some(id));
            assert_eq!(key["versions"][0]["label"].as_str(), Some(label));
            assert!(lines.contains("cka_id = \"0a0b\""));
        }
    }
}

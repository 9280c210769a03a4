//! The settings that tests change, as a table.

#![allow(dead_code, reason = "each test program uses a part")]

use toml::{Table, Value};

/// The settings of `settings.toml` beside this file.
pub fn template() -> Table {
    include_str!("settings.toml").parse().unwrap()
}

/// Sets a member by its dotted path, as `server.port`.
pub fn set(table: &mut Table, member: &str, value: impl Into<Value>) {
    match member.split_once('.') {
        None => {
            table.insert(member.to_owned(), value.into());
        }
        Some((section, rest)) => {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            set(section.as_table_mut().expect("a section"), rest, value);
        }
    }
}

//! The counted uses of keys, for the list of keys.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::usage_sums::{Sum, sum_of};
use crate::hsm::inventory::KeyInventory;
use crate::observe::timestamp::{Rfc3339, unix_secs};
use crate::settings::Settings;

/// The uses of all keys that this proxy's state directory records.
pub(super) enum Counts {
    /// They are not known, for this reason.
    Unknown(String),
    /// Uses by the key's name.
    Known(BTreeMap<Box<str>, Sum>),
}

impl Counts {
    /// Reads the state directory that the settings name.
    pub(super) fn read(settings: &Settings) -> Self {
        let Some(directory) = &settings.state_directory else {
            return Self::Unknown("the settings have no [state] directory".to_owned());
        };
        match sum_of(directory, unix_secs(SystemTime::now())) {
            Ok(sums) => Self::Known(sums),
            Err(reason) => Self::Unknown(format!("{}: {reason}", directory.display())),
        }
    }

    /// Returns the use of a key under all of its names; `None` if nothing is recorded.
    pub(super) fn of(&self, key: &KeyInventory) -> Option<Sum> {
        let Self::Known(sums) = self else { return None };
        let mut recorded = key.names.iter().filter_map(|name| sums.get(name)).cloned();
        let mut sum = recorded.next()?;
        recorded.for_each(|other| sum.add(other));
        Some(sum)
    }

    /// Returns the use of a key in one line.
    pub(super) fn told(&self, key: &KeyInventory) -> String {
        match (self, self.of(key)) {
            (Self::Unknown(reason), _) => format!("unknown: {reason}"),
            (Self::Known(_), None) => "no use recorded".to_owned(),
            (Self::Known(_), Some(sum)) => line(&sum),
        }
    }
}

fn line(sum: &Sum) -> String {
    let mark = if sum.incomplete.is_some() { " or more" } else { "" };
    format!(
        "encryptions {}{mark}, last {}; decryptions {}, last {}",
        sum.encrypts,
        moment(sum.last_encrypt),
        sum.decrypts,
        moment(sum.last_decrypt)
    )
}

/// `2026-11-25T08:16:31Z`, or `never` for 0
fn moment(unix_secs: u64) -> String {
    if unix_secs == 0 {
        return "never".to_owned();
    }
    let mut time = Rfc3339::default();
    let text = String::from_utf8_lossy(time.at(Duration::from_secs(unix_secs))).into_owned();
    text.replace(".000000Z", "Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts and times of both directions, and the mark of an incomplete count.
    #[test]
    fn lines() {
        let sum = Sum { encrypts: 7, last_encrypt: 1_795_564_800, ..Sum::default() };
        let expected = "encryptions 7, last 2026-11-25T00:00:00Z; decryptions 0, last never";
        assert_eq!(line(&sum), expected);
        let incomplete = Sum { incomplete: Some((1, String::new())), ..sum };
        assert!(line(&incomplete).starts_with("encryptions 7 or more, "));
    }
}

//! The end dates (CKA_END_DATE) of the keys that jobs may use, and the warning that one is near.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::hsm::key_date::Date;
use crate::hsm::pkcs11::labels::LabelList;
use crate::job::KeyIndex;
use crate::limits::END_DATE_NOTICE_DAYS;

/// The end dates of one token's keys, as of the last listing.
#[derive(Default)]
pub struct EndDates {
    dates: Mutex<BTreeMap<KeyIndex, Date>>,
    /// The keys that have been reported, with their dates and whether those had passed.
    reported: Mutex<BTreeSet<(KeyIndex, Date, bool)>>,
}

impl EndDates {
    pub fn replace(&self, dates: BTreeMap<KeyIndex, Date>) {
        *self.dates.lock() = dates;
    }

    /// Returns the keys to report now, the earliest date first: those whose date is near or has
    /// passed and that have not been reported so before.
    fn to_report(&self, today: Date) -> Vec<(KeyIndex, Date)> {
        let mut reported = self.reported.lock();
        let mut found: Vec<(KeyIndex, Date)> = self
            .dates
            .lock()
            .iter()
            .map(|(key, date)| (*key, *date))
            .filter(|(_, date)| today.days_until(*date) <= END_DATE_NOTICE_DAYS)
            .filter(|(key, date)| reported.insert((*key, *date, *date < today)))
            .collect();
        found.sort_by_key(|(_, date)| *date);
        found
    }

    /// Returns up to `max` keys that have an end date, the earliest first.
    pub fn earliest(&self, max: usize) -> Vec<(KeyIndex, Date)> {
        let mut dates: Vec<_> = self.dates.lock().iter().map(|(key, date)| (*key, *date)).collect();
        dates.sort_by_key(|(_, date)| *date);
        dates.truncate(max);
        dates
    }

    /// Logs that end dates are near or have passed, once for each key and date.
    pub fn warn(&self, token: &str, labels: &LabelList, today: Date) {
        let found = self.to_report(today);
        let Some((first, date)) = found.first() else { return };
        let past = found.iter().filter(|(_, date)| *date < today).count();
        tracing::warn!(
            token,
            key = labels.get(*first),
            end_date = %date,
            keys = found.len(),
            past,
            "HSM keys are near their end date (CKA_END_DATE), or past it: rotate them (`xks-proxy \
             keys` lists them); some HSMs stop encrypting with such a key"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Date {
        Date::parse_text(text).unwrap_or(Date::of_unix_secs(0))
    }

    /// A key is reported 30 days before its date and once more after it; a new date is reported
    /// again.
    #[test]
    fn reports() {
        let dates = EndDates::default();
        let (near, far) = (KeyIndex(1), KeyIndex(2));
        let (near_date, far_date) = (day("2026-12-29"), day("2026-12-30"));
        dates.replace(BTreeMap::from([(near, near_date), (far, far_date)]));
        let today = day("2026-11-29");
        assert_eq!(dates.to_report(today), [(near, near_date)]);
        assert_eq!(dates.to_report(today), []);
        assert_eq!(dates.to_report(day("2026-11-30")), [(far, far_date)]);
        assert_eq!(dates.to_report(near_date), [], "its last day");
        assert_eq!(dates.to_report(far_date), [(near, near_date)], "it has passed");
        let earlier = day("2026-12-01");
        dates.replace(BTreeMap::from([(far, earlier)]));
        assert_eq!(dates.to_report(today), [(far, earlier)]);
    }

    /// The earliest dates come first, and no more than asked for.
    #[test]
    fn earliest_first() {
        let dates = [(0, "2027-01-03"), (1, "2027-01-01"), (2, "2027-01-02")];
        let all = EndDates::default();
        all.replace(dates.map(|(key, date)| (KeyIndex(key), day(date))).into_iter().collect());
        let found = all.earliest(2);
        assert_eq!(found.iter().map(|(key, _)| key.0).collect::<Vec<_>>(), [1, 2]);
    }
}

//! The rows of the latest calls, by numbers in place of names.
//!
//! A call is in most of the tables. Its names are looked up once, and the rows of a few groups are
//! found by some bytes; this takes a third of the time of finding a row by its names in each table.
//! Now and then, before there are too many, the rows are added to the tables.

use std::collections::HashMap;
use std::sync::Arc;

use super::call::Name;
use super::table::{Counts, Key, MAX_NAMES};
use crate::limits::{MAX_AUDIT_REPORT_RECENT_BYTES, MAX_AUDIT_REPORT_RECENT_ROWS};

/// The number of a name; [`NONE`] if there is none. An array of them is hashed as one.
pub(super) type Symbol = u32;

/// The number of no name.
pub(super) const NONE: Symbol = 0;

/// The numbers of a row's names.
pub(super) type SymbolKey = [Symbol; MAX_NAMES];

/// Makes a row's key.
pub(super) fn symbols<const N: usize>(names: [Symbol; N]) -> SymbolKey {
    const { assert!(N <= MAX_NAMES) };
    let mut key = SymbolKey::default();
    for (place, name) in key.iter_mut().zip(names) {
        *place = name;
    }
    key
}

/// Names by number.
#[derive(Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, Symbol>,
    /// The name with number 1, and so on.
    names: Vec<Arc<str>>,
    bytes: usize,
}

impl Names {
    /// Replaces a number, which is that of the same member of the call before and often stays.
    pub(super) fn set(&mut self, number: &mut Symbol, name: Option<&str>) {
        *number = match name {
            None => NONE,
            Some(name) if self.name(*number).is_some_and(|text| **text == *name) => return,
            Some(name) => match self.numbers.get(name) {
                Some(number) => *number,
                None => self.add(name),
            },
        };
    }

    fn add(&mut self, name: &str) -> Symbol {
        let text: Arc<str> = name.into();
        self.names.push(Arc::clone(&text));
        // Cleared long before there are as many.
        let number = u32::try_from(self.names.len()).unwrap_or(NONE);
        self.numbers.insert(text, number);
        self.bytes += name.len();
        number
    }

    fn name(&self, number: Symbol) -> Option<&Arc<str>> {
        self.names.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }

    /// Returns a row's names.
    pub(super) fn key(&self, symbols: &SymbolKey) -> Key {
        symbols.map(|number| -> Name { self.name(number).cloned() })
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_AUDIT_REPORT_RECENT_BYTES
    }

    /// Forgets all names. Numbers given before mean nothing any more.
    pub(super) fn clear(&mut self) {
        self.numbers.clear();
        self.names.clear();
        self.bytes = 0;
    }
}

/// The recent rows of one group of tables.
pub(super) struct Recent<const N: usize> {
    places: HashMap<[Symbol; N], usize>,
    /// In the order in which they occurred, so that the same log always has the same report.
    rows: Vec<([Symbol; N], Counts)>,
    /// Place of the row of the call before, which often is this one's, too.
    last: usize,
}

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Self { places: HashMap::new(), rows: Vec::new(), last: 0 }
    }
}

impl<const N: usize> Recent<N> {
    pub(super) fn add(&mut self, key: [Symbol; N], counts: &Counts) {
        if let Some((_, sum)) = self.rows.get_mut(self.last).filter(|(last, _)| *last == key) {
            return sum.add(counts);
        }
        let next = self.rows.len();
        self.last = *self.places.entry(key).or_insert(next);
        match self.rows.get_mut(self.last) {
            Some((_, sum)) => sum.add(counts),
            None => self.rows.push((key, *counts)),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= MAX_AUDIT_REPORT_RECENT_ROWS
    }

    /// Takes all rows out, in the order in which they occurred.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = ([Symbol; N], Counts)> {
        self.places.clear();
        self.rows.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name keeps its number until all are forgotten, whether or not it was the last one.
    #[test]
    fn names() {
        let mut names = Names::default();
        let mut number = NONE;
        let mut set = |names: &mut Names, name| {
            names.set(&mut number, name);
            number
        };
        let found = ["a", "b", "b", "", "a"].map(|name| set(&mut names, Some(name)));
        assert_eq!(found, [1, 2, 2, 3, 1]);
        assert_eq!(set(&mut names, None), NONE);
        let key = names.key(&symbols([found[1], NONE, found[3]]));
        assert_eq!(
            key.each_ref().map(Option::as_deref),
            [Some("b"), None, Some(""), None, None, None]
        );
        assert!(!names.is_full());
        let long = "x".repeat(MAX_AUDIT_REPORT_RECENT_BYTES);
        set(&mut names, Some(&long));
        assert!(names.is_full());
        names.clear();
        assert!(!names.is_full());
        // The number before is another's now.
        let found = ["c", "c", "a"].map(|name| set(&mut names, Some(name)));
        assert_eq!(found, [1, 1, 2]);
    }

    /// Rows are summed up, and come out in the order in which they came in.
    #[test]
    fn rows() {
        let mut recent = Recent::default();
        let one = Counts { calls: 1, ..Counts::default() };
        for number in [7, 3, 7, 5, 3, 7] {
            recent.add([number], &one);
        }
        for _ in 0..2 {
            let found: Vec<_> =
                recent.drain().map(|(key, counts)| (key[0], counts.calls)).collect();
            assert!(found == [(7, 3), (3, 2), (5, 1)] || found.is_empty(), "{found:?}");
        }
        for number in 0..u32::try_from(MAX_AUDIT_REPORT_RECENT_ROWS).unwrap_or(0) {
            assert!(!recent.is_full());
            recent.add([number], &one);
        }
        assert!(recent.is_full());
    }
}

//! A few texts in a buffer of fixed size, so that a record of them is copied without an allocation.

/// Texts by number, in the order of [`Texts::push`]. What does not fit is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts<const FIELDS: usize, const BYTES: usize> {
    bytes: [u8; BYTES],
    /// Ends of the texts; an absent text has the same end as the one before, and no bit in `present`.
    ends: [u16; FIELDS],
    present: u16,
    fields: usize,
}

impl<const FIELDS: usize, const BYTES: usize> Texts<FIELDS, BYTES> {
    pub(super) fn new() -> Self {
        const { assert!(FIELDS <= 16 && BYTES <= u16::MAX as usize) };
        Self { bytes: [0; BYTES], ends: [0; FIELDS], present: 0, fields: 0 }
    }

    /// Adds the next text. The last one or more are cut if there is no room.
    pub(super) fn push(&mut self, text: Option<&str>) {
        if self.fields >= FIELDS {
            return;
        }
        let start = self.end_before(self.fields);
        let mut end = start;
        if let Some(text) = text {
            let room = BYTES.saturating_sub(start).min(text.len());
            let cut = (0..=room).rev().find(|end| text.is_char_boundary(*end));
            let fitting = text.get(..cut.unwrap_or(0)).unwrap_or_default();
            if let Some(place) = self.bytes.get_mut(start..start + fitting.len()) {
                place.copy_from_slice(fitting.as_bytes());
                end = start + fitting.len();
                self.present |= 1 << self.fields;
            }
        }
        if let (Some(place), Ok(end)) = (self.ends.get_mut(self.fields), u16::try_from(end)) {
            *place = end;
            self.fields += 1;
        }
    }

    /// Returns a text by its number.
    pub(super) fn get(&self, number: usize) -> Option<&str> {
        if number >= self.fields || self.present & (1 << number) == 0 {
            return None;
        }
        let bytes = self.bytes.get(self.end_before(number)..self.end_before(number + 1))?;
        std::str::from_utf8(bytes).ok()
    }

    fn end_before(&self, number: usize) -> usize {
        let before = number.checked_sub(1).and_then(|number| self.ends.get(number));
        before.map_or(0, |end| usize::from(*end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts come back as they were; those beyond the room are cut between characters.
    #[test]
    fn cut_where_there_is_no_room() {
        let mut texts = Texts::<5, 8>::new();
        for text in [Some("abc"), None, Some(""), Some("d€f"), Some("ß€")] {
            texts.push(text);
        }
        let all: Vec<_> = (0..6).map(|number| texts.get(number)).collect();
        assert_eq!(all, [Some("abc"), None, Some(""), Some("d€f"), Some(""), None]);
        // More than there are fields has no effect.
        texts.push(Some("more"));
        assert_eq!(texts.get(5), None);
        let mut texts = Texts::<2, 5>::new();
        texts.push(Some("ab€"));
        texts.push(Some("c"));
        assert_eq!((texts.get(0), texts.get(1)), (Some("ab€"), Some("")));
        let mut texts = Texts::<1, 4>::new();
        texts.push(Some("ab€"));
        assert_eq!(texts.get(0), Some("ab"));
    }
}

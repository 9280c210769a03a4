//! Mistakes and warnings found in a policy's text.

/// A mistake or a warning about a policy's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// True if the policy cannot be used; otherwise this is a warning.
    pub is_mistake: bool,
    /// Line and column, from 1. `None` for the file as a whole.
    pub position: Option<(usize, usize)>,
    /// Description of the problem.
    pub problem: String,
    /// The way to fix it; may be empty.
    pub remedy: String,
}

impl Remark {
    pub(super) fn mistake(
        position: Option<(usize, usize)>,
        problem: String,
        remedy: impl Into<String>,
    ) -> Self {
        Self { is_mistake: true, position, problem, remedy: remedy.into() }
    }
}

/// Returns the line and column, from 1, of a byte of the text.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
    let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let is_first_of_char = |byte: &&u8| (**byte & 0xc0) != 0x80;
    (line, 1 + before[start..].iter().filter(is_first_of_char).count())
}

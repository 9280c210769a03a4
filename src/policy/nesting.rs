//! The nesting depth of a Cedar policy.
//!
//! Cedar's parser recurses without a limit: nested brackets, and chains of operators, of dots and
//! of `if ... else if`, all use stack space. They are counted before the parser runs.

use crate::limits::MAX_POLICY_NESTING;

/// Returns the offset at which the nesting exceeds [`MAX_POLICY_NESTING`], if it does.
pub(super) fn too_deep(text: &str) -> Option<usize> {
    // The number of operators so far, outside all brackets and within each open one.
    let mut open = vec![0];
    let mut dots = 0;
    for (offset, token) in tokens(text) {
        match token {
            "(" | "[" | "{" => open.push(0),
            ")" | "]" | "}" => {
                open.pop();
                if open.is_empty() {
                    open.push(0);
                }
            }
            "," | ";" => open.iter_mut().last().into_iter().for_each(|operators| *operators = 0),
            "&" | "|" | "+" | "-" | "*" | "!" | "if" => {
                open.iter_mut().last().into_iter().for_each(|operators| *operators += 1);
            }
            _ => {}
        }
        match token {
            "." => dots += 1,
            _ if token.starts_with(is_word) => {}
            _ => dots = 0,
        }
        if open.len() + open.iter().sum::<usize>() + dots > MAX_POLICY_NESTING {
            return Some(offset);
        }
    }
    None
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Returns the words and symbols outside comments, each with its offset. A string is one token;
/// `&&`, `||` and `!=` are each represented by their second character.
fn tokens(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(at..)?;
            let first = rest.chars().next()?;
            let length = if rest.starts_with("//") {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            } else if first == '"' {
                at += string_length(rest);
                return Some((at, "\"\""));
            } else if is_word(first) {
                rest.find(|character| !is_word(character)).unwrap_or(rest.len())
            } else if ["&&", "||", "!="].into_iter().any(|pair| rest.starts_with(pair)) {
                // Skips to the second character.
                at += 1;
                1
            } else {
                first.len_utf8()
            };
            let start = at;
            at += length;
            if !first.is_whitespace() {
                return Some((start, &text[start..at]));
            }
        }
    })
}

/// Returns the length of the string literal at the beginning of `text`, including its quotes.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !is_escaped => return at + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All kinds of nesting are detected; strings, comments and long flat texts do not count.
    #[test]
    fn depths() {
        let many = 10 * MAX_POLICY_NESTING;
        for (text, is_deep) in [
            ("(".repeat(many), true),
            ("[{".repeat(many), true),
            ("a && ".repeat(many), true),
            ("a || ".repeat(many), true),
            ("if a then b else ".repeat(many), true),
            ("1 + ".repeat(many), true),
            ("a.".repeat(many), true),
            ("!".repeat(many), true),
            ("(1 + 2) - ".repeat(many), true),
            ("[a, (b)], ".repeat(many), false),
            ("permit (principal, action, resource) when { a.b.c && d }; ".repeat(many), false),
            ("permit (a) ".to_owned() + &"when { a.b && c } ".repeat(many), false),
            ("\"(((\" == \"\\\"((\", ".repeat(many), false),
            ("// ((((\n".repeat(many), false),
            ("[a != b], ".repeat(many), false),
            (")".repeat(many), false),
            (String::new(), false),
            ("\"".to_owned(), false),
            ("\"\\".to_owned(), false),
            ("\u{e9}(".repeat(3), false),
        ] {
            assert_eq!(too_deep(&text).is_some(), is_deep, "{:.40}", text);
        }
    }
}

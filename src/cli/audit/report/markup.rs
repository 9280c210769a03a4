//! Text in HTML.

/// Returns printable text (see [`super::text::printable`]) that is the same text, and nothing else,
/// anywhere in HTML: between tags and in quoted attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            ' '..='~' => out.push(character),
            // Was not made printable.
            _ => out.push('?'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing that a caller can send ends an element, an attribute or the text.
    #[test]
    fn hostile_text() {
        let text = "</td><script>alert('x')</script>\" onload=\"&lt;\u{202e}\n";
        let out = escaped(text);
        assert!(!out.contains(['<', '>', '"', '\'', '\n']) && out.is_ascii(), "{out}");
        assert!(
            out.starts_with("&lt;/td&gt;&lt;script&gt;") && out.ends_with("&amp;lt;??"),
            "{out}"
        );
    }
}

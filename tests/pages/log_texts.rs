//! Log texts quoted in runbooks and alerts exist in the sources: operators search for them.

use std::fs;

use crate::pages::{self, Page, root};

/// Texts of two words or more that a page quotes in parentheses.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    let parts = page.split("(\"").skip(1);
    let texts = parts.filter_map(|part| part.split_once("\")").map(|(text, _)| text));
    texts.filter(|text| text.contains(' '))
}

#[test]
fn quoted_log_texts_are_logged() {
    let sources = pages::files(&["rs"]).into_iter().filter(|path| path.starts_with("src"));
    let sources: Vec<String> =
        sources.map(|path| fs::read_to_string(root().join(path)).unwrap()).collect();
    let alerts = fs::read_to_string(root().join("configuration/prometheus-alerts.yml")).unwrap();
    // A quotation may span two lines.
    let pages = ["docs/operations.md", "docs/hsm.md", "docs/troubleshooting.md"];
    let pages = pages.map(|page| Page::read(page).text.replace('\n', " "));
    let mut texts: Vec<&str> = pages.iter().flat_map(|page| quoted(page)).collect();
    // Quotation marks escaped within a YAML string.
    let in_alerts = alerts.lines().flat_map(|line| line.split("\\\"").skip(1).step_by(2));
    texts.extend(in_alerts.filter(|text| text.contains(' ')));
    assert!(texts.len() >= 12, "{texts:?}");
    for text in texts {
        assert!(sources.iter().any(|source| source.contains(text)), "nothing logs {text:?}");
    }
}

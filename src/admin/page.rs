//! The status page: one file, with a policy that forbids anything else.

use sha2::{Digest as _, Sha256};

use super::http::Answer;

const HTML: &str = include_str!("status.html");

/// The page and its Content-Security-Policy.
pub(super) struct Page {
    policy: String,
}

impl Page {
    pub(super) fn new() -> Self {
        let (script, style) = (hash_of("script"), hash_of("style"));
        Self {
            policy: format!(
                "default-src 'none'; script-src '{script}'; style-src '{style}'; \
                 connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                 frame-ancestors 'none'"
            ),
        }
    }

    pub(super) fn answer(&self) -> Answer {
        let mut answer = Answer::new(200, "text/html; charset=utf-8", HTML.into());
        answer.field("Content-Security-Policy", &self.policy);
        answer
    }
}

/// Returns the CSP hash source (CSP level 3, 2.3.1) of the page's only element with that name.
fn hash_of(element: &str) -> String {
    let text = HTML
        .split_once(&format!("<{element}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{element}>")))
        .map_or("", |(text, _)| text);
    format!("sha256-{}", base64_simd::STANDARD.encode_to_string(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is one script and one style, no attribute that the policy would forbid, and nothing
    /// from elsewhere.
    #[test]
    fn the_page_keeps_its_own_policy() {
        for element in ["<script>", "</script>", "<style>", "</style>"] {
            assert_eq!(HTML.matches(element).count(), 1, "{element}");
        }
        for forbidden in [" style=", " onclick=", " onload=", "<link rel=\"stylesheet", " src="] {
            assert!(!HTML.contains(forbidden), "{forbidden}");
        }
        let elsewhere = HTML.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"));
        assert_ne!(hash_of("script"), hash_of("nothing"));
        assert_ne!(hash_of("style"), hash_of("nothing"));
    }
}

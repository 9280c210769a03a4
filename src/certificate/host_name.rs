//! Names of hosts in certificates.

/// Returns whether a name of a certificate is for `host`: the same, or with a wildcard as the whole
/// first label (RFC 9525, 6.3; AWS's guide has the example `*.xks.example.com`). A final dot of
/// either is ignored.
#[must_use]
pub fn is_for(name: &str, host: &str) -> bool {
    let (name, host) = (name.trim_end_matches('.'), host.trim_end_matches('.'));
    if name.is_empty() || host.is_empty() {
        return false;
    }
    match name.strip_prefix("*.") {
        // A wildcard for a whole top-level domain is for no host.
        Some(rest) if rest.contains('.') => host
            .split_once('.')
            .is_some_and(|(label, parent)| !label.is_empty() && parent.eq_ignore_ascii_case(rest)),
        Some(_) => false,
        None => name.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, host, is_right) in [
            ("xks.example.com", "xks.example.com", true),
            ("XKS.example.com", "xks.EXAMPLE.com.", true),
            ("*.example.com", "xks.example.com", true),
            ("*.example.com", "a.xks.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.com", "example.com", false),
            ("x*.example.com", "xks.example.com", false),
            ("xks.*.com", "xks.example.com", false),
            ("*", "localhost", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("", "", false),
        ] {
            assert_eq!(is_for(name, host), is_right, "{name} {host}");
        }
    }
}

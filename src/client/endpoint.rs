//! The address of a proxy.

/// `http[s]://host[:port][/prefix]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// True for TLS.
    pub is_https: bool,
    /// Name or address, IPv6 in brackets.
    pub host: String,
    /// Port, by default 443 or 80.
    pub port: u16,
    /// Path prefix of the store; may be empty.
    pub prefix: String,
}

impl Endpoint {
    /// # Errors
    /// The text is malformed, for the returned reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (is_https, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            _ => return Err(format!("{text}: begins with neither https:// nor http://")),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['?', '#', '@']) {
            return Err(format!("{text}: not of the form https://host[:port][/prefix]"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| format!("{text}: {port} is not a port"))?;
                (host, port)
            }
            _ => (authority, if is_https { 443 } else { 80 }),
        };
        if host.is_empty() {
            return Err(format!("{text}: there is no host"));
        }
        let prefix = path.trim_end_matches('/');
        let prefix = prefix.strip_suffix("/kms/xks/v1").unwrap_or(prefix);
        Ok(Self { is_https, host: host.to_owned(), port, prefix: prefix.to_owned() })
    }

    /// Returns the Host header field, with the port only if it is not the scheme's default.
    #[must_use]
    pub fn host_header(&self) -> String {
        let default = if self.is_https { 443 } else { 80 };
        if self.port == default {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Returns the URL that the paths of calls are appended to.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.host_header(), self.path(""))
    }

    /// Returns the name for a resolver: an IPv6 address without its brackets.
    #[must_use]
    pub fn host_name(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// Returns the path of a call such as `/health`.
    #[must_use]
    pub fn path(&self, call: &str) -> String {
        format!("{}/kms/xks/v1{call}", self.prefix)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Forms that an administrator may paste, including the console's path.
    #[test]
    fn endpoints() {
        let endpoint = Endpoint::parse("https://xks.example.com/p/kms/xks/v1").unwrap();
        assert_eq!((endpoint.port, endpoint.prefix.as_str()), (443, "/p"));
        assert_eq!(endpoint.host_header(), "xks.example.com");
        assert_eq!(endpoint.path("/health"), "/p/kms/xks/v1/health");
        let endpoint = Endpoint::parse("http://[::1]:8080/").unwrap();
        assert_eq!((endpoint.host_header().as_str(), endpoint.prefix.as_str()), ("[::1]:8080", ""));
        assert_eq!(endpoint.host_name(), "::1");
        for wrong in
            ["xks.example.com", "ftp://a", "https://", "https://a:x", "https://a/b?c", "http://a b"]
        {
            assert!(Endpoint::parse(wrong).unwrap_err().contains(wrong));
        }
    }
}

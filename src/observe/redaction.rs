//! Values that are never printed, and are zeroed when dropped.

use std::fmt;
use std::path::{Component, Path};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::limits::{MAX_REASON_CHARS, MAX_SHOWN_CHARS, MIN_SECRET_ACCESS_KEY_BYTES};

/// A secret, such as a PIN or a secret access key. `Debug` does not show it, and dropping it zeroes
/// it.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Returns the value, for the code that has to use it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// Returns a value as shown in a message: escaped, and truncated if it is long.
#[must_use]
pub fn shown(value: &str) -> String {
    cut(value, MAX_SHOWN_CHARS).escape_debug().to_string()
}

/// Returns an error about a peer as shown in log and status: truncated if it is long, since it may quote
/// the peer.
#[must_use]
pub fn shown_reason(error: &str) -> String {
    cut(error, MAX_REASON_CHARS)
}

fn cut(text: &str, max_chars: usize) -> String {
    let mut cut: String = text.chars().take(max_chars).collect();
    if cut.len() < text.len() {
        cut.push_str("...");
    }
    cut
}

/// Returns the value of a member that should name a file, as shown in a message: in quotes, or only
/// "(not shown)" if it may be a secret that was written in place of the file's name. Shown are paths
/// that exist and those that are plainly paths.
#[must_use]
pub fn shown_path(path: &Path) -> String {
    if path.symlink_metadata().is_ok() || is_below_a_directory(path) || is_plain(path) {
        format!("\"{}\"", shown(&path.to_string_lossy()))
    } else {
        "(not shown)".to_owned()
    }
}

/// Returns whether the path's directory exists and is more than a mere "/" or ".".
fn is_below_a_directory(path: &Path) -> bool {
    path.parent().is_some_and(|parent| {
        parent.components().any(|part| matches!(part, Component::Normal(_))) && parent.is_dir()
    })
}

/// Returns whether the text can only be meant as a path: it is relative to "." or "..", absolute with
/// at least one directory, or the name of a shared library; it has no character that is unusual in
/// paths; and it does not look like a secret access key, which may begin with a slash.
fn is_plain(path: &Path) -> bool {
    let Some(text) = path.to_str() else { return false };
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:".contains(&byte);
    let is_library = text.ends_with(".so") || text.contains(".so.");
    let begins_like_one = is_library
        || text.starts_with("./")
        || text.starts_with("../")
        || (text.starts_with('/') && path.components().count() > 2);
    let may_be_secret = text.len() >= MIN_SECRET_ACCESS_KEY_BYTES
        && !text.bytes().any(|byte| b"._-@:".contains(&byte));
    begins_like_one && text.bytes().all(is_usual) && !may_be_secret
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{:?}` of a settings struct must not show a PIN.
    #[test]
    fn debug_says_nothing() {
        assert_eq!(format!("{:?}", Secret::new("1234".to_owned())), "[redacted]");
    }

    /// PINs, secret access keys and PEM texts are not shown; paths are, whether or not they exist.
    #[test]
    fn only_paths_are_shown() {
        for path in [
            "/",
            "/etc",
            "/etc/passwd",
            "/no/such/pin",
            "/etc/no-such-file",
            "./pin",
            "libsofthsm2.so",
            "libCryptoki2_64.so.2",
            "../secrets/pin.txt",
            "src",
            "src/no such file",
            "/run/secrets/a-very-long-name-of-a-directory/of-some-store/secret-access-key",
        ] {
            let shown = shown_path(Path::new(path));
            let start: String = path.chars().take(40).collect();
            assert!(shown.starts_with(&format!("\"{start}")), "{path}: {shown}");
        }
        for secret in [
            "",
            "1234",
            "hush-4711",
            "correct horse battery staple",
            "/4711",
            "HushHushHushHushHushHushHushHushHushHushHushHush",
            "Hush/HushHushHush+HushHushHushHushHushHushHushHush",
            "/Hush/HushHushHushHushHushHushHushHushHushHushHush",
            "/hush hush/secret",
            "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49",
        ] {
            assert_eq!(shown_path(Path::new(secret)), "(not shown)", "{secret}");
        }
    }
}

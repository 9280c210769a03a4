//! A question to the operator before something is changed that cannot be taken back.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};

use crate::exit::{EXIT_ARGUMENTS, Failed};
use crate::output::complain;

/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 64;

/// Returns if the operator agrees. With `is_yes`, nobody is asked.
///
/// # Errors
/// [`Failed`]: the operator does not agree, or standard input is no terminal.
pub(super) fn confirm(question: &str, is_yes: bool) -> Result<(), Failed> {
    if is_yes {
        return Ok(());
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let message = format!(
            "{question} Nothing was done: standard input is no terminal to ask on; say --yes in \
             scripts"
        );
        return Err(Failed::new(EXIT_ARGUMENTS, message));
    }
    complain(format_args!("{question} [y/N] "));
    let mut answer = String::new();
    // An answer that cannot be read is no consent.
    let _ = stdin.lock().take(MAX_ANSWER_BYTES).read_line(&mut answer);
    match is_consent(&answer) {
        true => Ok(()),
        false => Err(Failed::unavailable("Nothing was done.".to_owned())),
    }
}

fn is_consent(answer: &str) -> bool {
    ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a clear yes is one: an empty line, the end of the input and all else are a no.
    #[test]
    fn answers() {
        assert!(["y\n", "Y\n", "yes", " Yes \r\n"].into_iter().all(is_consent));
        assert!(!["", "\n", "n\n", "no", "yy", "yes please", "ja"].into_iter().any(is_consent));
    }
}

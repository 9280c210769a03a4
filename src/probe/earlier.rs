//! The check that ciphertexts of earlier probes still decrypt.

use super::answers::{self, expect_success};
use super::calls::of_key;
use super::prober::Prober;
use super::report::{Outcome, Report, Rule};

const EARLIER: Rule = Rule::must(
    "decrypt.earlier",
    "Decrypt",
    "What an earlier probe encrypted (--ciphertexts) still decrypts, whatever has been rotated, \
     upgraded or moved since.",
);

/// All rules of this file.
pub(super) const RULES: &[&Rule] = &[&EARLIER];

/// Decrypts the earlier ciphertexts of a key.
pub fn examine(prober: &mut Prober<'_>, key_id: &str, report: &mut Report) {
    let of_this_key = prober.options.earlier.iter().filter(|earlier| earlier.key_id == key_id);
    let mut count = 0_usize;
    let mut wrong = Vec::new();
    for earlier in of_this_key {
        let Some((sealed, aad, plaintext)) = earlier.decoded() else { continue };
        count += 1;
        let body = prober.options.caller.decrypt(&sealed, Some(&aad));
        let reply = prober.post(&of_key(key_id, "decrypt"), &body);
        match expect_success(&reply, |object| answers::opened(object, &plaintext)) {
            Ok(()) => {}
            Err(
                Outcome::Held(why)
                | Outcome::Broken(why)
                | Outcome::Doubtful(why)
                | Outcome::Untried(why),
            ) => wrong.push(format!("of {}: {why}", earlier.made)),
        }
    }
    let outcome = if count == 0 {
        Outcome::Held("the file had none of this key".to_owned())
    } else if wrong.is_empty() {
        Outcome::Held(format!("{count} decrypted"))
    } else {
        Outcome::Broken(format!("{} of {count} do not decrypt: {}", wrong.len(), wrong.join("; ")))
    };
    report.add(&EARLIER, Some(key_id), outcome);
}

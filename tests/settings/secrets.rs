//! No message and no `Debug` output contains a PIN or secret.

use crate::{PIN, Place, RIGHT, SECRET, edited};

#[test]
fn debug_shows_no_secret() {
    let (settings, _) = Place::new().load(RIGHT).unwrap();
    let shown = format!("{settings:?} {:?}", settings.service());
    assert!(!shown.contains(PIN) && !shown.contains(SECRET), "{shown}");
}

/// Common ways to get a secret wrong: swapped, without quotes, with a space, truncated.
#[test]
fn no_message_shows_a_secret() {
    let place = Place::new();
    let id = "\"ABCDEFGHIJKLMNOPQRSTUVWX\"";
    let secret = format!("\"{SECRET}\"");
    let pin = format!("\"{PIN}\"");
    let texts = [
        edited(id, &secret),
        edited(&secret, &format!("\"{SECRET} \"")),
        edited(&secret, &format!("\"{SECRET}{SECRET}\"")),
        edited(&secret, SECRET),
        edited(&secret, &format!("\"{SECRET}")),
        edited(&secret, &format!("[\"{SECRET}\"]")),
        edited(&pin, PIN),
        edited(&pin, &format!("\"{PIN}")),
        edited(&pin, &format!("[\"{PIN}\"]")),
        edited("user_pin = ", "user_pin "),
        edited("user_pin = ", "user_pni = "),
        edited("user_pin", "user_pin = \"x\"\nuser_pin"),
    ];
    for text in texts {
        let findings = match place.load(&text) {
            Ok((_, findings)) | Err(findings) => findings,
        };
        assert!(!findings.is_empty());
        for finding in findings {
            let shown = format!("{finding} {finding:?}");
            assert!(!shown.contains(PIN) && !shown.contains(&SECRET[..16]), "{shown}");
        }
    }
}

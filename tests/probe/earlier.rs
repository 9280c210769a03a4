//! Ciphertexts of earlier probes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::run::{Run, probe};
use crate::stand_in::StandIn;

fn probe_at(stand_in: &StandIn, file: &Path) -> Run {
    let url = format!("http://127.0.0.1:{}/store", stand_in.port());
    let keys = ["--key-id", "key", "--key-id", "no-decrypt"];
    let file = ["--ciphertexts", file.to_str().unwrap()];
    probe(&[&[url.as_str(), "--insecure-http"], keys.as_slice(), &file].concat())
}

fn lines(file: &Path) -> Vec<String> {
    fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn are_kept_and_decrypted_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ciphertexts");
    let stand_in = StandIn::http("");
    for count in 0..3 {
        let run = probe_at(&stand_in, &file);
        assert_eq!(run.failed(), Vec::<&str>::new(), "{}", run.text);
        let came = run.came("decrypt.earlier");
        match count {
            0 => assert_eq!(came, "the file had none of this key"),
            count => assert_eq!(came, format!("{count} decrypted")),
        }
        // None of the key that only encrypts.
        assert_eq!(lines(&file).len(), count + 1);
    }
    let text = lines(&file).remove(0);
    assert!(text.contains(r#""keyId":"key""#) && text.contains("ciphertextMetadata"), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

/// A proxy that has another key under the same id.
#[test]
fn must_still_decrypt() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ciphertexts");
    probe_at(&StandIn::http(""), &file);
    let run = probe_at(&StandIn::http(""), &file);
    assert_eq!(run.failed(), ["decrypt.earlier"], "{}", run.text);
    assert_eq!(run.code, Some(1));
    let came = run.came("decrypt.earlier");
    assert!(came.starts_with("1 of 1 do not decrypt: of 2"), "{came}");
    assert!(came.contains("InvalidCiphertextException"), "{came}");
}

#[test]
fn a_file_of_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ciphertexts");
    let stand_in = StandIn::http("");
    probe_at(&stand_in, &file);
    let good = fs::read_to_string(&file).unwrap();
    let bad_base64 = good.replacen(r#""plaintext":""#, r#""plaintext":"*"#, 1);
    for (text, word) in [
        (format!("{good}{{}}\n"), "line 2 is no ciphertext of a probe: missing field"),
        (format!("{good}{bad_base64}"), "line 2 has a member that is not base64"),
        (" ".repeat(200_000), "larger than"),
    ] {
        fs::write(&file, &text).unwrap();
        let run = probe_at(&stand_in, &file);
        assert_eq!(run.code, Some(78), "{}", run.text);
        assert!(run.text.contains(word), "{}", run.text);
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "it was changed");
    }
}

#[test]
fn the_file_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ciphertexts");
    let stand_in = StandIn::http("");
    probe_at(&stand_in, &file);
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.repeat(100)).unwrap();
    let run = probe_at(&stand_in, &file);
    assert_eq!(run.came("decrypt.earlier"), "100 decrypted");
    assert!(run.text.contains("has 100 ciphertexts: no more are added"), "{}", run.text);
    assert_eq!(lines(&file).len(), 100);
}

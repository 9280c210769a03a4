//! The commands that pages show in fenced blocks of `sh`.

use std::process::Command;

use crate::pages::{self, Part};

#[test]
fn each_block_is_valid_shell() {
    let mut count = 0;
    for page in pages::all() {
        for part in page.parts() {
            let Part::Code { language: "sh", text } = part else { continue };
            count += 1;
            let output = Command::new("bash").args(["-n", "-c", &text]).output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {message}\n{text}", page.path.display());
        }
    }
    assert!(count > 15, "only {count} blocks were found");
}

//! The program started without arguments in the directory of its configuration, as `cargo run` does.

use crate::calls::four_calls;
use crate::common::Setup;

/// `configuration/bootstrap.toml` is found, and the settings through it.
#[test]
fn in_the_working_directory() {
    let mut prepared = Setup::new().prepare();
    prepared.bootstrap();
    four_calls(&prepared.start(), b"");
}

/// If the file that the bootstrap file names is missing, the error names it.
#[test]
fn names_a_file_that_is_not_there() {
    let mut prepared = Setup::new().prepare();
    prepared.bootstrap();
    std::fs::remove_file(&prepared.settings_file).unwrap();
    let (status, output) = prepared.run_to_end();
    assert_eq!(status.code(), Some(78), "{output}");
    assert!(output.contains("configuration/settings.toml"), "{output}");
}

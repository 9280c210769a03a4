//! The file of ciphertexts that outlive a probe, so that a later one can check that they still
//! decrypt.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::client::bodies::{Sealed, base64};
use crate::exit::{EXIT_SETTINGS, Failed};
use crate::limits::{MAX_PROBE_CIPHERTEXTS, MAX_PROBE_CIPHERTEXTS_FILE_BYTES};
use crate::output::outln;

/// A ciphertext in the file, one on a line; bytes are in base64.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Earlier {
    pub(super) key_id: String,
    /// Time of its encryption.
    pub(super) made: String,
    plaintext: String,
    additional_authenticated_data: String,
    ciphertext: String,
    initialization_vector: String,
    authentication_tag: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ciphertext_metadata: Option<String>,
}

impl Earlier {
    fn new(made: &str, (key_id, sealed, plaintext): &Made, aad: &[u8]) -> Self {
        Self {
            key_id: key_id.clone(),
            made: made.to_owned(),
            plaintext: base64(plaintext),
            additional_authenticated_data: base64(aad),
            ciphertext: base64(&sealed.ciphertext),
            initialization_vector: base64(&sealed.iv),
            authentication_tag: base64(&sealed.tag),
            ciphertext_metadata: sealed.metadata.as_deref().map(base64),
        }
    }

    /// Returns ciphertext, AAD and plaintext; `None` if one is not base64.
    pub(super) fn decoded(&self) -> Option<(Sealed, Vec<u8>, Vec<u8>)> {
        let bytes = |text: &str| base64_simd::STANDARD.decode_to_vec(text).ok();
        let metadata = match &self.ciphertext_metadata {
            Some(text) => Some(bytes(text)?),
            None => None,
        };
        let sealed = Sealed {
            ciphertext: bytes(&self.ciphertext)?,
            iv: bytes(&self.initialization_vector)?,
            tag: bytes(&self.authentication_tag)?,
            metadata,
        };
        Some((sealed, bytes(&self.additional_authenticated_data)?, bytes(&self.plaintext)?))
    }
}

/// Reads the file; there are no ciphertexts if it does not exist.
///
/// # Errors
/// The file cannot be read, is too large, or has something else in it.
pub fn read(file: &Path) -> Result<Vec<Earlier>, String> {
    let told = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    match fs::metadata(file) {
        Ok(metadata) if metadata.len() > MAX_PROBE_CIPHERTEXTS_FILE_BYTES => {
            return Err(told(&format!("larger than {MAX_PROBE_CIPHERTEXTS_FILE_BYTES} bytes")));
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(told(&error)),
    }
    let text = fs::read_to_string(file).map_err(|error| told(&error))?;
    let mut all = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let earlier: Earlier = serde_json::from_str(line).map_err(|error| {
            told(&format!("line {line_number} is no ciphertext of a probe: {error}"))
        })?;
        if earlier.decoded().is_none() {
            return Err(told(&format!("line {line_number} has a member that is not base64")));
        }
        all.push(earlier);
    }
    Ok(all)
}

/// A ciphertext of this probe: its key id, itself and its plaintext.
pub type Made = (String, Sealed, Vec<u8>);

/// Adds the ciphertexts of this probe, whose additional authenticated data is `aad`, to the file, as
/// long as it has room.
///
/// # Errors
/// [`Failed`]: the file cannot be written.
pub fn keep(
    file: &Path,
    so_many: usize,
    time: &str,
    made: &[Made],
    aad: &[u8],
) -> Result<(), Failed> {
    let room = MAX_PROBE_CIPHERTEXTS.saturating_sub(so_many);
    if made.len() > room {
        outln!("{} has {so_many} ciphertexts: no more are added", file.display());
    }
    let mut text = String::new();
    for made in made.iter().take(room) {
        let earlier = Earlier::new(time, made, aad);
        text.push_str(&serde_json::to_string(&earlier).unwrap_or_default());
        text.push('\n');
    }
    let mut options = OpenOptions::new();
    let opened = options.append(true).create(true).mode(0o600).open(file);
    opened
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(|error| Failed::new(EXIT_SETTINGS, format!("{}: {error}", file.display())))
}

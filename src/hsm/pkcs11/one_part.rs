//! The output buffer of C_Encrypt and C_Decrypt.

use cryptoki_sys::CK_ULONG;

use super::native::{Error, RawError};
use crate::hsm::config::GcmForm;
use crate::limits::MAX_OUTPUT_EXCESS;

/// Performs C_Encrypt or C_Decrypt on an input of that length. `operation` makes the call with the
/// given buffer, or with a null pointer, and returns the length that the module reports. `output`
/// is empty; afterwards it holds what the module wrote, or nothing if the call failed.
///
/// The buffer has `room` bytes and is zeroed first: a module that reports more bytes than it wrote
/// would otherwise give away what an earlier request left there.
pub(super) fn one_part(
    form: GcmForm,
    input_bytes: usize,
    mut room: usize,
    output: &mut Vec<u8>,
    operation: impl Fn(Option<&mut [u8]>) -> Result<CK_ULONG, Error>,
) -> Result<(), RawError> {
    let failed = |error: Error| error.code.map_or(RawError::Malformed, RawError::Operation);
    if form.asks_length {
        let length = operation(None).map_err(failed)?;
        let length = usize::try_from(length).map_err(|_| RawError::Malformed)?;
        // A length that exceeds any real output is capped.
        room = room.max(length.min(input_bytes + MAX_OUTPUT_EXCESS));
    }
    output.resize(room, 0);
    let written = operation(Some(output)).map_err(failed).and_then(|length| {
        let length = usize::try_from(length).ok().filter(|length| *length <= room);
        length.ok_or(RawError::Malformed)
    });
    output.truncate(written.as_ref().map_or(0, |length| *length));
    written.map(|_| ())
}

#[cfg(test)]
mod tests {
    use cryptoki_sys::CKR_DEVICE_ERROR;

    use super::*;

    /// Performs an operation that writes two bytes and reports `reported`, with this result, into a
    /// buffer that an earlier request has used.
    fn after(form: GcmForm, reported: CK_ULONG, result: Result<(), Error>) -> (Vec<u8>, bool) {
        let mut output = vec![0xa5; 64];
        output.clear();
        let operation = |buffer: Option<&mut [u8]>| {
            let Some(buffer) = buffer else { return Ok(reported) };
            buffer[..2].fill(7);
            result.map(|()| reported)
        };
        let is_ok = one_part(form, 5, 16, &mut output, operation).is_ok();
        (output, is_ok)
    }

    /// A module that reports more than it wrote gives away nothing of an earlier request; one that
    /// reports more than there is room for has failed.
    #[test]
    fn nothing_of_an_earlier_request() {
        let asks = GcmForm { asks_length: true, ..GcmForm::default() };
        for form in [GcmForm::default(), asks] {
            assert_eq!(after(form, 2, Ok(())), (vec![7, 7], true));
            let expected: Vec<u8> = [7, 7].into_iter().chain([0; 8]).collect();
            assert_eq!(after(form, 10, Ok(())), (expected, true));
            let failed = Err(Error { function: "C_Encrypt", code: Some(CKR_DEVICE_ERROR) });
            assert_eq!(after(form, 10, failed), (Vec::new(), false));
        }
        assert_eq!(after(GcmForm::default(), 17, Ok(())), (Vec::new(), false));
        assert_eq!(after(GcmForm::default(), CK_ULONG::MAX, Ok(())), (Vec::new(), false));
    }
}

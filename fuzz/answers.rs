//! Properties of all answers.

use crate::rig::wire;

/// Upper bound of an answer's head and an error's body.
const ANSWER_BYTES: usize = 1024;
/// The shortest request that is answered and does not end its connection.
const REQUEST_BYTES: usize = 16;

/// Checks `answers`, all bytes that were received in answer to `sent`.
pub fn check(answers: &[u8], sent: &[u8]) {
    let requests = sent.len() / REQUEST_BYTES + 1;
    assert!(answers.len() <= requests * ANSWER_BYTES + 2 * sent.len(), "the answers are bounded");
    // Answers to HEAD have no body, which only the requester knows.
    if sent.windows(5).any(|method| method == b"HEAD ") {
        return;
    }
    for answer in wire::parse_all(answers, false) {
        match answer.status {
            100 => {}
            200 | 503 if answer.field("content-type") == Some("text/plain") => {}
            200 => assert!(answer.json().is_object()),
            400 | 401 | 404 | 405 | 408 | 413 | 414 | 417 | 429 | 431 | 500 | 501 | 503 | 505 => {
                assert!(answer.error_name().ends_with("Exception"));
            }
            status => panic!("status {status}"),
        }
    }
}

//! The answer's bytes.

use super::{Answer, Exchange, Target};
use crate::job::{InlineBytes, Success};
use crate::proto::http::response::ResponseHead;
use crate::proto::loop_state::{LoopState, Snapshot};
use crate::proto::xks::encode;

impl Exchange {
    /// Appends to `body` the answer for a job that was done.
    pub(in crate::proto) fn encode(&self, body: &mut Vec<u8>, success: &Success, output: &[u8]) {
        match success {
            Success::Described(attributes) => {
                let is_disabled = self.authorized.as_ref().is_some_and(|call| call.is_disabled);
                encode::key_metadata(body, attributes, !is_disabled);
            }
            Success::Encrypted { iv, tag, cdiv } => {
                let authorized = self.authorized.as_ref();
                let metadata = authorized.and_then(|call| call.ciphertext_metadata.as_ref());
                let metadata = metadata.map(InlineBytes::as_slice);
                encode::encrypted(body, output, iv, tag, metadata, cdiv.as_ref());
            }
            Success::Decrypted => encode::decrypted(body, output),
        }
    }

    /// Appends head and body to [`LoopState::out`], and counts and logs the call. `received` is the
    /// buffer that the spans refer to.
    pub(in crate::proto) fn write_answer(
        &self,
        loop_state: &mut LoopState,
        snapshot: &Snapshot,
        answer: &Answer<'_>,
        close: bool,
        received: &[u8],
    ) {
        let (status, content_type, error) = match answer {
            Answer::Json => (200, "application/json", None),
            Answer::Text(status) => (*status, "text/plain", None),
            Answer::Error(error) => {
                loop_state.clear_body();
                error.write_json(&mut loop_state.body);
                (error.status, "application/json", Some(*error))
            }
        };
        let head = ResponseHead {
            status,
            content_type,
            content_length: loop_state.body.len(),
            date: loop_state.date.at(snapshot.unix_secs),
            close,
            announce_keep_alive: self.received.announce_keep_alive,
            allow: error.and_then(|error| error.allow),
        };
        head.write(&mut loop_state.out);
        if !self.received.is_head {
            loop_state.out.extend_from_slice(&loop_state.body);
        }
        if !matches!(self.target, Target::LoadBalancer) {
            let started = self.received.origin.started;
            let micros = snapshot.now.saturating_duration_since(started).as_micros();
            let micros = u32::try_from(micros).unwrap_or(u32::MAX);
            self.count(loop_state, error, received, micros);
            self.log(loop_state, micros, status, error, received);
        }
        loop_state.clear_body();
    }
}

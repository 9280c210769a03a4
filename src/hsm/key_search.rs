//! Search of the usable tokens for keys, before the settings that name them are applied.

use std::sync::Arc;
use std::time::Duration;

use super::backend::FoundKey;
use super::handle::Hsm;
use crate::sync::{clock, mpsc, thread};

/// The answer of one token.
#[derive(Clone, Debug)]
pub struct TokenKeys {
    /// `CK_TOKEN_INFO.label`
    pub token: String,
    /// The key with each name, in the order of the names; or the reason why it is unknown.
    pub keys: Result<Vec<Option<FoundKey>>, String>,
}

impl Hsm {
    /// Searches each usable token for keys by name. A token that has not answered by the timeout
    /// is left to answer in a thread of its own.
    #[must_use]
    pub fn search(&self, names: &Arc<[Box<str>]>, timeout: Duration) -> Vec<TokenKeys> {
        let end = clock::now() + timeout;
        let (answer, answers) = mpsc::channel();
        let usable = self.fleet.tokens.iter().enumerate();
        let usable = usable.filter(|(_, token)| token.circuit_breaker.is_usable());
        let mut found: Vec<(usize, TokenKeys)> = Vec::new();
        for (index, token) in usable {
            let (fleet, names, answer) =
                (Arc::clone(&self.fleet), Arc::clone(names), answer.clone());
            let search = move || {
                if let Some(token) = fleet.tokens.get(index) {
                    // The receiver is gone if this took too long.
                    let _ = answer.send((index, token.backend.search(&names)));
                }
            };
            let started = thread::Builder::new().name("key-search".to_owned()).spawn(search);
            let reason = match started {
                Ok(_) => "it has not answered in time".to_owned(),
                Err(error) => format!("no thread: {error}"),
            };
            let token = token.backend.identity().label;
            found.push((index, TokenKeys { token, keys: Err(reason) }));
        }
        drop(answer);
        while let Ok((index, keys)) =
            answers.recv_timeout(end.saturating_duration_since(clock::now()))
        {
            if let Some((_, of_token)) = found.iter_mut().find(|(other, _)| *other == index) {
                of_token.keys = keys;
            }
        }
        found.into_iter().map(|(_, of_token)| of_token).collect()
    }
}

//! A policy's decision about one call.

/// A policy's decision about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// True if the call is permitted.
    pub is_allowed: bool,
    /// The policies or rules that decided, with their lines, for the log.
    pub reason: Box<str>,
    /// True if the same attributes always lead to the same decision.
    pub is_lasting: bool,
}

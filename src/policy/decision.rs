//! A policy's answer about one call.

/// What came of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the call may be made.
    pub is_allowed: bool,
    /// Which policy or rule decided, with its place, for the log.
    pub reason: Box<str>,
    /// The same attributes will always give the same.
    pub is_lasting: bool,
}

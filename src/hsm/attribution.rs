//! The rule by which faults are attributed.
//!
//! **A fault is attributed to the narrowest scope that explains it: the request, then the key on
//! this token, then the session, then the token, then the module. Attributing it to the next wider
//! scope requires evidence from that scope.**
//!
//! The evidence is a known-good operation with *another* key in the session that failed:
//!
//! - It succeeds: session and token work, so the fault is the key's. The session is kept.
//! - It fails, and the session has worked before: the fault is the session's; the session is
//!   replaced.
//! - It also fails in the session opened as a replacement: the fault is the token's.
//! - There is no other key to try (a token with one key that makes no session keys, such as an
//!   nShield of FIPS 140 level 3), and the key's other direction does not work either: the module's
//!   code decides, and a fresh session distinguishes a session's fault from the token's. A dead HSM
//!   is never mistaken for a bad key.
//!
//! A code by which a module reports that it is busy does not break a session, and never counts
//! towards opening a key's circuit breaker. Failures of the request itself (a bad ciphertext, a
//! forbidden use) are answered without attribution. A fault is attributed to the module by its
//! tokens' health checkers, when no session of any of its tokens can be opened.

use super::backend::{Blame, Evidence};

/// A failed attempt, with everything on which its attribution depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The party that the module blames, according to its return code.
    pub blame: Blame,
    /// The result of a known-good operation with another key in the same session.
    pub evidence: Evidence,
    /// True if the session replaced a broken one and no operation in it has succeeded yet.
    pub is_fresh_session: bool,
}

/// The scope to which a fault is attributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultScope {
    /// The key on this token, in this direction. The session is kept.
    Key,
    /// The session, which is replaced. The fault does not count against the token.
    Session,
    /// The token: the fault counts towards opening its circuit breaker.
    Token,
}

/// Returns the scope to which the fault is attributed. `attempt.blame` must be [`Blame::Busy`],
/// [`Blame::Session`] or [`Blame::Token`], since other failures are answers.
#[must_use]
pub fn attribute(attempt: FailedAttempt) -> FaultScope {
    match (attempt.evidence, attempt.blame, attempt.is_fresh_session) {
        (Evidence::Passed, _, _) => FaultScope::Key,
        (_, Blame::Busy, _) => FaultScope::Token,
        (_, Blame::Session, false) | (Evidence::Failed, _, false) => FaultScope::Session,
        _ => FaultScope::Token,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row of the rule.
    #[test]
    fn table() {
        use Blame::{Busy, Session, Token};
        use Evidence::{Failed, Passed, Unavailable};
        for (blame, evidence, is_fresh_session, scope) in [
            (Busy, Passed, false, FaultScope::Key),
            (Busy, Failed, false, FaultScope::Token),
            (Busy, Unavailable, false, FaultScope::Token),
            (Session, Passed, false, FaultScope::Key),
            (Session, Passed, true, FaultScope::Key),
            (Session, Failed, false, FaultScope::Session),
            (Session, Failed, true, FaultScope::Token),
            (Session, Unavailable, false, FaultScope::Session),
            (Session, Unavailable, true, FaultScope::Token),
            (Token, Passed, false, FaultScope::Key),
            (Token, Passed, true, FaultScope::Key),
            (Token, Failed, false, FaultScope::Session),
            (Token, Failed, true, FaultScope::Token),
            (Token, Unavailable, false, FaultScope::Token),
            (Token, Unavailable, true, FaultScope::Token),
        ] {
            let attempt = FailedAttempt { blame, evidence, is_fresh_session };
            assert_eq!(attribute(attempt), scope, "{attempt:?}");
        }
    }

    /// The faults of one key are never attributed to a session or a token while another key works,
    /// and a token's faults are never attributed to a key while another key fails.
    #[test]
    fn the_level_follows_the_evidence() {
        for blame in [Blame::Busy, Blame::Session, Blame::Token] {
            for is_fresh_session in [false, true] {
                let with =
                    |evidence| attribute(FailedAttempt { blame, evidence, is_fresh_session });
                assert_eq!(with(Evidence::Passed), FaultScope::Key);
                assert_ne!(with(Evidence::Failed), FaultScope::Key);
                assert_ne!(with(Evidence::Unavailable), FaultScope::Key);
            }
        }
    }
}

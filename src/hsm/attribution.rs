//! Whose fault a failure is.
//!
//! The rule: **a fault is charged to the narrowest thing that explains it: the request, then the
//! key on this token, then the session, then the token, then the module. To charge one level up
//! takes evidence from that level.**
//!
//! The evidence is a known-good operation with *another* key, made in the session that failed:
//!
//! - It passes: session and token do their work, so the fault is the key's. The session stays.
//! - It fails, and the session has worked before: the fault is the session's, which is replaced.
//! - It fails in a session opened since then, too: the fault is the token's.
//! - There is no other key to try (a token with one key that makes no session keys, as an nShield
//!   of FIPS 140 level 3), and the key's other direction does not work either: the module's code
//!   decides, and a fresh session tells a session's fault from the token's. A dead HSM is never
//!   taken for a bad key.
//!
//! A code by which a module says that it is busy does not break a session, and is never charged to
//! a key's circuit breaker. Verdicts on the request itself (a bad ciphertext, a refused use) never
//! come here. The module is charged by its tokens' health checkers, when no session of any of its
//! tokens can be opened.

use super::backend::{Blame, Evidence};

/// A failed attempt and all that bears on whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The module's own view, by its code.
    pub blame: Blame,
    /// The outcome with another key in the same session.
    pub evidence: Evidence,
    /// The session replaced one that broke, and has done nothing well yet.
    pub is_fresh_session: bool,
}

/// Who is charged with a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultScope {
    /// The key on this token, in this direction. The session stays in use.
    Key,
    /// The session, which is replaced. The token is not counted as failing.
    Session,
    /// The token: the fault counts towards its circuit breaker.
    Token,
}

/// Charges a fault. `attempt.blame` is [`Blame::Busy`], [`Blame::Session`] or [`Blame::Token`]:
/// other failures are answers.
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
        for (blame, evidence, is_fresh_session, charged) in [
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
            assert_eq!(attribute(attempt), charged, "{attempt:?}");
        }
    }

    /// No sequence of one key's faults reaches a session or a token while another key does well,
    /// and none of a token's is taken for a key's while another key fails.
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

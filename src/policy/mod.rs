//! Secondary authorization (XKS specification, Authorization): whether a policy permits a call.
//!
//! A policy is read, checked and prepared when the settings are loaded, and all event loops share
//! it. Its decision depends on the call's [`Attributes`] alone, so each loop caches decisions
//! ([`decisions::Decisions`]).
//!
//! An error during a decision is a denial.

pub mod attributes;
pub mod cedar;
mod decision;
pub mod decisions;
mod nesting;
mod recursion;
pub mod rego;
mod remark;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub use self::attributes::{Action, Attributes};
use self::cedar::Cedar;
pub use self::decision::Decision;
use self::rego::Rego;
pub use self::remark::Remark;
use crate::limits::POLICY_LOADER_STACK_BYTES;

/// The language of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Cedar (<https://www.cedarpolicy.com>)
    Cedar,
    /// Rego, the language of the Open Policy Agent
    Rego,
}

impl Language {
    /// Returns the name for `[security] secondary_auth`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cedar => "Cedar",
            Self::Rego => "Rego",
        }
    }

    /// Returns the language that the file's extension stands for.
    #[must_use]
    pub fn of_file(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "cedar" => Some(Self::Cedar),
            "rego" => Some(Self::Rego),
            _ => None,
        }
    }
}

/// A policy, ready to decide.
#[derive(Debug)]
pub enum Policy {
    /// A set of Cedar policies that conform to the schema.
    Cedar(Box<Cedar>),
    /// A Rego module.
    Rego(Box<Rego>),
}

impl Policy {
    /// Loads a policy from its text and returns it with warnings. `file` is its name in the reasons
    /// of decisions.
    ///
    /// # Errors
    /// All mistakes and warnings, among them at least one mistake.
    pub fn load(
        language: Language,
        file: &str,
        text: &str,
    ) -> Result<(Self, Vec<Remark>), Vec<Remark>> {
        // The libraries' parsers recurse, so they need a large stack.
        let loader = std::thread::Builder::new().stack_size(POLICY_LOADER_STACK_BYTES);
        std::thread::scope(|scope| {
            let loading = loader.spawn_scoped(scope, || Self::load_here(language, file, text));
            loading.map_err(|error| error.to_string())?.join().map_err(|_| "a panic".to_owned())
        })
        .unwrap_or_else(|error| {
            let problem = format!("the policy cannot be loaded: {error}");
            Err(vec![Remark::mistake(None, problem, "try again, or report it")])
        })
    }

    fn load_here(
        language: Language,
        file: &str,
        text: &str,
    ) -> Result<(Self, Vec<Remark>), Vec<Remark>> {
        match language {
            Language::Cedar => {
                let (cedar, remarks) = Cedar::load(file, text)?;
                Ok((Self::Cedar(Box::new(cedar)), remarks))
            }
            Language::Rego => {
                let (rego, remarks) = Rego::load(file, text)?;
                Ok((Self::Rego(Box::new(rego)), remarks))
            }
        }
    }

    /// Returns the policy's language.
    #[must_use]
    pub fn language(&self) -> Language {
        match self {
            Self::Cedar(_) => Language::Cedar,
            Self::Rego(_) => Language::Rego,
        }
    }

    /// Decides whether the call is permitted. A panic in the policy library is a denial.
    #[must_use]
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let decide = || match self {
            Self::Cedar(cedar) => cedar.decide(attributes),
            Self::Rego(rego) => rego.decide(attributes),
        };
        // Unwind-safe: no state that a panic could leave inconsistent is used again.
        catch_unwind(AssertUnwindSafe(decide)).unwrap_or_else(|_| Decision {
            is_allowed: false,
            reason: "the policy's evaluation panicked".into(),
            is_lasting: false,
        })
    }

    /// Returns whether the policy refers to the kmsRequestId. It differs in every call, so
    /// decisions then cannot be cached.
    #[must_use]
    pub fn names_request_id(&self) -> bool {
        match self {
            Self::Cedar(cedar) => cedar.names_request_id(),
            Self::Rego(rego) => rego.names_request_id(),
        }
    }
}

//! Secondary authorization (XKS specification, Authorization): may this call be made?
//!
//! A policy is read, checked and prepared when the settings are loaded, and is the same for all
//! event loops; what it decides depends on a call's [`Attributes`] alone, so each loop remembers
//! it ([`decisions::Decisions`]).
//!
//! Whatever goes wrong in deciding is a denial.

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

/// What a policy is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Cedar (<https://www.cedarpolicy.com>)
    Cedar,
    /// Rego, the language of the Open Policy Agent
    Rego,
}

impl Language {
    /// As `[security] secondary_auth` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cedar => "Cedar",
            Self::Rego => "Rego",
        }
    }

    /// By what the file's name ends with.
    #[must_use]
    pub fn of_file(file: &Path) -> Option<Self> {
        match file.extension()?.to_str()? {
            "cedar" => Some(Self::Cedar),
            "rego" => Some(Self::Rego),
            _ => None,
        }
    }
}

/// A policy that is ready to decide.
#[derive(Debug)]
pub enum Policy {
    /// Cedar policies that fit the schema.
    Cedar(Box<Cedar>),
    /// A Rego module.
    Rego(Box<Rego>),
}

impl Policy {
    /// Reads a policy's text. `file` is its name in decisions' reasons. With the policy come
    /// warnings.
    ///
    /// # Errors
    /// All that is wrong, at least one of which is a mistake.
    pub fn load(
        language: Language,
        file: &str,
        text: &str,
    ) -> Result<(Self, Vec<Remark>), Vec<Remark>> {
        // The libraries' parsers recurse.
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

    /// What it is written in.
    #[must_use]
    pub fn language(&self) -> Language {
        match self {
            Self::Cedar(_) => Language::Cedar,
            Self::Rego(_) => Language::Rego,
        }
    }

    /// May the call be made? A panic in a policy's library is a denial.
    #[must_use]
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let decide = || match self {
            Self::Cedar(cedar) => cedar.decide(attributes),
            Self::Rego(rego) => rego.decide(attributes),
        };
        // What is half-way done is thrown away: nothing of it is used again.
        catch_unwind(AssertUnwindSafe(decide)).unwrap_or_else(|_| Decision {
            is_allowed: false,
            reason: "the policy's evaluation panicked".into(),
            is_lasting: false,
        })
    }

    /// Whether it asks for the kmsRequestId, of which there is a new one with each call, so that
    /// there is nothing to remember.
    #[must_use]
    pub fn names_request_id(&self) -> bool {
        match self {
            Self::Cedar(cedar) => cedar.names_request_id(),
            Self::Rego(rego) => rego.names_request_id(),
        }
    }
}

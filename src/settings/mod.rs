//! The settings file, as values that are always valid.
//!
//! [`load`] reads a TOML file written for this proxy or for the sample proxy. It returns
//! [`Settings`] with warnings, or every mistake in the file at once.

mod admin;
mod audit;
mod capabilities;
mod certificate;
mod certificate_for_kms;
mod certificate_uses;
mod client_tls;
mod client_verifier;
mod configs;
mod credentials;
mod document;
mod encryption_count;
mod environment;
mod external_keys;
mod fifo;
mod file;
mod key_checks;
mod limits;
mod load;
mod load_balancer;
mod locate;
mod memory;
mod otlp;
mod pkcs11;
mod pkcs11_logger;
mod policy;
mod replaceable;
mod report;
pub mod schema;
mod secret;
mod section;
mod security;
mod server;

mod state;
mod stores;
mod syslog;
mod tls;
mod token_members;
mod tokens;
mod tracing;
mod unknown;

pub use self::admin::Admin;
pub use self::certificate::CertificateSummary;
pub use self::credentials::Credential;
pub use self::environment::{Environment, PKCS11_HSM_MODULE, XKS_PROXY_SETTINGS_TOML};
pub use self::limits::Limits;
pub use self::load::{Settings, load, load_to_probe};
pub use self::locate::{BOOTSTRAP_TOML, locate, locate_by};
pub use self::pkcs11::Pkcs11;
pub use self::report::{Finding, Severity};
pub use self::security::{Confinement, LandlockPaths};
pub use self::server::Server;
pub use self::stores::Store;
pub use self::tls::Tls;

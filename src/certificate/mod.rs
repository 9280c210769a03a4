//! Facts about a server's certificate that decide whether AWS KMS accepts it: for `check`, which
//! reads them before anything starts, and for `probe`, which sees them from outside.

pub mod authorities;
pub mod facts;
pub mod host_name;

pub use self::authorities::Authorities;
pub use self::facts::Certificate;

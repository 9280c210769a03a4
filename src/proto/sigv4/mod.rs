//! AWS Signature Version 4, verified (XKS specification, Authentication and Appendix A).
//!
//! A request is verified before its body is parsed: until then it is bytes that anybody may have
//! sent. The canonical request is written into memory that is kept, and hashed in one go.

pub mod authorization;
pub mod canonical;
pub mod credential;
pub mod date;
pub mod signing_key;
mod unauthentic;
mod verify;

pub use self::signing_key::Scope;
pub use self::unauthentic::Unauthentic;
pub use self::verify::verify;

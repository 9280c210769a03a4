//! AWS Signature Version 4, verified (XKS specification, Authentication and Appendix A).
//!
//! A request is verified before its body is parsed: until then, anyone may have sent it. The
//! canonical request is written into memory that is reused, and hashed in one pass.

pub mod authorization;
pub mod canonical;
mod clock_sample;
pub mod credential;
pub mod date;
pub mod signing_key;
mod unauthentic;
mod verify;

pub use self::clock_sample::ClockSample;
pub use self::signing_key::Scope;
pub use self::unauthentic::Unauthentic;
pub use self::verify::{Verified, verify};

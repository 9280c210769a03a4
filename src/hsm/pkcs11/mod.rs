//! PKCS#11: tokens, sessions and keys as [`super::backend`] wants them.

pub mod codes;
pub mod ffi;
pub mod gcm;
pub mod keys;
pub mod login;
pub mod module;
pub mod session;
pub mod token;

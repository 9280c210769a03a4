//! PKCS#11: tokens, sessions and keys as [`super::backend`] wants them.

pub mod codes;
mod evidence;
pub mod ffi;
pub mod gcm;
pub mod keys;
mod known_good;
pub mod labels;
mod listing;
pub mod login;
mod lost_keys;
pub mod module;
pub mod native;
mod operations;
pub mod pin_tries;
mod private_first;
pub mod probe;
pub mod profiles;
mod prove;
mod reinitialization;
mod selection;
pub mod session;
mod slots;
mod standing;
pub mod token;
mod trouble;

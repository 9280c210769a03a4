//! PKCS#11: tokens, sessions and keys as [`super::backend`] wants them.

pub mod codes;
pub mod discovery;
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
pub mod profiles;
mod prove;
mod reinitialization;
pub mod session;
mod slot_selection;
mod slots;
mod standing;
pub mod token;
mod trouble;

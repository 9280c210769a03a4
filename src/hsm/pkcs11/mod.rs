//! PKCS#11: tokens, sessions and keys behind the traits of [`super::backend`].
//!
//! From the top: a [`token`] opens [`session`]s, which share the token's state (`shared`) and make
//! their calls (`calls`) with the keys of its cache (`keys`), through a [`module`] whose functions
//! are in [`ffi`], the only file with `unsafe`. The meaning of return codes is in [`codes`].

mod calls;
mod chosen_slot;
pub mod codes;
pub mod discovery;
pub mod ffi;
pub mod gcm;
mod gcm_parameters;
mod identity;
pub mod key_maker;
mod key_search;
mod keys;
mod known_good;
pub mod labels;
pub mod login;
mod missed;
pub mod module;
pub mod native;
pub mod native_session;
mod one_part;
mod opened;
mod own_handles;
pub mod pin_tries;
pub mod profiles;
pub mod refusals;
mod reinitialization;
pub mod session;
mod shared;
mod slot_selection;
mod slots;
mod softhsm_hint;
pub mod token;
mod token_inventory;
pub mod tokens_in_use;
mod trouble;

//! The state directory: what the proxy keeps from one life to the next, in small files that are
//! each written whole.
//!
//! Nothing here is needed to serve: a directory that cannot be written, or a file that cannot be
//! read, costs a warning and the memory of the past, and no request.

pub mod directory;
pub mod saver;
pub mod witness_file;

//! The state directory: data that outlive the process, in small files that are always written as a
//! whole.
//! Serving does not depend on it. If the directory cannot be written, or a file cannot be read, a
//! warning is logged and the data are lost, but no request is.

pub mod directory;
pub mod saver;
pub mod usage;
pub mod versions_file;
pub mod witness_file;

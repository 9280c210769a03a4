//! The state directory: data that outlive the process, in small files that are written as a whole.
//!
//! Nothing here is needed to serve. If the directory cannot be written, or a file cannot be read,
//! there is a warning, and the data are lost, but no request is.

pub mod directory;
pub mod saver;
pub mod witness_file;

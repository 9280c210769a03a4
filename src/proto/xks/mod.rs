//! The four calls of the XKS Proxy API: JSON in, JSON out.

pub mod authorize;
pub mod decode;
pub mod encode;
pub mod error;
pub mod key_version;
pub mod version_tag;

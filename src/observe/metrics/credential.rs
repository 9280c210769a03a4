//! The times of one credential.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::observe::timestamp::unix_secs;

/// The times at which a credential was created, loaded and last used.
#[derive(Debug, Default)]
pub struct CredentialMetrics {
    /// `uri_path_prefix` of the store.
    pub uri_path_prefix: Box<str>,
    /// Access key id; not secret.
    pub access_key_id: Box<str>,
    /// Time at which it was loaded, in seconds since 1970.
    pub loaded_unix_secs: u64,
    /// 0 if unknown.
    created_unix_secs: AtomicU64,
    last_used_unix_secs: AtomicU64,
}

impl CredentialMetrics {
    /// Creates the times of a credential that has just been loaded.
    pub(super) fn loaded_now(uri_path_prefix: &str, access_key_id: &str) -> Self {
        Self {
            uri_path_prefix: uri_path_prefix.into(),
            access_key_id: access_key_id.into(),
            loaded_unix_secs: unix_secs(SystemTime::now()),
            ..Self::default()
        }
    }

    /// Records a valid signature.
    pub fn used(&self, unix_secs: u64) {
        // It is mostly unchanged, and leaving it unwritten keeps the cache line shared.
        if self.last_used_unix_secs.load(Ordering::Relaxed) != unix_secs {
            self.last_used_unix_secs.store(unix_secs, Ordering::Relaxed);
        }
    }

    /// Sets the time of creation given in the settings, in seconds since 1970.
    pub fn set_created(&self, unix_secs: Option<u64>) {
        self.created_unix_secs.store(unix_secs.unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns the time of creation, in seconds since 1970, if the settings give it.
    #[must_use]
    pub fn created_unix_secs(&self) -> Option<u64> {
        Some(self.created_unix_secs.load(Ordering::Relaxed)).filter(|unix_secs| *unix_secs > 0)
    }

    /// Returns the time of last use, in seconds since 1970; 0 if it was not used since it was
    /// loaded.
    #[must_use]
    pub fn last_used_unix_secs(&self) -> u64 {
        self.last_used_unix_secs.load(Ordering::Relaxed)
    }
}

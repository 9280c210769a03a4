//! A proxy whose PKCS#11 module can be made slow or faulty while it runs.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use super::proxy::{Prepared, Proxy, Setup};
use super::tools;

/// The proxy, and the module's settings.
pub struct Interposed {
    proxy: Proxy,
    settings: PathBuf,
    counts: PathBuf,
    step: u32,
}

impl Interposed {
    /// Starts the proxy. At first, the module (perf/interposer) only forwards calls.
    #[track_caller]
    pub fn new(setup: Setup) -> Self {
        Self::with(setup, "")
    }

    /// Starts the proxy with these settings of the module in force from the first call.
    #[track_caller]
    pub fn with(setup: Setup, module_settings: &str) -> Self {
        Self::started(setup, module_settings, Prepared::start)
    }

    /// Like [`Self::with`], but waits only until the proxy listens.
    #[track_caller]
    pub fn listening(setup: Setup, module_settings: &str) -> Self {
        Self::started(setup, module_settings, Prepared::start_listening)
    }

    #[track_caller]
    fn started(setup: Setup, module_settings: &str, start: fn(Prepared) -> Proxy) -> Self {
        let mut prepared = setup
            .set("pkcs11.PKCS11_HSM_MODULE", tools::interposer().to_str().unwrap())
            .env("XKS_INTERPOSER_MODULE", tools::softhsm2_module().to_str().unwrap())
            .prepare();
        let settings = prepared.directory().join("interposer.toml");
        let counts = prepared.directory().join("interposer-counts.toml");
        std::fs::write(&settings, module_settings).unwrap();
        prepared.env("XKS_INTERPOSER_CONFIG", settings.to_str().unwrap());
        prepared.env("XKS_INTERPOSER_COUNTS", counts.to_str().unwrap());
        Self { proxy: start(prepared), settings, counts, step: 0 }
    }

    /// Returns the proxy alone.
    pub fn into_proxy(self) -> Proxy {
        self.proxy
    }

    /// Returns the module's counts.
    pub fn counts(&self) -> Counts {
        Counts(self.counts.clone())
    }

    /// Changes the module's settings and waits until they are in force.
    #[track_caller]
    pub fn set(&mut self, settings: &str) {
        self.step += 1;
        let name = format!("name = \"step {}\"\n", self.step);
        // Replaced atomically, so that the module never reads half a file.
        let next = self.settings.with_extension("next");
        std::fs::write(&next, format!("{name}{settings}")).unwrap();
        std::fs::rename(&next, &self.settings).unwrap();
        let counts = self.counts.clone();
        self.proxy.wait_for("the module's settings to be in force", |_| {
            let counts = std::fs::read_to_string(&counts).unwrap_or_default();
            let error = counts.lines().find(|line| line.starts_with("settings_error"));
            assert!(error.is_none_or(|line| line.ends_with("\"\"")), "{}", error.unwrap());
            counts.contains(&name)
        });
    }
}

/// The module's counts file, which it writes every 100 ms.
pub struct Counts(PathBuf);

impl Counts {
    /// Returns the number of calls of this function, as of the last write of the file.
    pub fn calls(&self, function: &str) -> i64 {
        let counts = std::fs::read_to_string(&self.0).unwrap_or_default();
        let counts: toml::Table = counts.parse().unwrap();
        let calls = counts.get("calls").and_then(|calls| calls.get(function));
        calls.map_or(0, |calls| calls.as_integer().unwrap())
    }
}

impl Deref for Interposed {
    type Target = Proxy;
    fn deref(&self) -> &Proxy {
        &self.proxy
    }
}

impl DerefMut for Interposed {
    fn deref_mut(&mut self) -> &mut Proxy {
        &mut self.proxy
    }
}

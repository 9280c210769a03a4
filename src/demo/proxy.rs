//! The demo's proxy, a separate process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use super::softhsm;
use crate::client::{Client, Endpoint, Trust};

/// Time allowed for the proxy to become ready, and for each call.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The proxy's process, which ends with the demo.
pub(super) struct Proxy {
    child: Child,
    /// File with the output of the proxy.
    pub(super) log: PathBuf,
}

impl Proxy {
    pub(super) fn start(directory: &Path, settings: &Path) -> Result<Self, String> {
        let log = directory.join("proxy.log");
        let told = |error: io::Error| format!("the proxy cannot be started: {error}");
        let output = fs::File::create(&log).map_err(told)?;
        let child = Command::new(std::env::current_exe().map_err(told)?)
            .env("XKS_PROXY_SETTINGS_TOML", settings)
            .env("SOFTHSM2_CONF", softhsm::configuration(directory))
            .env_remove("PKCS11_HSM_MODULE")
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(told)?)
            .stderr(output)
            .spawn()
            .map_err(told)?;
        Ok(Self { child, log })
    }

    pub(super) fn wait_until_ready(&mut self, port: u16) -> Result<(), String> {
        let endpoint =
            Endpoint { is_https: false, host: "127.0.0.1".to_owned(), port, prefix: String::new() };
        let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the proxy ended ({status}):\n{}", self.tail()));
            }
            let answer = Client::connect(&endpoint, &Trust::default(), PATIENCE)
                .and_then(|mut client| client.exchange(request));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the proxy does not become ready:\n{}", self.tail()))
    }

    fn tail(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for Ctrl-C, which reaches the proxy too.
    pub(super) fn wait(mut self) -> Result<(), String> {
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGCHLD])
            .map_err(|error| error.to_string())?;
        loop {
            for signal in signals.wait() {
                if signal != SIGCHLD {
                    return self.stop();
                }
                if let Ok(Some(status)) = self.child.try_wait() {
                    return Err(format!("the proxy ended ({status}):\n{}", self.tail()));
                }
            }
        }
    }

    /// Drains and ends the proxy.
    pub(super) fn stop(mut self) -> Result<(), String> {
        // The id is not reused until the process is waited for.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let asked = pid.ok_or(Errno::SRCH).and_then(|pid| kill_process(pid, Signal::TERM));
        let started = Instant::now();
        while asked.is_ok() && started.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("the proxy ended with {status}:\n{}", self.tail()))
                };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("the proxy does not end on SIGTERM:\n{}", self.tail()))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It has ended already, unless the demo failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

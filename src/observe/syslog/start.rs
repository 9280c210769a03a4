//! All forwarders of the process.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::config::{Address, SyslogConfig};
use super::copies::Copies;
use super::forwarder::Forwarder;
use super::message::{Kind, Origin};
use super::stats::{LostAtStop, SyslogStats};
use crate::limits::SYSLOG_STOP_TIMEOUT;

/// The forwarding to all collectors. Clones share it.
#[derive(Clone, Default)]
pub struct Syslog {
    log: Copies,
    audit: Copies,
    forwarders: Arc<[Arc<Forwarder>]>,
    configs: Arc<[SyslogConfig]>,
}

impl Syslog {
    /// Starts a thread for each collector and log. A collector that cannot be reached is no error.
    ///
    /// # Errors
    /// The system cannot provide another thread.
    pub fn start(configs: &[SyslogConfig]) -> io::Result<Self> {
        let (mut log, mut audit) = (Vec::new(), Vec::new());
        for config in configs {
            for (kind, facility, forwarders) in
                [(Kind::Log, config.log, &mut log), (Kind::Audit, config.audit, &mut audit)]
            {
                if let Some(facility) = facility {
                    let origin = Origin::of_process(&config.tag, facility, kind);
                    forwarders.push(Forwarder::start(
                        config.address.clone(),
                        origin,
                        config.backlog_bytes,
                    )?);
                }
            }
        }
        let forwarders = [log.clone(), audit.clone()].concat().into();
        let (log, audit) = (Copies::new(log), Copies::new(audit));
        Ok(Self { log, audit, forwarders, configs: configs.into() })
    }

    /// Returns the forwarders of the log's lines.
    #[must_use]
    pub fn log(&self) -> Copies {
        self.log.clone()
    }

    /// Returns the forwarders of the audit log's lines.
    #[must_use]
    pub fn audit(&self) -> Copies {
        self.audit.clone()
    }

    /// Uses the certificates and keys of new settings for new connections. Anything else in them
    /// needs a restart.
    pub fn renew(&self, configs: &[SyslogConfig]) {
        for (own, new) in self.configs.iter().zip(configs) {
            if let (Address::Tls(host, own), Address::Tls(new_host, new)) =
                (&own.address, &new.address)
                && host == new_host
            {
                own.renew(new);
            }
        }
    }

    /// Returns the figures of each forwarder.
    #[must_use]
    pub fn stats(&self) -> Vec<SyslogStats> {
        self.forwarders.iter().map(|forwarder| forwarder.stats()).collect()
    }

    /// Sends the waiting lines, for at most [`SYSLOG_STOP_TIMEOUT`], and ends the threads. Returns the
    /// lines that each collector will not get any more.
    pub fn stop(&self) -> Vec<LostAtStop> {
        let deadline = Instant::now() + SYSLOG_STOP_TIMEOUT;
        let before: Vec<_> =
            self.forwarders.iter().map(|forwarder| forwarder.stats().dropped_lines).collect();
        for forwarder in self.forwarders.iter() {
            forwarder.begin_stop();
        }
        for forwarder in self.forwarders.iter() {
            forwarder.wait_stopped(deadline);
        }
        let lost = self.forwarders.iter().zip(before).map(|(forwarder, before)| LostAtStop {
            server: forwarder.server().to_owned(),
            log: forwarder.log(),
            lines: forwarder.lost_lines().saturating_sub(before),
        });
        lost.filter(|lost| lost.lines > 0).collect()
    }
}

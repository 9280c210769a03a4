//! The life of the daemon, from the settings to the exit code.
//!
//! ```text
//!  start      what systemd or the process before this one hands over
//!  serve      log, audit log, confinement; then
//!  bind         the listening sockets
//!  assemble     the HSM side, the metrics, the admin listener
//!  run          the event loops, until a signal or another process ends them
//!  drain        the connections that are left, and the end
//! ```
//!
//! While it runs, `events` waits for signals, `reload` reads the settings again, `upgrade` starts a
//! new process, and `takeover` is the new process's side of an upgrade.

mod assemble;
pub(crate) mod audit;
mod bind;
mod certificates;
mod drain;
mod events;
pub(crate) mod hsm_caller;
mod inherited;
mod kept_state;
pub(crate) mod kept_usage;
pub(crate) mod listed_versions;
pub(crate) mod lockdown;
mod notify;
pub(crate) mod pid_file;
mod reload;
pub(crate) mod retry_login;
mod run;
pub(crate) mod serve;
pub(crate) mod standalone_hsm;
pub(crate) mod start;
mod startup_log;
mod takeover;
mod telemetry;
mod upgrade;
mod watchdog;
mod wedge;

//! `xks-proxy credentials`: makes SigV4 credentials, and shows which are in use.

mod list;
mod new;
mod watch;

use std::path::PathBuf;

use crate::exit::Failed;

/// The command line of `credentials`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a credential and print it as TOML, to paste into the settings file
    ///
    /// It is made from random numbers of the operating system and stored nowhere else: the output
    /// holds the secret.
    New {
        /// Check that the settings have a store with this uri_path_prefix, with room for another
        /// credential
        #[arg(long, value_name = "PREFIX")]
        store: Option<String>,
        /// Write the secret to a new file of mode 0600, and name that file in the TOML
        #[arg(long, value_name = "PATH")]
        secret_file: Option<PathBuf>,
        /// The settings file, if not the one that `serve` would use
        #[arg(long, value_name = "FILE", requires = "store")]
        settings: Option<PathBuf>,
    },
    /// List each store's credentials, and when each was last used
    ///
    /// The last use is reported by the admin listeners of running proxies. Ask all proxies that
    /// serve the store, one --admin each, before you remove a credential. Secrets are not shown.
    List {
        /// The settings file, if not the one that `serve` would use
        file: Option<PathBuf>,
        /// A proxy's admin listener, https://HOST:PORT or http://HOST:PORT, instead of the one in
        /// the settings; may be repeated
        #[arg(long, value_name = "URL")]
        admin: Vec<String>,
        /// Trust this CA's certificates (PEM) for https
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// The client certificate (PEM) that the admin listener wants
        #[arg(long, value_name = "FILE", requires = "key")]
        cert: Option<PathBuf>,
        /// Its private key (PEM)
        #[arg(long, value_name = "FILE", requires = "cert")]
        key: Option<PathBuf>,
    },
}

/// Runs the subcommand.
///
/// # Errors
/// [`Failed`]: wrong arguments or settings, or a file that cannot be written.
pub fn run(command: &Command) -> Result<(), Failed> {
    match command {
        Command::New { store, secret_file, settings } => {
            new::run(store.as_deref(), secret_file.as_deref(), settings.as_deref())
        }
        Command::List { file, admin, ca, cert, key } => {
            let identity = cert.as_deref().zip(key.as_deref());
            list::run(file.as_deref(), admin, ca.as_deref(), identity)
        }
    }
}

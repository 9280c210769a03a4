//! `xks-proxy credentials`: make SigV4 credentials, and see which are in use.

mod list;
mod new;
mod watch;

use std::path::PathBuf;

use crate::exit::Failed;

/// What the command line says.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a credential and print it as TOML, to paste into the settings file
    ///
    /// It is made of the operating system's random numbers and kept nowhere else: what is printed
    /// holds the secret.
    New {
        /// Look in the settings for the store of this uri_path_prefix, and whether it has room
        #[arg(long, value_name = "PREFIX")]
        store: Option<String>,
        /// Write the secret to a new file of mode 0600, and have the TOML name that file
        #[arg(long, value_name = "PATH")]
        secret_file: Option<PathBuf>,
        /// The settings file, if it is not the one that serving would take
        #[arg(long, value_name = "FILE", requires = "store")]
        settings: Option<PathBuf>,
    },
    /// List each store's credentials, and when each was last used
    ///
    /// The last use is what running proxies say on their admin listeners. Ask all proxies that
    /// serve the store, one --admin each, before a credential is removed. Secrets are not shown.
    List {
        /// The settings file, if it is not the one that serving would take
        file: Option<PathBuf>,
        /// A proxy's admin listener, https://HOST:PORT or http://HOST:PORT, in place of the one
        /// that the settings have; may be given several times
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

/// Does what the arguments say.
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

//! `xks-proxy keys usage`: the encryptions and decryptions with each HSM key, and the day on which a
//! key reaches its limit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use super::usage_report::{Report, print};
use super::usage_sums::{Sum, sum_of};
use crate::cli::settings_file;
use crate::exit::{EXIT_ARGUMENTS, EXIT_SETTINGS, EXIT_UNAVAILABLE, Failed};
use crate::limits::{RANDOM_IV_LIMIT, USAGE_REFRESH_INTERVAL};
use crate::observe::timestamp::unix_secs;
use crate::output::outln;
use crate::settings::Settings;
use crate::state::directory::Directory;
use crate::state::usage::books::Books;

/// Encryptions with which a new key is tested.
const ENCRYPTIONS_OF_A_TEST: u64 = 1;

/// The command line of `keys usage`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// State directories, or copies of their files, of one or several proxies, whose counts are
    /// added up; by default the state directory that the settings name
    paths: Vec<PathBuf>,
    /// The settings file, if not the one that `serve` would use
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// State that an HSM key has made COUNT encryptions in all until now, 0 for a new key. This
    /// makes an incomplete count complete
    #[arg(long, num_args = 2, value_names = ["KEY", "COUNT"], conflicts_with_all = ["paths", "json"])]
    set: Vec<String>,
}

/// Prints the uses of keys, or states a number.
///
/// # Errors
/// [`Failed`]: the settings are wrong, or a file cannot be read or written.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    let settings = match settings_file::load(arguments.settings.as_deref(), false) {
        Ok((settings, _)) => Some(settings),
        // Files that were copied from other machines are read without settings.
        Err(_) if !arguments.paths.is_empty() && arguments.settings.is_none() => None,
        Err(failed) => return Err(failed),
    };
    let now = unix_secs(SystemTime::now());
    if !arguments.set.is_empty() {
        return set(settings.as_ref(), &arguments.set, now);
    }
    let mut paths = arguments.paths.clone();
    if paths.is_empty() {
        paths.push(state_directory(settings.as_ref())?.path().to_owned());
    }
    let mut sums: BTreeMap<Box<str>, Sum> = BTreeMap::new();
    for path in &paths {
        let told = |reason| Failed::new(EXIT_UNAVAILABLE, format!("{}: {reason}", path.display()));
        for (key, sum) in sum_of(path, now).map_err(told)? {
            sums.entry(key).or_default().add(sum);
        }
    }
    let limit = settings.as_ref().map_or(RANDOM_IV_LIMIT, |it| it.encryption_limit.encrypts);
    print(&Report::new(sums, settings.as_ref(), limit, now), arguments.json)
}

fn state_directory(settings: Option<&Settings>) -> Result<Directory, Failed> {
    let directory = settings.and_then(|settings| settings.state_directory.as_deref());
    directory.map(Directory::new).ok_or_else(|| {
        let message = "the settings have no [state] directory, so that counts begin at the start of \
                       the proxy: see /metrics, xks_proxy_hsm_key_encryptions";
        Failed::new(EXIT_SETTINGS, message.to_owned())
    })
}

fn set(settings: Option<&Settings>, pairs: &[String], now: u64) -> Result<(), Failed> {
    let directory = state_directory(settings)?;
    let service = settings.map(Settings::service);
    let told = |reason: String| {
        Failed::new(EXIT_UNAVAILABLE, format!("{}: {reason}", directory.path().display()))
    };
    let mut books =
        Books::open(&directory, None, now).map_err(|reason| told(reason.to_string()))?;
    for pair in pairs.chunks_exact(2) {
        let [key, count] = pair else { continue };
        let encrypts = count.parse().map_err(|_| {
            let message = format!("\"{count}\" is not a number of encryptions");
            Failed::new(EXIT_ARGUMENTS, message)
        })?;
        let is_configured = service.as_ref().is_some_and(|it| it.key_of(key).is_some());
        if !is_configured && !books.ledger().accounts.contains_key(&**key) {
            let message = format!("no HSM key of the settings has the name \"{key}\"");
            return Err(Failed::new(EXIT_ARGUMENTS, message));
        }
        books.state(key, encrypts);
    }
    books.close().map_err(|error| told(error.to_string()))?;
    let seconds = USAGE_REFRESH_INTERVAL.as_secs();
    outln!("done; a running proxy takes it up within {seconds} seconds, or at its next reload");
    Ok(())
}

/// Records a key that was just made: its count is complete, with the one encryption of its test. A
/// failure is printed; the number can be stated later.
pub(super) fn record_new(settings: &Settings, key: &str) {
    let Some(directory) = settings.state_directory.as_deref().map(Directory::new) else { return };
    let now = unix_secs(SystemTime::now());
    let recorded = Books::open(&directory, None, now).map_err(|reason| reason.to_string());
    let recorded = recorded.and_then(|mut books| {
        books.state(key, ENCRYPTIONS_OF_A_TEST);
        books.close().map(drop).map_err(|error| error.to_string())
    });
    if let Err(reason) = recorded {
        outln!(
            "  ATTENTION: the count of its encryptions could not be begun in {}: {reason}. Do so \
             with `xks-proxy keys usage --set '{key}' {ENCRYPTIONS_OF_A_TEST}`",
            directory.path().display()
        );
    }
}

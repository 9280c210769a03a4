//! The command line.

mod admin_client;
mod audit;
mod check;
mod confirm;
mod credentials;
mod demo;
mod hsm_retry_login;
mod keys;
mod kms_config;
mod ping;
mod policy;
mod probe_hsm;
mod reload;
mod running;
mod secret_output;
mod serve;
mod settings_file;
mod unlisted_versions;
mod which_store;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit::EXIT_ARGUMENTS;
use crate::output::{self, errln};
use crate::probe;
use crate::process::lockdown;

const AFTER_HELP: &str = "\
Without a command, it serves. The settings file is named by the environment variable
XKS_PROXY_SETTINGS_TOML, or else by configuration/bootstrap.toml.

Exit codes: 0 done or drained; 1 a tested policy denies, a check of probe failed or an audit log
was tampered with; 2 wrong arguments; 69 an address is in use, or a token or a check failed; 70 a
defect; 75 calls to the HSM do not return and a restart may help, with [pkcs11]
exit_when_wedged; 78 mistakes in the settings, all of which are printed, or an HSM that cannot
serve.";

const PROBE_AFTER_HELP: &str = "\
Exit codes: 0 no check failed; 10 TLS or certificate; 11 authentication; 12 path or key; 13 an answer
that KMS cannot interpret; 14 too slow; 69 not reachable, or no HSM available; 1 other checks, or
several of these; 78 the URL, a key id, the credential or a file is not right.";

/// An AWS KMS external key store (XKS) proxy for PKCS#11 HSMs.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT, then drain
    Serve,
    /// Check a settings file and print all mistakes in it
    Check {
        /// The settings file, if not the one that `serve` would use
        file: Option<PathBuf>,
        /// Also log in to the tokens, find the keys and let each encrypt and decrypt
        #[arg(long)]
        hsm: bool,
        /// Treat an unknown member as a mistake, not a warning
        #[arg(long)]
        strict: bool,
        /// The DNS name that KMS calls: the certificate must be for it
        #[arg(long, value_name = "NAME")]
        dns_name: Option<String>,
    },
    /// Make a running proxy read its settings again, and print the outcome
    ///
    /// The file is checked first, as by `check`; if it has mistakes, nothing is sent. Then the
    /// process gets SIGHUP. If the settings have an [admin] listener without TLS, the command waits
    /// for the outcome and prints it; otherwise the outcome is in the log of the proxy.
    Reload {
        /// The settings file, if not the one that `serve` would use
        file: Option<PathBuf>,
        /// The process, if the settings have no [server] pid_file
        #[arg(long)]
        pid: Option<u32>,
    },
    /// List the AES keys of the token and which store may use which
    Keys(keys::Arguments),
    /// Make SigV4 credentials, and show when each was last used
    Credentials {
        #[command(subcommand)]
        command: credentials::Command,
    },
    /// Print the file that the AWS console reads for an external key store: path and credential
    ///
    /// It holds a secret, so it is printed on a terminal only with --show-secret.
    KmsConfig(kms_config::Arguments),
    /// Give a running proxy instructions about its HSM
    Hsm {
        #[command(subcommand)]
        command: HsmCommand,
    },
    /// Find out what each token can do by trying it, and print the profile to use
    ProbeHsm {
        /// The settings file, if not the one that `serve` would use
        file: Option<PathBuf>,
        /// Largest number of sessions to open: others may need some
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
        max_sessions: u32,
        /// Milliseconds to measure the throughput of each number of sessions
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..=60_000))]
        milli: u64,
    },
    /// Call any XKS proxy as KMS does, and report where it departs from the specification
    #[command(after_help = PROBE_AFTER_HELP)]
    Probe(Box<probe::options::Arguments>),
    /// Ask a running proxy for /ping, as the health check of a container does
    Ping {
        /// The ping port: [server] port_http_ping
        #[arg(default_value = "127.0.0.1:80", value_name = "HOST:PORT")]
        address: String,
        /// Ask for /readyz: whether an HSM can be used and the process is not about to stop
        #[arg(long)]
        ready: bool,
    },
    /// Policies for secondary authorization
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Make the first key of an audit log, verify the log, or report what is in it
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Try it out on this machine: SoftHSM2, a key, a certificate, the proxy and the four calls
    #[cfg_attr(not(feature = "demo"), command(hide = true))]
    Demo(demo::Arguments),
}

#[derive(Debug, Subcommand)]
enum HsmCommand {
    /// Let a running proxy try each PIN that it holds back once more
    ///
    /// A PIN that a token refused is not tried again, and no PIN is tried where one more wrong PIN
    /// would lock the token. Make sure first that the PIN in use is right.
    RetryLogin {
        /// The settings file, if not the one that `serve` would use
        file: Option<PathBuf>,
        /// The process, if the settings have no [server] pid_file
        #[arg(long)]
        pid: Option<u32>,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Try a policy on a request: print allow or deny, and the deciding rule
    ///
    /// Exit codes: 0 allow, 1 deny, 78 mistakes in one of the files.
    Test {
        /// The policy: a file that ends with .cedar or .rego
        file: PathBuf,
        /// The request: a JSON file with call ("metadata", "encrypt" or "decrypt"), store (its
        /// uri_path_prefix), externalKeyId, and requestMetadata as KMS sends it
        request: PathBuf,
    },
}

/// Prints the help or version that was asked for, or the mistake in the arguments.
fn tell_usage(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| output::print(format_args!("")));
    if let Err(unwritable) = printed
        && !error.use_stderr()
    {
        output::end(&unwritable);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_ARGUMENTS))
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return tell_usage(&error),
    };
    if let Err(error) = lockdown::forbid_dumps() {
        errln!("core dumps cannot be forbidden: {error}");
    }
    let outcome = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(),
        Command::Check { file, hsm, strict, dns_name } => {
            check::run(file.as_deref(), hsm, strict, dns_name.as_deref())
        }
        Command::Reload { file, pid } => reload::run(file.as_deref(), pid),
        Command::Keys(arguments) => keys::run(&arguments),
        Command::Credentials { command } => credentials::run(&command),
        Command::KmsConfig(arguments) => kms_config::run(&arguments),
        Command::Hsm { command: HsmCommand::RetryLogin { file, pid } } => {
            hsm_retry_login::run(file.as_deref(), pid)
        }
        Command::ProbeHsm { file, max_sessions, milli } => {
            let time = std::time::Duration::from_millis(milli);
            probe_hsm::run(file.as_deref(), max_sessions as usize, time)
        }
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Ping { address, ready } => ping::run(&address, ready),
        Command::Policy { command: PolicyCommand::Test { file, request } } => {
            policy::test(&file, &request)
        }
        Command::Audit(command) => audit::run(command),
        Command::Demo(arguments) => demo::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            if !failed.message.is_empty() {
                errln!("{}", failed.message);
            }
            ExitCode::from(failed.exit_code)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    /// No subcommand has two arguments or groups of the same name: release builds do not check that,
    /// and others panic only when that subcommand is run.
    #[test]
    fn the_command_line_is_sound() {
        super::Arguments::command().debug_assert();
    }
}

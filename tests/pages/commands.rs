//! The commands that pages show in fenced blocks of `sh`. Each is run, in the order of its page,
//! alongside a running proxy, or is excused below with the reason.

use std::fs;
use std::path::Path;
use std::process::Command;

use toml::Table;

use crate::common::{Proxy, Setup, Store, proxy, token};
use crate::pages::{self, Page, Part, root};

/// Pages whose commands another test runs.
const RUN_ELSEWHERE: &[(&str, &str)] = &[
    ("docs/disaster-recovery.md", "tests/pages/rehearsals.rs"),
    ("docs/first-hour.md", "tests/interop/first-hour.sh, a step of .ci/run"),
    ("fuzz/README.md", "the fuzz steps of .ci/run"),
];

/// Prefixes of commands that are not run here, with the reason.
const EXCUSED: &[(&str, &str)] = &[
    ("tests/run", "it runs this test"),
    (".ci/", "it runs this test"),
    ("SIMULATION_SEED=", "takes a minute; tests/run runs the simulation for some seconds"),
    ("tests/simulation/mutations", "builds the simulation some 30 times"),
    ("tests/models/mutations", "builds the models ten times"),
    ("tests/models/run", "a step of .ci/run"),
    ("MODELS_PERCENT=", "takes minutes; .ci/run runs the models for some seconds"),
    ("cargo ", "builds, tests and benches of this repository, which .ci/run runs"),
    ("perf/", "measurements, which take from half a minute to hours"),
    (
        "src/certificate/update-authorities",
        "needs GitHub; tests/probe/reports.rs runs it on a file",
    ),
    ("install -m 755 target/dist/xks-proxy ", "needs the build above it, which .ci/packages makes"),
    ("install -m 755 xks-proxy.new ", "writes to /usr; tests/e2e/upgrade.rs upgrades"),
    ("install -D -m 644 ", "writes to /etc; tests/packaging/units.sh verifies the drop-ins"),
    ("install -o root ", "writes to /etc; tests/packaging/installed.sh fills in the settings"),
    ("sudo ", "needs the installed package; tests/packaging/installed.sh checks the settings"),
    ("systemctl ", "needs systemd; tests/packaging/installed.sh starts and stops the unit"),
    ("packaging/build", "takes minutes; .ci/packages runs it"),
    ("apt-get ", "installs a package; tests/packaging/installed.sh does"),
    ("docker ", "needs Docker"),
    ("kubectl ", "needs a cluster; tests/packaging/manifests.sh checks the manifests"),
    ("aws ", "needs an AWS account"),
    ("cp terraform.tfvars.example ", "tests/packaging/terraform_use.py does"),
    ("terraform ", "needs an AWS account; tests/packaging/templates.sh runs it without one"),
    ("generatekey ", "needs an nShield HSM"),
    ("pkcs11-tool ", "other pages' commands use the key that it deletes"),
];

/// The page whose blocks of `toml` are the edits between its commands.
const ROTATION_PAGE: &str = "docs/operations.md";

/// Texts in commands and their replacements: another address, and shorter measurements.
const SUBSTITUTIONS: &[(&str, &str)] = &[
    ("https://xks.example.com/", "https://localhost:PORT/"),
    ("https://localhost:8443/", "https://localhost:PORT/"),
    ("http://127.0.0.1:9443/", "http://127.0.0.1:ADMIN/"),
    ("xks-proxy probe https", "xks-proxy probe --count 10 --ca tls/ca.pem https"),
    ("xks-proxy ping --ready", "xks-proxy ping --ready localhost:PING"),
    ("xks-proxy probe-hsm ", "xks-proxy probe-hsm --max-sessions 4 --milli 20 "),
];

/// Starts a proxy with settings that suit the commands of all pages.
fn start() -> Proxy {
    let setup = Setup::new()
        .tls()
        .set("server.pid_file", "pid")
        .set("admin.port", proxy::free_port())
        .set_in_store(0, "xks_key_id_set", vec![token::FULL.label]);
    let prepared = setup.prepare();
    let directory = prepared.directory();
    for file in ["policy.cedar", "policy_request.json"] {
        fs::copy(root().join("configuration").join(file), directory.join(file)).unwrap();
    }
    fs::write(directory.join("secret"), Store::first().secret_access_key).unwrap();
    fs::create_dir(directory.join("tls")).unwrap();
    let ca = prepared.certificates.path("server_ca.pem");
    fs::copy(ca, directory.join("tls/ca.pem")).unwrap();
    let state = directory.join("state");
    prepared.start_with("state.directory", state.to_str().unwrap())
}

/// Joins lines that end with a backslash to the next.
fn commands(block: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut is_continued = false;
    for line in block.lines() {
        match commands.last_mut() {
            Some(command) if is_continued => *command = format!("{command}\n{line}"),
            _ => commands.push(line.to_owned()),
        }
        is_continued = line.ends_with('\\');
    }
    commands
}

fn excuse(command: &str) -> Option<&'static (&'static str, &'static str)> {
    EXCUSED.iter().find(|(beginning, _)| command.starts_with(beginning))
}

/// A step of a page.
enum Step {
    /// A block of `sh`, without excused commands.
    Run(String),
    /// A block of `toml` that changes the versions of a key.
    EditVersions(Table),
}

/// The steps of a page. Blocks of `sh` without commands are omitted, and so are those of `toml` that
/// do not concern the versions of a key, or that only describe them.
fn steps(page: &Page) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in page.parts() {
        match part {
            Part::Code { language: "sh", text } => {
                let commands = commands(&text).into_iter();
                let left: Vec<_> = commands.filter(|one| excuse(one).is_none()).collect();
                let block = left.join("\n");
                let is_command = |line: &str| !line.is_empty() && !line.starts_with('#');
                if block.lines().any(is_command) {
                    steps.push(Step::Run(block));
                }
            }
            Part::Code { language: "toml", text } if page.path == Path::new(ROTATION_PAGE) => {
                let table: Table = text.parse().unwrap();
                let has = |name: &str| table.contains_key(name);
                let stores = table.get("external_key_stores");
                let has_keys = stores.is_some_and(|stores| stores.get("keys").is_some());
                if has_keys || has("versions") || has("encrypt_with") {
                    steps.push(Step::EditVersions(table));
                }
            }
            _ => {}
        }
    }
    steps
}

/// Changes the settings as the page says: a table of the key takes the place of its id in the set,
/// and a member that of the table's.
fn edit_versions(proxy: &Proxy, edit: Table) {
    proxy.change_settings(|settings| {
        let store = settings["external_key_stores"][0].as_table_mut().unwrap();
        for (name, value) in edit {
            if name == "external_key_stores" {
                let keys = value["keys"].clone();
                let id = keys[0]["id"].clone();
                store["xks_key_id_set"].as_array_mut().unwrap().retain(|one| *one != id);
                store.insert("keys".to_owned(), keys);
            } else {
                store["keys"][0].as_table_mut().unwrap().insert(name, value);
            }
        }
    });
}

/// Runs a block as a reader would in the proxy's directory.
fn run(proxy: &Proxy, page: &str, block: &str) {
    let block = SUBSTITUTIONS.iter().fold(block.to_owned(), |it, (from, to)| it.replace(from, to));
    let block = block.replace("PORT", &proxy.api.port().to_string());
    let block = block.replace("PING", &proxy.ping.port().to_string());
    let block = block.replace("ADMIN", &proxy.admin().port().to_string());
    let programs = Path::new(env!("CARGO_BIN_EXE_xks-proxy")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &block])
        .current_dir(proxy.directory())
        .env("PATH", path)
        .env("XKS_PROXY_SETTINGS_TOML", proxy.directory().join("settings.toml"))
        .env("SSL_CERT_FILE", proxy.certificates().path("server_ca.pem"))
        .env_remove("PKCS11_HSM_MODULE")
        .envs(proxy.token().environment())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{page}:\n{block}\n{}\n{said}", output.status);
}

/// Makes the proxy write an audit log where the commands look for it, and waits for the HSM's first
/// checkpoint in it.
fn begin_audit_log(proxy: &mut Proxy) {
    proxy.change_settings(|settings| {
        let audit = "directory = '.'\nkey_file = 'audit.key'\nhsm_key = 'foreign_key'";
        settings.insert("audit".to_owned(), toml::Value::Table(audit.parse().unwrap()));
    });
    proxy.signal("TERM");
    proxy.signal("TERM");
    proxy.wait_for_end();
    proxy.restart();
    proxy.wait_for("a checkpoint", |proxy| {
        let text = std::fs::read_to_string(proxy.directory().join("audit.jsonl"));
        text.is_ok_and(|text| text.contains("\"checkpoint\""))
    });
}

#[test]
fn commands_of_docs_succeed() {
    let mut proxy = start();
    let (mut count, mut edits) = (0, 0);
    for page in pages::all() {
        let path = page.path.to_str().unwrap();
        if RUN_ELSEWHERE.iter().any(|(page, _)| *page == path) {
            continue;
        }
        for step in steps(&page) {
            match step {
                Step::Run(block) => {
                    run(&proxy, path, &block);
                    count += 1;
                    if block.contains("audit new-key") {
                        begin_audit_log(&mut proxy);
                    }
                }
                Step::EditVersions(edit) => {
                    edit_versions(&proxy, edit);
                    edits += 1;
                }
            }
        }
    }
    assert!(count >= 25, "only {count} blocks were run");
    assert_eq!(edits, 3, "a version listed, used and retired");
}

/// The first command of README.md, without the build, and with the demo stopped at the end.
#[test]
fn the_demo_succeeds() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains("\ncargo run --release -- demo "));
    assert!(readme.contains("`--once`"));
    let program = env!("CARGO_BIN_EXE_xks-proxy");
    let output = Command::new(program).args(["demo", "--once"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("curl"), "{said}");
}

#[test]
fn the_lists_name_what_pages_have() {
    let pages = pages::all();
    for (path, _) in RUN_ELSEWHERE {
        assert!(pages.iter().any(|page| page.path == Path::new(path)), "there is no {path}");
    }
    let blocks = pages.iter().flat_map(Page::parts).filter_map(|part| match part {
        Part::Code { language: "sh", text } => Some(text),
        _ => None,
    });
    let commands: Vec<String> = blocks.flat_map(|block| commands(&block)).collect();
    for (beginning, _) in EXCUSED {
        let is_used = commands.iter().any(|command| command.starts_with(beginning));
        assert!(is_used, "no page has a command that begins with {beginning:?}");
    }
}

#[test]
fn each_block_is_valid_shell() {
    let mut count = 0;
    for page in pages::all() {
        for part in page.parts() {
            let Part::Code { language: "sh", text } = part else { continue };
            count += 1;
            let output = Command::new("bash").args(["-n", "-c", &text]).output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {message}\n{text}", page.path.display());
        }
    }
    assert!(count > 15, "only {count} blocks were found");
}

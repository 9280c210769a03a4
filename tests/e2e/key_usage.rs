//! The durable count of each HSM key's use: never below the truth without a mark, and never in the
//! way of requests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use toml::Value;

use crate::common::proxy::Prepared;
use crate::common::{Client, Proxy, Setup, tools, xks};
use crate::metrics::watched;

const ENCRYPT: &str = "keys/foo/encrypt";
/// `MIN_USAGE_RESERVE` and `USAGE_RESERVE_TIME` of the proxy.
const RESERVE: u64 = 1 << 18;
const RESERVE_SECS: u64 = 300;

/// A proxy that uses a single key, and session keys, which do not count, at most at the start.
fn kept() -> Setup {
    let one = || Value::Array(vec!["foo".into()]);
    let setup = watched().set("pkcs11.health_key", "foo").set("server.pid_file", "proxy.pid");
    setup.set_in_store(0, "xks_key_id_set", one()).set_in_store(1, "xks_key_id_set", one())
}

fn prepare(setup: Setup) -> Prepared {
    let mut prepared = setup.prepare();
    let state = prepared.directory().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    prepared.change_settings("state.directory", state.to_str().unwrap());
    prepared
}

fn state_of(proxy: &Proxy) -> PathBuf {
    proxy.directory().join("state")
}

fn set(proxy: &Prepared, count: &str) {
    let (code, printed) = proxy.run(&["keys", "usage", "--set", "foo", count]);
    assert_eq!(code, Some(0), "{printed}");
}

/// Reads the record of "foo" with the command.
fn usage(proxy: &Proxy) -> Json {
    let (code, printed) = proxy.run(&["keys", "usage", "--json"]);
    assert_eq!(code, Some(0), "{printed}");
    let report: Json = serde_json::from_str(&printed).unwrap();
    let keys = report["keys"].as_array().unwrap();
    keys.iter().find(|key| key["key"] == "foo").unwrap().clone()
}

fn metric(proxy: &Proxy, name: &str) -> u64 {
    let text = String::from_utf8(proxy.admin_get("/metrics").body).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name}: {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

const ENCRYPTIONS: &str = "xks_proxy_hsm_key_encryptions{key=\"foo\"}";
const INCOMPLETE: &str = "xks_proxy_hsm_key_count_incomplete{key=\"foo\"}";
const FAILING: &str = "xks_proxy_key_usage_failing";

fn encrypt(client: &Client) -> Json {
    client.call(ENCRYPT, &xks::encrypt(b"plaintext", None)).ok()
}

fn decrypt(client: &Client, encrypted: &Json) {
    client.call("keys/foo/decrypt", &xks::decrypt(encrypted, None)).ok();
}

fn end(proxy: &mut Proxy) {
    proxy.signal("TERM");
    proxy.signal("TERM");
    proxy.wait_for_end();
}

/// Encrypts as fast as possible until the proxy is gone.
fn load(client: &Client, is_over: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
    let (client, is_over) = (client.clone(), Arc::clone(is_over));
    thread::spawn(move || {
        let target = client.target(ENCRYPT);
        let body = xks::encrypt(b"plaintext", None).to_string();
        let mut connection = client.connect();
        while !is_over.load(Ordering::Relaxed) {
            let headers = client.headers(&target, body.as_bytes());
            let host = client.host();
            let sent = connection.send_request("POST", &target, &host, &headers, body.as_bytes());
            if sent.is_err() || connection.receive().is_err() {
                return;
            }
        }
    })
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// A process that is killed at a random moment under load leaves a count that is not below the true
/// number of C_Encrypt calls, and above it by at most what was reserved.
#[test]
fn a_kill_never_understates() {
    let kills = std::env::var("XKS_PROXY_KILLS").map_or(10, |kills| kills.parse().unwrap());
    let setup = kept()
        .set("pkcs11.PKCS11_HSM_MODULE", tools::interposer().to_str().unwrap())
        .env("XKS_INTERPOSER_MODULE", tools::softhsm2_module().to_str().unwrap());
    let mut prepared = prepare(setup);
    let marks = prepared.directory().join("marks");
    prepared.env("XKS_INTERPOSER_MARKS", marks.to_str().unwrap());
    set(&prepared, "0");
    let mut proxy = prepared.start();
    let mut before = (0, 0);
    for kill in 0..kills {
        let is_over = Arc::new(AtomicBool::new(false));
        let client = proxy.client();
        let clients: Vec<_> = (0..4).map(|_| load(&client, &is_over)).collect();
        let mut random = [0; 2];
        getrandom(&mut random);
        thread::sleep(Duration::from_millis(u64::from(u16::from_le_bytes(random)) % 1500));
        proxy.signal("KILL");
        proxy.wait_for_end();
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        let truth = length(&marks);
        let found = usage(&proxy);
        let count = found["encryptions"].as_u64().unwrap();
        assert_eq!(found["isComplete"], true, "kill {kill}: {found}");
        assert!(count >= truth, "kill {kill}: {count} < {truth}");
        let (made, counted) = (truth - before.0, count - before.1);
        let most = made + RESERVE.max(RESERVE_SECS * made);
        assert!(counted >= made && counted <= most, "kill {kill}: {made}, {counted}");
        before = (truth, count);
        proxy.restart();
    }
    assert!(before.0 > kills, "{} encryptions in all", before.0);
    // After an orderly end, nothing but the first health checks, with session keys, is missing.
    let client = proxy.client();
    (0..20).for_each(|_| drop(encrypt(&client)));
    end(&mut proxy);
    let own = usage(&proxy)["encryptions"].as_u64().unwrap() - before.1;
    let made = length(&marks) - before.0;
    assert!(own >= 20 && own <= made && own + 8 >= made, "{own} of {made}");
}

fn getrandom(bytes: &mut [u8]) {
    use std::io::Read as _;
    fs::File::open("/dev/urandom").unwrap().read_exact(bytes).unwrap();
}

/// A new pod begins an incomplete count, which a statement makes complete while the proxy runs; the
/// command, metrics and status agree, and a restart changes nothing.
#[test]
fn a_new_pod() {
    let mut proxy = prepare(kept()).start();
    let client = proxy.client();
    let encrypted = encrypt(&client);
    decrypt(&client, &encrypted);
    assert_eq!(metric(&proxy, INCOMPLETE), 1);
    proxy.log_with("counts of these keys' encryptions are incomplete");
    let (code, printed) = proxy.run(&["keys", "usage", "--set", "foo", "1000"]);
    assert_eq!(code, Some(0), "{printed}");
    let (code, printed) = proxy.reload();
    assert_eq!(code, Some(0), "{printed}");
    proxy.wait_for("the statement", |proxy| metric(proxy, INCOMPLETE) == 0);
    assert_eq!(metric(&proxy, "xks_proxy_hsm_key_decryptions{key=\"foo\"}"), 1);
    end(&mut proxy);
    let found = usage(&proxy);
    let count = found["encryptions"].as_u64().unwrap();
    assert!((1000..1100).contains(&count), "{found}");
    assert_eq!((&found["isComplete"], &found["decryptions"]), (&true.into(), &1.into()));
    assert_eq!(found["externalKeys"][0]["version"], 1);
    assert!(found["lastDecryption"].is_string());
    proxy.restart();
    let after = metric(&proxy, ENCRYPTIONS);
    assert!((count..count + 100).contains(&after), "{after}");
    let status = proxy.admin_get("/status.json").json();
    assert_eq!(status["keyUsage"]["isKept"], true);
    assert_eq!(status["keyUsage"]["incompleteKeys"], 0);
    let (code, printed) = proxy.run(&["keys", "usage"]);
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("foo version 1 (encrypts)"), "{printed}");
}

/// A disk that fails: calls go on, the metric shows it at once, and the true number is written when
/// the disk works again.
#[test]
fn a_failing_disk() {
    let prepared = prepare(kept());
    set(&prepared, "0");
    let mut proxy = prepared.start();
    let client = proxy.client();
    encrypt(&client);
    let limit = |proxy: &Proxy, bytes: &str| {
        let pid = proxy.pid().to_string();
        let mut command = Command::new("prlimit");
        command.args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")]);
        tools::run(&mut command, "prlimit(1) of util-linux is needed");
    };
    limit(&proxy, "0");
    proxy.wait_for("the failure to show", |proxy| {
        encrypt(&client);
        metric(proxy, FAILING) == 1
    });
    let count = metric(&proxy, ENCRYPTIONS);
    assert!((0..20).all(|_| encrypt(&client)["ciphertext"].is_string()));
    assert!(metric(&proxy, ENCRYPTIONS) >= count + 20);
    limit(&proxy, "unlimited");
    proxy.wait_for("the record to be written again", |proxy| metric(proxy, FAILING) == 0);
    assert_eq!(metric(&proxy, INCOMPLETE), 0);
    end(&mut proxy);
    assert!(usage(&proxy)["encryptions"].as_u64().unwrap() >= count + 20);
}

/// A directory without room, or to which nothing can be written, from the start on: calls go on,
/// and the count is marked.
#[test]
fn no_room_and_no_permission() {
    for mount in ["mount -t tmpfs -o size=4k none", "mount -o bind,ro /tmp"] {
        let mut prepared = prepare(kept());
        let state = prepared.directory().join("state");
        let link = prepared.directory().join("linked-proxy");
        let binary = prepared.link_binary();
        fs::remove_file(&link).unwrap();
        let script = format!(
            "#!/bin/sh\nset -e\nif [ \"$1\" != inside ]; then exec unshare -rm \"$0\" inside \"$@\"; \
             fi\nshift\n{mount} {state}\ndd if=/dev/zero of={state}/fill bs=4k count=9 2>&1 || \
             true\nexec {binary} \"$@\"\n",
            state = state.display(),
            binary = binary.display(),
        );
        fs::write(&link, script).unwrap();
        fs::set_permissions(&link, fs::Permissions::from_mode(0o755)).unwrap();
        let proxy = prepared.start();
        let client = proxy.client();
        let encrypted = encrypt(&client);
        decrypt(&client, &encrypted);
        assert_eq!(metric(&proxy, FAILING), 1, "{mount}");
        assert_eq!(metric(&proxy, INCOMPLETE), 1, "{mount}");
        assert!(metric(&proxy, ENCRYPTIONS) >= 1);
        proxy.log_with("the count of uses of keys cannot be written");
    }
}

/// A damaged record is kept, the count is marked, and calls go on.
#[test]
fn a_damaged_record() {
    let prepared = prepare(kept());
    set(&prepared, "500");
    let mut proxy = prepared.start();
    encrypt(&proxy.client());
    end(&mut proxy);
    let ledger = state_of(&proxy).join("key-usage");
    let text = fs::read_to_string(&ledger).unwrap().replace("\"key\":\"foo\"", "\"key\":\"fop\"");
    fs::write(&ledger, &text).unwrap();
    proxy.restart();
    encrypt(&proxy.client());
    assert_eq!(metric(&proxy, INCOMPLETE), 1);
    let entries = fs::read_dir(state_of(&proxy)).unwrap().map(|entry| entry.unwrap().path());
    let mut aside = entries.filter(|path| path.to_str().unwrap().contains("key-usage.damaged-"));
    assert_eq!(fs::read_to_string(aside.next().unwrap()).unwrap(), text);
    proxy.log_with("the record of uses of keys was damaged");
}

/// During an upgrade both processes count, in separate files, and nothing is lost.
#[test]
fn two_processes_during_an_upgrade() {
    let setup = kept().set("server.drain_delay_milli", 1500);
    let prepared = prepare(setup);
    set(&prepared, "0");
    let mut proxy = prepared.start();
    let client = proxy.client();
    let mut connection = client.connect();
    let mut call = |_| {
        client.send(&mut connection, ENCRYPT, xks::encrypt(b"a", None).to_string().as_bytes());
        connection.receive().unwrap().ok();
    };
    (0..10).for_each(&mut call);
    proxy.signal("USR2");
    proxy.log_with("another process serves");
    // The old process answers one more call on this connection, and then closes it.
    call(0);
    let files = || {
        let names = fs::read_dir(state_of(&proxy)).unwrap().map(|it| it.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("key-usage.")).count()
    };
    assert_eq!(files(), 2);
    (0..7).for_each(|_| drop(encrypt(&client)));
    let log = proxy.log();
    let pid = log.split("upgrade: started").nth(1).unwrap().split("pid=").nth(1).unwrap();
    let pid: u32 = pid.split_whitespace().next().unwrap().parse().unwrap();
    proxy.wait_for_end();
    tools::run(Command::new("kill").arg(pid.to_string()), "kill(1) is needed");
    let start = Instant::now();
    while fs::exists(format!("/proc/{pid}")).unwrap() && start.elapsed().as_secs() < 60 {
        thread::sleep(Duration::from_millis(20));
    }
    let found = usage(&proxy);
    assert_eq!(found["isComplete"], true, "{found}");
    let count = found["encryptions"].as_u64().unwrap();
    assert!((18..200).contains(&count), "{found}: exact after two orderly ends");
}

/// With `refuse`, a count that is not known is an error at the start, which tells what to do; at the
/// limit, encrypts are refused and decrypts go on.
#[test]
fn refusal_at_the_limit() {
    let mut prepared = prepare(kept());
    prepared.change_settings("encryption_count.at_limit", "refuse");
    let (status, log) = prepared.run_to_end();
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(log.contains("keys usage --set KEY COUNT"), "{log}");
    set(&prepared, "4294967000");
    let proxy = prepared.start();
    let client = proxy.client();
    let encrypted = encrypt(&client);
    let mut made = 1;
    let refused = loop {
        let response = client.call(ENCRYPT, &xks::encrypt(b"plaintext", None));
        if response.status != 200 {
            break response;
        }
        made += 1;
        assert!(made < 300, "{made}");
    };
    refused.assert_error(400, "InvalidStateException");
    let said = String::from_utf8_lossy(&refused.body);
    assert!(said.contains("has made 4294967296 encryptions"), "{said}");
    decrypt(&client, &encrypted);
    assert!(metric(&proxy, ENCRYPTIONS) >= 1 << 32);
    // A key without a record is refused at a reload as well.
    proxy.change_settings(|table| {
        let stores = table["external_key_stores"].as_array_mut().unwrap();
        stores[0]["xks_key_id_set"].as_array_mut().unwrap().push("bar".into());
    });
    proxy.signal("HUP");
    let log = proxy.log_with("the new settings are refused");
    assert!(log.contains("the counts of 1 keys are incomplete: bar. For each"), "{log}");
    let (code, printed) = proxy.run(&["keys", "usage", "--set", "bar", "0"]);
    assert_eq!(code, Some(0), "{printed}");
    proxy.signal("HUP");
    proxy.log_with("settings reloaded");
}

//! The program under test as a separate process, with everything it needs in its own directory.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use tempfile::TempDir;
use toml::{Table, Value};

use super::certificates::{CLIENT_NAME, Certificates, ClientIdentity};
use super::client::Client;
use super::http::{Connection, Response};
use super::settings::{self, Store};
use super::token::{self, Module, Token};
use super::tools;

/// Variable with the path of the module behind the interposer, which the proxy's commands load too.
const INTERPOSED: &str = "XKS_INTERPOSER_MODULE";

/// Upper bound of the time that a start or stop takes on any machine.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// Settings and environment to start a proxy with.
pub struct Setup {
    module: Module,
    table: Table,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// A setup with plain HTTP, SigV4, SoftHSM2 and two stores.
    pub fn new() -> Self {
        Self::with_module(Module::SoftHsm2)
    }

    /// The same setup with another module.
    pub fn with_module(module: Module) -> Self {
        Self { module, table: settings::standard(), environment: Vec::new() }
    }

    /// A setup with an administrator's settings file, for an HSM that SoftHSM2 stands in for.
    /// Changes only the members that depend on the machine (address, ports, certificates, module,
    /// PIN, log directory), and the deadline, as in [`settings::standard`].
    pub fn of_file(text: &str) -> Self {
        let mut table: Table = text.parse().unwrap();
        for (section, member) in [
            ("tls", "tls_cert_pem"),
            ("tls", "tls_key_pem"),
            ("tls", "mtls_client_ca_pem"),
            ("pkcs11", "PKCS11_HSM_MODULE"),
        ] {
            // `prepare` fills it in.
            let section = table.get_mut(section).and_then(Value::as_table_mut);
            section.expect("a section").remove(member).expect("a member");
        }
        Self { module: Module::SoftHsm2, table, environment: Vec::new() }
            .set("server.ip", "127.0.0.1")
            .set("server.port", 0)
            .set("server.port_http_ping", 0)
            .set("pkcs11.user_pin", token::PIN)
            .set("tracing.directory", "logs")
            .set("limits.request_deadline_milli", settings::GENEROUS_DEADLINE_MILLI)
    }

    /// Enables TLS.
    pub fn tls(self) -> Self {
        self.set("security.is_tls_enabled", true)
    }

    /// Enables TLS and client certificates.
    pub fn mtls(self) -> Self {
        self.tls().set("security.is_mtls_enabled", true)
    }

    /// Restores the proxy's default deadline, for tests of deadlines.
    pub fn usual_deadline(mut self) -> Self {
        settings::usual_deadline(&mut self.table);
        self
    }

    /// Sets a member of the settings by its dotted path.
    pub fn set(mut self, member: &str, value: impl Into<Value>) -> Self {
        settings::set(&mut self.table, member, value);
        self
    }

    /// Removes a member of the settings.
    pub fn unset(mut self, section: &str, member: &str) -> Self {
        self.table[section].as_table_mut().unwrap().remove(member).expect("a member");
        self
    }

    /// Changes the section of each store.
    pub fn stores(mut self, mut change: impl FnMut(&mut Table)) -> Self {
        for store in self.table["external_key_stores"].as_array_mut().unwrap() {
            change(store.as_table_mut().unwrap());
        }
        self
    }

    /// Sets a member of one of the two stores.
    pub fn set_in_store(mut self, index: usize, member: &str, value: impl Into<Value>) -> Self {
        let stores = self.table["external_key_stores"].as_array_mut().unwrap();
        stores[index].as_table_mut().unwrap().insert(member.to_owned(), value.into());
        self
    }

    /// Sets a variable of the proxy's environment.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Makes the token, the certificates and the settings file, without starting the proxy.
    pub fn prepare(mut self) -> Prepared {
        let directory = tempfile::Builder::new().prefix("xks-proxy-test").tempdir().unwrap();
        let token = Token::new(self.module, directory.path());
        if let Some(parameters) = self.module.initialize_parameters(directory.path()) {
            settings::set(&mut self.table, "pkcs11.initialize_parameters", parameters);
        }
        let certificates = Certificates::new(directory.path());
        let file = |name: &str| certificates.path(name).to_str().unwrap().to_owned();
        for (member, value) in [
            ("tls.tls_cert_pem", file("server_cert.pem")),
            ("tls.tls_key_pem", file("server_key.pem")),
            ("tls.mtls_client_ca_pem", file("client_ca.pem")),
            ("tls.mtls_client_dns_name", CLIENT_NAME.to_owned()),
            ("pkcs11.PKCS11_HSM_MODULE", self.module.path().to_str().unwrap().to_owned()),
        ] {
            let (section, name) = member.split_once('.').unwrap();
            if self.table.get(section).is_none_or(|section| section.get(name).is_none()) {
                settings::set(&mut self.table, member, value);
            }
        }
        let binary = std::env::var_os("XKS_TEST_PROXY_BINARY").map(PathBuf::from);
        if binary.is_some() {
            // A program other than ours may not log the port that the system chose for it.
            for member in ["port", "port_http_ping"] {
                if self.table["server"][member].as_integer() == Some(0) {
                    settings::set(&mut self.table, &format!("server.{member}"), free_port());
                }
            }
        }
        let settings_file = directory.path().join("settings.toml");
        std::fs::write(&settings_file, self.table.to_string()).unwrap();
        Prepared {
            is_other: binary.is_some(),
            binary: binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_xks-proxy").into()),
            table: self.table,
            environment: self.environment,
            has_bootstrap: false,
            user: None,
            sockets: Vec::new(),
            open_files: None,
            settings_file,
            token,
            certificates,
            directory,
        }
    }

    /// Starts the proxy and waits until it can serve.
    #[track_caller]
    pub fn start(self) -> Proxy {
        self.prepare().start()
    }
}

/// A proxy that is ready to be started.
pub struct Prepared {
    binary: PathBuf,
    /// Set if the program is not the one that cargo built.
    is_other: bool,
    table: Table,
    environment: Vec<(String, String)>,
    /// Set if the environment does not name the settings file.
    has_bootstrap: bool,
    user: Option<u32>,
    /// Listening sockets to start it with, and their names, as systemd passes them.
    sockets: Vec<(String, TcpListener)>,
    open_files: Option<u32>,
    /// The settings file; a test may rewrite it.
    pub settings_file: PathBuf,
    /// The proxy's token.
    pub token: Token,
    /// All certificates.
    pub certificates: Certificates,
    directory: TempDir,
}

impl Prepared {
    /// The proxy's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the proxy after setting a member of the settings to a path in its directory.
    #[track_caller]
    pub fn start_with(mut self, member: &str, value: impl Into<Value>) -> Proxy {
        self.change_settings(member, value);
        self.start()
    }

    /// Sets a variable of the proxy's environment.
    pub fn env(&mut self, name: &str, value: impl Into<String>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// Sets up the working directory like that of the sources, with the settings where the
    /// bootstrap file points and no environment variable that names either file.
    pub fn bootstrap(&mut self) {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("configuration/bootstrap.toml");
        let bootstrap = std::fs::read_to_string(sources).unwrap();
        let named = bootstrap.parse::<Table>().unwrap()["XKS_PROXY_SETTINGS_TOML"].clone();
        let directory = self.directory.path();
        std::fs::create_dir(directory.join("configuration")).unwrap();
        std::fs::write(directory.join("configuration/bootstrap.toml"), bootstrap).unwrap();
        let settings_file = directory.join(named.as_str().unwrap());
        std::fs::rename(&self.settings_file, &settings_file).unwrap();
        self.settings_file = settings_file;
        self.has_bootstrap = true;
    }

    /// Makes the proxy start through its own symbolic link, which a test may redirect.
    pub fn link_binary(&mut self) -> PathBuf {
        let link = self.directory.path().join("linked-proxy");
        std::os::unix::fs::symlink(&self.binary, &link).unwrap();
        std::mem::replace(&mut self.binary, link)
    }

    /// Passes the proxy listening sockets at its start, at most two, as systemd does.
    pub fn activate(&mut self, sockets: Vec<(&str, TcpListener)>) {
        let owned = |(name, socket): (&str, TcpListener)| (name.to_owned(), socket);
        self.sockets = sockets.into_iter().map(owned).collect();
    }

    /// Runs the proxy as another user, who then owns everything in its directory. Needs root.
    pub fn run_as(&mut self, user: u32) {
        // The program's own directory may not be accessible to everybody.
        let binary = self.directory.path().join("xks-proxy");
        std::fs::copy(&self.binary, &binary).unwrap();
        self.binary = binary;
        self.user = Some(user);
        let mut chown = Command::new("chown");
        chown.arg("-R").arg(format!("{user}:{user}")).arg(self.directory.path());
        tools::run(&mut chown, "chown(1) is needed");
    }

    /// Sets both the soft and the hard limit of the proxy's open files.
    pub fn limit_open_files(&mut self, open_files: u32) {
        self.open_files = Some(open_files);
    }

    /// Starts the proxy and waits until `/readyz` (another program: `/ping`) is 200.
    #[track_caller]
    pub fn start(self) -> Proxy {
        let path = if self.is_other { "/ping" } else { "/readyz" };
        let mut proxy = self.start_listening();
        proxy.wait_for(
            &format!("{path} to be 200"),
            |proxy| matches!(proxy.try_get(path), Ok(response) if response.status == 200),
        );
        proxy
    }

    /// Starts the proxy and waits until it listens.
    #[track_caller]
    pub fn start_listening(self) -> Proxy {
        let child = self.spawn();
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut proxy = Proxy { prepared: self, child, api: unknown, ping: unknown };
        if proxy.prepared.is_other {
            let server = &proxy.prepared.table["server"];
            let port = |member: &str| u16::try_from(server[member].as_integer().unwrap()).unwrap();
            proxy.api = SocketAddr::from((Ipv4Addr::LOCALHOST, port("port")));
            proxy.ping = SocketAddr::from((Ipv4Addr::LOCALHOST, port("port_http_ping")));
            proxy.wait_for("the ports to open", |proxy| {
                Connection::open(proxy.api, None).is_ok()
                    && Connection::open(proxy.ping, None).is_ok()
            });
        } else {
            proxy.wait_for("the line in the log that says where it listens", |proxy| {
                let Some((api, ping)) = listening(&proxy.log()) else { return false };
                (proxy.api, proxy.ping) = (api, ping);
                true
            });
        }
        proxy
    }

    /// Starts the proxy, waits for it to exit, and returns its status and output.
    #[track_caller]
    pub fn run_to_end(&self) -> (ExitStatus, String) {
        let mut child = self.spawn();
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return (status, self.log());
            }
            if started.elapsed() > DEADLINE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it has not ended. Its log:\n{}", self.log());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Returns a top-level member of the settings.
    pub fn member(&self, name: &str) -> Value {
        self.table[name].clone()
    }

    /// Sets a member of the settings file by its dotted path.
    pub fn change_settings(&mut self, member: &str, value: impl Into<Value>) {
        settings::set(&mut self.table, member, value);
        std::fs::write(&self.settings_file, self.table.to_string()).unwrap();
    }

    /// Runs a command with the settings file, token and environment of the proxy, which is not
    /// started, and with nobody at the terminal. Returns its exit code and output.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.command(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        finish(&mut command)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .current_dir(self.directory())
            .env("XKS_PROXY_SETTINGS_TOML", &self.settings_file)
            .env_remove("PKCS11_HSM_MODULE")
            .envs(self.token.environment());
        command
    }

    fn spawn(&self) -> Child {
        let log = File::create(self.log_file()).unwrap();
        let mut command = match self.sockets.is_empty() {
            true => Command::new(&self.binary),
            false => self.activated(),
        };
        if let Some(open_files) = self.open_files {
            // prlimit executes the proxy in the same process.
            command = Command::new("prlimit");
            command.arg(format!("--nofile={open_files}:{open_files}")).arg(&self.binary);
        }
        match self.has_bootstrap {
            true => command.env_remove("XKS_PROXY_SETTINGS_TOML"),
            false => command.env("XKS_PROXY_SETTINGS_TOML", &self.settings_file),
        };
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
            .current_dir(self.directory.path())
            .env_remove("PKCS11_HSM_MODULE")
            .env("RUST_BACKTRACE", "1")
            .envs(self.token.environment())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(self.socket(0).unwrap_or_else(Stdio::null))
            .stdout(self.socket(1).unwrap_or_else(|| log.try_clone().unwrap().into()))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()))
    }

    fn socket(&self, index: usize) -> Option<Stdio> {
        let (_, socket) = self.sockets.get(index)?;
        Some(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()).into())
    }

    /// Returns a shell command that moves the descriptors to their numbers (sd_listen_fds(3)) and
    /// then executes the proxy.
    fn activated(&self) -> Command {
        let names: Vec<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec 3<&0 4>&1 </dev/null >&2; LISTEN_PID=$$ exec \"$0\""])
            .arg(&self.binary)
            .env("LISTEN_FDS", names.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        command
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("proxy.log")
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }
}

/// Runs a command without standard input. Returns its exit code and output.
fn finish(command: &mut Command) -> (Option<i32>, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
}

/// A running proxy. It is killed when dropped; its log is shown if the test fails.
pub struct Proxy {
    prepared: Prepared,
    child: Child,
    /// Address of the API.
    pub api: SocketAddr,
    /// Address of `/ping`.
    pub ping: SocketAddr,
}

impl Proxy {
    /// Returns a client of the first store, over TLS with the right certificate if configured.
    pub fn client(&self) -> Client {
        self.client_of(&Store::first())
    }

    /// Returns a client of the first store that signs with a secret the proxy does not have.
    pub fn stranger(&self) -> Client {
        self.client_of(&Store {
            secret_access_key: "NotTheSecretAccessKeyThatTheProxyHas000000000".into(),
            ..Store::first()
        })
    }

    /// Returns a client of `store`.
    pub fn client_of(&self, store: &Store) -> Client {
        let security = &self.prepared.table["security"];
        let is_on = |member: &str| security[member].as_bool() == Some(true);
        let tls = is_on("is_tls_enabled").then(|| {
            let identity = is_on("is_mtls_enabled").then_some(ClientIdentity::Right);
            self.tls_config(identity)
        });
        let mut client = Client::new(self.api, tls, store);
        let region = &self.prepared.table["server"]["region"];
        region.as_str().unwrap().clone_into(&mut client.signer.region);
        client
    }

    /// Returns a TLS configuration with the certificate of `identity`, if any.
    pub fn tls_config(&self, identity: Option<ClientIdentity>) -> Arc<ClientConfig> {
        self.prepared.certificates.client_config(identity, &[&TLS12, &TLS13], |_| {})
    }

    /// The proxy's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The proxy's token.
    pub fn token(&self) -> &Token {
        &self.prepared.token
    }

    /// All certificates.
    pub fn certificates(&self) -> &Certificates {
        &self.prepared.certificates
    }

    /// The directory of settings, token, certificates and log.
    pub fn directory(&self) -> &Path {
        self.prepared.directory.path()
    }

    /// Returns its standard output and standard error so far.
    pub fn log(&self) -> String {
        self.prepared.log()
    }

    /// Returns the address of the admin listener, as logged.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("listening")).unwrap();
        address(line, "admin").unwrap_or_else(|| panic!("no admin listener: {line}"))
    }

    /// Sends a GET to the admin listener, without TLS.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Response {
        let mut connection = Connection::open(self.admin(), None).unwrap();
        connection
            .send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .unwrap();
        connection.receive().unwrap()
    }

    /// Sends a GET to the ping port.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.try_get(path).unwrap()
    }

    fn try_get(&self, path: &str) -> std::io::Result<Response> {
        let mut connection = Connection::open(self.ping, None)?;
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())?;
        connection.receive()
    }

    /// The proxy's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the settings file that the proxy was started with.
    pub fn settings_file(&self) -> &Path {
        &self.prepared.settings_file
    }

    /// Changes the settings file that the proxy was started with, without a reload.
    pub fn change_settings(&self, change: impl FnOnce(&mut Table)) {
        let file = &self.prepared.settings_file;
        let mut table: Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
        change(&mut table);
        std::fs::write(file, table.to_string()).unwrap();
    }

    /// Runs `xks-proxy reload`. Returns its exit code and output.
    pub fn reload(&self) -> (Option<i32>, String) {
        self.run(&["reload"])
    }

    /// Runs another command with the same settings file and token. Returns its exit code and
    /// output.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.prepared.command(arguments);
        command.envs(
            self.prepared.environment.iter().filter(|(name, _)| *name == INTERPOSED).cloned(),
        );
        finish(&mut command)
    }

    /// Sends a signal: `TERM`, `INT`, `HUP`.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        tools::run(Command::new("sh").args(["-c", &command]), "a POSIX shell is needed");
    }

    /// Waits until `condition` holds; fails if the proxy exits first, or after a long time.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        while !condition(self) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("waiting for {what}: the proxy has ended ({status})");
            }
            assert!(started.elapsed() < DEADLINE, "waiting for {what}");
            std::thread::sleep(POLL);
        }
    }

    /// Returns the log once it contains `text`: it is written asynchronously. Fails after a long
    /// time.
    #[track_caller]
    pub fn log_with(&self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(started.elapsed() < DEADLINE, "the log has no {text:?}");
            std::thread::sleep(POLL);
        }
    }

    /// Restarts the proxy once it has exited, with a new log, and waits until it listens.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.wait_for_end();
        self.child = self.prepared.spawn();
        self.wait_for("it to listen again", |proxy| {
            let Some((api, ping)) = listening(&proxy.log()) else { return false };
            (proxy.api, proxy.ping) = (api, ping);
            true
        });
    }

    /// Restarts the proxy once it has exited, with the same token, settings and directory, and
    /// waits until it is ready. Its former log is discarded.
    #[track_caller]
    pub fn restart(&mut self) {
        self.child = self.prepared.spawn();
        self.wait_for("/readyz of the new process to be 200", |proxy| {
            let Some((api, ping)) = listening(&proxy.log()) else { return false };
            (proxy.api, proxy.ping) = (api, ping);
            matches!(proxy.try_get("/readyz"), Ok(response) if response.status == 200)
        });
    }

    /// Waits until the proxy has exited.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < DEADLINE, "it has not ended");
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("---- the proxy's log\n{log}----");
        } else {
            // The proxy survives a panic, but no peer and no HSM may cause one.
            assert!(!log.contains("panic") && !log.contains("is a defect"), "{log}");
        }
    }
}

/// Returns the address after `name`.
fn address(line: &str, name: &str) -> Option<SocketAddr> {
    let text = line.split_once(name)?.1;
    let text = text.trim_start_matches(['"', '=', ':']);
    let is_part = |c: char| c.is_ascii_hexdigit() || ".:[]".contains(c);
    text[..text.find(|c| !is_part(c)).unwrap_or(text.len())].parse().ok()
}

/// Returns the addresses in `... listening ... api=IP:PORT ... ping=IP:PORT ...`.
fn listening(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    // The last line may be incomplete.
    let (lines, _) = log.rsplit_once('\n')?;
    lines
        .lines()
        .filter(|line| line.contains("listening"))
        .find_map(|line| Some((address(line, "api")?, address(line, "ping")?)))
}

/// Returns a free port of the loopback address. It is not among those that the kernel gives to
/// clients: a proxy that starts again would find its port taken by one.
pub fn free_port() -> i64 {
    /// Fixed ports of other programs are below.
    const FIRST: u32 = 10_000;
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let clients: u32 = range.split_whitespace().next().unwrap().parse().unwrap();
    // Test programs that run at the same time begin at different ports.
    let at =
        std::process::id().wrapping_mul(101).wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed));
    let port =
        clients.checked_sub(FIRST).and_then(|count| at.checked_rem(count)).map(|it| FIRST + it);
    match TcpListener::bind((Ipv4Addr::LOCALHOST, u16::try_from(port.unwrap_or(0)).unwrap())) {
        Ok(listener) => i64::from(listener.local_addr().unwrap().port()),
        Err(error) if error.kind() == ErrorKind::AddrInUse => free_port(),
        Err(error) => panic!("{error}"),
    }
}

//! A server that does as a test says, and the generator run against it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Reply to a request.
pub enum Reply {
    /// Status, body.
    Answer(u16, String),
    /// Answered, and the connection closed as announced.
    AnswerAndClose(u16, String),
    /// The connection closed without an answer.
    Close,
    /// No answer.
    Silence,
}

/// Called with the request's number, counted from 0 over all connections, and its text.
type Behaviour = dyn Fn(usize, &str) -> Reply + Send + Sync;

/// Serves on a free port of loopback for as long as the test's process lives.
pub fn serve(
    tls: Option<Arc<ServerConfig>>,
    behaviour: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let behaviour: Arc<Behaviour> = Arc::new(behaviour);
    let count = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            socket.set_nodelay(true).unwrap();
            let (behaviour, count, tls) = (behaviour.clone(), count.clone(), tls.clone());
            // The client may go away at any time: that ends the thread.
            std::thread::spawn(move || match tls {
                None => connection(socket, &*behaviour, &count),
                Some(config) => {
                    let session = ServerConnection::new(config).unwrap();
                    connection(StreamOwned::new(session, socket), &*behaviour, &count)
                }
            });
        }
    });
    address
}

/// From the files that `make-cert` wrote.
pub fn server_config(directory: &Path) -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(directory.join("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn connection(
    mut stream: impl Read + Write,
    behaviour: &Behaviour,
    count: &AtomicUsize,
) -> io::Result<()> {
    let mut received = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let bytes = stream.read(&mut chunk)?;
        if bytes == 0 {
            return Ok(());
        }
        received.extend_from_slice(&chunk[..bytes]);
        let text = String::from_utf8(received.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        if body.len() < length.parse().unwrap() {
            continue;
        }
        received.clear();
        let number = count.fetch_add(1, Ordering::SeqCst);
        let (status, body, close) = match behaviour(number, &text) {
            Reply::Answer(status, body) => (status, body, ""),
            Reply::AnswerAndClose(status, body) => (status, body, "Connection: close\r\n"),
            Reply::Close => return Ok(()),
            Reply::Silence => continue,
        };
        let length = body.len();
        write!(stream, "HTTP/1.1 {status} X\r\n{close}Content-Length: {length}\r\n\r\n{body}")?;
        stream.flush()?;
        if !close.is_empty() {
            return Ok(());
        }
    }
}

/// Runs the generator for a key `foo`.
pub fn generator(address: SocketAddr, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xks-load"))
        .args(["run", "--key-id", "foo", "--access-key-id", "AAAAAAAAAAAAAAAAAAAA"])
        .args(["--address", &address.to_string()])
        .args(arguments)
        .env("XKS_LOAD_SECRET_ACCESS_KEY", "s".repeat(43))
        .output()
        .unwrap()
}

/// Runs it and reads its results.
pub fn results(address: SocketAddr, arguments: &[&str]) -> (serde_json::Value, Output) {
    let name = format!("xks-load-test-{}-{}.json", std::process::id(), address.port());
    let file = std::env::temp_dir().join(name);
    let mut all = arguments.to_vec();
    all.extend(["--json", file.to_str().unwrap()]);
    let output = generator(address, &all);
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let _ = std::fs::remove_file(file);
    (serde_json::from_str(&text).unwrap(), output)
}

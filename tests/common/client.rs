//! A client that calls a key store as KMS does.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use serde_json::Value;

use super::http::{Connection, Response};
use super::settings::Store;
use super::signing::Signer;

/// A client with a credential, which opens a connection for each call.
#[derive(Clone)]
pub struct Client {
    /// The API's address.
    pub address: SocketAddr,
    /// TLS configuration, if used.
    pub tls: Option<Arc<ClientConfig>>,
    /// Key store and credential.
    pub signer: Signer,
}

impl Client {
    /// Returns a client of `store`.
    pub fn new(address: SocketAddr, tls: Option<Arc<ClientConfig>>, store: &Store) -> Self {
        Self { address, tls, signer: Signer::new(store) }
    }

    /// Opens a connection.
    pub fn connect(&self) -> Connection {
        Connection::open(self.address, self.tls.as_ref()).unwrap()
    }

    /// Returns path and query of a call: `health`, `keys/<id>/encrypt` and so on.
    pub fn target(&self, call: &str) -> String {
        format!("{}/kms/xks/v1/{call}", self.signer.store.prefix)
    }

    /// Returns the value of Host.
    pub fn host(&self) -> String {
        match self.tls {
            None => self.address.to_string(),
            Some(_) => format!("localhost:{}", self.address.port()),
        }
    }

    /// Returns the header fields of a signed POST of JSON.
    pub fn headers(&self, target: &str, body: &[u8]) -> Vec<(String, String)> {
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        headers.extend(self.sign("POST", target, &headers, body));
        headers
    }

    /// Returns the header fields that a signature adds.
    pub fn sign(
        &self,
        method: &str,
        target: &str,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Vec<(String, String)> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}{target}", self.host());
        self.signer.sign(method, &url, headers, body)
    }

    /// Sends a signed POST on `connection`.
    pub fn send(&self, connection: &mut Connection, call: &str, body: &[u8]) {
        let target = self.target(call);
        let headers = self.headers(&target, body);
        connection.send_request("POST", &target, &self.host(), &headers, body).unwrap();
    }

    /// Sends a signed POST of these bytes. Returns its answer.
    pub fn post(&self, call: &str, body: &[u8]) -> Response {
        let mut connection = self.connect();
        self.send(&mut connection, call, body);
        connection.receive().unwrap()
    }

    /// Sends a signed POST of this JSON. Returns its answer.
    pub fn call(&self, call: &str, body: &Value) -> Response {
        self.post(call, body.to_string().as_bytes())
    }
}

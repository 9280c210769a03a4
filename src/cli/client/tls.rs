//! The client's side of TLS.

use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;

/// Whom to trust, and who we are.
#[derive(Debug, Default)]
pub struct Trust {
    roots: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Trust {
    /// Trusts the certificates in `file` (PEM).
    ///
    /// # Errors
    /// The file cannot be read, or has no certificate.
    pub fn trust_file(&mut self, file: &Path) -> io::Result<()> {
        self.roots.extend(certificates(file)?);
        Ok(())
    }

    /// Shows a client certificate (mTLS).
    ///
    /// # Errors
    /// A file cannot be read, or has not what it should.
    pub fn identify(&mut self, chain: &Path, key: &Path) -> io::Result<()> {
        let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, &error))?;
        self.identity = Some((certificates(chain)?, key_der));
        Ok(())
    }
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| in_file(file, &error))?;
    if certificates.is_empty() {
        return Err(io::Error::other(format!("{}: no certificate in it", file.display())));
    }
    Ok(certificates)
}

fn in_file(file: &Path, error: &rustls_pki_types::pem::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

/// Shakes hands; says what was agreed on.
pub(super) fn connect(
    mut tcp: TcpStream,
    name: &str,
    trust: &Trust,
) -> io::Result<(StreamOwned<ClientConnection, TcpStream>, String)> {
    let mut roots = RootCertStore::empty();
    for certificate in &trust.roots {
        roots.add(certificate.clone()).map_err(io::Error::other)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots);
    let config = match &trust.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(io::Error::other)?,
    };
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    let agreed = [
        connection.protocol_version().map(|version| format!("{version:?}")),
        connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())),
        connection.negotiated_key_exchange_group().map(|group| format!("{:?}", group.name())),
    ];
    let agreed = agreed.into_iter().flatten().collect::<Vec<_>>().join(", ");
    Ok((StreamOwned::new(connection, tcp), agreed))
}

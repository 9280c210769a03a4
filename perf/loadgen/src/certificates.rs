//! Certificates for a proxy on this machine: a CA, a server, a client.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// Writes `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key` into a directory.
/// The server's names are localhost, 127.0.0.1 and ::1; the client's is `client_name`.
///
/// # Errors
/// Error from the file system or rcgen.
pub fn make(directory: &Path, client_name: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "xks-load test CA");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(io::Error::other)?)
        .map_err(io::Error::other)?;
    fs::write(directory.join("ca.pem"), ca.pem())?;

    let server = ["localhost", "127.0.0.1", "::1"];
    let server_auth = ExtendedKeyUsagePurpose::ServerAuth;
    let client_auth = ExtendedKeyUsagePurpose::ClientAuth;
    issue(directory, "server", &ca, &server, server_auth)?;
    issue(directory, "client", &ca, &[client_name], client_auth)
}

fn issue(
    directory: &Path,
    file: &str,
    ca: &CertifiedIssuer<'_, KeyPair>,
    names: &[&str],
    usage: ExtendedKeyUsagePurpose,
) -> io::Result<()> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::new(names.clone()).map_err(io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, names[0].as_str());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    let certificate = params.signed_by(&key, ca).map_err(io::Error::other)?;
    fs::write(directory.join(format!("{file}.pem")), certificate.pem())?;
    let mut key_file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(directory.join(format!("{file}.key")))?;
    key_file.write_all(key.serialize_pem().as_bytes())
}

//! Certificates and keys from PEM files, and checks of them.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use zeroize::Zeroizing;

use super::certificate_for_kms::warn_of_kms;
use super::certificate_uses::{Peer, warn_of_uses};
use super::file::{self, Ownership};
use super::section::{Member, Section, shown_path};
use crate::certificate::Certificate;
use crate::certificate::facts::date;
use crate::limits::{CERTIFICATE_WARNING_DAYS, MAX_PEM_BYTES};

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const SECS_PER_DAY: i64 = 86_400;

/// Summary of the server's certificate, for the log and `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// Subject distinguished name.
    pub subject: String,
    /// Common names (CN) in the subject.
    pub common_names: Vec<String>,
    /// DNS names of the subjectAltName extension.
    pub names: Vec<String>,
    /// Time of expiry, in seconds since 1970.
    pub not_after_unix_secs: i64,
}

/// Reads the PEM text of the file that `member` names.
fn read(member: &Member<'_>, remedy: &str) -> Option<(Zeroizing<Vec<u8>>, Ownership)> {
    let name = member.string(remedy)?;
    if name.is_empty() {
        member.mistake("it is empty", remedy);
        return None;
    }
    let path = Path::new(name);
    match file::read(path, MAX_PEM_BYTES) {
        Ok((bytes, _)) if bytes.iter().all(u8::is_ascii_whitespace) => {
            member.mistake(format!("{} is empty", shown_path(path)), remedy);
            None
        }
        // A parser would skip the first section, whose line does not begin with "-----BEGIN", and
        // take the second certificate for the server's.
        Ok((bytes, _)) if bytes.starts_with(BYTE_ORDER_MARK) => {
            let problem = format!("{} begins with a byte order mark (U+FEFF)", shown_path(path));
            member.mistake(problem, "save the file in UTF-8 without a byte order mark");
            None
        }
        Ok((bytes, ownership)) => {
            member.report().add_file(path);
            Some((bytes, ownership))
        }
        Err(error) => {
            member.mistake(format!("{} cannot be read: {error}", shown_path(path)), remedy);
            None
        }
    }
}

/// Reads all certificates of a file, at least one.
pub(super) fn read_chain(
    member: &Member<'_>,
    remedy: &str,
) -> Option<Vec<CertificateDer<'static>>> {
    let (bytes, ownership) = read(member, remedy)?;
    // Whoever can change the file can put in a CA of their own.
    let path = Path::new(member.string(remedy)?);
    file::check(&ownership, path, false, member.location(), member.report());
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            let problem = "the file has no CERTIFICATE section (PEM, RFC 7468)";
            member.mistake(problem, remedy);
            None
        }
        Ok(certificates) => Some(certificates),
        Err(error) => {
            member.mistake(format!("the file is not PEM: {error}"), remedy);
            None
        }
    }
}

/// Reads the CAs in a file (DER).
pub(super) fn read_authorities_der(member: &Member<'_>, remedy: &str) -> Option<Vec<Vec<u8>>> {
    let authorities = read_chain(member, remedy)?;
    inspect_authorities(&authorities, member, remedy);
    Some(authorities.iter().map(|der| der.to_vec()).collect())
}

/// Returns the CAs that the system trusts, or reports that there are none in place of those that the
/// member `name`, which is missing, could name. Unreadable ones are skipped.
pub(super) fn system_authorities(
    section: &Section<'_>,
    name: &str,
    remedy: &str,
) -> Option<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Some(found.certs);
    }
    let reason = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    let problem = format!("it is missing, and the system trusts no CA{reason}");
    let remedy = format!("{remedy}, or install the system's (the package ca-certificates)");
    section.report().mistake(&section.location_of(name), problem, remedy);
    None
}

/// Reads the first private key in a file.
pub(super) fn read_key(member: &Member<'_>) -> Option<PrivateKeyDer<'static>> {
    let remedy = "name the PEM file with the certificate's private key (PKCS#8, PKCS#1 or SEC1)";
    let (bytes, ownership) = read(member, remedy)?;
    let path = Path::new(member.string(remedy)?);
    file::check(&ownership, path, true, member.location(), member.report());
    let has = |mark: &str| memchr::memmem::find(&bytes, mark.as_bytes()).is_some();
    if has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED") {
        let remedy = "decrypt it (openssl pkey -in KEY -out PLAIN_KEY) into a file that only the \
                      proxy can read, and name that";
        member.mistake("the private key is encrypted with a passphrase", remedy);
        return None;
    }
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Some(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => {
            member.mistake("the file has no PRIVATE KEY section", remedy);
            None
        }
        Err(_) => {
            // The parser's message could quote the key.
            member.mistake("the file is not PEM", remedy);
            None
        }
    }
}

/// Combines a chain with its key, which must match the first certificate.
pub(super) fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
    cert_member: &Member<'_>,
    key_member: &Member<'_>,
) -> Option<CertifiedKey> {
    let key = match provider.key_provider.load_private_key(key) {
        Ok(key) => key,
        Err(error) => {
            let remedy = "use an RSA key of at least 2048 bits or an ECDSA key on P-256 or P-384";
            key_member.mistake(format!("the private key is not usable: {error}"), remedy);
            return None;
        }
    };
    let fits = |chain: Vec<CertificateDer<'static>>| {
        use rustls::{Error, InconsistentKeys};
        match CertifiedKey::new(chain, key.clone()).keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(true),
            Err(Error::InconsistentKeys(_)) => Ok(false),
            Err(error) => Err(error),
        }
    };
    match fits(chain.clone()) {
        Ok(true) => {}
        Ok(false) => {
            let other =
                chain.iter().skip(1).find(|other| fits(vec![(*other).clone()]).unwrap_or(false));
            if other.is_some() {
                let problem =
                    "the private key matches a certificate of this file, but not the first";
                cert_member.mistake(problem, "put the server's own certificate first");
            } else {
                let problem = "the private key does not belong to the certificate in tls_cert_pem";
                let remedy = "name the key that the certificate was requested with";
                key_member.mistake(problem, remedy);
            }
            return None;
        }
        Err(error) => {
            let remedy = "request a new certificate";
            cert_member.mistake(format!("the certificate is not usable: {error}"), remedy);
            return None;
        }
    }
    Some(CertifiedKey::new(chain, key))
}

/// Warns of properties that clients may reject and of an approaching expiry, and returns a summary
/// for the log.
pub(super) fn inspect_chain(
    chain: &[CertificateDer<'static>],
    member: &Member<'_>,
    peer: Peer,
) -> Option<CertificateSummary> {
    let mut parsed = Vec::with_capacity(chain.len());
    for (index, der) in chain.iter().enumerate() {
        match X509Certificate::from_der(der) {
            Ok((_, certificate)) => parsed.push(certificate),
            Err(_) => {
                let problem = format!("certificate {} of the file is not X.509", index + 1);
                member.mistake(problem, "replace it with a new one, or remove it");
                return None;
            }
        }
    }
    for (index, certificate) in parsed.iter().enumerate() {
        warn_of_dates(certificate, &format!("certificate {} of the file", index + 1), member);
    }
    let out_of_order = parsed.windows(2).position(
        |pair| matches!(pair, [one, next] if one.issuer().as_raw() != next.subject().as_raw()),
    );
    if let Some(index) = out_of_order {
        let problem = format!(
            "certificate {} of the file is not the issuer of certificate {}: clients may not \
             find the chain",
            index + 2,
            index + 1
        );
        let remedy = "put the server's certificate first, then the one that issued it, and so on";
        member.warning(problem, remedy);
    }
    let facts: Vec<Certificate> = chain.iter().filter_map(|der| Certificate::parse(der)).collect();
    warn_of_uses(&parsed, &facts, peer, member);
    let server = facts.first()?;
    match peer {
        Peer::Kms => {
            if server.dns_names.is_empty() {
                let problem =
                    "the certificate has no DNS name (subjectAltName): KMS will reject it";
                member.warning(problem, "have it issued for the proxy's DNS name");
            }
            warn_of_kms(&facts, member);
        }
        // Prometheus and our own commands may call an address.
        Peer::Operators => {
            let has_name = parsed.first().is_some_and(|server| {
                matches!(server.subject_alternative_name(), Ok(Some(names))
                    if !names.value.general_names.is_empty())
            });
            if !has_name {
                let problem =
                    "the certificate has no name (subjectAltName): clients will reject it";
                member.warning(problem, "have it issued for the name or address that they call");
            }
        }
    }
    Some(CertificateSummary {
        subject: server.subject.clone(),
        common_names: server.common_names.clone(),
        names: server.dns_names.clone(),
        not_after_unix_secs: server.not_after_unix_secs,
    })
}

/// Reads the CAs that verify peers from the file that the member names, and warns of unfit ones.
pub(super) fn read_authorities(member: &Member<'_>, remedy: &str) -> Option<RootCertStore> {
    let authorities = read_chain(member, remedy)?;
    inspect_authorities(&authorities, member, remedy);
    let mut roots = RootCertStore::empty();
    let mut is_right = true;
    for (index, authority) in authorities.into_iter().enumerate() {
        if let Err(error) = roots.add(authority) {
            let problem = format!("certificate {} of the file is not usable: {error}", index + 1);
            member.mistake(problem, remedy);
            is_right = false;
        }
    }
    is_right.then_some(roots)
}

/// Warns of properties that make a CA unfit to verify peers.
fn inspect_authorities(chain: &[CertificateDer<'static>], member: &Member<'_>, remedy: &str) {
    for (index, der) in chain.iter().enumerate() {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            continue;
        };
        let name = format!("certificate {} of the file", index + 1);
        warn_of_dates(&certificate, &name, member);
        if !certificate.is_ca() {
            let problem = format!("{name} is not a CA's (basicConstraints)");
            member.warning(problem, remedy);
        }
    }
}

/// Warns of the expiry but does not refuse an expired certificate, which would turn a warning into
/// an outage. Some clients accept it, and calls work again as soon as it is replaced.
fn warn_of_dates(certificate: &X509Certificate<'_>, name: &str, member: &Member<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    let (begin, end) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let replace = "replace it";
    if now > end {
        let problem = format!("{name} EXPIRED on {}: clients will reject it", date(end));
        member.warning(problem, "replace it now");
    } else if now < begin {
        let problem = format!("{name} is not valid before {}: clients will reject it", date(begin));
        member.warning(problem, "check this machine's clock, or replace the certificate");
    } else if end - now < CERTIFICATE_WARNING_DAYS * SECS_PER_DAY {
        let days = (end - now) / SECS_PER_DAY;
        member.warning(format!("{name} expires on {}, in {days} days", date(end)), replace);
    }
}

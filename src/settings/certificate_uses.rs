//! Properties of a server's certificate for which KMS, like most clients, refuses it in the
//! handshake, although the proxy can serve with it.

use x509_parser::certificate::X509Certificate;

use super::section::{Member, shown};
use crate::certificate::{Authorities, Certificate};

/// id-pe-tlsfeature (RFC 7633, 6), and the number of status_request in its list.
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";
const STATUS_REQUEST: [u8; 3] = [0x02, 0x01, 0x05];

/// Who is shown a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// AWS KMS, at `[server]`.
    Kms,
    /// Prometheus, browsers and our own commands, at `[admin]`.
    Operators,
}

impl Peer {
    fn refuses(self) -> &'static str {
        match self {
            Self::Kms => "KMS refuses the handshake",
            Self::Operators => "clients refuse the handshake",
        }
    }
}

/// Warns of each such property in a chain, the server's certificate first. `peer` is who refuses it;
/// a public root is a matter of KMS alone.
pub(super) fn warn_of_uses(
    chain: &[X509Certificate<'_>],
    facts: &[Certificate],
    peer: Peer,
    member: &Member<'_>,
) {
    let Some(server) = chain.first() else { return };
    let refuses = peer.refuses();
    if peer == Peer::Kms && is_alone(facts) {
        let issuer = shown(&server.issuer().to_string());
        let problem = format!(
            "the file has the server's certificate alone, and not that of its issuer, {issuer}, \
             which is no root that KMS accepts: KMS refuses the handshake"
        );
        member.warning(problem, "append the certificates that lead to the root, the issuer first");
    }
    if let Ok(Some(uses)) = server.extended_key_usage()
        && !(uses.value.server_auth || uses.value.any)
    {
        let problem = format!(
            "the certificate is not for servers (extendedKeyUsage lacks serverAuth): {refuses}"
        );
        member.warning(problem, "have one issued for TLS servers");
    }
    if let Ok(Some(uses)) = server.key_usage()
        && !uses.value.digital_signature()
    {
        let problem = format!(
            "the certificate's key is not for signatures (keyUsage lacks digitalSignature), which \
             each cipher suite of this proxy needs: {refuses}"
        );
        member.warning(problem, "have one issued with digitalSignature");
    }
    if requires_stapling(server) {
        let problem = "the certificate demands a stapled OCSP response (must-staple, RFC 7633), \
                       which this proxy does not send: clients that check it refuse the handshake";
        member.warning(problem, "have one issued without that extension");
    }
    for (index, certificate) in chain.iter().enumerate() {
        // Nobody verifies the signature of a root on itself.
        let is_root = certificate.issuer().as_raw() == certificate.subject().as_raw();
        if let Some(hash) = weak_hash(certificate)
            && !is_root
        {
            let problem =
                format!("certificate {} of the file is signed with {hash}: {refuses}", index + 1);
            member.warning(problem, "have one issued that is signed with SHA-256");
        }
    }
}

/// Returns whether the issuer's certificate has to be in the file too.
pub(super) fn is_alone(chain: &[Certificate]) -> bool {
    matches!(chain, [server] if !server.is_self_issued)
        && Authorities::shipped().named(chain).is_none()
}

fn requires_stapling(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| {
        extension.oid.to_id_string() == TLS_FEATURE
            && extension.value.windows(STATUS_REQUEST.len()).any(|part| part == STATUS_REQUEST)
    })
}

/// Returns the name of a hash for which collisions are known.
fn weak_hash(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        // RSA, ECDSA and DSA: RFC 3279, 2.2.
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => Some("SHA-1"),
        "1.2.840.113549.1.1.4" => Some("MD5"),
        _ => None,
    }
}

//! Requirements of AWS KMS on a proxy's certificate beyond those of other clients. `probe` checks
//! the same from outside.

use super::certificate_uses::is_alone;
use super::section::{Member, shown};
use crate::certificate::{Authorities, Certificate};

/// Warns of what KMS refuses in a chain, the server's certificate first.
pub(super) fn warn_of_kms(chain: &[Certificate], member: &Member<'_>) {
    let Some(server) = chain.first() else { return };
    warn_of_subject(server, member);
    if !server.is_key_of_kms_suites {
        let problem = format!(
            "the certificate's key ({}) is of a kind that no cipher suite of KMS has: KMS refuses \
             the handshake",
            server.key
        );
        member.warning(problem, "have one issued for an RSA key of 2048 bits or more, or ECDSA");
    }
    let authorities = Authorities::shipped();
    // If the chain is incomplete, its authority is not known, and there is another warning.
    if authorities.named(chain).is_none() && !is_alone(chain) {
        let issuer = chain.last().map(|last| shown(&last.issuer)).unwrap_or_default();
        let date = authorities.date.as_deref().unwrap_or("an unknown date");
        let problem = format!(
            "{issuer} is none of the {} authorities that KMS accepts (AWS's list of {date}): with a \
             public endpoint as with a VPC endpoint service, KMS fails to connect with \
             XKS_PROXY_INVALID_TLS_CONFIGURATION",
            authorities.count()
        );
        let remedy = "have the certificate issued by a public authority of the list, unless this \
                      is a test or a load balancer with such a certificate ends KMS's TLS";
        member.warning(problem, remedy);
    }
}

/// AWS's guide wants the name that KMS calls as the subject's common name; TLS clients look at
/// subjectAltName. Both can only be right if they agree.
fn warn_of_subject(server: &Certificate, member: &Member<'_>) {
    let remedy = "have it issued with the DNS name that KMS calls as common name too";
    if server.common_names.is_empty() {
        let problem = "the certificate's subject has no common name (CN): AWS's guide wants the DNS \
                       name there that KMS calls";
        member.warning(problem, remedy);
        return;
    }
    let is_a_name = |name: &String| {
        server.dns_names.iter().any(|dns_name| {
            let (dns_name, name) = (dns_name.trim_end_matches('.'), name.trim_end_matches('.'));
            dns_name.eq_ignore_ascii_case(name)
        })
    };
    // Without any DNS name, there is another warning.
    if !server.dns_names.is_empty() && !server.common_names.iter().any(is_a_name) {
        let problem = format!(
            "the certificate's common name (CN), {}, is none of its DNS names: AWS's guide wants the \
             DNS name there that KMS calls",
            shown(&server.common_names.join(", "))
        );
        member.warning(problem, remedy);
    }
}

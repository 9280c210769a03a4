//! `[security]` and `[tls]`

use super::member::{Absent, Form, SectionSchema, ignored, optional, required, switch};

pub(super) const SECURITY: SectionSchema = SectionSchema {
    path: "security",
    is_list: false,
    meaning: "Who may call, and what the process may do. Required.",
    members: &[
        required(
            "is_sigv4_auth_enabled",
            Form::Boolean,
            "Requires a SigV4 signature on each call; off is for tests only.",
        ),
        required(
            "is_tls_enabled",
            Form::Boolean,
            "Serves HTTPS; off where a load balancer in front terminates TLS.",
        ),
        required("is_mtls_enabled", Form::Boolean, "Requires a client certificate of KMS."),
        optional(
            "secondary_auth",
            Form::OneOf(&["Cedar", "Rego"]),
            Absent::None,
            "Language of the policy that every call except health must satisfy.",
        ),
        switch(
            "strict_file_permissions",
            "Refuses to start, rather than warns, if others can read a file with a secret, or \
             change or replace a file that the settings name.",
        ),
        switch(
            "allow_core_dumps",
            "Permits core files and lets processes of the same user read the proxy's memory; both \
             expose plaintext and secrets.",
        ),
        switch(
            "landlock",
            "Confines the process to the files it needs by Landlock (Linux 5.13 or later).",
        ),
        optional(
            "landlock_read",
            Form::List,
            Absent::None,
            "Further files and directories that the HSM vendor's library may read under Landlock.",
        ),
        optional(
            "landlock_write",
            Form::List,
            Absent::None,
            "Further files and directories that it may read and write under Landlock.",
        ),
    ],
};

pub(super) const OSO: SectionSchema = SectionSchema {
    path: "security.oso",
    is_list: false,
    meaning: "The sample proxy's policy. It is ignored unless `secondary_auth` is \"Oso\", which \
              is refused.",
    members: &[ignored("polar_file_path", "The Oso policy's file.")],
};

pub(super) const CEDAR: SectionSchema = SectionSchema {
    path: "security.cedar",
    is_list: false,
    meaning: "Required if `secondary_auth` is \"Cedar\".",
    members: &[required("policy_file", Form::Path, "File of the Cedar policy.")],
};

pub(super) const REGO: SectionSchema = SectionSchema {
    path: "security.rego",
    is_list: false,
    meaning: "Required if `secondary_auth` is \"Rego\".",
    members: &[required("policy_file", Form::Path, "File of the Rego policy.")],
};

pub(super) const TLS: SectionSchema = SectionSchema {
    path: "tls",
    is_list: false,
    meaning: "Certificates. Required if `is_tls_enabled` is true.",
    members: &[
        required(
            "tls_cert_pem",
            Form::Path,
            "PEM file with the server's certificate, followed by those that lead to the CA.",
        ),
        required(
            "tls_key_pem",
            Form::Path,
            "PEM file with the certificate's private key (PKCS#8, PKCS#1 or SEC1, without a \
             passphrase).",
        ),
        optional(
            "mtls_client_ca_pem",
            Form::Path,
            Absent::Described("required by `is_mtls_enabled`"),
            "PEM file with the CAs that issue KMS's client certificate.",
        ),
        optional(
            "mtls_client_dns_name",
            Form::Text,
            Absent::Described("any name, with a warning"),
            "Name that the client certificate must bear: `cks.kms.REGION.` and the DNS suffix of \
             the Region's partition.",
        ),
    ],
};

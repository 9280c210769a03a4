//! `[admin]`, `[audit]`, `[state]` and `[encryption_count]`

use super::member::{Absent, Form, SectionSchema, integer, optional, required, switch};
use crate::limits::{
    MAX_AUDIT_FILE_BYTES, MAX_AUDIT_RETAINED_FILES, MIN_AUDIT_FILE_BYTES, RANDOM_IV_LIMIT,
};

pub(super) const ADMIN: SectionSchema = SectionSchema {
    path: "admin",
    is_list: false,
    meaning: "The listener for metrics, the status page and probes. Without the section there is \
              none.",
    members: &[
        optional(
            "ip",
            Form::Text,
            Absent::Text("127.0.0.1"),
            "IP address to listen on; without TLS a loopback address, unless `allow_plain_remote` \
             is set.",
        ),
        required(
            "port",
            integer(0, u16::MAX as u64, ""),
            "Port that Prometheus and browsers connect to.",
        ),
        optional(
            "tls_cert_pem",
            Form::Path,
            Absent::Described("no TLS"),
            "PEM file with the listener's certificate.",
        ),
        optional(
            "tls_key_pem",
            Form::Path,
            Absent::Described("no TLS"),
            "PEM file with the certificate's private key.",
        ),
        optional(
            "client_ca_pem",
            Form::Path,
            Absent::None,
            "PEM file with the CAs whose client certificates are admitted; needs TLS.",
        ),
        switch(
            "allow_plain_remote",
            "Permits an address that other machines can reach, without TLS.",
        ),
    ],
};

pub(super) const AUDIT: SectionSchema = SectionSchema {
    path: "audit",
    is_list: false,
    meaning: "The audit log. Without the section there is none.",
    members: &[
        required("directory", Form::Path, "Directory of the audit log's files."),
        optional(
            "file_prefix",
            Form::Text,
            Absent::Text("audit"),
            "Beginning of each file's name.",
        ),
        required(
            "key_file",
            Form::Path,
            "File of the chain's first key, which only the first start reads; remove it from this \
             machine afterwards.",
        ),
        optional(
            "hsm_key",
            Form::Text,
            Absent::None,
            "Label (`CKA_LABEL`), or `id:` and the `CKA_ID` in hexadecimal digits, of an AES-256 key, \
             used by no key store, that seals checkpoints.",
        ),
        optional(
            "when_full",
            Form::OneOf(&["refuse", "drop"]),
            Absent::Text("refuse"),
            "Whether calls are refused or lines are dropped when the disk is full or too slow.",
        ),
        optional(
            "sync",
            Form::OneOf(&["always", "interval", "never"]),
            Absent::Text("interval"),
            "When lines are forced to the disk: after each batch (10 ms), every second, or never.",
        ),
        optional(
            "rotation_kind",
            Form::OneOf(&["HOURLY", "DAILY", "NEVER"]),
            Absent::Text("DAILY"),
            "How often a new file begins (UTC).",
        ),
        optional(
            "max_file_bytes",
            integer(MIN_AUDIT_FILE_BYTES, MAX_AUDIT_FILE_BYTES, "bytes"),
            Absent::Described("no limit"),
            "Size at which a new file begins.",
        ),
        optional(
            "retain_files",
            integer(1, MAX_AUDIT_RETAINED_FILES, "files"),
            Absent::Described("all"),
            "Number of files kept besides the current one.",
        ),
    ],
};

pub(super) const STATE: SectionSchema = SectionSchema {
    path: "state",
    is_list: false,
    meaning: "State that survives a restart. Without the section nothing is kept.",
    members: &[required(
        "directory",
        Form::Path,
        "Absolute path of the directory for the keys' witnesses and the counts of their uses; it is \
         created with mode 0700 if it is missing.",
    )],
};

pub(super) const ENCRYPTION_COUNT: SectionSchema = SectionSchema {
    path: "encryption_count",
    is_list: false,
    meaning: "The limit of encryptions under each HSM key; they are counted in any case.",
    members: &[
        optional(
            "at_limit",
            Form::OneOf(&["warn", "refuse"]),
            Absent::Text("warn"),
            "Whether a key that has reached the limit goes on encrypting, with errors in the log \
             and alerts, or refuses to. It decrypts in any case.",
        ),
        optional(
            "limit",
            integer(1, RANDOM_IV_LIMIT, "encryptions"),
            Absent::Described("4294967296; none with deterministic IVs"),
            "Encryptions under one key. Several proxies with separate state directories share the \
             limit of 2^32: give each its part.",
        ),
    ],
};

//! `[[syslog]]`

use super::member::{Absent, Form, SectionSchema, optional, required, switch};

/// The facilities, by the names that syslog.conf(5) has for them.
pub(in crate::settings) const FACILITIES: &[&str] = &[
    "user", "daemon", "auth", "authpriv", "syslog", "local0", "local1", "local2", "local3",
    "local4", "local5", "local6", "local7",
];

pub(super) const SYSLOG: SectionSchema = SectionSchema {
    path: "syslog",
    is_list: true,
    meaning: "A syslog collector that gets copies of the lines of the log and of the audit log (RFC \
              5424). Without the section nothing is forwarded.",
    members: &[
        required(
            "server",
            Form::Text,
            "`unix:` and the path of a socket, such as `unix:/dev/log`, or host and port, such as \
             `logs.example.com:6514`.",
        ),
        optional(
            "transport",
            Form::OneOf(&["datagram", "stream", "tls", "tcp"]),
            Absent::Described("`\"datagram\"` for a Unix socket, otherwise `\"tls\"`"),
            "`datagram` or `stream` for a Unix socket; TLS (RFC 5425) or plain TCP otherwise.",
        ),
        optional(
            "send",
            Form::OneOf(&["all", "log", "audit"]),
            Absent::Text("all"),
            "Which lines: those of the log (calls and events), of the audit log, or of both.",
        ),
        optional(
            "facility",
            Form::OneOf(FACILITIES),
            Absent::Text("daemon"),
            "Of the log's lines.",
        ),
        optional(
            "audit_facility",
            Form::OneOf(FACILITIES),
            Absent::Text("authpriv"),
            "Of the audit log's lines.",
        ),
        optional(
            "tag",
            Form::Text,
            Absent::Text("xks-proxy"),
            "Name of the program in messages (APP-NAME), up to 42 characters; for the audit log, \
             `-audit` follows it.",
        ),
        optional(
            "server_ca_pem",
            Form::Path,
            Absent::Described("the system's CAs"),
            "PEM file with the CAs that issue the collector's certificate, which must bear the host's \
             name.",
        ),
        optional(
            "tls_cert_pem",
            Form::Path,
            Absent::Described("no client certificate"),
            "PEM file with the certificate that the proxy shows the collector.",
        ),
        optional(
            "tls_key_pem",
            Form::Path,
            Absent::Described("no client certificate"),
            "PEM file with that certificate's private key.",
        ),
        switch(
            "allow_plain_remote",
            "Permits `tcp` to another machine: whoever is on the way can read and alter the lines.",
        ),
    ],
};

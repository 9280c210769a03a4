//! `[server]` and `[tracing]`

use super::member::{Absent, Form, MemberSchema, SectionSchema, integer, optional, required};
use crate::limits::{
    DEFAULT_DRAIN_DELAY_MILLI, DEFAULT_DRAIN_TIMEOUT_MILLI, DEFAULT_PING_PORT,
    DEFAULT_UNREADY_AT_CLOCK_SKEW_SECS, MAX_CLOCK_SKEW, MAX_EVENT_LOOPS, MAX_TCP_KEEPALIVE_PROBES,
    MAX_TCP_KEEPALIVE_SECS, MAX_TIMEOUT_MILLI,
};

const PORT: Form = integer(0, u16::MAX as u64, "");
const DRAIN: Form = integer(0, MAX_TIMEOUT_MILLI, "milliseconds");
const KEEPALIVE: Form = integer(1, MAX_TCP_KEEPALIVE_SECS, "seconds");

pub(super) const SERVER: SectionSchema = SectionSchema {
    path: "server",
    is_list: false,
    meaning: "The listening socket and the identity of the key store. Required.",
    members: &[
        required(
            "ip",
            Form::Text,
            "IP address to listen on: `0.0.0.0` is every IPv4 interface, `::` is every interface.",
        ),
        required("port", PORT, "Port that KMS, or the load balancer in front, connects to."),
        optional(
            "port_http_ping",
            PORT,
            Absent::Integer(DEFAULT_PING_PORT as u64),
            "Port for `/ping` and `/readyz` over plain HTTP; if it equals `port`, they are served \
             there.",
        ),
        required("region", Form::Text, "AWS Region that signatures must name."),
        required("service", Form::Text, "Service that signatures must name: `kms-xks-proxy`."),
        optional(
            "ciphertext_metadata_b64",
            Form::Text,
            Absent::None,
            "Up to 20 bytes, in base64, that are stored with each new ciphertext and authenticated.",
        ),
        optional(
            "event_loops",
            integer(0, MAX_EVENT_LOOPS as u64, "threads"),
            Absent::Integer(0),
            "Threads that serve connections; 0 starts one for every four cores.",
        ),
        optional(
            "drain_delay_milli",
            DRAIN,
            Absent::Integer(DEFAULT_DRAIN_DELAY_MILLI),
            "After SIGTERM, how long the proxy still serves while `/readyz` reports that it is not \
             ready.",
        ),
        optional(
            "drain_timeout_milli",
            DRAIN,
            Absent::Integer(DEFAULT_DRAIN_TIMEOUT_MILLI),
            "After that, how long requests in flight may take to finish.",
        ),
        optional(
            "load_balancer",
            Form::OneOf(&["nlb", "other"]),
            Absent::None,
            "Load balancer in front: `\"nlb\"` is an AWS Network Load Balancer. It has no effect but \
             that a `drain_delay_milli` too short for it is reported.",
        ),
        optional(
            "fleet_size",
            integer(1, u32::MAX as u64, "proxies"),
            Absent::Integer(1),
            "Number of proxies that serve these key stores: `xksProxyFleetSize` in health answers.",
        ),
        optional(
            "unready_at_clock_skew_secs",
            integer(0, MAX_CLOCK_SKEW.as_secs(), "seconds"),
            Absent::Integer(DEFAULT_UNREADY_AT_CLOCK_SKEW_SECS),
            "Difference between this machine's clock and that of the signed requests at which \
             `/readyz` reports that it is not ready; 0 is never.",
        ),
        optional(
            "pid_file",
            Form::Path,
            Absent::None,
            "File that holds the process id while the proxy serves; `xks-proxy reload` reads it. Not a \
             symbolic link, nor the file of another running proxy.",
        ),
        optional(
            "proxy_protocol_from",
            Form::List,
            Absent::None,
            "Networks of load balancers whose connections begin with a PROXY protocol header \
             (version 2).",
        ),
        optional(
            "proxy_protocol",
            Form::OneOf(&["require", "accept"]),
            Absent::Text("require"),
            "Whether connections from these networks must begin with a header, or may lack one \
             while the load balancer is switched over.",
        ),
    ],
};

pub(super) const TCP_KEEPALIVE: SectionSchema = SectionSchema {
    path: "server.tcp_keepalive",
    is_list: false,
    meaning: "TCP keepalive on connections of the API. Without the section, the kernel sends no \
              keepalive probes.",
    members: &[
        optional(
            "tcp_keepalive_secs",
            KEEPALIVE,
            Absent::None,
            "Idle time before the first keepalive probe; without it there are none.",
        ),
        optional(
            "tcp_keepalive_interval_secs",
            KEEPALIVE,
            Absent::Described("the kernel's"),
            "Time between two keepalive probes.",
        ),
        optional(
            "tcp_keepalive_retries",
            integer(1, MAX_TCP_KEEPALIVE_PROBES, "probes"),
            Absent::Described("the kernel's"),
            "Unanswered keepalive probes after which the connection is closed.",
        ),
    ],
};

pub(super) const TRACING: SectionSchema = SectionSchema {
    path: "tracing",
    is_list: false,
    meaning: "The log. Without the section it goes to standard output, from INFO on.",
    members: TRACING_MEMBERS,
};

const TRACING_MEMBERS: &[MemberSchema] = &[
    required("is_stdout_writer_enabled", Form::Boolean, "Writes the log to standard output."),
    required("is_file_writer_enabled", Form::Boolean, "Writes the log to rotating files."),
    optional(
        "level",
        Form::OneOf(&["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]),
        Absent::Text("INFO"),
        "Least severe level that is logged; no level shows plaintext, PINs or secrets.",
    ),
    optional(
        "format",
        Form::OneOf(&["text", "json"]),
        Absent::Text("text"),
        "One line of text, or one JSON object, for each event.",
    ),
    optional(
        "journal",
        Form::OneOf(&["priority", "fields", "plain"]),
        Absent::Text("priority"),
        "If standard output is systemd's journal: lines with their priority, entries with fields, or \
         plain lines.",
    ),
    optional(
        "directory",
        Form::Path,
        Absent::Described("required by the file writer"),
        "Directory of the log files; it is created if it is missing.",
    ),
    optional(
        "file_prefix",
        Form::Text,
        Absent::Described("required by the file writer"),
        "Beginning of each log file's name; the time follows.",
    ),
    optional(
        "rotation_kind",
        Form::OneOf(&["MINUTELY", "HOURLY", "DAILY", "NEVER"]),
        Absent::Described("required by the file writer"),
        "How often a new log file begins.",
    ),
    optional(
        "file_mode",
        Form::OneOf(&["0600", "0640", "0644"]),
        Absent::Text("0640"),
        "Mode of new log files: who besides the proxy's user may read them.",
    ),
];

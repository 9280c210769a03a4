//! `[otlp]`

use super::member::{Absent, Form, SectionSchema, integer, optional, required, switch};
use crate::limits::{
    DEFAULT_OTLP_METRICS_INTERVAL_MILLI, DEFAULT_OTLP_TIMEOUT_MILLI, DEFAULT_SLOW_CALL_MILLI,
    DEFAULT_TRACES_PER_MILLION, MAX_OTLP_METRICS_INTERVAL_MILLI, MAX_OTLP_TIMEOUT_MILLI,
    MAX_SLOW_CALL_MILLI, MILLION, MIN_OTLP_METRICS_INTERVAL_MILLI, MIN_OTLP_TIMEOUT_MILLI,
};

pub(super) const OTLP: SectionSchema = SectionSchema {
    path: "otlp",
    is_list: false,
    meaning: "The export of metrics, logs and traces to an OpenTelemetry collector. Without the \
              section nothing is exported.",
    members: &[
        required(
            "endpoint",
            Form::Text,
            "URL of the collector's OTLP over HTTP, to which `/v1/metrics`, `/v1/logs` and \
             `/v1/traces` are added.",
        ),
        optional(
            "signals",
            Form::List,
            Absent::Described("`[\"metrics\", \"logs\", \"traces\"]`"),
            "What is exported.",
        ),
        optional(
            "ca_pem",
            Form::Path,
            Absent::Described("the system's CAs"),
            "PEM file with the CAs that the collector's certificate must lead to.",
        ),
        optional(
            "headers_file",
            Form::Path,
            Absent::None,
            "File with header fields for each request, such as `Authorization: Bearer ...`, one in \
             each line; nobody but the proxy may read it.",
        ),
        switch(
            "allow_plain_remote",
            "Permits `http://` to another machine, which everyone on the way can read.",
        ),
        optional(
            "timeout_milli",
            integer(MIN_OTLP_TIMEOUT_MILLI, MAX_OTLP_TIMEOUT_MILLI, "ms"),
            Absent::Integer(DEFAULT_OTLP_TIMEOUT_MILLI),
            "Time allowed for one request to the collector.",
        ),
        optional(
            "metrics_interval_milli",
            integer(MIN_OTLP_METRICS_INTERVAL_MILLI, MAX_OTLP_METRICS_INTERVAL_MILLI, "ms"),
            Absent::Integer(DEFAULT_OTLP_METRICS_INTERVAL_MILLI),
            "Interval at which metrics are exported.",
        ),
        optional(
            "log_level",
            Form::OneOf(&["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]),
            Absent::Text("INFO"),
            "The least severe level that is exported, of what `[tracing] level` lets into the log.",
        ),
        optional(
            "traces_per_million",
            integer(0, MILLION, "calls"),
            Absent::Integer(DEFAULT_TRACES_PER_MILLION),
            "Calls of a million that are traced. Up to 20 more a second and event loop are traced \
             because they failed or were slow.",
        ),
        optional(
            "slow_call_milli",
            integer(1, MAX_SLOW_CALL_MILLI, "ms"),
            Absent::Integer(DEFAULT_SLOW_CALL_MILLI),
            "Duration from which on a call is slow.",
        ),
        optional(
            "service_name",
            Form::Text,
            Absent::Text("xks-proxy"),
            "The resource attribute `service.name`.",
        ),
        optional(
            "resource_attributes",
            Form::List,
            Absent::None,
            "Further attributes of this process, each as `name=value`.",
        ),
    ],
};

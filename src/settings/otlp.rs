//! `[otlp]`: the export by OTLP, which is optional.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::certificate::{read_authorities_der, system_authorities};
use super::file;
use super::section::{Member, Section, shown, shown_path};
use super::unknown::nearest;
use crate::client::Endpoint;
use crate::limits::{
    DEFAULT_OTLP_METRICS_INTERVAL_MILLI, DEFAULT_OTLP_TIMEOUT_MILLI, DEFAULT_SLOW_CALL_MILLI,
    DEFAULT_TRACES_PER_MILLION, MAX_OTLP_HEADERS, MAX_OTLP_METRICS_INTERVAL_MILLI,
    MAX_OTLP_RESOURCE_ATTRIBUTES, MAX_OTLP_TIMEOUT_MILLI, MAX_SECRET_FILE_BYTES,
    MAX_SLOW_CALL_MILLI, MILLION, MIN_OTLP_METRICS_INTERVAL_MILLI, MIN_OTLP_TIMEOUT_MILLI,
};
use crate::observe::otlp::config::{OtlpConfig, TraceConfig};
use crate::observe::otlp::stats::Signal;
use crate::observe::redaction::Secret;

const ENDPOINT_REMEDY: &str = "write the collector's URL without the path of a signal, such as \
                               \"https://collector.example.com:4318\"";
const HEADERS_REMEDY: &str = "write one header field in each line, such as \
                              \"Authorization: Bearer TOKEN\"";
const ATTRIBUTES_REMEDY: &str =
    "write each as \"name=value\", such as \"deployment.environment.name=production\"";
const SIGNALS_REMEDY: &str = "write some of \"metrics\", \"logs\" and \"traces\"";
const LEVELS: [(&str, tracing::Level); 5] = [
    ("TRACE", tracing::Level::TRACE),
    ("DEBUG", tracing::Level::DEBUG),
    ("INFO", tracing::Level::INFO),
    ("WARN", tracing::Level::WARN),
    ("ERROR", tracing::Level::ERROR),
];
/// Header fields that each request has by itself, or that would change how it is sent and read.
const OWN_HEADERS: [&str; 15] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const SERVICE_NAME: &str = "service.name";

/// Reads the section; returns `Some(None)` if it is missing.
pub(super) fn read(root: &Section<'_>) -> Option<Option<OtlpConfig>> {
    read_if_built(root, cfg!(feature = "otlp"))
}

fn read_if_built(root: &Section<'_>, is_built: bool) -> Option<Option<OtlpConfig>> {
    if root.get("otlp").is_none() {
        return Some(None);
    }
    let section = root.section("otlp")?;
    if !is_built {
        let problem = "this program was built without the export by OTLP";
        let remedy =
            "remove the section, or build with the cargo feature otlp, as the packages are";
        section.report().mistake(&section.location(), problem, remedy);
        return None;
    }
    let endpoint = endpoint(&section);
    let authorities = authorities(&section, endpoint.as_ref());
    let headers = section.value_or("headers_file", Vec::new(), headers);
    let milli = |name, range, default| {
        let milli = section.integer_or::<u64>(name, range, "a number of milliseconds", default);
        milli.map(Duration::from_millis)
    };
    let timeout = milli(
        "timeout_milli",
        MIN_OTLP_TIMEOUT_MILLI..=MAX_OTLP_TIMEOUT_MILLI,
        DEFAULT_OTLP_TIMEOUT_MILLI,
    );
    let metrics_interval = milli(
        "metrics_interval_milli",
        MIN_OTLP_METRICS_INTERVAL_MILLI..=MAX_OTLP_METRICS_INTERVAL_MILLI,
        DEFAULT_OTLP_METRICS_INTERVAL_MILLI,
    );
    let slow = milli("slow_call_milli", 1..=MAX_SLOW_CALL_MILLI, DEFAULT_SLOW_CALL_MILLI);
    let signals = section.value_or("signals", Signal::ALL.to_vec(), signals);
    let log_level = section.choice("log_level", &LEVELS, tracing::Level::INFO);
    let calls_per_million = section.value_or(
        "traces_per_million",
        u32::try_from(DEFAULT_TRACES_PER_MILLION).unwrap_or(0),
        |member| member.integer(0..=MILLION, "a number of calls out of a million"),
    );
    let resource = resource(&section);
    Some(Some(OtlpConfig {
        endpoint: endpoint.map(|endpoint| url(&endpoint))?,
        authorities: authorities?,
        headers: headers?,
        timeout: timeout?,
        signals: signals?,
        metrics_interval: metrics_interval?,
        log_level: log_level?,
        traces: TraceConfig { calls_per_million: calls_per_million?, slow: slow? },
        resource: resource?,
    }))
}

fn endpoint(section: &Section<'_>) -> Option<Endpoint> {
    let allow_plain_remote = section.switch("allow_plain_remote");
    let member = section.require("endpoint", ENDPOINT_REMEDY)?;
    let text = member.string(ENDPOINT_REMEDY)?;
    let Ok(endpoint) = Endpoint::parse(text) else {
        // The text is not shown: a user's name and password may be in it.
        member.mistake("it is not a URL of the form https://host[:port][/path]", ENDPOINT_REMEDY);
        return None;
    };
    let paths = Signal::ALL.map(|signal| format!("/v1/{}", signal.name()));
    if let Some(path) = paths.iter().find(|path| endpoint.prefix.ends_with(*path)) {
        let problem = format!("{path} is added to it, so requests would go to {path}{path}");
        member.mistake(problem, ENDPOINT_REMEDY);
        return None;
    }
    let host = endpoint.host_name();
    let is_local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if !endpoint.is_https && !is_local && !allow_plain_remote? {
        let problem = "what is exported would go to another machine in plain text";
        let remedy = "write https://, or set allow_plain_remote to true if the network keeps others \
                      away";
        member.mistake(problem, remedy);
        return None;
    }
    Some(endpoint)
}

fn url(endpoint: &Endpoint) -> String {
    let scheme = if endpoint.is_https { "https" } else { "http" };
    format!("{scheme}://{}{}", endpoint.host_header(), endpoint.prefix)
}

/// Returns the authorities in the file, or the system's; none if there is no TLS.
fn authorities(section: &Section<'_>, endpoint: Option<&Endpoint>) -> Option<Vec<Vec<u8>>> {
    let remedy = "name the PEM file with the CAs that issue the collector's certificate";
    if let Some(member) = section.get("ca_pem") {
        let authorities = read_authorities_der(&member, remedy)?;
        if endpoint.is_some_and(|endpoint| !endpoint.is_https) {
            member.warning("the endpoint has no TLS, so it has no effect", "write https://");
        }
        return Some(authorities);
    }
    if !endpoint?.is_https {
        return Some(Vec::new());
    }
    let authorities = system_authorities(section, "ca_pem", remedy)?;
    Some(authorities.iter().map(|der| der.to_vec()).collect())
}

fn headers(member: &Member<'_>) -> Option<Vec<(String, Secret<String>)>> {
    let path = Path::new(member.string("name a file with header fields")?);
    let (mut bytes, ownership) = match file::read(path, MAX_SECRET_FILE_BYTES) {
        Ok(read) => read,
        Err(error) => {
            let remedy = "name a file with header fields, which the proxy can read";
            member.mistake(format!("{} cannot be read: {error}", shown_path(path)), remedy);
            return None;
        }
    };
    member.report().add_file(path);
    file::check(&ownership, path, true, member.location(), member.report());
    let headers = String::from_utf8(std::mem::take(&mut *bytes))
        .map_err(|error| drop(Zeroizing::new(error.into_bytes())))
        .map(Zeroizing::new)
        .map_err(|()| "is not UTF-8".to_owned())
        .and_then(|text| parse_headers(&text));
    match headers {
        Ok(headers) => Some(headers),
        Err(problem) => {
            member.mistake(format!("{} {problem}", shown_path(path)), HEADERS_REMEDY);
            None
        }
    }
}

/// Returns the header fields, or the problem, without a value.
fn parse_headers(text: &str) -> Result<Vec<(String, Secret<String>)>, String> {
    let mut headers = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line_is = |problem: &str| format!("has a line ({}) that {problem}", index + 1);
        let (name, value) = line.split_once(':').ok_or_else(|| line_is("is not a header field"))?;
        let (name, value) = (name.trim().to_lowercase(), value.trim());
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(line_is("does not begin with the name of a header field"));
        }
        if value.is_empty() || !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(line_is("has no value, or one that is not ASCII"));
        }
        if OWN_HEADERS.contains(&name.as_str()) {
            return Err(line_is(&format!("sets {name}, which is the proxy's own")));
        }
        headers.push((name, Secret::new(value.to_owned())));
    }
    match headers.len() {
        0 => Err("has no header field".to_owned()),
        1..=MAX_OTLP_HEADERS => Ok(headers),
        many => Err(format!("has {many} header fields; the limit is {MAX_OTLP_HEADERS}")),
    }
}

fn signals(member: &Member<'_>) -> Option<Vec<Signal>> {
    let mut signals = Vec::new();
    let mut is_right = true;
    for (location, text) in member.strings(SIGNALS_REMEDY)? {
        match Signal::ALL.into_iter().find(|signal| signal.name() == text) {
            Some(signal) if signals.contains(&signal) => {}
            Some(signal) => signals.push(signal),
            None => {
                let names = Signal::ALL.map(Signal::name);
                let remedy = match nearest(text, names) {
                    Some(nearest) => format!("did you mean {nearest}? Or {SIGNALS_REMEDY}"),
                    None => SIGNALS_REMEDY.to_owned(),
                };
                let problem = format!("\"{}\" cannot be exported", shown(text));
                member.report().mistake(&location, problem, remedy);
                is_right = false;
            }
        }
    }
    if is_right && signals.is_empty() {
        member.mistake("nothing is exported", SIGNALS_REMEDY);
        return None;
    }
    is_right.then_some(signals)
}

fn resource(section: &Section<'_>) -> Option<Vec<(String, String)>> {
    let name = section.value_or("service_name", "xks-proxy", |member| {
        let remedy = "write the name by which this service is found";
        let name = member.string(remedy)?;
        if name.is_empty() {
            member.mistake("it is empty", remedy);
            return None;
        }
        Some(name)
    });
    let mut resource = vec![(SERVICE_NAME.to_owned(), name?.to_owned())];
    let Some(member) = section.get("resource_attributes") else { return Some(resource) };
    let texts = member.strings(ATTRIBUTES_REMEDY)?;
    if texts.len() > MAX_OTLP_RESOURCE_ATTRIBUTES {
        let problem = format!("there are {} of them", texts.len());
        member.mistake(problem, format!("write at most {MAX_OTLP_RESOURCE_ATTRIBUTES}"));
        return None;
    }
    let mut is_right = true;
    for (location, text) in texts {
        let pair = text.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let problem = match pair {
            None | Some(("", _)) => format!("\"{}\" is not an attribute", shown(text)),
            Some((SERVICE_NAME, _)) => "service.name has a member of its own".to_owned(),
            Some((name, _)) if resource.iter().any(|(known, _)| known == name) => {
                format!("{} is there twice", shown(name))
            }
            Some((name, value)) => {
                resource.push((name.to_owned(), value.to_owned()));
                continue;
            }
        };
        let remedy = if pair.is_some_and(|(name, _)| name == SERVICE_NAME) {
            "write service_name"
        } else {
            ATTRIBUTES_REMEDY
        };
        member.report().mistake(&location, problem, remedy);
        is_right = false;
    }
    is_right.then_some(resource)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use toml::de::DeTable;

    use super::*;
    use crate::settings::report::Report;

    /// A program without the feature refuses the section, and says where and why, whichever program
    /// runs this test.
    #[test]
    fn without_the_feature() {
        let text = "[server]\n\n[otlp]\nendpoint = \"http://localhost:4318\"\n";
        let report = Report::new(Path::new("settings.toml"), text, false);
        let document = DeTable::parse(text).unwrap();
        let root = Section::root(document.get_ref(), &report);
        assert!(read_if_built(&root, false).is_none());
        assert!(read_if_built(&root, true).is_some());
        let findings: Vec<_> = report.into_findings().iter().map(ToString::to_string).collect();
        assert_eq!(
            findings,
            [
                "settings.toml:3:1: mistake: otlp: this program was built without the export by OTLP; \
              remove the section, or build with the cargo feature otlp, as the packages are"
            ]
        );
    }

    #[test]
    fn header_fields() {
        let parsed = parse_headers("Authorization: Bearer a:b \n\nx-tenant:1\n").unwrap();
        let exposed: Vec<_> =
            parsed.iter().map(|(name, value)| (name.as_str(), value.expose().as_str())).collect();
        assert_eq!(exposed, [("authorization", "Bearer a:b"), ("x-tenant", "1")]);
        let many = "a: 1\n".repeat(MAX_OTLP_HEADERS + 1);
        for (text, problem) in [
            ("", "no header field"),
            ("hush", "line (1) that is not"),
            ("a: 1\n: hush", "line (2) that does not begin"),
            ("a b: hush", "does not begin"),
            ("a:", "no value"),
            ("a: hüsh", "not ASCII"),
            ("Host: hush", "sets host"),
            ("Content-Encoding: hush", "sets content-encoding"),
            ("expect: hush", "sets expect"),
            (&many, "the limit is 16"),
        ] {
            let error = parse_headers(text).unwrap_err();
            assert!(error.contains(problem) && !error.contains("hush"), "{text}: {error}");
        }
    }
}

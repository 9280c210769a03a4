//! `[[syslog]]`: collectors that get copies of the log and of the audit log.

use std::net::IpAddr;
use std::path::PathBuf;

use rustls::pki_types::ServerName;

use super::client_tls;
use super::schema::FACILITIES;
use super::section::{Member, Section, shown};
use crate::limits::{MAX_SYSLOG_BACKLOG_BYTES, MAX_SYSLOG_SERVERS, MAX_SYSLOG_TAG_BYTES};
use crate::observe::syslog::tls::ClientTls;
use crate::observe::syslog::{Address, Facility, SyslogConfig};

const SERVER_REMEDY: &str = "write \"unix:/dev/log\" or another socket's absolute path, or host and port \
                             such as \"logs.example.com:6514\"";
const DEFAULT_TAG: &str = "xks-proxy";
/// The length of a path that a Unix socket can have (unix(7)), without the closing NUL.
const MAX_SOCKET_PATH_BYTES: usize = 107;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Datagram,
    Stream,
    Tls,
    Tcp,
}

const TRANSPORTS: [(&str, Transport); 4] = [
    ("datagram", Transport::Datagram),
    ("stream", Transport::Stream),
    ("tls", Transport::Tls),
    ("tcp", Transport::Tcp),
];

/// Whether the log's lines are sent, and whether the audit log's are.
const SEND: [(&str, (bool, bool)); 3] =
    [("all", (true, true)), ("log", (true, false)), ("audit", (false, true))];

enum Server {
    Socket(PathBuf),
    /// `host:port`, and the host.
    Host(String, String),
}

/// Reads all sections; there may be none.
pub(super) fn read(root: &Section<'_>) -> Option<Vec<SyslogConfig>> {
    if root.get("syslog").is_none() {
        return Some(Vec::new());
    }
    let has_audit = root.get("audit").is_some();
    let sections = root.sections("syslog")?;
    if let Some(section) = sections.get(MAX_SYSLOG_SERVERS) {
        let problem = format!("there are more than {MAX_SYSLOG_SERVERS} collectors");
        let remedy = "let one collector pass the lines on to others";
        section.report().mistake(&section.location(), problem, remedy);
        return None;
    }
    // All of them are read, so that all mistakes are reported.
    let configs: Vec<_> = sections.iter().map(|section| collector(section, has_audit)).collect();
    let configs: Vec<_> = configs.into_iter().collect::<Option<_>>()?;
    are_distinct(&sections, &configs).then_some(configs)
}

/// Returns whether no collector gets the same lines twice. It would have them twice, and so would the
/// metrics, whose labels are the server and the log.
fn are_distinct(sections: &[Section<'_>], configs: &[SyslogConfig]) -> bool {
    let mut is_right = true;
    for (index, (section, config)) in sections.iter().zip(configs).enumerate() {
        let name = config.address.name();
        let is_same = |other: &SyslogConfig| {
            other.address.name() == name
                && (other.log.is_some() && config.log.is_some()
                    || other.audit.is_some() && config.audit.is_some())
        };
        if let Some(former) = configs.iter().take(index).position(is_same) {
            let problem = format!("syslog[{former}] sends the same lines to this server");
            let remedy = "remove one of the two, or let one of them send \"log\" and the other \
                          \"audit\"";
            section.report().mistake(&section.location_of("server"), problem, remedy);
            is_right = false;
        }
    }
    is_right
}

fn collector(section: &Section<'_>, has_audit: bool) -> Option<SyslogConfig> {
    let server = section.require("server", SERVER_REMEDY);
    let address = server.as_ref().and_then(|member| self::server(member));
    let transport = section.optional("transport", |_| {
        // The default is never used.
        section.choice("transport", &TRANSPORTS, Transport::Tls)
    });
    let send = section.choice("send", &SEND, (true, true));
    let facility = facility(section, "facility", Facility::Daemon);
    let audit_facility = self::facility(section, "audit_facility", Facility::Authpriv);
    let tag = section.value_or("tag", DEFAULT_TAG.to_owned(), tag);
    let allow_plain_remote = section.switch("allow_plain_remote");
    let address = address.and_then(|server| {
        let (transport, allow_plain_remote) = (transport?, allow_plain_remote?);
        self::address(section, server, transport, allow_plain_remote)
    });
    let (sends_log, sends_audit) = send?;
    if sends_audit && !sends_log && !has_audit {
        let problem = "there is no audit log to send";
        section.report().mistake(&section.location_of("send"), problem, "add the section [audit]");
        return None;
    }
    let (facility, audit_facility) = (facility?, audit_facility?);
    Some(SyslogConfig {
        address: address?,
        tag: tag?,
        log: sends_log.then_some(facility),
        audit: (sends_audit && has_audit).then_some(audit_facility),
        backlog_bytes: MAX_SYSLOG_BACKLOG_BYTES,
    })
}

fn server(member: &Member<'_>) -> Option<Server> {
    let text = member.string(SERVER_REMEDY)?;
    if let Some(path) = text.strip_prefix("unix:") {
        let is_path = path.starts_with('/') && !path.contains('\0');
        if !is_path || path.len() > MAX_SOCKET_PATH_BYTES {
            let problem = format!("\"{}\" is not the path of a socket", shown(path));
            member.mistake(problem, SERVER_REMEDY);
            return None;
        }
        return Some(Server::Socket(PathBuf::from(path)));
    }
    let parts = text.rsplit_once(':').and_then(|(host, port)| {
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // An IPv6 address without brackets would end in something like a port.
        let host = bare.map_or_else(|| (!host.contains(':')).then_some(host), Some)?;
        ServerName::try_from(host).ok().map(|_| (host, port))
    });
    let Some((host, _)) = parts else {
        let problem = format!("\"{}\" is neither a socket nor host and port", shown(text));
        member.mistake(problem, SERVER_REMEDY);
        return None;
    };
    Some(Server::Host(text.to_owned(), host.to_owned()))
}

fn address(
    section: &Section<'_>,
    server: Server,
    transport: Option<Transport>,
    allow_plain_remote: bool,
) -> Option<Address> {
    let misfit = |remedy: &str| {
        let problem = "it does not fit the server";
        section.report().mistake(&section.location_of("transport"), problem, remedy);
        None
    };
    match (server, transport) {
        (Server::Socket(path), None | Some(Transport::Datagram)) => {
            warn_without_tls(section);
            Some(Address::UnixDatagram(path))
        }
        (Server::Socket(path), Some(Transport::Stream)) => {
            warn_without_tls(section);
            Some(Address::UnixStream(path))
        }
        (Server::Socket(_), _) => misfit("write \"datagram\" or \"stream\" for a Unix socket"),
        (Server::Host(host_port, host), None | Some(Transport::Tls)) => {
            let config = client_tls::read(section)?;
            let name = ServerName::try_from(host).ok()?;
            Some(Address::Tls(host_port, ClientTls::new(name, config)))
        }
        (Server::Host(host_port, host), Some(Transport::Tcp)) => {
            warn_without_tls(section);
            if !is_loopback(&host) && !allow_plain_remote {
                let problem = format!("{} can be another machine, without TLS", shown(&host));
                let remedy = "use transport = \"tls\", or set allow_plain_remote to true if the \
                              network keeps others away";
                section.report().mistake(&section.location_of("transport"), problem, remedy);
                return None;
            }
            Some(Address::Tcp(host_port))
        }
        (Server::Host(..), _) => misfit("write \"tls\" or \"tcp\" for host and port"),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

fn warn_without_tls(section: &Section<'_>) {
    for name in ["server_ca_pem", "tls_cert_pem", "tls_key_pem"] {
        if let Some(member) = section.get(name) {
            member.warning("it has no effect without TLS", "remove it, or use transport = \"tls\"");
        }
    }
}

fn facility(section: &Section<'_>, name: &str, default: Facility) -> Option<Facility> {
    let known = [
        Facility::User,
        Facility::Daemon,
        Facility::Auth,
        Facility::Authpriv,
        Facility::Syslog,
        Facility::Local0,
        Facility::Local1,
        Facility::Local2,
        Facility::Local3,
        Facility::Local4,
        Facility::Local5,
        Facility::Local6,
        Facility::Local7,
    ];
    let choices: Vec<_> = FACILITIES.iter().copied().zip(known).collect();
    section.choice(name, &choices, default)
}

fn tag(member: &Member<'_>) -> Option<String> {
    let remedy = format!(
        "write up to {MAX_SYSLOG_TAG_BYTES} printable ASCII characters without spaces, such as \
         \"{DEFAULT_TAG}\""
    );
    let text = member.string(&remedy)?;
    let is_tag = (1..=MAX_SYSLOG_TAG_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_tag {
        member.mistake("it cannot be the name of the program in a message", remedy);
        return None;
    }
    Some(text.to_owned())
}

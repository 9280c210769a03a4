//! All sections and members that a settings file may have, with type, range, default and meaning.
//!
//! Messages about unknown names are based on this table, and the page of all settings is checked
//! against it. The readers of the sections take ranges and defaults from [`crate::limits`]; tests
//! check that the two agree.

mod hsm;
mod limits;
mod member;
mod operations;
mod security;
mod server;
mod stores;
mod syslog;
mod telemetry;

pub use self::member::{Absent, Form, MemberSchema, SectionSchema};
pub(super) use self::syslog::FACILITIES;

/// All sections, in the order of the sample file.
pub const SECTIONS: &[SectionSchema] = &[
    server::SERVER,
    server::TCP_KEEPALIVE,
    server::TRACING,
    security::SECURITY,
    security::OSO,
    security::CEDAR,
    security::REGO,
    security::TLS,
    stores::STORES,
    stores::CREDENTIALS,
    stores::KEYS,
    stores::VERSIONS,
    hsm::PKCS11,
    hsm::TOKENS,
    hsm::LOGGER,
    limits::LIMITS,
    hsm::CAPABILITIES,
    operations::ADMIN,
    operations::AUDIT,
    syslog::SYSLOG,
    telemetry::OTLP,
    operations::STATE,
    operations::ENCRYPTION_COUNT,
];

/// Returns the names that may appear in a section: those of its members and of the sections below
/// it. `""` is the file itself.
pub(super) fn names_in(path: &str) -> Vec<&'static str> {
    let own = SECTIONS.iter().filter(|section| section.path == path);
    let members = own.flat_map(|section| section.members.iter().map(|member| member.name));
    let below = SECTIONS.iter().filter_map(|section| {
        let (parent, name) = section.path.rsplit_once('.').unwrap_or(("", section.path));
        (parent == path).then_some(name)
    });
    members.chain(below).collect()
}

/// Returns the path of another section that has a member with this name.
pub(super) fn section_with(name: &str, other_than: &str) -> Option<&'static str> {
    let has_name = |path: &str| names_in(path).contains(&name);
    let mut paths = SECTIONS.iter().map(|section| section.path);
    paths.find(|path| *path != other_than && has_name(path))
}

//! `[audit]`: off by default, and never without a key that others cannot read.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use xks_proxy::observe::audit::{AuditConfig, AuditRotation, AuditSync, WhenFull};
use xks_proxy::settings::{Finding, Severity};

use crate::{Place, RIGHT, mistakes};

/// Loads the right file with these members in `[audit]`; `DIR` is the test's directory.
fn load(place: &Place, members: &str) -> Result<(Option<AuditConfig>, Vec<Finding>), Vec<Finding>> {
    let members = members.replace("DIR", place.path("").to_str().unwrap());
    place
        .load_with(&format!("{RIGHT}\n[audit]\n{members}\n"), true, &|_| None)
        .map(|(settings, findings)| (settings.audit, findings))
}

fn key(place: &Place, mode: u32) {
    place.write("key", "0123456789abcdef".repeat(4) + "\n");
    std::fs::set_permissions(place.path("key"), Permissions::from_mode(mode)).unwrap();
}

const NEEDED: &str = "directory = \"DIRlogs\"\nkey_file = \"DIRkey\"";

#[test]
fn without_the_section_there_is_none() {
    let (settings, _) = Place::new().load(RIGHT).unwrap();
    assert!(settings.audit.is_none());
}

/// By default the audit log is lossless, with one file a day, all of them kept.
#[test]
fn defaults() {
    let place = Place::new();
    key(&place, 0o400);
    let (audit, findings) = load(&place, NEEDED).unwrap();
    assert!(!findings.iter().any(|it| it.severity == Severity::Warning), "{findings:?}");
    assert_eq!(
        audit.unwrap(),
        AuditConfig {
            directory: place.path("logs"),
            prefix: "audit".to_owned(),
            rotation: AuditRotation::Daily,
            max_file_bytes: None,
            retain_files: None,
            when_full: WhenFull::Refuse,
            sync: AuditSync::Interval,
            key_file: place.path("key"),
            hsm_key: None,
        }
    );
}

#[test]
fn all_members() {
    let place = Place::new();
    key(&place, 0o400);
    let (audit, _) = load(
        &place,
        &format!(
            "{NEEDED}\nfile_prefix = \"calls\"\nwhen_full = \"drop\"\nsync = \"always\"\n\
             rotation_kind = \"HOURLY\"\nmax_file_bytes = 65536\nretain_files = 3\n\
             hsm_key = \"audit key\""
        ),
    )
    .unwrap();
    let audit = audit.unwrap();
    assert_eq!((audit.prefix.as_str(), audit.when_full), ("calls", WhenFull::Drop));
    assert_eq!((audit.sync, audit.rotation), (AuditSync::Always, AuditRotation::Hourly));
    assert_eq!(audit.hsm_key.as_deref(), Some("audit key"));
    assert_eq!((audit.max_file_bytes, audit.retain_files), (Some(65_536), Some(3)));
}

/// Each mistake is reported with its member.
#[test]
fn what_is_wrong() {
    let place = Place::new();
    key(&place, 0o400);
    for (members, member) in [
        ("key_file = \"DIRkey\"", "audit.directory"),
        ("directory = \"\"\nkey_file = \"DIRkey\"", "audit.directory"),
        ("directory = \"DIRlogs\"", "audit.key_file"),
        ("directory = \"DIRlogs\"\nkey_file = \"DIRnone\"", "audit.key_file"),
        ("directory = \"DIRlogs\"\nkey_file = \"DIRmodule.so\"", "audit.key_file"),
        (&format!("{NEEDED}\nwhen_full = \"wait\""), "audit.when_full"),
        (&format!("{NEEDED}\nsync = true"), "audit.sync"),
        (&format!("{NEEDED}\nrotation_kind = \"WEEKLY\""), "audit.rotation_kind"),
        (&format!("{NEEDED}\nfile_prefix = \"a/b\""), "audit.file_prefix"),
        (&format!("{NEEDED}\nmax_file_bytes = 100"), "audit.max_file_bytes"),
        (&format!("{NEEDED}\nretain_files = 0"), "audit.retain_files"),
        (&format!("{NEEDED}\nhsm_key = \"\""), "audit.hsm_key"),
        (&format!("{NEEDED}\nretain = 1"), "audit.retain"),
    ] {
        let findings = load(&place, members).unwrap_err();
        let mistakes = mistakes(&findings);
        assert_eq!(mistakes.len(), 1, "{members}: {findings:#?}");
        assert_eq!(mistakes[0].member, member, "{members}");
        // No message contains the key itself.
        assert!(!mistakes[0].to_string().contains("0123456789abcdef"));
    }
}

/// A key that others can read protects nothing; a key file that remains after the first start
/// causes a warning.
#[test]
fn the_key_is_kept_from_others() {
    let place = Place::new();
    key(&place, 0o444);
    let findings = load(&place, NEEDED).unwrap_err();
    assert!(mistakes(&findings).iter().all(|it| it.member == "audit.key_file"), "{findings:#?}");

    key_is_gone_or_left(&place);
}

fn key_is_gone_or_left(place: &Place) {
    std::fs::create_dir(place.path("logs")).unwrap();
    std::fs::write(place.path("logs/audit.state"), "what a start has left").unwrap();
    let (_, findings) = load(place, NEEDED).unwrap();
    let warning = findings.iter().find(|it| it.member == "audit.key_file").unwrap();
    assert_eq!(warning.severity, Severity::Warning);
    std::fs::remove_file(place.path("key")).unwrap();
    let (_, findings) = load(place, NEEDED).unwrap();
    assert!(!findings.iter().any(|it| it.member.starts_with("audit")), "{findings:#?}");
}

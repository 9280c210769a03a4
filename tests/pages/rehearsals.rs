//! Rehearsals of docs/disaster-recovery.md: each section with steps has a script, which runs the
//! section's commands and holds the page to its promises.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::tools;
use crate::pages::{Page, Part, root};

const PAGE: &str = "docs/disaster-recovery.md";
/// The section that only shows how to run the scripts.
const ABOUT: &str = "rehearse";

/// Runs the script of a section.
fn rehearse(section: &str) {
    // The scripts take it from the same folder as the program under test.
    tools::token_maker();
    let programs = Path::new(env!("CARGO_BIN_EXE_xks-proxy")).parent().unwrap();
    let output = tools::python_with_botocore()
        .arg(root().join("tests/rehearsals/run"))
        .arg(section)
        .env("REHEARSAL_PROGRAMS", programs)
        .output()
        .expect(tools::BOTOCORE_REMEDY);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the page's promises hold"), "{said}");
}

/// Defines a test for each section, and the list of all.
macro_rules! rehearsals {
    ($($test:ident: $section:literal,)*) => {
        const SECTIONS: &[&str] = &[$($section),*];
        $(#[test]
        fn $test() {
            rehearse($section);
        })*
    };
}

rehearsals! {
    audit_log_lost: "audit-log-lost",
    be_prepared: "be-prepared",
    certificate_expired: "certificate-expired",
    credential_leaked: "credential-leaked",
    hsm_lost: "hsm-lost",
    hsm_restored_from_a_backup: "hsm-restored-from-a-backup",
    key_deleted: "key-deleted",
    region_lost: "region-lost",
    state_directory_lost: "state-directory-lost",
}

/// Every section with commands is rehearsed, and every script is of a section.
#[test]
fn each_section_is_rehearsed() {
    let page = Page::read(PAGE);
    let mut anchors = page.anchors().into_iter().skip(1);
    let mut sections = BTreeSet::new();
    let mut section = String::new();
    for part in page.parts() {
        match part {
            Part::Line(line) if line.starts_with("## ") => section = anchors.next().unwrap(),
            Part::Code { language: "sh", .. } if section != ABOUT => {
                sections.insert(section.clone());
            }
            _ => {}
        }
    }
    let scripts: BTreeSet<String> = fs::read_dir(root().join("tests/rehearsals/scenarios"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".py").map(|name| name.replace('_', "-")))
        .filter(|name| !name.starts_with("--"))
        .collect();
    assert_eq!(sections, scripts);
    assert_eq!(scripts, SECTIONS.iter().map(|&section| section.to_owned()).collect());
}

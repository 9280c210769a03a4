//! docs/settings.md matches the schema of the settings, row by row.

use std::collections::BTreeSet;

use xks_proxy::settings::schema::{MemberSchema, SECTIONS, SectionSchema};

use crate::pages::Page;

const PAGE: &str = "docs/settings.md";

fn heading(section: &SectionSchema) -> String {
    match section.is_list {
        true => format!("## `[[{}]]`", section.path),
        false => format!("## `[{}]`", section.path),
    }
}

/// The beginning of a member's row, which the page may continue with examples and links.
fn row(member: &MemberSchema) -> String {
    let MemberSchema { name, form, absent, meaning } = member;
    let values = match form.range() {
        range if range.is_empty() => form.to_string(),
        range => format!("{form}: {range}"),
    };
    format!("| `{name}` | {values} | {absent} | {meaning}")
}

/// The part of the page from a heading to the next.
fn part<'p>(page: &'p str, heading: &str) -> Option<&'p str> {
    let (_, rest) = page.split_once(&format!("\n{heading}\n"))?;
    Some(rest.split("\n## ").next().unwrap_or(rest))
}

/// Problems with the page: sections and rows that are missing or not in the schema.
fn problems(page: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for section in SECTIONS {
        let heading = heading(section);
        let Some(part) = part(page, &heading) else {
            problems.push(format!("there is no {heading}"));
            continue;
        };
        if !part.replace('\n', " ").trim_start().starts_with(section.meaning) {
            problems.push(format!("{heading} does not begin with: {}", section.meaning));
        }
        let rows: Vec<&str> = part.lines().filter(|line| line.starts_with("| `")).collect();
        for member in section.members {
            let row = row(member);
            if !rows.iter().any(|it| it.starts_with(&row)) {
                problems.push(format!("{heading} has no row\n{row}"));
            }
        }
        let names: BTreeSet<&str> = section.members.iter().map(|member| member.name).collect();
        for row in rows {
            let name = row.split('`').nth(1).unwrap_or_default();
            if !names.contains(name) {
                problems.push(format!("{heading} has no member {name}"));
            }
        }
    }
    let headings: Vec<String> = SECTIONS.iter().map(heading).collect();
    for line in page.lines().filter(|line| line.starts_with("## `[")) {
        if !headings.iter().any(|heading| heading == line) {
            problems.push(format!("there is no section {line}"));
        }
    }
    problems
}

#[test]
fn each_member_is_described_as_it_is() {
    let problems = problems(&Page::read(PAGE).text);
    assert!(problems.is_empty(), "{PAGE}:\n{}", problems.join("\n"));
    let members: usize = SECTIONS.iter().map(|section| section.members.len()).sum();
    assert!(members > 100, "{members}");
}

#[test]
fn differences_from_the_schema_are_reported() {
    let page = Page::read(PAGE).text;
    for (from, to) in [
        ("| `5000` |", "| `4000` |"),
        ("| `fleet_size` |", "| `fleet_sizes` |"),
        ("\n## `[admin]`\n", "\n## `[administration]`\n"),
        ("\n| `hsm_key` |", "\n\n"),
    ] {
        assert!(page.contains(from), "{from}");
        assert!(!problems(&page.replacen(from, to, 1)).is_empty(), "{from} -> {to}");
    }
}

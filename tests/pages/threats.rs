//! The table of threats in docs/security.md names tests for each threat, and these tests exist.

use std::fs;
use std::path::PathBuf;

use crate::pages::root;

/// The page with the table.
const PAGE: &str = "docs/security.md";

/// Rows of the table under `## Threats`, split into cells.
fn threats(page: &str) -> Vec<[String; 3]> {
    let section = page.split("\n## Threats\n").nth(1).expect("a section on threats");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(|it| it.trim().into()).collect();
        cells.try_into().expect("a threat, its mitigation, the tests")
    })
    .collect()
}

/// The parts of `text` in backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// All source files that may contain tests, for tests named without a file.
fn all_tests() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().join("tests"), root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

fn has_test(text: &str, name: &str) -> bool {
    // Property tests are inside proptest's macro; the others directly follow their attribute.
    let signature = format!("fn {name}(");
    text.match_indices(&signature).any(|(at, _)| {
        let before = text[..at].trim_end();
        before.ends_with("#[test]") || before.ends_with(']') && before.contains("#[test]")
    })
}

/// Problems of a cell that names tests, including that it names none.
fn problems(cell: &str) -> Vec<String> {
    let fuzz = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    let mut problems = Vec::new();
    let mut named = 0;
    let mut missing_names: Vec<&str> = Vec::new();
    let mut is_fuzz = false;
    for name in code(cell) {
        let is_file = name.contains('/') && !name.contains(' ');
        if name == "fuzz" {
            is_fuzz = true;
        } else if is_file {
            named += 1;
            is_fuzz = false;
            let Ok(text) = fs::read_to_string(root().join(name)) else {
                problems.push(format!("{name} does not exist"));
                continue;
            };
            // Names that precede a file are those of its tests.
            for test in missing_names.drain(..) {
                if !has_test(&text, test) {
                    problems.push(format!("{name} has no test {test}"));
                }
            }
        } else if is_fuzz {
            named += 1;
            if !fuzz.contains(&format!("name = \"{name}\"")) {
                problems.push(format!("no fuzz target {name}"));
            }
        } else if is_test_name(name) {
            named += 1;
            missing_names.push(name);
        }
    }
    for name in missing_names {
        let is_there = |path: &PathBuf| has_test(&fs::read_to_string(path).unwrap(), name);
        if !all_tests().iter().any(is_there) {
            problems.push(format!("no test {name}"));
        }
    }
    if named == 0 {
        problems.push("no test is named".to_owned());
    }
    problems
}

fn is_test_name(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[test]
fn each_threat_has_its_test() {
    let threats = threats(&fs::read_to_string(root().join(PAGE)).unwrap());
    assert!(threats.len() >= 20, "{} threats", threats.len());
    let mut wrong = Vec::new();
    for [threat, _, tests] in &threats {
        wrong.extend(problems(tests).into_iter().map(|problem| format!("{threat}: {problem}")));
    }
    assert!(wrong.is_empty(), "{PAGE}, Threats:\n{}", wrong.join("\n"));
}

#[test]
fn missing_tests_are_reported() {
    for (cell, count) in [
        ("`tests/pages/threats.rs`", 0),
        ("`each_threat_has_its_test` in `tests/pages/threats.rs`", 0),
        ("`each_threat_has_its_test`, `fuzz` targets `head`, `body`", 0),
        ("`tests/no_such.rs`", 1),
        ("`no_such_test` in `tests/pages/threats.rs`", 1),
        ("`code_of_nothing`, `nothing`, `fuzz` target `no`", 3),
        ("", 1),
    ] {
        assert_eq!(problems(cell).len(), count, "{cell}: {:?}", problems(cell));
    }
}

//! Paths and names in docs/architecture.md and CONTRIBUTING.md are those of the sources.

use std::fs;

use crate::pages::{Page, root};

const PAGE: &str = "docs/architecture.md";

/// Folders of the repository that pages name.
const FOLDERS: &[&str] = &[
    "src/",
    "tests/",
    "benches/",
    "configuration/",
    "docs/",
    "fuzz/",
    "packaging/",
    "perf/",
    ".ci/",
];

/// Every word that is a path of the repository, in code blocks and diagrams too.
fn paths(text: &str) -> Vec<&str> {
    let is_part = |it: char| it.is_ascii_alphanumeric() || "/._-*".contains(it);
    let words = text.split(|it| !is_part(it)).map(|word| word.trim_end_matches('.'));
    let words = words.filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder)));
    // A pattern, such as settings*.toml.
    words.filter(|word| !word.contains('*')).collect()
}

/// Pairs of a name and a file in texts like "`name` in `src/file.rs`".
fn names_in_files(text: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = text.split('`').collect();
    let triples = parts.windows(3).enumerate().filter(|(at, _)| at % 2 == 1);
    let named = triples.filter(|(_, part)| {
        part[1].split_whitespace().eq(["in"]) && FOLDERS.iter().any(|it| part[2].starts_with(it))
    });
    named.map(|(_, part)| (part[0], part[2])).collect()
}

fn problems(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for path in paths(text) {
        if !root().join(path).exists() {
            problems.push(format!("{path} does not exist"));
        }
    }
    for (name, path) in names_in_files(text) {
        let source = fs::read_to_string(root().join(path)).unwrap_or_default();
        let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
        if !source.split(|it| !is_part(it)).any(|word| word == name) {
            problems.push(format!("{path} has no {name}"));
        }
    }
    problems
}

#[test]
fn paths_and_names_exist() {
    for page in [PAGE, "CONTRIBUTING.md"] {
        let text = Page::read(page).text;
        assert!(paths(&text).len() > 10, "{page}: only {} paths", paths(&text).len());
        let problems = problems(&text);
        assert!(problems.is_empty(), "{page}:\n{}", problems.join("\n"));
    }
    assert!(names_in_files(&Page::read(PAGE).text).len() > 5);
}

#[test]
fn missing_paths_and_names_are_reported() {
    for (text, count) in [
        ("`src/lib.rs`, `tests/pages/`, `job` in `src/lib.rs`", 0),
        ("| src/lib.rs, error.rs | `configuration/settings*.toml`.", 0),
        ("`src/no_such.rs`", 1),
        ("a diagram: src/no_such/mod.rs │", 1),
        ("`no_such_name` in `src/lib.rs`", 1),
    ] {
        assert_eq!(problems(text).len(), count, "{text}: {:?}", problems(text));
    }
}

/// Every folder and file right below `src/` is in the table of folders.
#[test]
fn each_folder_is_described() {
    let page = Page::read(PAGE).text;
    let table = page.split("\n## The folders of src/\n").nth(1).expect("a table of folders");
    let table = table.split("\n## ").next().unwrap();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        let end = if entry.path().is_dir() { "/" } else { "" };
        let path = format!("`src/{}{end}`", entry.file_name().to_str().unwrap());
        assert!(table.contains(&path), "{PAGE} does not describe {path}");
    }
}

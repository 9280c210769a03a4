//! Links within the repository have existing targets.

use std::collections::HashSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::pages::{self, Page, Part, root};

/// The targets of the links in a line, except those in code or to other sites.
fn links(line: &str) -> Vec<&str> {
    let without_code = line.split('`').step_by(2);
    let targets = without_code.flat_map(|text| text.split("](").skip(1));
    let targets = targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://")).collect()
}

/// Resolves `.` and `..`; `None` if the path leaves the repository.
fn resolve(from: &Path, target: &str) -> Option<PathBuf> {
    let mut path = from.parent()?.to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => path.pop().then_some(())?,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// The problem with a link of `page`, if there is one.
fn problem(page: &Page, target: &str) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let anchors = if file.is_empty() {
        page.anchors()
    } else {
        let path = resolve(&page.path, file).filter(|path| root().join(path).exists());
        let Some(path) = path else {
            return Some(format!("{}: {target}: no such file", page.path.display()));
        };
        let is_page = path.extension().is_some_and(|it| it == "md");
        if is_page { Page::read(path.to_str().unwrap()).anchors() } else { Vec::new() }
    };
    let is_there = anchor.is_empty() || anchors.iter().any(|it| it == anchor);
    (!is_there).then(|| format!("{}: {target}: no such heading", page.path.display()))
}

/// Problems of all links of a page, and the number of links.
fn check(page: &Page) -> (Vec<String>, usize) {
    let mut problems = Vec::new();
    let mut count = 0;
    for part in page.parts() {
        let Part::Line(line) = part else { continue };
        let targets = links(line);
        count += targets.len();
        problems.extend(targets.into_iter().filter_map(|target| problem(page, target)));
    }
    (problems, count)
}

#[test]
fn each_link_leads_to_a_file_and_a_heading() {
    let mut problems = Vec::new();
    let mut count = 0;
    for page in pages::all() {
        let (of_page, links) = check(&page);
        problems.extend(of_page);
        count += links;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 40, "only {count} links were found");
}

#[test]
fn broken_links_are_reported() {
    for (text, problems) in [
        ("[a](security.md#threats), [b](../README.md), [c](#here)\n# Here", 0),
        ("`[a](nothing.md)` and [b](https://example.com/nothing.md)", 0),
        ("```sh\n[a](nothing.md)\n```", 0),
        ("[a](nothing.md)", 1),
        ("[a](../../README.md)", 1),
        ("[a](security.md#nothing), [b](#nothing)", 2),
    ] {
        let page = Page { path: "docs/page.md".into(), text: text.to_owned() };
        assert_eq!(check(&page).0.len(), problems, "{text}: {:?}", check(&page).0);
    }
}

/// Two identical headings share an anchor, so a link cannot tell them apart.
#[test]
fn headings_of_a_page_differ() {
    for page in pages::all() {
        let mut seen = HashSet::new();
        for anchor in page.anchors() {
            assert!(seen.insert(anchor.clone()), "{}: #{anchor} twice", page.path.display());
        }
    }
}

/// README.md leads to every page of docs/.
#[test]
fn readme_links_to_each_page() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for page in pages::all() {
        let path = page.path.to_str().unwrap();
        if path.starts_with("docs/") {
            assert!(readme.contains(&format!("]({path})")), "README.md has no link to {path}");
        }
    }
}

#[test]
fn readme_stays_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 120, "README.md has {lines} lines: move text to docs/");
}

/// Pages and headings that settings files, alerts, scripts and sources name (`docs/page.md`,
/// `docs/page.md#heading`) exist.
#[test]
fn pages_named_elsewhere_exist() {
    let mut count = 0;
    for file in pages::files(&["rs", "toml", "yml", "yaml", "json", "sh", "conf", "service", "py"])
    {
        if file.starts_with("tests/pages") {
            continue;
        }
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (at, _) in text.match_indices("docs/") {
            let is_name = |it: char| it.is_ascii_alphanumeric() || "/._-#".contains(it);
            let rest = &text[at..];
            let name = &rest[..rest.find(|it| !is_name(it)).unwrap_or(rest.len())];
            let name = name.trim_end_matches(['.', '-']);
            let before = text[..at].chars().next_back();
            let is_ours = !before.is_some_and(is_name) && name.contains(".md");
            if is_ours {
                count += 1;
                let page = Page { path: "README.md".into(), text: String::new() };
                assert_eq!(problem(&page, name), None, "in {}", file.display());
            }
        }
    }
    assert!(count > 10, "only {count} mentions were found");
}

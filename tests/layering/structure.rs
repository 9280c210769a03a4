//! No import circles, no arrows upward, no long files or functions.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::arrows::{Arrows, arrows, circles, ties, top, upward};
use crate::functions::lengths;
use crate::sources::{Source, sources};
use crate::tree::Tree;

/// Maximum number of lines of a file, including its tests.
const MAX_FILE_LINES: usize = 600;

/// Maximum number of lines of a function, from its signature to the closing brace.
const MAX_FUNCTION_LINES: usize = 70;

/// The folders and top-level files of `src/` by floor, the lowest first: each imports only from
/// lower floors.
const FLOORS: &[&[&str]] = &[
    &["limits", "rate", "decimal", "exit", "random", "new_file", "partition", "sync"],
    &["backoff"],
    &["job", "key_name", "observe", "policy", "output"],
    &["certificate"],
    &["proto", "hsm", "client"],
    &["server", "state"],
    &["settings"],
    &["admin"],
    &["process", "probe"],
    &["demo"],
    &["cli"],
    &["main"],
];

/// Shared by all tests, since parsing takes seconds.
static ARROWS: LazyLock<Arrows> = LazyLock::new(|| arrows_of(&sources()));

fn arrows_of(sources: &[Source]) -> Arrows {
    arrows(&Tree::new(sources, "xks_proxy"))
}

fn long_functions(sources: &[Source]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources.iter().filter(|source| !source.path.ends_with("_tests.rs")) {
        for function in lengths(&source.text) {
            if function.lines > MAX_FUNCTION_LINES {
                found.insert(format!("{} {}", source.path, function.name));
            }
        }
    }
    found
}

fn long_files(sources: &[Source]) -> Vec<String> {
    let lines = sources.iter().map(|source| (source, source.text.lines().count()));
    let long = lines.filter(|(_, lines)| *lines > MAX_FILE_LINES);
    long.map(|(source, lines)| format!("src/{} has {lines} lines", source.path)).collect()
}

/// This includes circles of a parent and its children: names that both use need a separate file.
#[test]
fn no_file_is_in_a_circle() {
    let circles = circles(&ARROWS);
    let ties: Vec<_> = circles.iter().map(|circle| ties(&ARROWS, circle)).collect();
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), ties.join("\n"));
}

#[test]
fn arrows_run_downward() {
    let wrong = upward(&ARROWS, FLOORS);
    assert!(wrong.is_empty(), "upward, or without a floor:\n{}", wrong.join("\n"));
}

/// Each top-level folder is on exactly one floor, so the rule above covers all of them.
#[test]
fn each_folder_has_one_floor() {
    let floors: Vec<_> = FLOORS.iter().flat_map(|floor| floor.iter()).collect();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let count = floors.iter().filter(|floor| **floor == &top(&source.path)).count();
        assert_eq!(count, 1, "floors of src/{}", source.path);
    }
}

#[test]
fn functions_are_short() {
    let long = long_functions(&sources());
    assert!(long.is_empty(), "over {MAX_FUNCTION_LINES} lines: {long:?}");
}

/// A file should have one reason to exist and be readable in one sitting.
#[test]
fn files_are_small() {
    assert_eq!(long_files(&sources()), [""; 0]);
}

/// Returns a small tree in which the file at `path` has this text.
fn made_up(path: &str, text: &str) -> Vec<Source> {
    let mut sources = vec![
        Source::new("lib.rs", "mod limits; mod rate; pub mod hsm;"),
        Source::new("limits.rs", "pub const MAX: u8 = 1; pub struct Limit;"),
        Source::new("rate.rs", "use crate::limits::MAX; pub fn rate() -> u8 { MAX }"),
        Source::new("hsm/mod.rs", "mod fleet; mod token; pub use fleet::Fleet;"),
        Source::new("hsm/fleet.rs", "use super::token::Token; pub struct Fleet(Token);"),
        Source::new("hsm/token.rs", "pub struct Token; pub fn expired() {}"),
        Source::new("main.rs", "fn main() { xks_proxy::hsm::Fleet::new(); }"),
    ];
    for source in &mut sources {
        if source.path == path {
            source.text = text.to_owned();
        }
    }
    sources
}

#[test]
fn circles_are_found() {
    assert!(circles(&arrows_of(&made_up("", ""))).is_empty());
    let fleet_and_token = ["hsm/fleet.rs", "hsm/token.rs"].map(str::to_owned);
    for text in [
        "use super::fleet::Fleet; pub struct Token(Fleet);",
        "use super::Fleet; pub struct Token(Fleet);",
        "use crate::hsm::{self}; pub struct Token(hsm::Fleet);",
        "use super::*; pub struct Token(Fleet);",
        "pub struct Token(super::fleet::Fleet);",
        "pub struct Token; fn f() { use super::fleet as other; other::Fleet::new(); }",
        "pub struct Token; fn f() { assert!(g(1, crate::hsm::fleet::Fleet { a: 1 })); }",
        "pub struct Token; mod inner { type F = super::super::Fleet; }",
    ] {
        let found = circles(&arrows_of(&made_up("hsm/token.rs", text)));
        assert_eq!(found, [BTreeSet::from(fleet_and_token.clone())], "{text}");
    }
}

#[test]
fn tests_and_re_exports_make_no_circle() {
    for text in [
        "pub struct Token; #[cfg(test)] mod tests { use super::super::Fleet; }",
        "pub struct Token; #[cfg(test)] use super::Fleet;",
        "pub struct Token; impl Token { fn fleet() {} }",
        "pub struct Token; pub use super::Fleet;",
        "pub struct Token; use super::fleet;",
    ] {
        let found = circles(&arrows_of(&made_up("hsm/token.rs", text)));
        assert!(found.is_empty(), "{text}: {found:?}");
    }
}

#[test]
fn circles_through_a_parent_are_found() {
    let text = "pub mod token; pub mod fleet; use fleet::Fleet; pub fn open(fleet: Fleet) {}";
    let mut sources = made_up("hsm/mod.rs", text);
    assert!(circles(&arrows_of(&sources)).is_empty());
    sources.retain(|source| source.path != "hsm/token.rs");
    sources.push(Source::new("hsm/token.rs", "pub struct Token; fn f() { super::open(); }"));
    let arrows = arrows_of(&sources);
    let found = circles(&arrows);
    let all = ["hsm/fleet.rs", "hsm/mod.rs", "hsm/token.rs"].map(str::to_owned);
    assert_eq!(found, [BTreeSet::from(all)]);
    assert!(ties(&arrows, &found[0]).contains("hsm/token.rs -> hsm/mod.rs: super::open"));
}

#[test]
fn arrows_upward_are_found() {
    let floors: &[&[&str]] = &[&["limits", "rate"], &["hsm"], &["main"]];
    let wrong = upward(&arrows_of(&made_up("", "")), floors);
    assert_eq!(wrong, ["rate.rs -> limits.rs: {\"MAX\", \"crate::limits::MAX\"}"]);
    let floors: &[&[&str]] = &[&["limits"], &["rate"], &["hsm"], &["main"]];
    assert!(upward(&arrows_of(&made_up("", "")), floors).is_empty());
    let sources = made_up("limits.rs", "use crate::hsm::Fleet; pub const MAX: u8 = 1;");
    let wrong = upward(&arrows_of(&sources), floors);
    assert_eq!(wrong, ["limits.rs -> hsm/fleet.rs: {\"crate::hsm::Fleet\"}"]);
    let wrong = upward(&arrows_of(&made_up("", "")), &floors[..3]);
    assert_eq!(wrong, ["main.rs has no floor"]);
}

#[test]
fn what_is_long_is_found() {
    let body = "    f();\n".repeat(MAX_FUNCTION_LINES - 2);
    let longer = format!("{body}    g();\n");
    for (text, name) in [
        (format!("/// Long.\npub fn a() {{\n{body}}}\n"), None),
        (format!("fn a() {{\n{longer}}}\n"), Some("a")),
        (format!("pub(crate) const fn a() {{\n{longer}}}\n"), Some("a")),
        (format!("impl T for S<u8> {{\nfn a() {{\n{longer}}}\n}}\n"), Some("S::a")),
        (format!("trait T {{\nfn a() {{\n{longer}}}\n}}\n"), Some("T::a")),
        (format!("mod m {{\nfn a(\n b: u8) {{\n{body}}}\n}}\n"), Some("a")),
        (format!("#[cfg(test)]\nmod tests {{\nfn a() {{\n{longer}}}\n}}\n"), None),
    ] {
        let found = long_functions(&[Source::new("limits.rs", &text)]);
        let name = name.map(|name| format!("limits.rs {name}"));
        assert_eq!(found, name.into_iter().collect(), "{text}");
    }
    let lines = "\n".repeat(MAX_FILE_LINES);
    assert!(long_files(&[Source::new("limits.rs", &lines)]).is_empty());
    let found = long_files(&[Source::new("limits.rs", &format!("{lines}\n"))]);
    assert_eq!(found, [format!("src/limits.rs has {} lines", MAX_FILE_LINES + 1)]);
}

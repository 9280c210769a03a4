//! The profile "bench", which packages and figures have too, makes every optimisation that "release"
//! leaves out so that it builds soon.
#![expect(clippy::expect_used, reason = "tests")]

use toml::{Table, Value};

fn manifest() -> Table {
    include_str!("../../Cargo.toml").parse().expect("Cargo.toml is TOML")
}

/// The table with that name in `parent`.
fn table<'a>(parent: &'a Table, name: &str) -> Option<&'a Table> {
    parent.get(name).and_then(Value::as_table)
}

/// The settings of `manifest` by which packages would be less than fully optimised.
fn shortcomings(manifest: &Table) -> Vec<String> {
    let profiles = manifest["profile"].as_table().expect("profiles");
    let bench = table(profiles, "bench").expect("a profile for benches");
    let mut found = Vec::new();
    let mut expect = |table: Option<&Table>, place: &str, setting: &str, value: Value| {
        if table.and_then(|table| table.get(setting)) != Some(&value) {
            found.push(format!("{place}: {setting} is not {value}"));
        }
    };
    expect(Some(bench), "bench", "opt-level", 3.into());
    expect(Some(bench), "bench", "lto", "thin".into());
    expect(Some(bench), "bench", "codegen-units", 1.into());
    expect(Some(bench), "bench", "debug", "line-tables-only".into());
    // Exceptions are inherited, package by package.
    let exceptions = table(profiles, "release").and_then(|it| table(it, "package"));
    let resets = table(bench, "package");
    for (package, settings) in exceptions.into_iter().flatten() {
        if settings.as_table().is_none_or(|settings| settings.contains_key("opt-level")) {
            expect(resets.and_then(|it| table(it, package)), package, "opt-level", 3.into());
        }
    }
    let dist = table(profiles, "dist").expect("a profile for packages");
    if dist["inherits"] != "bench".into() || dist.keys().any(|it| it != "inherits" && it != "debug")
    {
        found.push("dist: is not bench alone".to_owned());
    }
    found
}

#[test]
fn packages_are_optimised_in_full() {
    assert_eq!(shortcomings(&manifest()), Vec::<String>::new());
}

#[test]
fn an_exception_that_packages_inherit_is_found() {
    let mut manifest = manifest();
    let release = &mut manifest["profile"]["release"]["package"];
    let release = release.as_table_mut().expect("exceptions");
    release.insert("rustls".to_owned(), Value::Table("opt-level = 1".parse().expect("a table")));
    assert_eq!(shortcomings(&manifest), ["rustls: opt-level is not 3"]);
    let bench = manifest["profile"]["bench"].as_table_mut().expect("a profile");
    bench.insert("lto".to_owned(), "off".into());
    assert_eq!(shortcomings(&manifest).len(), 2);
}

//! docs/commands.md lists every command with its options, as `--help` does.

use std::process::Command;

use crate::pages::Page;

/// Standard output of `xks-proxy ARGUMENTS --help`.
fn help(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xks-proxy"));
    let output = command.args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    // A long description continues on lines with a deeper indentation.
    let names = lines.filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The long options that a help text describes, except those that every command has.
fn options(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("Options:\n") else { return Vec::new() };
    let described = list.lines().filter(|line| line.trim_start().starts_with('-'));
    let names = described.filter_map(|line| {
        let (_, name) = line.split_once("--")?;
        let end = name.find(|it: char| !it.is_ascii_lowercase() && it != '-');
        Some(format!("--{}", &name[..end.unwrap_or(name.len())]))
    });
    names.filter(|name| name != "--help" && name != "--version").collect()
}

/// Adds the problems of the command with these names, and of its subcommands.
fn check(names: &[&str], table: &str, probe: &str, problems: &mut Vec<String>) {
    let text = help(names);
    let below = subcommands(&text);
    for name in &below {
        check(&[names, &[name]].concat(), table, probe, problems);
    }
    let beginning = format!("| `xks-proxy {}", names.join(" "));
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with(&beginning)).collect();
    if rows.is_empty() {
        problems.push(format!("{names:?} is missing"));
    }
    // The options of `probe` are on a separate page.
    let rows = if names == ["probe"] { probe.to_owned() } else { rows.join("\n") };
    for option in options(&text) {
        let is_listed = [" ", "]", "`"].iter().any(|end| rows.contains(&format!("{option}{end}")));
        if !is_listed {
            problems.push(format!("{names:?}: {option} is missing"));
        }
    }
}

#[test]
fn each_command_and_option_is_listed() {
    let table = Page::read("docs/commands.md").text;
    let probe = Page::read("docs/probe.md").text;
    let mut problems = Vec::new();
    let commands = subcommands(&help(&[]));
    assert!(commands.len() >= 13, "{commands:?}");
    for name in &commands {
        check(&[name], &table, &probe, &mut problems);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The page lists the exit codes of `--help`.
#[test]
fn each_exit_code_is_listed() {
    let page = Page::read("docs/commands.md").text;
    let text = help(&[]);
    let (_, codes) = text.split_once("Exit codes: ").unwrap();
    let codes = codes.split("; ").map(|code| code.split_whitespace().next().unwrap());
    let codes: Vec<&str> = codes.collect();
    assert!(codes.contains(&"0") && codes.contains(&"78"), "{codes:?}");
    for code in codes {
        assert!(page.contains(&format!("\n| {code} | ")), "exit code {code} is missing");
    }
}

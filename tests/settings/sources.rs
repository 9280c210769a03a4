//! The settings files for HSMs that were not tried: each fact has its source, or a mark.

use std::collections::BTreeSet;
use std::path::Path;

/// Files whose facts come from public pages alone.
const UNTRIED: [&str; 4] = [
    "settings_fortanix.toml",
    "settings_primus.toml",
    "settings_utimaco.toml",
    "settings_vault.toml",
];

/// Members that depend on the HSM.
const OF_THE_HSM: [&str; 6] = [
    "session_pool_max_size",
    "user_pin",
    "PKCS11_HSM_MODULE",
    "can_generate_iv",
    "is_zero_iv_required",
    "handles_per_session",
];

/// The numbers of the sources that a text names: `[1]` or `[1, 3]`.
fn named(text: &str) -> BTreeSet<u32> {
    let brackets = text.split('[').skip(1).filter_map(|rest| rest.split(']').next());
    let numbers = |it: &str| -> Option<Vec<u32>> {
        it.split(", ").map(|number| number.parse().ok()).collect()
    };
    brackets.filter_map(numbers).flatten().collect()
}

/// The items of the file's head, and its list of sources.
fn head(text: &str) -> (Vec<String>, Vec<&str>) {
    let head = text.split("\n# A line of '#'").next().unwrap();
    let (mut items, mut sources) = (Vec::<String>::new(), Vec::new());
    for line in head.lines() {
        if line.starts_with("# [") {
            sources.push(line);
        } else if let Some(item) = line.strip_prefix("# - ") {
            items.push(item.to_owned());
        } else if let (Some(rest), Some(item)) = (line.strip_prefix("#   "), items.last_mut()) {
            item.push(' ');
            item.push_str(rest);
        }
    }
    (items, sources)
}

/// The comment above the member. Members that follow each other share one.
fn comment(lines: &[&str], at: usize) -> String {
    let above = lines[..at].iter().rev();
    let above = above.skip_while(|line| !line.starts_with('#') && !line.is_empty());
    above.take_while(|line| line.starts_with("# ")).copied().collect::<Vec<_>>().join(" ")
}

/// What is wrong with a file.
fn problems(text: &str) -> Vec<String> {
    let (items, sources) = head(text);
    let mut problems = Vec::new();
    for source in &sources {
        let is_whole = source.contains("] https://")
            && source.split("(read 20").nth(1).is_some_and(|day| day.len() == "26-11-29)".len());
        if !is_whole {
            problems.push(format!("no address or no day: {source}"));
        }
    }
    let known: BTreeSet<u32> = sources.iter().flat_map(|source| named(source)).collect();
    let mut used = BTreeSet::new();
    let mut check = |what: String, said: &str| {
        let names = named(said);
        if names.is_empty() && !said.contains("(?)") {
            problems.push(format!("neither a source nor a mark: {what}"));
        }
        problems.extend(names.difference(&known).map(|number| format!("no source [{number}]")));
        used.extend(names);
    };
    for item in &items {
        check(item.clone(), item);
    }
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if let Some((member, _)) = line.split_once(" = ")
            && OF_THE_HSM.contains(&member)
        {
            check(member.to_owned(), &comment(&lines, at));
        }
    }
    problems.extend(known.difference(&used).map(|number| format!("[{number}] is not used")));
    if !text.contains("`xks-proxy probe-hsm` is the judge") {
        problems.push("it does not name the judge".to_owned());
    }
    problems
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configuration").join(name);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn each_fact_has_its_source() {
    for name in UNTRIED {
        let text = file(name);
        assert!(head(&text).0.len() >= 7, "{name}");
        assert_eq!(problems(&text), Vec::<String>::new(), "{name}");
    }
}

/// The check finds a fact, a member and a source that lack something.
#[test]
fn what_lacks_a_source_is_found() {
    let text = file("settings_vault.toml");
    let (items, _) = head(&text);
    let last = items.last().unwrap().rsplit("# - ").next().unwrap();
    assert!(last.ends_with("[2]."), "{last}");
    for (from, to, expected) in [
        (" [1], so each session searches", ", so each session searches", "neither a source"),
        ("From version 0.1.3 on, the library takes the caller's IV [2].", "So.", "can_generate_iv"),
        ("# The library, where you put it [2].", "# The library [7].", "no source [7]"),
        (" (read 2026-11-29)", "", "no day"),
        ("is the judge", "may help", "the judge"),
        ("\n# [1] ", "\n# [3] https://example.com (read 2026-11-29)\n# [1] ", "[3] is not used"),
    ] {
        assert!(text.contains(from), "{from}");
        let found = problems(&text.replacen(from, to, 1));
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:?}");
    }
}

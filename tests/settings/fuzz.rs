//! For any file content, loading ends with settings or with a mistake.

use proptest::prelude::*;
use xks_proxy::settings::Severity;

use crate::{Place, RIGHT};

#[derive(Clone, Debug)]
enum Mutation {
    Delete(prop::sample::Index, usize),
    Insert(prop::sample::Index, String),
    Swap(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let token = prop::sample::select(vec![
        "\"",
        "'",
        "\"\"\"",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "#",
        "\n",
        "\\",
        "\\u12",
        "\0",
        "\u{feff}",
        "é",
        "-",
        "+",
        "_",
        "0x",
        "1e999",
        "99999999999999999999999999999999999999999",
        "nan",
        "inf",
        "true",
        "1979-05-27",
        "[server]",
        "[a.b.c]",
        "server.port = 1\n",
        "x = {}\n",
    ]);
    let inserted = prop_oneof![token.prop_map(str::to_owned), ".{0,12}"];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 0..40_usize).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (index(), inserted).prop_map(|(at, text)| Mutation::Insert(at, text)),
        (index(), index()).prop_map(|(one, other)| Mutation::Swap(one, other)),
        index().prop_map(Mutation::Repeat),
    ]
}

fn mutate(text: &str, mutation: &Mutation) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    match mutation {
        Mutation::Delete(at, length) if !chars.is_empty() => {
            let start = at.index(chars.len());
            let end = (start + length).min(chars.len());
            chars.drain(start..end);
        }
        Mutation::Insert(at, insert) => {
            let at = at.index(chars.len() + 1);
            chars.splice(at..at, insert.chars());
        }
        Mutation::Swap(one, other) => {
            let mut lines: Vec<&str> = text.lines().collect();
            if !lines.is_empty() {
                let count = lines.len();
                lines.swap(one.index(count), other.index(count));
            }
            return lines.join("\n");
        }
        Mutation::Repeat(at) => {
            let mut lines: Vec<&str> = text.lines().collect();
            if !lines.is_empty() {
                let line = lines[at.index(lines.len())];
                lines.push(line);
            }
            return lines.join("\n");
        }
        Mutation::Delete(..) => {}
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn mutated_files_never_panic(
        mutations in prop::collection::vec(mutation(), 1..8),
        is_strict: bool,
    ) {
        let place = Place::new();
        let text = mutations.iter().fold(RIGHT.to_owned(), |text, it| mutate(&text, it));
        let lines = text.split('\n').count();
        match place.load_with(&text, is_strict, &|_| None) {
            Ok((settings, findings)) => {
                prop_assert!(findings.iter().all(|it| it.severity != Severity::Mistake));
                prop_assert!(!settings.stores.is_empty());
                let service = settings.service();
                prop_assert_eq!(service.stores().len(), settings.stores.len());
            }
            Err(findings) => {
                prop_assert!(findings.iter().any(|it| it.severity == Severity::Mistake));
                for finding in &findings {
                    prop_assert!(finding.position.is_none_or(|(line, _)| line <= lines));
                    prop_assert!(!finding.problem.is_empty() && !finding.to_string().is_empty());
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let place = Place::new();
        let path = place.write("settings.toml", &bytes);
        let result = xks_proxy::settings::load(std::path::Path::new(&path), false, &|_| None);
        prop_assert!(result.is_err());
    }
}

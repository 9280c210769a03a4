//! The schema, from which the page of all settings is made, matches the readers.

use std::fmt::Write as _;

use toml::{Table, Value};
use xks_proxy::settings::schema::{Absent, Form, MemberSchema, SECTIONS, SectionSchema};
use xks_proxy::settings::{Finding, Settings};

use crate::{Place, RIGHT, mistakes};

/// Groups of members of which a section may have only one.
const ALTERNATIVES: &[&[&str]] = &[
    &["user_pin", "user_pin_file"],
    &["sigv4_secret_access_key", "sigv4_secret_access_key_file"],
    &["label", "serial", "slot"],
    &["label", "cka_id"],
];

/// A file in which all members of `section` take effect.
fn base(place: &Place, section: &SectionSchema) -> Table {
    let mut text = RIGHT.replace("\"MODULE\"", &format!("\"{}\"", place.module()));
    text.push_str("[state]\ndirectory = \"/var/lib/xks-proxy\"\n");
    text.push_str("[admin]\nport = 9443\n");
    let key = place.write("key", "0123456789abcdef".repeat(4));
    writeln!(text, "[audit]\ndirectory = \"/var/log\"\nkey_file = \"{key}\"").unwrap();
    match section.path {
        "tls" => {
            text = text.replace("tls_enabled = false", "tls_enabled = true");
            text.push_str("[tls]\n");
        }
        "security.cedar" | "security.rego" => {
            let language = if section.path == "security.rego" { "Rego" } else { "Cedar" };
            let auth = format!("is_mtls_enabled = false\nsecondary_auth = \"{language}\"");
            text = text.replace("is_mtls_enabled = false", &auth);
            writeln!(text, "[{}]", section.path).unwrap();
        }
        "external_key_stores.credentials" => {
            let listed = "[[external_key_stores.credentials]]\n\
                          sigv4_access_key_id = \"ABCDEFGHIJKLMNOPQRSTUV22\"\n\
                          sigv4_secret_access_key = \"SECRET\"\n\n[[external_key_stores]]\n\
                          uri_path_prefix = \"/example/prefix\"";
            let second = "[[external_key_stores]]\nuri_path_prefix = \"/example/prefix\"";
            text = text.replace(second, &listed.replace("SECRET", &"Hush/".repeat(10)));
        }
        "external_key_stores.keys" | "external_key_stores.keys.versions" => {
            let key = "max_in_flight = 100\n[[external_key_stores.keys]]\nid = \"key\"\n\
                       versions = [{ label = \"key\" }]\n";
            text = text.replacen("max_in_flight = 100\n", key, 1);
        }
        "otlp" => text.push_str("[otlp]\nendpoint = \"https://collector.example.com\"\n"),
        "syslog" => text.push_str("[[syslog]]\nserver = \"logs.example.com:6514\"\n"),
        "pkcs11.tokens" => text.push_str("[[pkcs11.tokens]]\nlabel = \"hsm\"\n"),
        _ => {}
    }
    text.parse().unwrap()
}

/// The section in the file, and its name in findings.
fn section<'t>(file: &'t mut Table, path: &str) -> (&'t mut Table, String) {
    let mut shown = String::new();
    let mut table = file;
    for name in path.split('.') {
        if !shown.is_empty() {
            shown.push('.');
        }
        shown.push_str(name);
        let below = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        table = match below {
            Value::Array(list) => {
                shown.push_str("[0]");
                list[0].as_table_mut().unwrap()
            }
            below => below.as_table_mut().unwrap(),
        };
    }
    (table, shown)
}

/// Loads the file of [`base`] with the member set to `value`, or removed. Returns the result and
/// the member's name in findings.
fn load(
    place: &Place,
    of: &SectionSchema,
    member: &MemberSchema,
    value: Option<Value>,
) -> (Result<Settings, Vec<Finding>>, String) {
    let mut file = base(place, of);
    let (table, shown) = section(&mut file, of.path);
    table.remove(member.name);
    if let Some(value) = value {
        for names in ALTERNATIVES.iter().filter(|names| names.contains(&member.name)) {
            names.iter().for_each(|name| drop(table.remove(*name)));
        }
        if member.name == "profile" {
            table.remove("can_generate_iv");
            table.remove("is_zero_iv_required");
        }
        if of.path == "pkcs11.tokens" && member.name == "can_generate_iv" {
            table.insert("is_zero_iv_required".to_owned(), Value::Boolean(false));
        }
        if matches!(of.path, "admin" | "syslog") && member.name.ends_with("_pem") {
            for name in ["tls_cert_pem", "tls_key_pem"] {
                table.insert(name.to_owned(), Value::from("nowhere"));
            }
        }
        if of.path == "syslog" && matches!(value.as_str(), Some("datagram" | "stream")) {
            table.insert("server".to_owned(), Value::from("unix:/dev/log"));
        }
        if value.as_str() == Some("tcp") {
            table.insert("allow_plain_remote".to_owned(), Value::Boolean(true));
        }
        table.insert(member.name.to_owned(), value);
    }
    let loaded = place.load(&toml::to_string(&file).unwrap());
    (loaded.map(|(settings, _)| settings), format!("{shown}.{}", member.name))
}

/// The mistakes about the member, each as problem and remedy.
fn mistakes_of(loaded: &Result<Settings, Vec<Finding>>, member: &str) -> Vec<String> {
    let Err(findings) = loaded else { return Vec::new() };
    let own = mistakes(findings).into_iter().filter(|finding| finding.member == member);
    own.map(|finding| format!("{}; {}", finding.problem, finding.remedy)).collect()
}

/// All members except those that are accepted only for the reference proxy's files.
fn members() -> impl Iterator<Item = (&'static SectionSchema, &'static MemberSchema)> {
    let all = SECTIONS.iter().flat_map(|of| of.members.iter().map(move |member| (of, member)));
    // A program without the feature refuses the section as a whole.
    let all = all.filter(|(of, _)| cfg!(feature = "otlp") || of.path != "otlp");
    all.filter(|(_, member)| member.form != Form::Ignored)
}

/// Each listed member is read: a list of lists, which none allows, is refused.
#[test]
fn each_member_is_read() {
    let place = Place::new();
    assert!(members().count() > 90);
    for (of, member) in members() {
        let nonsense = Value::Array(vec![Value::Array(Vec::new())]);
        let (loaded, shown) = load(&place, of, member, Some(nonsense));
        let told = mistakes_of(&loaded, &shown);
        let of_the_first = mistakes_of(&loaded, &format!("{shown}[0]"));
        assert_eq!(told.len() + of_the_first.len(), 1, "{shown}: {loaded:?}");
    }
}

/// An ignored member may have any value.
#[test]
fn ignored_members_are_ignored() {
    let place = Place::new();
    let all = SECTIONS.iter().flat_map(|of| of.members.iter().map(move |member| (of, member)));
    for (of, member) in all.filter(|(_, member)| member.form == Form::Ignored) {
        let nonsense = Value::Array(vec![Value::Array(Vec::new())]);
        let (loaded, shown) = load(&place, of, member, Some(nonsense));
        assert!(loaded.is_ok(), "{shown}: {loaded:?}");
    }
}

/// Both bounds are accepted, and values beyond them are refused with the bounds as the remedy.
#[test]
fn integers_have_their_bounds() {
    let place = Place::new();
    for (of, member) in members() {
        let Form::Integer { low, high, .. } = member.form else { continue };
        let integer = |value: u64| Value::Integer(i64::try_from(value).unwrap());
        for value in [low, high] {
            let (loaded, shown) = load(&place, of, member, Some(integer(value)));
            let told = mistakes_of(&loaded, &shown);
            assert!(!told.iter().any(|it| it.contains("out of range")), "{shown}: {told:?}");
        }
        let above = i64::try_from(high).unwrap().checked_add(1).map(Value::Integer);
        let below = Value::Integer(i64::try_from(low).unwrap() - 1);
        for value in above.into_iter().chain([below]) {
            let (loaded, shown) = load(&place, of, member, Some(value));
            let told = mistakes_of(&loaded, &shown);
            let bounds = format!("from {low} to {high}, without quotes");
            assert!(told.len() == 1 && told[0].ends_with(&bounds), "{shown}: {bounds}: {told:?}");
        }
    }
}

/// Each listed word is accepted, and any other is refused.
#[test]
fn words_are_those_listed() {
    let place = Place::new();
    for (of, member) in members() {
        let Form::OneOf(words) = member.form else { continue };
        for word in words {
            let (loaded, shown) = load(&place, of, member, Some(Value::from(*word)));
            let told = mistakes_of(&loaded, &shown);
            assert!(told.is_empty(), "{shown} = {word}: {told:?}");
        }
        let (loaded, shown) = load(&place, of, member, Some(Value::from("xyzzy")));
        let told = mistakes_of(&loaded, &shown);
        assert!(told.len() == 1, "{shown}: {told:?}");
        assert!(words.iter().all(|word| told[0].contains(word)), "{shown}: {told:?}");
    }
}

/// Only required members must be present.
#[test]
fn required_members_are_those_listed() {
    let place = Place::new();
    for (of, member) in members() {
        // Described defaults depend on other members.
        if matches!(member.absent, Absent::Described(_)) {
            continue;
        }
        let (loaded, shown) = load(&place, of, member, None);
        let is_missing = mistakes_of(&loaded, &shown).iter().any(|it| it.contains("is missing"));
        assert_eq!(is_missing, member.absent == Absent::Required, "{shown}: {loaded:?}");
    }
}

/// Writing out a default changes nothing.
#[test]
fn defaults_are_those_listed() {
    let place = Place::new();
    let mut compared = 0;
    for (of, member) in members() {
        let value = match member.absent {
            Absent::Boolean(value) => Value::Boolean(value),
            Absent::Integer(value) => Value::Integer(i64::try_from(value).unwrap()),
            Absent::Text(value) => Value::from(value),
            Absent::Required | Absent::None | Absent::Described(_) => continue,
        };
        let (missing, shown) = load(&place, of, member, None);
        let (written, _) = load(&place, of, member, Some(value.clone()));
        let debug = |it: Result<Settings, _>| {
            format!("{:?}", it.unwrap_or_else(|it| panic!("{shown}: {it:?}")))
        };
        assert_eq!(debug(missing), debug(written), "{shown} = {value}");
        compared += 1;
    }
    assert!(compared > 30, "{compared}");
}

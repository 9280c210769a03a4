//! Unknown names in the settings, and suggestions for them.

use super::report::{Location, Report};
use super::schema::{SECTIONS, names_in, section_with};
use toml::de::DeTable;

/// The section with most protections.
const SECURITY: &str = "security";

/// Reports each unknown member of `table`. `section` is the section's path in the schema, and
/// `path` its path in findings.
pub(super) fn report_unknown(section: &str, path: &str, table: &DeTable<'_>, report: &Report<'_>) {
    let known = names_in(section);
    for name in table.keys() {
        let text: &str = name.get_ref();
        if known.contains(&text) {
            continue;
        }
        let member = if path.is_empty() { text.to_owned() } else { format!("{path}.{text}") };
        let location = Location { member, offset: Some(name.span().start) };
        let problem = "there is no such member".to_owned();
        let remedy = remedy(section, text, &known);
        match protection_meant(section, text) {
            Some(meant) => report.mistake(
                &location,
                format!("{problem}, and {meant} would stay as if it were not there"),
                remedy,
            ),
            None => report.unknown(&location, problem, remedy),
        }
    }
}

fn remedy(section: &str, name: &str, known: &[&str]) -> String {
    if let Some(nearest) = nearest(name, known.iter().copied()) {
        return format!("did you mean {nearest}?");
    }
    match section_with(name, section) {
        Some(other) => format!("it belongs in [{other}]"),
        None if protection_meant(section, name).is_some() => {
            format!("it probably belongs in [{SECURITY}], and is misspelt")
        }
        None => format!("remove it, or write one of {}", known.join(", ")),
    }
}

/// Returns the member or section that an unknown name probably means, if it is a protection: one of
/// this section, misspelt, or one of another section, as when a line is added at the end of the
/// file. Ignoring it would leave switched off what the settings ask for. Other unknown members are
/// accepted for the sake of the sample proxy's files.
fn protection_meant(section: &str, name: &str) -> Option<&'static str> {
    let of_section = match section {
        "admin" | "audit" | "tls" => names_in(section),
        _ if section.starts_with("security.") => names_in(SECURITY),
        _ => protections(section),
    };
    nearest(name, of_section).or_else(|| {
        let elsewhere = SECTIONS.iter().flat_map(|section| protections(section.path));
        elsewhere.into_iter().find(|protection| *protection == name)
    })
}

/// Returns the names in a section that protect something, and that are unlikely to mean anything
/// else in other sections.
fn protections(section: &str) -> Vec<&'static str> {
    match section {
        "" => vec![SECURITY, "audit"],
        SECURITY => names_in(SECURITY),
        "external_key_stores" => {
            vec!["disabled", "disabled_keys", "max_requests_per_sec", "max_in_flight"]
        }
        "external_key_stores.keys.versions" => vec!["retired"],
        "pkcs11" => vec!["require_private_keys"],
        _ => Vec::new(),
    }
}

/// Returns the candidate most similar to `name`, if one is similar enough.
pub(super) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::schema::SECTIONS;

    /// The sample file mentions every member, as users would not find the others. (Oso's section is
    /// known, but refused.)
    #[test]
    fn each_member_is_in_the_documented_file() {
        let text = include_str!("../../configuration/settings.toml");
        let lines: Vec<&str> = text.lines().map(|line| line.trim_start_matches('#')).collect();
        for section in SECTIONS.iter().filter(|section| section.path != "security.oso") {
            let path = section.path;
            let heading = if section.is_list { format!("[[{path}]]") } else { format!("[{path}]") };
            assert!(lines.contains(&&*heading), "{heading}");
            for member in section.members {
                let start = format!("{} = ", member.name);
                assert!(lines.iter().any(|line| line.starts_with(&start)), "{heading} {start}");
            }
        }
    }

    /// Each name that is protected is one.
    #[test]
    fn protections_exist() {
        for path in SECTIONS.iter().map(|section| section.path).chain([""]) {
            let known = names_in(path);
            assert!(protections(path).iter().all(|name| known.contains(name)), "[{path}]");
        }
    }

    /// Typing errors are recognised, and unrelated words are not mistaken for them.
    #[test]
    fn nearest_is_near() {
        let names = ["port", "ip", "region", "xks_key_id_set"];
        assert_eq!(nearest("prot", names), Some("port"));
        assert_eq!(nearest("Region", names), Some("region"));
        assert_eq!(nearest("xks_key_ids", names), Some("xks_key_id_set"));
        assert_eq!(nearest("user_pin", names), None);
    }
}

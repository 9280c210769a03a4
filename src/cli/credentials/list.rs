//! `xks-proxy credentials list`: shows when each credential was last used.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::super::{admin_client, settings_file};
use super::watch::{Seen, Times};
use crate::client::{Endpoint, Trust};
use crate::exit::{EXIT_ARGUMENTS, EXIT_UNAVAILABLE, Failed};
use crate::observe::timestamp::Rfc3339;
use crate::observe::timestamp::unix_secs;
use crate::output;
use crate::output::errln;
use crate::settings::{Credential, Settings};

const SECS_PER_DAY: u64 = 86_400;

/// Lists all credentials in the settings, and any others that running proxies have.
///
/// # Errors
/// [`Failed`]: the settings or the arguments are wrong.
pub(super) fn run(
    file: Option<&Path>,
    admins: &[String],
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<(), Failed> {
    let (settings, _) = settings_file::load(file, false)?;
    let trust =
        trust(ca, identity).map_err(|error| Failed::new(EXIT_UNAVAILABLE, error.to_string()))?;
    let mut seen = Seen::default();
    let mut troubles = Vec::new();
    if admins.is_empty() {
        let asked = admin_client::of_settings(settings.admin.as_ref())
            .and_then(|endpoint| seen.ask(&endpoint, &trust));
        troubles.extend(asked.err());
    }
    for admin in admins {
        let endpoint = Endpoint::parse(admin)
            .map_err(|why| Failed::new(EXIT_ARGUMENTS, format!("--admin {why}")))?;
        if let Err(why) = seen.ask(&endpoint, &trust) {
            troubles.push(format!("{admin}: {why}"));
        }
    }
    let now = unix_secs(SystemTime::now());
    output::print_or_end(format_args!("{}", table(&settings, &seen, troubles.first(), now)));
    if seen.proxies > 0 {
        for why in &troubles {
            errln!("NOT ASKED: {why}; its use of credentials is not in the list");
        }
    }
    Ok(())
}

fn trust(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> std::io::Result<Trust> {
    let mut trust = Trust::default();
    if let Some(file) = ca {
        trust.trust_file(file)?;
    }
    if let Some((chain, key)) = identity {
        trust.identify(chain, key)?;
    }
    Ok(trust)
}

/// Returns the complete list, one line per credential.
fn table(settings: &Settings, seen: &Seen, trouble: Option<&String>, now: u64) -> String {
    let mut rows =
        vec![["store", "access key id", "created", "last used", "name"].map(String::from)];
    let mut strangers = seen.credentials.clone();
    for store in &settings.stores {
        for credential in &store.credentials {
            let key = (store.uri_path_prefix.clone(), credential.access_key_id.clone());
            let last_used = match (strangers.remove(&key), trouble) {
                (Some(times), _) => last_used(&times, seen.proxies, now),
                (None, Some(why)) if seen.proxies == 0 => format!("unknown: {why}"),
                (None, _) => "not loaded: reload the proxy for it to be accepted".to_owned(),
            };
            let name = credential.name.clone().unwrap_or_default();
            rows.push([shown(&key.0), key.1, created(credential, now), last_used, name]);
        }
        if store.credentials.is_empty() {
            let none = "none: each call is refused".to_owned();
            rows.push([
                shown(&store.uri_path_prefix),
                none,
                String::new(),
                String::new(),
                String::new(),
            ]);
        }
    }
    let mut strangers: Vec<_> = strangers.into_iter().collect();
    strangers.sort_by(|one, other| one.0.cmp(&other.0));
    for ((prefix, id), times) in strangers {
        let last_used = last_used(&times, seen.proxies, now);
        let remark = "NOT IN THE SETTINGS, and accepted until the proxy reloads them".to_owned();
        // The text comes from a peer.
        let id = id.escape_debug().to_string();
        rows.push([
            shown(&prefix).escape_debug().to_string(),
            id,
            String::new(),
            last_used,
            remark,
        ]);
    }
    aligned(&rows)
}

fn shown(prefix: &str) -> String {
    if prefix.is_empty() { "(no prefix)".to_owned() } else { prefix.to_owned() }
}

fn created(credential: &Credential, now: u64) -> String {
    match credential.created_unix_secs {
        Some(unix_secs) => {
            let days = now.saturating_sub(unix_secs) / SECS_PER_DAY;
            format!("{} ({days} days)", day(unix_secs))
        }
        None => "unknown".to_owned(),
    }
}

fn last_used(times: &Times, proxies: usize, now: u64) -> String {
    let mut text = match times.last_used_unix_secs {
        0 => format!("not since it was loaded, {}", moment(times.loaded_unix_secs)),
        used => format!("{} ({} ago)", moment(used), span(now.saturating_sub(used))),
    };
    if times.proxies < proxies {
        text += &format!("; {} of {proxies} proxies have it", times.proxies);
    }
    text
}

/// `2026-11-25`
pub(super) fn day(unix_secs: u64) -> String {
    moment(unix_secs).split('T').next().unwrap_or_default().to_owned()
}

/// `2026-11-25T08:16:31Z`
fn moment(unix_secs: u64) -> String {
    let mut time = Rfc3339::default();
    let text = String::from_utf8_lossy(time.at(Duration::from_secs(unix_secs))).into_owned();
    text.replace(".000000Z", "Z")
}

/// Returns a duration in the largest unit of which it contains at least two.
fn span(secs: u64) -> String {
    for (unit, name) in [(SECS_PER_DAY, "days"), (3600, "hours"), (60, "minutes")] {
        if secs >= 2 * unit {
            return format!("{} {name}", secs / unit);
        }
    }
    format!("{secs} s")
}

/// Formats columns as wide as their content, without trailing spaces.
fn aligned(rows: &[[String; 5]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.iter().zip(&widths) {
            line += &format!("{cell:<width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts by which an administrator decides whether a credential can be removed.
    #[test]
    fn last_uses() {
        let now = 1_795_564_800;
        let times = |last_used_unix_secs| Times {
            loaded_unix_secs: now - 7200,
            last_used_unix_secs,
            proxies: 1,
        };
        assert_eq!(last_used(&times(now - 30), 1, now), "2026-11-24T23:59:30Z (30 s ago)");
        assert_eq!(last_used(&times(now - 300), 1, now), "2026-11-24T23:55:00Z (5 minutes ago)");
        assert_eq!(last_used(&times(now + 5), 1, now), "2026-11-25T00:00:05Z (0 s ago)");
        let unused = "not since it was loaded, 2026-11-24T22:00:00Z";
        assert_eq!(last_used(&times(0), 1, now), unused);
        assert_eq!(last_used(&times(0), 3, now), format!("{unused}; 1 of 3 proxies have it"));
    }

    #[test]
    fn spans() {
        for (secs, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 minutes"),
            (7199, "119 minutes"),
            (7200, "2 hours"),
            (2 * SECS_PER_DAY, "2 days"),
        ] {
            assert_eq!(span(secs), text);
        }
        assert_eq!(day(1_795_564_800), "2026-11-25");
    }

    #[test]
    fn columns() {
        let row = |cells: [&str; 5]| cells.map(String::from);
        let text = aligned(&[row(["a", "bb", "", "c", ""]), row(["aaa", "b", "", "", "é"])]);
        assert_eq!(text, "a    bb    c\naaa  b        é\n");
    }
}

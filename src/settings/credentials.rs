//! The SigV4 credentials of one of `[[external_key_stores]]`: the sample proxy's two members,
//! `[[external_key_stores.credentials]]`, or both. All of them are valid at the same time, so that
//! KMS can move from one to the next (XKS specification, SigV4 credentials rotation).

use std::time::SystemTime;

use super::secret;
use super::section::{Member, Section, shown};
use crate::limits::{
    MAX_ACCESS_KEY_ID_BYTES, MAX_CREDENTIAL_NAME_BYTES, MAX_CREDENTIALS_PER_STORE,
    MAX_SECRET_ACCESS_KEY_BYTES, MIN_ACCESS_KEY_ID_BYTES, MIN_SECRET_ACCESS_KEY_BYTES,
};
use crate::observe::redaction::Secret;
use crate::observe::timestamp::unix_secs;

/// Secret from the sample proxy's own files, and therefore public.
const PUBLISHED_SECRET: &str = "PleaseReplaceThisWithSomeSecretOfLength43To64";

const ID: &str = "sigv4_access_key_id";
const SECRET: &str = "sigv4_secret_access_key";
const SECRET_FILE: &str = "sigv4_secret_access_key_file";
const LIST: &str = "external_key_stores.credentials";

const ID_REMEDY: &str = "write 20 to 30 characters of A-Z and 2-7";
const SECRET_REMEDY: &str = "write 43 to 64 characters of a-z, A-Z, 0-9, '/', '+' and '='";
const NAME_REMEDY: &str = "write a name of up to 64 characters";
const SECS_PER_DAY: u64 = 86_400;

// The remedies state these bounds.
const _: () = {
    assert!(MIN_ACCESS_KEY_ID_BYTES == 20 && MAX_ACCESS_KEY_ID_BYTES == 30);
    assert!(MIN_SECRET_ACCESS_KEY_BYTES == 43 && MAX_SECRET_ACCESS_KEY_BYTES == 64);
    assert!(MAX_CREDENTIAL_NAME_BYTES == 64);
};

/// A SigV4 credential: `sigv4_access_key_id` and `sigv4_secret_access_key` of a store, or one of
/// `[[external_key_stores.credentials]]`.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Access key id; not secret, and unique within the store.
    pub access_key_id: String,
    /// The secret shared with KMS.
    pub secret_access_key: Secret<String>,
    /// Name for people.
    pub name: Option<String>,
    /// Start of the day on which it was created, in seconds since 1970, if known.
    pub created_unix_secs: Option<u64>,
}

/// A credential, with the members it comes from.
struct Found<'a> {
    credential: Credential,
    id: Member<'a>,
    secret: Member<'a>,
}

/// Reads all credentials of a store in the order of the file, beginning with that of the store's
/// own two members. The result is empty only if both of these are present and empty, as in the
/// sample proxy's own files.
pub(super) fn read(store: &Section<'_>) -> Option<Vec<Credential>> {
    let listed = match store.get("credentials") {
        Some(_) => store.sections(LIST)?,
        None => Vec::new(),
    };
    let has_pair = [ID, SECRET, SECRET_FILE].iter().any(|name| store.get(name).is_some());
    if !has_pair && listed.is_empty() {
        let problem = "the store has no credential";
        let remedy = "add [[external_key_stores.credentials]] below the store's other members, as \
                      `xks-proxy credentials new` prints it, or write sigv4_access_key_id and \
                      sigv4_secret_access_key";
        store.report().mistake(&store.location_of("credentials"), problem, remedy);
        return None;
    }
    let room = MAX_CREDENTIALS_PER_STORE - usize::from(has_pair);
    if let Some(first_too_many) = listed.get(room) {
        let problem = format!("the store already has {} credentials", MAX_CREDENTIALS_PER_STORE);
        let remedy = "remove those that KMS does not use: see `xks-proxy credentials list`";
        store.report().mistake(&first_too_many.location(), problem, remedy);
        return None;
    }
    let mut found = Vec::new();
    if has_pair {
        match pair(store) {
            Pair::Empty(member) if listed.is_empty() => {
                let problem = "the store has no credential: each of its calls will be refused";
                let remedy = "write sigv4_access_key_id and sigv4_secret_access_key, the same as \
                              in KMS";
                member.warning(problem, remedy);
            }
            Pair::Empty(_) => {}
            Pair::Wrong => found.push(None),
            Pair::Right(pair) => found.push(Some(*pair)),
        }
    }
    found.extend(listed.iter().map(listed_one));
    let found: Option<Vec<Found<'_>>> = found.into_iter().collect();
    let found = found?;
    differ(&found)?;
    Some(found.into_iter().map(|found| found.credential).collect())
}

/// The outcome of reading an access key id and a secret access key.
enum Pair<'a> {
    /// Both are empty; contains the access key id's member.
    Empty(Member<'a>),
    Wrong,
    Right(Box<Found<'a>>),
}

/// Reads the access key id and the secret access key from a store's own section, or from one of its
/// list of credentials. Messages show neither value, as people confuse the two.
fn pair<'a>(section: &Section<'a>) -> Pair<'a> {
    let id = section
        .require(ID, ID_REMEDY)
        .and_then(|member| member.string(ID_REMEDY).map(|text| (member, text)));
    let secret = secret::read(section, SECRET, SECRET_FILE, SECRET_REMEDY);
    let (is_id_empty, is_secret_empty) = (
        id.as_ref().is_some_and(|(_, text)| text.is_empty()),
        secret.as_ref().is_some_and(|(_, secret)| secret.expose().is_empty()),
    );
    if let (Some((member, _)), true, true) = (&id, is_id_empty, is_secret_empty) {
        return Pair::Empty(member.clone());
    }
    let id = id.filter(|(member, text)| is_access_key_id(member, text));
    let secret = secret.filter(|(member, secret)| is_secret_access_key(member, secret));
    match (id, secret) {
        (Some((id, text)), Some((secret, secret_access_key))) => {
            let access_key_id = text.to_owned();
            let credential = Credential {
                access_key_id,
                secret_access_key,
                name: None,
                created_unix_secs: None,
            };
            Pair::Right(Box::new(Found { credential, id, secret }))
        }
        _ => Pair::Wrong,
    }
}

/// Reads one of `[[external_key_stores.credentials]]`.
fn listed_one<'a>(section: &Section<'a>) -> Option<Found<'a>> {
    let name = section.optional("name", name);
    let created = section.optional("created", created);
    let mut found = match pair(section) {
        Pair::Right(found) => *found,
        Pair::Wrong => return None,
        Pair::Empty(member) => {
            let remedy = "write both members, or remove this section";
            member.mistake("it is empty, and so is the secret access key", remedy);
            return None;
        }
    };
    found.credential.name = name?;
    found.credential.created_unix_secs = created?;
    Some(found)
}

fn name(member: &Member<'_>) -> Option<String> {
    let text = member.string(NAME_REMEDY)?;
    let problem = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > MAX_CREDENTIAL_NAME_BYTES {
        format!("it has {} bytes", text.len())
    } else if text.chars().any(char::is_control) {
        "it has a control character".to_owned()
    } else {
        return Some(text.to_owned());
    };
    member.mistake(problem, NAME_REMEDY);
    None
}

fn created(member: &Member<'_>) -> Option<u64> {
    let created = member.date()?;
    // A tolerance of one day: further east, it may already be tomorrow.
    if created > unix_secs(SystemTime::now()) + SECS_PER_DAY {
        member.warning("the day is in the future", "write the day on which it was made");
    }
    Some(created)
}

fn is_access_key_id(member: &Member<'_>, text: &str) -> bool {
    let allowed = MIN_ACCESS_KEY_ID_BYTES..=MAX_ACCESS_KEY_ID_BYTES;
    let is_allowed = |byte: u8| matches!(byte, b'A'..=b'Z' | b'2'..=b'7');
    is_right(member, text, allowed, is_allowed, ID_REMEDY)
}

fn is_secret_access_key(member: &Member<'_>, secret: &Secret<String>) -> bool {
    let text = secret.expose().as_str();
    if text == PUBLISHED_SECRET {
        let problem = "this secret is published with the sample proxy";
        let remedy = "replace it, here and in KMS, with a new one: `xks-proxy credentials \
                      new` creates it";
        member.warning(problem, remedy);
    }
    let allowed = MIN_SECRET_ACCESS_KEY_BYTES..=MAX_SECRET_ACCESS_KEY_BYTES;
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'+' | b'=');
    is_right(member, text, allowed, is_allowed, SECRET_REMEDY)
}

fn is_right(
    member: &Member<'_>,
    text: &str,
    allowed: std::ops::RangeInclusive<usize>,
    is_allowed: impl Fn(u8) -> bool,
    remedy: &str,
) -> bool {
    let problem = if text.is_empty() {
        "it is empty, and the other half of the credential is not".to_owned()
    } else if !text.bytes().all(is_allowed) {
        "it has a character that is not allowed".to_owned()
    } else if !allowed.contains(&text.len()) {
        format!("it has {} characters", text.len())
    } else {
        return true;
    };
    member.mistake(problem, remedy);
    false
}

/// Requires that each access key id have one secret (XKS specification, Appendix A), and warns if
/// two ids have the same secret.
fn differ(found: &[Found<'_>]) -> Option<()> {
    let mut is_right = Some(());
    for (index, one) in found.iter().enumerate() {
        let before = || found.iter().take(index);
        let same_id =
            before().find(|other| other.credential.access_key_id == one.credential.access_key_id);
        if let Some(other) = same_id {
            let problem = format!(
                "\"{}\" is already in {}",
                shown(&one.credential.access_key_id),
                other.id.location().member
            );
            let remedy = "remove one of the two, or create a new one: `xks-proxy credentials new`";
            one.id.mistake(problem, remedy);
            is_right = None;
            continue;
        }
        let secret = one.credential.secret_access_key.expose();
        let same_secret =
            before().find(|other| other.credential.secret_access_key.expose() == secret);
        if let Some(other) = same_secret {
            let problem = format!("it is already the secret of {}", other.secret.location().member);
            let remedy = "give each credential its own secret: `xks-proxy credentials new`";
            one.secret.warning(problem, remedy);
        }
    }
    is_right
}

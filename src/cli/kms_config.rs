//! `xks-proxy kms-config`: the file that the AWS console reads when an external key store is
//! created or edited (XKS specification, XKS proxy configuration in AWS KMS console).

use std::path::PathBuf;

use serde::Serialize;
use zeroize::Zeroizing;

use super::which_store::{self, API_PATH};
use super::{secret_output, settings_file};
use crate::exit::{EXIT_ARGUMENTS, EXIT_SETTINGS, Failed};
use crate::output::{self, errln};
use crate::settings::Credential;

/// Upper bound of the file: its longest strings have 128, 30, 64 and 12 bytes.
const MAX_FILE_BYTES: usize = 1024;

/// Length of the id of an AWS account.
const ACCOUNT_ID_DIGITS: usize = 12;

/// The command line of `kms-config`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The store's uri_path_prefix; needed if there are several
    store: Option<String>,
    /// The credential for KMS, if not the one listed last in the settings
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
    /// The account that owns the VPC endpoint service, if it is not the key store's; for the AWS
    /// CLI only
    #[arg(long, value_name = "ACCOUNT", value_parser = account_id)]
    vpc_endpoint_service_owner: Option<String>,
    /// Write to a new file of mode 0600 instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print it even if standard output is a terminal, which is refused otherwise
    #[arg(long, conflicts_with = "output")]
    show_secret: bool,
    /// The settings file, if not the one that `serve` would use
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// The members of the file.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ProxyConfiguration<'c> {
    xks_proxy_uri_path: String,
    xks_proxy_authentication_credential: AuthenticationCredential<'c>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xks_proxy_vpc_endpoint_service_owner: Option<&'c str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AuthenticationCredential<'c> {
    access_key_id: &'c str,
    raw_secret_access_key: &'c str,
}

/// Prints or writes the file.
///
/// # Errors
/// [`Failed`]: the settings are wrong, the store or the credential is missing, or the file exists.
pub fn run(arguments: &Arguments) -> Result<(), Failed> {
    if arguments.output.is_none() && output::is_terminal() && !arguments.show_secret {
        let message = "it holds a secret, and standard output is a terminal: name a new file with \
                       --output FILE, or have it printed with --show-secret";
        return Err(Failed::new(EXIT_ARGUMENTS, message.to_owned()));
    }
    let (settings, _) = settings_file::load(arguments.settings.as_deref(), false)?;
    let store = which_store::named(&settings, arguments.store.as_deref())?;
    let prefix = store.uri_path_prefix.as_str();
    let credential = choose(prefix, &store.credentials, arguments.access_key_id.as_deref())?;
    let json = json(prefix, credential, arguments.vpc_endpoint_service_owner.as_deref())
        .map_err(|error| Failed::unavailable(format!("it cannot be written: {error}")))?;
    let id = &credential.access_key_id;
    match &arguments.output {
        Some(path) => {
            secret_output::to_new_file(path, &json).map_err(Failed::unavailable)?;
            errln!(
                "{} holds the secret of credential {id}: remove it as soon as KMS has it.",
                path.display()
            );
        }
        None => {
            errln!("This output holds the secret of credential {id}: keep it private.");
            output::print_secret(&json).unwrap_or_else(|error| output::end(&error));
        }
    }
    Ok(())
}

/// Parses the id of an AWS account.
fn account_id(text: &str) -> Result<String, String> {
    let is_id = text.len() == ACCOUNT_ID_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_id {
        Ok(text.to_owned())
    } else {
        Err(format!("an account id has {ACCOUNT_ID_DIGITS} digits, such as 111122223333"))
    }
}

/// Returns the credential with that access key id, or by default the one listed last, which is the
/// newest.
fn choose<'c>(
    prefix: &str,
    credentials: &'c [Credential],
    access_key_id: Option<&str>,
) -> Result<&'c Credential, Failed> {
    let Some(newest) = credentials.last() else {
        let message = format!(
            "store {prefix:?} has no credential, or [security] is_sigv4_auth_enabled is false; \
             `xks-proxy credentials new` makes one"
        );
        return Err(Failed::new(EXIT_SETTINGS, message));
    };
    let Some(id) = access_key_id else { return Ok(newest) };
    credentials.iter().find(|credential| credential.access_key_id == id).ok_or_else(|| {
        let known: Vec<&str> = credentials.iter().map(|it| it.access_key_id.as_str()).collect();
        let known = known.join(", ");
        let message = format!("store {prefix:?} has no credential {id:?}; it has {known}");
        Failed::new(EXIT_ARGUMENTS, message)
    })
}

/// Returns the file's text in memory that is zeroed when dropped.
fn json(
    prefix: &str,
    credential: &Credential,
    owner: Option<&str>,
) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let configuration = ProxyConfiguration {
        xks_proxy_uri_path: format!("{prefix}{API_PATH}"),
        xks_proxy_authentication_credential: AuthenticationCredential {
            access_key_id: &credential.access_key_id,
            raw_secret_access_key: credential.secret_access_key.expose(),
        },
        xks_proxy_vpc_endpoint_service_owner: owner,
    };
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES));
    serde_json::to_writer_pretty(&mut *text, &configuration)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::observe::redaction::Secret;

    fn credentials() -> [Credential; 2] {
        let credential = |id: &str, secret: &str| Credential {
            access_key_id: id.to_owned(),
            secret_access_key: Secret::new(secret.to_owned()),
            name: None,
            created_unix_secs: None,
        };
        [
            credential("OLDAAAAAAAAAAAAAAAAA", "old/secret+="),
            credential("AKIAI2SFODNN7EXAMPLE", "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE"),
        ]
    }

    /// The text has the same members as the specification's example, and contains the credential
    /// listed last.
    #[test]
    fn the_specification_s_example() {
        let credentials = credentials();
        let newest = choose("/keystores/4a0d79d6", &credentials, None).unwrap();
        let text = json("/keystores/4a0d79d6", newest, None).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let expected = serde_json::json!({
            "XksProxyUriPath": "/keystores/4a0d79d6/kms/xks/v1",
            "XksProxyAuthenticationCredential": {
                "AccessKeyId": "AKIAI2SFODNN7EXAMPLE",
                "RawSecretAccessKey": "FYtE5EFA5FT0mCc3DrGUe2sti527BitkQ0Zr9MO9fvE"
            }
        });
        assert_eq!(found, expected);
        // The vector never grew, so no copy of the secret was left behind.
        assert_eq!(text.capacity(), MAX_FILE_BYTES);
    }

    /// With an owner, the file has a third member, named as in CreateCustomKeyStore.
    #[test]
    fn an_endpoint_service_of_another_account() {
        let credentials = credentials();
        let newest = choose("", &credentials, None).unwrap();
        let text = json("/keystores/4a0d79d6", newest, Some("111122223333")).unwrap();
        let found: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(found["XksProxyVpcEndpointServiceOwner"], "111122223333");
        assert_eq!(found.as_object().unwrap().len(), 3);
        assert_eq!(text.capacity(), MAX_FILE_BYTES);
    }

    /// An account id is 12 ASCII digits.
    #[test]
    fn account_ids() {
        assert_eq!(account_id("011122223333"), Ok("011122223333".to_owned()));
        for wrong in ["", "11112222333", "1111222233334", "1111-2222-33", "11112222333\u{663}"] {
            assert!(account_id(wrong).is_err(), "{wrong}");
        }
    }

    /// An unknown id is an error, not another credential.
    #[test]
    fn a_credential_by_its_id() {
        let credentials = credentials();
        let old = choose("", &credentials, Some("OLDAAAAAAAAAAAAAAAAA")).unwrap();
        assert_eq!(old.secret_access_key.expose(), "old/secret+=");
        let failed = choose("", &credentials, Some("OLD")).unwrap_err();
        assert!(failed.message.contains("AKIAI2SFODNN7EXAMPLE"), "{}", failed.message);
        assert!(!failed.message.contains("old/secret"), "{}", failed.message);
        assert_eq!(choose("", &[], None).unwrap_err().exit_code, EXIT_SETTINGS);
    }
}

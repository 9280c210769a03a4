//! Warnings about versions of keys that are to encrypt without having been listed first.

use crate::output::outln;
use crate::process::listed_versions::never_listed;
use crate::settings::Settings;
use crate::state::directory::Directory;
use crate::state::versions_file::{self, ListedVersion};

/// Prints a warning for each version that encrypts and that the serving process has never listed,
/// as its state directory says.
pub(super) fn print(settings: &Settings) {
    let Some(path) = settings.state_directory.as_deref().filter(|path| path.exists()) else {
        return;
    };
    let file = settings.file.display();
    match versions_file::load(&Directory::new(path)) {
        // The proxy has not run with this directory yet.
        Ok(None) => {}
        Ok(Some(before)) => {
            for ListedVersion { store, external_key_id, version } in never_listed(settings, &before)
            {
                outln!(
                    "{file}: warning: external_key_stores.keys: {external_key_id:?} of the store \
                     {store:?} would encrypt with version {version}, which this proxy has never \
                     listed; first list it on every proxy and reload each, then change encrypt_with"
                );
            }
        }
        Err(error) => outln!(
            "{file}: warning: state.directory: the versions of keys listed so far cannot be read: \
             {error}; so it is unknown whether those that encrypt were listed first"
        ),
    }
}

//! Tokens with keys whose values the tests know.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::tools;

/// The token's label (`CK_TOKEN_INFO.label`).
pub const LABEL: &str = "xks-proxy";
const SO_PIN: &str = "87654321";
/// The user PIN.
pub const PIN: &str = "1234";

/// A key to put into a token.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `aes` or `generic`
    pub kind: &'static str,
    /// `CKA_LABEL`
    pub label: &'static str,
    /// Length in bytes.
    pub length: usize,
    /// Permitted uses: any of `e`ncrypt, `d`ecrypt, `w`rap, `u`nwrap, `s`ign, `v`erify.
    pub uses: &'static str,
}

impl Key {
    /// Returns an AES-256 key.
    pub const fn new(label: &'static str, uses: &'static str) -> Self {
        Self { kind: "aes", label, length: 32, uses }
    }

    /// Returns the first bytes of a digest of the label, so that tests can compute ciphertexts.
    pub fn value(&self) -> Vec<u8> {
        Sha256::digest(self.label)[..self.length].to_vec()
    }
}

/// A key with all uses that a proxy needs.
pub const FULL: Key = Key::new("foo", "ed");
/// Another key like [`FULL`], in both stores' sets.
pub const SECOND: Key = Key::new("bar", "edwusv");
/// A key with `CKA_DECRYPT` false.
pub const ENCRYPT_ONLY: Key = Key::new("encrypt_only_key", "e");
/// A key with `CKA_ENCRYPT` false.
pub const DECRYPT_ONLY: Key = Key::new("decrypt_only_key", "d");
/// A key that may neither encrypt nor decrypt.
pub const IMPOTENT: Key = Key::new("impotent_key", "wu");
/// An AES-128 key.
pub const SHORT: Key = Key { kind: "aes", label: "short_key", length: 16, uses: "ed" };
/// A key that is in the token twice.
pub const TWIN: Key = Key::new("twin_key", "ed");
/// A key that is in the token and in no store's set.
pub const FOREIGN: Key = Key::new("foreign_key", "ed");
/// A secret key that is not an AES key.
pub const GENERIC: Key = Key { kind: "generic", label: "generic_key", length: 32, uses: "sv" };
/// A label that an AES key and a generic secret key share.
pub const SHARED: Key = Key::new("shared_label", "ed");
const SHARED_GENERIC: Key = Key { kind: "generic", label: "shared_label", length: 32, uses: "sv" };
/// A key in the first store's set that is not in the token until a test adds it.
pub const LATER: Key = Key::new("later_key", "ed");

/// Keys that [`Token::new`] creates.
const STANDARD: [Key; 12] = [
    FULL,
    SECOND,
    ENCRYPT_ONLY,
    DECRYPT_ONLY,
    IMPOTENT,
    SHORT,
    TWIN,
    TWIN,
    FOREIGN,
    GENERIC,
    SHARED_GENERIC,
    SHARED,
];

/// A software token that applications load as a PKCS#11 module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// SoftHSM2
    SoftHsm2,
    /// kryoptic, built for the tests.
    Kryoptic,
    /// p11-kit's proxy in front of SoftHSM2, as distributions configure it.
    P11Kit,
    /// NSS's software token, a single token that cannot be given a name and takes its directory
    /// from C_Initialize.
    Nss,
}

impl Module {
    /// The module's path.
    pub fn path(self) -> PathBuf {
        match self {
            Self::SoftHsm2 => tools::softhsm2_module(),
            Self::Kryoptic => tools::kryoptic_module(),
            Self::P11Kit => tools::p11_kit_proxy(),
            Self::Nss => tools::nss_module(),
        }
    }

    /// The path of the module that tokens are made with.
    fn maker(self) -> PathBuf {
        match self {
            Self::P11Kit => tools::softhsm2_module(),
            module => module.path(),
        }
    }

    /// The label of the token that [`Token::new`] makes.
    pub fn token_label(self) -> &'static str {
        match self {
            Self::Nss => "NSS Certificate DB",
            Self::SoftHsm2 | Self::Kryoptic | Self::P11Kit => LABEL,
        }
    }

    /// The string for C_Initialize, if the module wants one, for a token inside `directory`.
    pub fn initialize_parameters(self, directory: &Path) -> Option<String> {
        (self == Self::Nss).then(|| {
            format!("configdir='sql:{}' secmod='secmod.db' flags=", tokens_in(directory).display())
        })
    }

    /// The environment variable that names the module's own configuration file, if it has one.
    fn variable(self) -> Option<&'static str> {
        match self {
            Self::SoftHsm2 | Self::P11Kit => Some("SOFTHSM2_CONF"),
            Self::Kryoptic => Some("KRYOPTIC_CONF"),
            Self::Nss => None,
        }
    }

    fn configuration(self, tokens: &Path) -> String {
        let tokens = tokens.display();
        match self {
            Self::SoftHsm2 | Self::P11Kit => format!(
                "directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
            ),
            Self::Kryoptic => format!(
                "[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"{tokens}/token.sql\"\n"
            ),
            Self::Nss => String::new(),
        }
    }
}

/// A token in its own directory, removed with the test's temporary directory.
pub struct Token {
    module: Module,
    /// The string for C_Initialize, or "" if there is none.
    initialize_parameters: String,
    configuration: PathBuf,
}

fn tokens_in(directory: &Path) -> PathBuf {
    directory.join("tokens")
}

impl Token {
    /// Makes a token inside `directory`, with the standard keys.
    pub fn new(module: Module, directory: &Path) -> Self {
        let tokens = tokens_in(directory);
        std::fs::create_dir(&tokens).unwrap();
        let configuration = directory.join("module.conf");
        std::fs::write(&configuration, module.configuration(&tokens)).unwrap();
        let initialize_parameters = module.initialize_parameters(directory).unwrap_or_default();
        let token = Self { module, initialize_parameters, configuration };
        let label = module.token_label();
        let mut commands = match module {
            // NSS's token already exists, and its security officer has no PIN yet.
            Module::Nss => vec!["pin".to_owned(), label.into(), String::new(), PIN.into()],
            Module::SoftHsm2 | Module::Kryoptic | Module::P11Kit => {
                vec!["init".to_owned(), label.into(), SO_PIN.into(), PIN.into()]
            }
        };
        for key in &STANDARD {
            commands.extend(add_command(label, key));
        }
        token.make(&commands);
        token
    }

    /// Adds a key, before or while the proxy runs.
    pub fn add(&self, key: &Key) {
        self.make(&add_command(self.module.token_label(), key));
    }

    /// Makes another token of the same module, with these keys. A module may not see it until it is
    /// initialised again.
    pub fn add_token(&self, label: &str, keys: &[Key]) {
        let mut commands = vec!["init".to_owned(), label.into(), SO_PIN.into(), PIN.into()];
        for key in keys {
            commands.extend(add_command(label, key));
        }
        self.make(&commands);
    }

    /// Makes another token of the same module, with different keys under the same labels.
    pub fn add_token_of_strangers(&self, label: &str, keys: &[Key]) {
        let mut commands = vec!["init".to_owned(), label.into(), SO_PIN.into(), PIN.into()];
        for key in keys {
            let mut command = add_command(label, key);
            // Changes the first digit of each byte.
            command[5] =
                command[5].bytes().map(|byte| if byte == b'0' { '1' } else { '0' }).collect();
            commands.extend(command);
        }
        self.make(&commands);
    }

    /// Destroys all keys with that label.
    pub fn destroy(&self, key: &Key) {
        self.make(&[
            "destroy".to_owned(),
            self.module.token_label().into(),
            PIN.into(),
            key.label.into(),
        ]);
    }

    /// Returns the environment variable that a process using this token needs.
    pub fn environment(&self) -> Option<(&'static str, &Path)> {
        self.module.variable().map(|name| (name, self.configuration.as_path()))
    }

    fn make(&self, commands: &[String]) {
        let mut command = Command::new(tools::token_maker());
        command.arg(self.module.maker()).arg(&self.initialize_parameters).args(commands);
        command.envs(self.environment());
        tools::run(&mut command, &format!("is {:?} installed whole?", self.module));
    }
}

fn add_command(token: &str, key: &Key) -> [String; 7] {
    let value = key.value().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    ["add", token, PIN, key.kind, key.label, &value, key.uses].map(str::to_owned)
}

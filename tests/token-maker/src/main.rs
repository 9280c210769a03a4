//! Initialises PKCS#11 tokens and imports keys with known values into them, for the tests.
//!
//! It is a separate program because a module reads its configuration from the environment once per
//! process: each test has its own token directory, but all tests of a file share one process.

use std::error::Error;
use std::ffi::CString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::ptr::NonNull;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

const USAGE: &str = "\
usage: xks-token-maker MODULE INIT-STRING COMMAND...

INIT-STRING is handed to C_Initialize (NSS softokn wants \"configDir='sql:...' ...\"), or is \"\".
COMMAND:
  init TOKEN SO-PIN PIN          initialises the first slot without an initialised token
  pin TOKEN SO-PIN PIN           sets the user PIN of a token that is there already
  add TOKEN PIN KIND LABEL HEX USES
                                 adds a secret key. KIND: aes, generic. USES: any of
                                 e(ncrypt) d(ecrypt) w(rap) u(nwrap) s(ign) v(erify), or -
  destroy TOKEN PIN LABEL        destroys all keys of that label
  list TOKEN PIN                 prints kind, label, length and uses of each secret key
  slots                          prints id, label and serial number of each slot with a token";

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(([module, init_string], commands)) = arguments.split_first_chunk::<2>() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    match run(PathBuf::from(module), init_string, commands) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xks-token-maker: {module}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(module: PathBuf, init_string: &str, mut commands: &[String]) -> Outcome<()> {
    let pkcs11 = Pkcs11::new(module)?;
    let init_string = CString::new(init_string)?;
    pkcs11.initialize(initialize_args(&init_string))?;
    while let Some((command, rest)) = commands.split_first() {
        commands = match (command.as_str(), rest) {
            ("init", [token, so_pin, pin, rest @ ..]) => {
                initialise(&pkcs11, token, so_pin, pin)?;
                rest
            }
            ("pin", [token, so_pin, pin, rest @ ..]) => {
                set_user_pin(&pkcs11, find_token(&pkcs11, token)?, so_pin, pin)?;
                rest
            }
            ("add", [token, pin, kind, label, value, uses, rest @ ..]) => {
                add_key(&log_in(&pkcs11, token, pin)?, kind, label, value, uses)?;
                rest
            }
            ("destroy", [token, pin, label, rest @ ..]) => {
                destroy(&log_in(&pkcs11, token, pin)?, label)?;
                rest
            }
            ("list", [token, pin, rest @ ..]) => {
                list(&log_in(&pkcs11, token, pin)?)?;
                rest
            }
            ("slots", rest) => {
                for slot in pkcs11.get_slots_with_token()? {
                    let info = pkcs11.get_token_info(slot)?;
                    println!("{}\t{}\t{}", slot.id(), info.label(), info.serial_number());
                }
                rest
            }
            _ => return Err(format!("not a command, or too few arguments: {command}").into()),
        };
    }
    pkcs11.finalize()?;
    Ok(())
}

/// NSS softokn expects its parameters in `CK_C_INITIALIZE_ARGS.pReserved`.
fn initialize_args(init_string: &CString) -> CInitializeArgs {
    let flags = CInitializeFlags::OS_LOCKING_OK;
    match NonNull::new(init_string.as_ptr().cast_mut().cast()) {
        Some(pointer) if !init_string.is_empty() => {
            #[expect(unsafe_code, reason = "cryptoki offers no other way to hand a string over")]
            // SAFETY: a C string that stays valid until the caller's C_Initialize has returned.
            unsafe {
                CInitializeArgs::new_with_reserved(flags, pointer)
            }
        }
        _ => CInitializeArgs::new(flags),
    }
}

fn initialise(pkcs11: &Pkcs11, token: &str, so_pin: &str, pin: &str) -> Outcome<()> {
    let slot = pkcs11
        .get_slots_with_token()?
        .into_iter()
        .find(|slot| pkcs11.get_token_info(*slot).is_ok_and(|info| !info.token_initialized()))
        .ok_or("no slot with a token that is not initialised yet")?;
    pkcs11.init_token(slot, &AuthPin::from(so_pin), token)?;
    // SoftHSM2 moves an initialised token to another slot id.
    set_user_pin(pkcs11, find_token(pkcs11, token)?, so_pin, pin)
}

fn set_user_pin(pkcs11: &Pkcs11, slot: Slot, so_pin: &str, pin: &str) -> Outcome<()> {
    let session = pkcs11.open_rw_session(slot)?;
    session.login(UserType::So, Some(&AuthPin::from(so_pin)))?;
    session.init_pin(&AuthPin::from(pin))?;
    Ok(session.logout()?)
}

fn find_token(pkcs11: &Pkcs11, token: &str) -> Outcome<Slot> {
    pkcs11
        .get_slots_with_token()?
        .into_iter()
        .find(|slot| pkcs11.get_token_info(*slot).is_ok_and(|info| info.label() == token))
        .ok_or_else(|| format!("no token labelled {token}").into())
}

fn log_in(pkcs11: &Pkcs11, token: &str, pin: &str) -> Outcome<Session> {
    let session = pkcs11.open_rw_session(find_token(pkcs11, token)?)?;
    session.login(UserType::User, Some(&AuthPin::from(pin)))?;
    Ok(session)
}

fn add_key(session: &Session, kind: &str, label: &str, value: &str, uses: &str) -> Outcome<()> {
    let value = from_hex(value).ok_or("the value is not hexadecimal")?;
    let kind = match kind {
        "aes" => KeyType::AES,
        "generic" => KeyType::GENERIC_SECRET,
        _ => return Err(format!("kind {kind}").into()),
    };
    session.create_object(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(kind),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Value(value),
        Attribute::Encrypt(uses.contains('e')),
        Attribute::Decrypt(uses.contains('d')),
        Attribute::Wrap(uses.contains('w')),
        Attribute::Unwrap(uses.contains('u')),
        Attribute::Sign(uses.contains('s')),
        Attribute::Verify(uses.contains('v')),
    ])?;
    Ok(())
}

fn destroy(session: &Session, label: &str) -> Outcome<()> {
    let template =
        [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.as_bytes().to_vec())];
    let keys = session.find_objects(&template)?;
    if keys.is_empty() {
        return Err(format!("no key labelled {label}").into());
    }
    for key in keys {
        session.destroy_object(key)?;
    }
    Ok(())
}

fn list(session: &Session) -> Outcome<()> {
    let wanted = [
        AttributeType::KeyType,
        AttributeType::Label,
        AttributeType::ValueLen,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
        AttributeType::Wrap,
        AttributeType::Unwrap,
        AttributeType::Sign,
        AttributeType::Verify,
    ];
    for key in session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)])? {
        println!("{:?}", session.get_attributes(key, &wanted)?);
    }
    Ok(())
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

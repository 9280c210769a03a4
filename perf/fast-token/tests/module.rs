//! The module, used through the `cryptoki` crate as an application would. Its results are compared
//! with those of AWS-LC used directly.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::thread;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

const TAG_BITS: u64 = 128;
const AAD: &[u8] = b"additional data";

/// Path of the module that was built with this test.
fn library() -> PathBuf {
    let directory = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    directory.join("libxks_fast_token.so")
}

fn session_of(module: &Pkcs11) -> Session {
    module.open_ro_session(module.get_slots_with_token().unwrap()[0]).unwrap()
}

fn key_of(session: &Session, label: &str) -> ObjectHandle {
    let template =
        [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Label(label.as_bytes().to_vec())];
    session.find_objects(&template).unwrap()[0]
}

fn with_gcm<T>(iv: &mut [u8], work: impl FnOnce(&Mechanism) -> T) -> T {
    let parameters = GcmParams::new(iv, AAD, TAG_BITS.into()).unwrap();
    work(&Mechanism::AesGcm(parameters))
}

/// A ciphertext of the module opens with AWS-LC under the label's key, the module decrypts what
/// AWS-LC seals, and a changed ciphertext is refused, after which the session is still usable; with
/// several threads at once, each with its own session.
#[test]
fn agrees_with_aws_lc() {
    let module = Pkcs11::new(library()).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let first = session_of(&module);
    first.login(UserType::User, Some(&AuthPin::new("1234".into()))).unwrap();
    let wanted = [AttributeType::Encrypt, AttributeType::ValueLen, AttributeType::Label];
    let attributes = first.get_attributes(key_of(&first, "foo"), &wanted).unwrap();
    assert!(attributes.contains(&Attribute::Encrypt(true)));
    assert!(attributes.contains(&Attribute::Label(b"foo".to_vec())));
    assert!(first.find_objects(&[Attribute::Label(b"bar".to_vec())]).unwrap().is_empty());
    thread::scope(|scope| {
        for seed in 0..4_u8 {
            let session = session_of(&module);
            scope
                .spawn(move || (0..=u8::MAX).for_each(|number| round_trip(&session, seed, number)));
        }
    });
}

fn round_trip(session: &Session, seed: u8, number: u8) {
    let value = digest(&SHA256, b"foo");
    let direct = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, value.as_ref()).unwrap());
    let key = key_of(session, "foo");
    let mut iv = [seed; 12];
    iv[0] = number;
    let nonce = || Nonce::assume_unique_for_key(iv);
    let plaintext = vec![number; usize::from(number)];
    let mut sealed =
        with_gcm(&mut iv.clone(), |gcm| session.encrypt(gcm, key, &plaintext)).unwrap();
    let mut opened = sealed.clone();
    assert_eq!(direct.open_in_place(nonce(), Aad::from(AAD), &mut opened).unwrap(), plaintext);
    let mut direct_sealed = plaintext.clone();
    direct.seal_in_place_append_tag(nonce(), Aad::from(AAD), &mut direct_sealed).unwrap();
    assert_eq!(sealed, direct_sealed);
    let decrypt =
        |sealed: &[u8]| with_gcm(&mut iv.clone(), |gcm| session.decrypt(gcm, key, sealed));
    assert_eq!(decrypt(&sealed).unwrap(), plaintext);
    sealed[0] ^= 1;
    let refused = decrypt(&sealed);
    assert!(matches!(refused, Err(Error::Pkcs11(RvError::EncryptedDataInvalid, _))), "{refused:?}");
    assert_eq!(decrypt(&direct_sealed).unwrap(), plaintext);
}

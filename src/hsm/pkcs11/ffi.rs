//! All of the crate's `unsafe`: the two cryptographic calls, C_Initialize with parameters, and the
//! environment that modules read.
//!
//! The `cryptoki` crate asks for an output's length before it fetches it, which many HSMs answer
//! over the network. So encryption and decryption go straight to the module's function list, each
//! as one C_ call into a buffer that is large enough. Everything else goes through `cryptoki`,
//! which has loaded the same module: loading a path twice gives the same one (dlopen(3)).

#![expect(unsafe_code, reason = "PKCS#11 is a C interface; nothing outside this file is unsafe")]

use std::ffi::CString;
use std::path::Path;
use std::ptr;

use cryptoki_sys::{
    CK_BYTE, CK_C_Decrypt, CK_C_DecryptInit, CK_C_Encrypt, CK_C_EncryptInit, CK_C_INITIALIZE_ARGS,
    CK_C_Initialize, CK_FUNCTION_LIST, CK_GCM_PARAMS, CK_MECHANISM, CK_OBJECT_HANDLE, CK_RV,
    CK_SESSION_HANDLE, CK_ULONG, CKF_OS_LOCKING_OK, CKM_AES_GCM, CKR_OK,
};

use crate::limits::{GCM_TAG_BYTES, MAX_GCM_IV_BYTES};

/// The functions of a loaded module that this crate calls itself.
pub struct RawModule {
    initialize: CK_C_Initialize,
    encrypt_init: CK_C_EncryptInit,
    encrypt: CK_C_Encrypt,
    decrypt_init: CK_C_DecryptInit,
    decrypt: CK_C_Decrypt,
    /// Keeps the functions mapped. Last, so that it is dropped last.
    _library: libloading::Library,
}

/// A cryptographic operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawError {
    /// C_EncryptInit or C_DecryptInit: there is no operation.
    Init(CK_RV),
    /// C_Encrypt or C_Decrypt. The operation is over, unless the code is CKR_BUFFER_TOO_SMALL
    /// (PKCS#11 v2.40, 5.2).
    Operation(CK_RV),
    /// The module says that it wrote more than there was room for, or has no such function.
    Malformed,
}

/// `CK_GCM_PARAMS` but for the AAD: the IV's buffer and what is said of it.
pub struct GcmIv {
    /// The IV, or room for the one that the HSM writes.
    pub bytes: [u8; MAX_GCM_IV_BYTES],
    /// `ulIvLen`; at most [`MAX_GCM_IV_BYTES`].
    pub length: u8,
    /// `ulIvBits`
    pub bits: u32,
}

/// Sets environment variables that modules read when they are loaded (`[pkcs11_logger]`).
///
/// To be called before the process has a second thread: C code may read the environment at any
/// time, and has no lock for it (setenv(3)).
pub fn set_environment(variables: &[(String, String)]) {
    for (name, value) in variables {
        // SAFETY: by this function's contract there is no other thread.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Removes environment variables. The same contract as [`set_environment`]'s.
pub fn remove_environment(names: &[&str]) {
    for name in names {
        // SAFETY: by this function's contract there is no other thread.
        unsafe { std::env::remove_var(name) };
    }
}

impl RawModule {
    /// Loads the module's function list. It does not call C_Initialize.
    ///
    /// # Errors
    /// The file is no shared library, or has no C_GetFunctionList.
    pub fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: a PKCS#11 module's initialisers are trusted: the operator names the module.
        let library = unsafe { libloading::Library::new(path) }.map_err(|e| e.to_string())?;
        // SAFETY: the type is that of PKCS#11 v2.40, 5.4 C_GetFunctionList, and its address lives
        // as long as the library, which is kept.
        let functions = unsafe {
            let get_function_list: libloading::Symbol<
                unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV,
            > = library.get(b"C_GetFunctionList\0").map_err(|e| e.to_string())?;
            let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
            let code = get_function_list(&raw mut list);
            if code != CKR_OK || list.is_null() {
                return Err(format!("C_GetFunctionList failed (0x{code:08x})"));
            }
            ptr::read_unaligned(list)
        };
        Ok(Self {
            initialize: functions.C_Initialize,
            encrypt_init: functions.C_EncryptInit,
            encrypt: functions.C_Encrypt,
            decrypt_init: functions.C_DecryptInit,
            decrypt: functions.C_Decrypt,
            _library: library,
        })
    }

    /// C_Initialize with CKF_OS_LOCKING_OK and the module's own parameter string in the reserved
    /// pointer: NSS's `LibraryParameters`.
    ///
    /// # Errors
    /// The code that the module gave; `None` if `parameters` has a NUL in it or there is no such
    /// function.
    pub fn initialize_with(&self, parameters: &str) -> Result<(), Option<CK_RV>> {
        /// NSS's layout of the argument: `LibraryParameters` stands before the reserved pointer
        /// (nss/lib/util/pkcs11t.h).
        #[repr(C)]
        struct NssInitializeArgs {
            base: [*mut std::ffi::c_void; 4],
            flags: CK_ULONG,
            library_parameters: *mut std::ffi::c_char,
            reserved: *mut std::ffi::c_void,
        }
        const {
            // Up to `library_parameters` it is the standard's structure, whose reserved pointer
            // is in the same place.
            assert!(
                std::mem::offset_of!(NssInitializeArgs, library_parameters)
                    == std::mem::offset_of!(CK_C_INITIALIZE_ARGS, pReserved)
            );
        }
        let Some(initialize) = self.initialize else { return Err(None) };
        let parameters = CString::new(parameters).map_err(|_| None)?;
        let mut arguments = NssInitializeArgs {
            base: [ptr::null_mut(); 4],
            flags: CKF_OS_LOCKING_OK,
            library_parameters: parameters.as_ptr().cast_mut(),
            reserved: ptr::null_mut(),
        };
        // SAFETY: `arguments` begins as CK_C_INITIALIZE_ARGS does, four absent functions and the
        // flags, and outlives the call, as does the string. The module copies what it keeps.
        let code = unsafe { initialize((&raw mut arguments).cast()) };
        if code == CKR_OK { Ok(()) } else { Err(Some(code)) }
    }

    /// AES-GCM with a tag of 128 bits: C_EncryptInit and C_Encrypt, once each. What the module
    /// wrote, ciphertext and tag, replaces what was in `output`; an IV that the HSM wrote is in
    /// `iv`.
    ///
    /// # Errors
    /// [`RawError`]; `output` is empty then.
    pub fn encrypt(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        iv: &mut GcmIv,
        aad: &[u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), RawError> {
        let (Some(init), Some(encrypt)) = (self.encrypt_init, self.encrypt) else {
            return Err(RawError::Malformed);
        };
        output.clear();
        output.reserve(plaintext.len() + GCM_TAG_BYTES + MAX_GCM_IV_BYTES);
        let mut parameters = gcm_parameters(iv, aad);
        let mut mechanism = gcm_mechanism(&mut parameters);
        // SAFETY: the function comes from the module's list; mechanism, parameters, IV and AAD
        // outlive both calls, so a module that keeps the pointers finds them.
        let code = unsafe { init(session, &raw mut mechanism, key) };
        if code != CKR_OK {
            return Err(RawError::Init(code));
        }
        // SAFETY: the function comes from the module's list.
        unsafe { one_part(encrypt, session, plaintext, output) }
    }

    /// AES-GCM with a tag of 128 bits: C_DecryptInit and C_Decrypt, once each. The plaintext
    /// replaces what was in `output`.
    ///
    /// # Errors
    /// [`RawError`]; `output` is empty then.
    pub fn decrypt(
        &self,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        iv: &mut GcmIv,
        aad: &[u8],
        ciphertext_and_tag: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), RawError> {
        let (Some(init), Some(decrypt)) = (self.decrypt_init, self.decrypt) else {
            return Err(RawError::Malformed);
        };
        output.clear();
        // Some modules want room for the tag too, or for a whole block.
        output.reserve(ciphertext_and_tag.len() + MAX_GCM_IV_BYTES);
        let mut parameters = gcm_parameters(iv, aad);
        let mut mechanism = gcm_mechanism(&mut parameters);
        // SAFETY: as in `encrypt`.
        let code = unsafe { init(session, &raw mut mechanism, key) };
        if code != CKR_OK {
            return Err(RawError::Init(code));
        }
        // SAFETY: as in `encrypt`.
        unsafe { one_part(decrypt, session, ciphertext_and_tag, output) }
    }
}

/// `CK_GCM_PARAMS` in the layout of PKCS#11 v2.40 with `ulIvBits` (errata 01, 2.12.3).
fn gcm_parameters(iv: &mut GcmIv, aad: &[u8]) -> CK_GCM_PARAMS {
    debug_assert!(usize::from(iv.length) <= MAX_GCM_IV_BYTES);
    CK_GCM_PARAMS {
        pIv: if iv.length == 0 { ptr::null_mut() } else { iv.bytes.as_mut_ptr() },
        ulIvLen: CK_ULONG::from(iv.length),
        ulIvBits: CK_ULONG::from(iv.bits),
        pAAD: if aad.is_empty() { ptr::null_mut() } else { aad.as_ptr().cast_mut() },
        ulAADLen: ulong(aad.len()),
        ulTagBits: ulong(GCM_TAG_BYTES * 8),
    }
}

fn gcm_mechanism(parameters: &mut CK_GCM_PARAMS) -> CK_MECHANISM {
    CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: ptr::from_mut(parameters).cast(),
        ulParameterLen: ulong(size_of::<CK_GCM_PARAMS>()),
    }
}

/// A pointer to the bytes for a function that lacks `const`; never null, since some modules
/// refuse a null pointer even where the length is 0.
fn readable(bytes: &[u8]) -> *mut CK_BYTE {
    static EMPTY: [u8; 1] = [0];
    if bytes.is_empty() { EMPTY.as_ptr().cast_mut() } else { bytes.as_ptr().cast_mut() }
}

/// C_Encrypt or C_Decrypt, which have the same form: what the module wrote is in `output`, which
/// was empty, with the room that there may be need of.
///
/// # Safety
/// `operation` is one of the two, of a module that is loaded.
unsafe fn one_part(
    operation: unsafe extern "C" fn(
        CK_SESSION_HANDLE,
        *mut CK_BYTE,
        CK_ULONG,
        *mut CK_BYTE,
        *mut CK_ULONG,
    ) -> CK_RV,
    session: CK_SESSION_HANDLE,
    input: &[u8],
    output: &mut Vec<u8>,
) -> Result<(), RawError> {
    let mut length = ulong(output.capacity());
    // SAFETY: `input` is readable for its length (the module does not write to it: the standard's
    // C prototype lacks const); `output` is writable for its capacity, which is what `length`
    // says; the function is what the contract says.
    let code = unsafe {
        let written = output.as_mut_ptr();
        operation(session, readable(input), ulong(input.len()), written, &raw mut length)
    };
    if code != CKR_OK {
        return Err(RawError::Operation(code));
    }
    match usize::try_from(length) {
        Ok(length) if length <= output.capacity() => {
            // SAFETY: the module has written `length` bytes, which is within the capacity.
            unsafe { output.set_len(length) };
            Ok(())
        }
        _ => Err(RawError::Malformed),
    }
}

fn ulong(number: usize) -> CK_ULONG {
    number as CK_ULONG
}

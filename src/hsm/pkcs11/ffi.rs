//! All of the crate's `unsafe`: the calls of a PKCS#11 module, and the environment that modules
//! read.
//!
//! All go through one function list: a module may give each call of C_GetFunctionList an instance
//! of its own, which knows nothing of the others' sessions (p11-kit-proxy does). The cryptographic
//! operations are one C_ call each into a buffer that is large enough: a question of the length,
//! which most client code begins with, is one round trip more over the network.

#![expect(unsafe_code, reason = "PKCS#11 is a C interface; nothing outside this file is unsafe")]

use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki_sys::*;
use parking_lot::{Mutex, MutexGuard};

use super::native::{Arguments, Attribute, Error, GcmIv, RawError};
use crate::hsm::config::GcmForm;
use crate::limits::{GCM_TAG_BYTES, MAX_GCM_IV_BYTES, MAX_LABEL_BYTES, MAX_OUTPUT_EXCESS};

/// 64-bit words that an attribute's value may have: a label that is too long shows as such.
const ATTRIBUTE_WORDS: usize = MAX_LABEL_BYTES / 8 + 1;

/// Interfaces that are told of.
const MAX_INTERFACES: usize = 16;

/// A loaded module, as the functions of its list.
pub struct RawModule {
    functions: CK_FUNCTION_LIST,
    /// The module is not thread-safe: one call at a time.
    is_serial: AtomicBool,
    turn: Mutex<()>,
    /// Keeps the functions mapped. Last, so that it is dropped last.
    library: libloading::Library,
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

/// Calls a function of the list, one at a time if the module wants that.
macro_rules! call {
    ($module:ident.$name:ident($($argument:expr),*)) => {{
        let _turn = $module.turn();
        match $module.functions.$name {
            // SAFETY: the function comes from the list of a module that is loaded. Each pointer is
            // to a local or a borrowed value of the length that goes with it, which outlives the
            // call.
            Some(function) => Error::check(stringify!($name), unsafe { function($($argument),*) }),
            None => Err(Error { function: stringify!($name), code: None }),
        }
    }};
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
        let (is_serial, turn) = (AtomicBool::new(false), Mutex::new(()));
        Ok(Self { functions, is_serial, turn, library })
    }

    /// The version of PKCS#11 that the function list says it is of.
    #[must_use]
    pub fn version(&self) -> CK_VERSION {
        self.functions.version
    }

    /// C_GetInterfaceList of PKCS#11 v3.0: names and versions of the interfaces; none if there is no
    /// such function.
    #[must_use]
    pub fn interfaces(&self) -> Vec<(String, CK_VERSION)> {
        type GetInterfaceList = unsafe extern "C" fn(*mut CK_INTERFACE, *mut CK_ULONG) -> CK_RV;
        let mut list = [CK_INTERFACE::default(); MAX_INTERFACES];
        let mut count = ulong(list.len());
        // SAFETY: the type is that of PKCS#11 v3.0, 5.4.5 C_GetInterfaceList; the list has room for
        // as many as `count` says.
        let code = unsafe {
            let Ok(function) = self.library.get::<GetInterfaceList>(b"C_GetInterfaceList\0") else {
                return Vec::new();
            };
            function(list.as_mut_ptr(), &raw mut count)
        };
        let count = usize::try_from(count).map_or(0, |count| count.min(list.len()));
        let told = if code == CKR_OK { &list[..count] } else { &[] };
        let named = told
            .iter()
            .filter(|it| !it.pInterfaceName.is_null() && !it.pFunctionList.is_null())
            .map(|it| {
                // SAFETY: by the same section a name is a string that ends with NUL, and each
                // function list begins with its version.
                unsafe {
                    let name = CStr::from_ptr(it.pInterfaceName.cast()).to_string_lossy();
                    (name.into_owned(), it.pFunctionList.cast::<CK_VERSION>().read_unaligned())
                }
            });
        named.collect()
    }

    /// Has calls made one at a time from now on, or not any more.
    pub fn set_serial(&self, is_serial: bool) {
        self.is_serial.store(is_serial, Ordering::Release);
    }

    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        self.is_serial.load(Ordering::Acquire).then(|| self.turn.lock())
    }

    /// C_Initialize.
    ///
    /// # Errors
    /// The code that the module gave; `None` if the parameters have a NUL in them or there is no
    /// such function.
    pub fn initialize(&self, arguments: Arguments<'_>) -> Result<(), Error> {
        let flags = match arguments {
            Arguments::Parameters(parameters) => {
                let function = "C_Initialize";
                return self.initialize_with(parameters).map_err(|code| Error { function, code });
            }
            Arguments::Null => return call!(self.C_Initialize(ptr::null_mut())),
            Arguments::OsLocking => CKF_OS_LOCKING_OK,
            Arguments::NoLocking => 0,
        };
        let mut arguments = CK_C_INITIALIZE_ARGS { flags, ..CK_C_INITIALIZE_ARGS::default() };
        call!(self.C_Initialize((&raw mut arguments).cast()))
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
            base: [*mut c_void; 4],
            flags: CK_ULONG,
            library_parameters: *mut std::ffi::c_char,
            reserved: *mut c_void,
        }
        const {
            // Up to `library_parameters` it is the standard's structure, whose reserved pointer
            // is in the same place.
            assert!(
                std::mem::offset_of!(NssInitializeArgs, library_parameters)
                    == std::mem::offset_of!(CK_C_INITIALIZE_ARGS, pReserved)
            );
        }
        let Some(initialize) = self.functions.C_Initialize else { return Err(None) };
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

    /// C_Finalize.
    ///
    /// # Errors
    /// The module's.
    pub fn finalize(&self) -> Result<(), Error> {
        call!(self.C_Finalize(ptr::null_mut()))
    }

    /// C_GetInfo.
    ///
    /// # Errors
    /// The module's.
    pub fn info(&self) -> Result<CK_INFO, Error> {
        let mut info = CK_INFO::default();
        call!(self.C_GetInfo(&raw mut info)).map(|()| info)
    }

    /// C_GetSlotList: the slots with a token, up to `max`.
    ///
    /// # Errors
    /// The module's.
    pub fn slots(&self, max: usize) -> Result<Vec<CK_SLOT_ID>, Error> {
        let mut count = 0;
        call!(self.C_GetSlotList(CK_TRUE, ptr::null_mut(), &raw mut count))?;
        // Some may come in between.
        let room = max.min(usize::try_from(count).unwrap_or(max).saturating_add(16));
        let mut slots: Vec<CK_SLOT_ID> = vec![0; room];
        count = ulong(room);
        let got = call!(self.C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &raw mut count));
        match got {
            // More than we look at.
            Err(Error { code: Some(CKR_BUFFER_TOO_SMALL), .. }) if room == max => {}
            got => got?,
        }
        slots.truncate(usize::try_from(count).unwrap_or(room));
        Ok(slots)
    }

    /// C_GetTokenInfo.
    ///
    /// # Errors
    /// The module's.
    pub fn token_info(&self, slot: CK_SLOT_ID) -> Result<CK_TOKEN_INFO, Error> {
        let mut info = CK_TOKEN_INFO::default();
        call!(self.C_GetTokenInfo(slot, &raw mut info)).map(|()| info)
    }

    /// C_GetMechanismInfo.
    ///
    /// # Errors
    /// The module's.
    pub fn mechanism_info(
        &self,
        slot: CK_SLOT_ID,
        mechanism: CK_MECHANISM_TYPE,
    ) -> Result<CK_MECHANISM_INFO, Error> {
        let mut info = CK_MECHANISM_INFO::default();
        call!(self.C_GetMechanismInfo(slot, mechanism, &raw mut info)).map(|()| info)
    }

    /// C_OpenSession, without a notification.
    ///
    /// # Errors
    /// The module's.
    pub fn open_session(
        &self,
        slot: CK_SLOT_ID,
        is_read_write: bool,
    ) -> Result<CK_SESSION_HANDLE, Error> {
        let flags = CKF_SERIAL_SESSION | if is_read_write { CKF_RW_SESSION } else { 0 };
        let mut session = 0;
        call!(self.C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut session))
            .map(|()| session)
    }

    /// C_CloseSession.
    ///
    /// # Errors
    /// The module's.
    pub fn close_session(&self, session: CK_SESSION_HANDLE) -> Result<(), Error> {
        call!(self.C_CloseSession(session))
    }

    /// C_GetSessionInfo's state.
    ///
    /// # Errors
    /// The module's.
    pub fn session_state(&self, session: CK_SESSION_HANDLE) -> Result<CK_STATE, Error> {
        let mut info = CK_SESSION_INFO::default();
        call!(self.C_GetSessionInfo(session, &raw mut info)).map(|()| info.state)
    }

    /// C_Login of the user; without a PIN it is entered at the device.
    ///
    /// # Errors
    /// The module's.
    pub fn login(&self, session: CK_SESSION_HANDLE, pin: Option<&str>) -> Result<(), Error> {
        let bytes = pin.map_or(&[][..], str::as_bytes);
        let pin = pin.map_or(ptr::null_mut(), |_| readable(bytes));
        call!(self.C_Login(session, CKU_USER, pin, ulong(bytes.len())))
    }

    /// C_GenerateRandom.
    ///
    /// # Errors
    /// The module's.
    pub fn random(&self, session: CK_SESSION_HANDLE, bytes: &mut [u8]) -> Result<(), Error> {
        call!(self.C_GenerateRandom(session, bytes.as_mut_ptr(), ulong(bytes.len())))
    }

    /// C_GenerateKey of an AES key.
    ///
    /// # Errors
    /// The module's.
    pub fn generate_aes_key(
        &self,
        session: CK_SESSION_HANDLE,
        template: &[Attribute],
    ) -> Result<CK_OBJECT_HANDLE, Error> {
        let mut mechanism = CK_MECHANISM {
            mechanism: CKM_AES_KEY_GEN,
            pParameter: ptr::null_mut(),
            ulParameterLen: 0,
        };
        let mut template: Vec<_> = template.iter().map(attribute).collect();
        let (count, mut key) = (ulong(template.len()), 0);
        call!(self.C_GenerateKey(
            session,
            &raw mut mechanism,
            template.as_mut_ptr(),
            count,
            &raw mut key
        ))
        .map(|()| key)
    }

    /// C_FindObjectsInit.
    ///
    /// # Errors
    /// The module's.
    pub fn find_init(
        &self,
        session: CK_SESSION_HANDLE,
        template: &[Attribute],
    ) -> Result<(), Error> {
        let mut template: Vec<_> = template.iter().map(attribute).collect();
        call!(self.C_FindObjectsInit(session, template.as_mut_ptr(), ulong(template.len())))
    }

    /// C_FindObjects: how many handles were written, none at the end.
    ///
    /// # Errors
    /// The module's.
    pub fn find(
        &self,
        session: CK_SESSION_HANDLE,
        handles: &mut [CK_OBJECT_HANDLE],
    ) -> Result<usize, Error> {
        let mut count = 0;
        let room = ulong(handles.len());
        call!(self.C_FindObjects(session, handles.as_mut_ptr(), room, &raw mut count))?;
        Ok(usize::try_from(count).map_or(handles.len(), |count| count.min(handles.len())))
    }

    /// C_FindObjectsFinal.
    ///
    /// # Errors
    /// The module's.
    pub fn find_final(&self, session: CK_SESSION_HANDLE) -> Result<(), Error> {
        call!(self.C_FindObjectsFinal(session))
    }

    /// C_GetAttributeValue of several at once; those that the object does not have, and labels of
    /// more than [`MAX_LABEL_BYTES`], are left out.
    ///
    /// # Errors
    /// The module's.
    pub fn attributes(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        wanted: &[CK_ATTRIBUTE_TYPE],
    ) -> Result<Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>, Error> {
        // Words, so that a module may write a CK_ULONG as one.
        let mut values = vec![[0_u64; ATTRIBUTE_WORDS]; wanted.len()];
        let mut template: Vec<CK_ATTRIBUTE> = wanted
            .iter()
            .zip(&mut values)
            .map(|(kind, value)| CK_ATTRIBUTE {
                type_: *kind,
                pValue: value.as_mut_ptr().cast(),
                ulValueLen: ulong(room(*kind)),
            })
            .collect();
        let count = ulong(template.len());
        match call!(self.C_GetAttributeValue(session, object, template.as_mut_ptr(), count)) {
            // One of them is not to be had; the others are.
            Err(Error {
                code:
                    Some(CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID | CKR_BUFFER_TOO_SMALL),
                ..
            }) => {}
            result => result?,
        }
        let lengths: Vec<_> = template.iter().map(|it| usize::try_from(it.ulValueLen)).collect();
        let told = wanted.iter().zip(lengths).zip(&values).filter_map(|((kind, length), words)| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
            // CK_UNAVAILABLE_INFORMATION is more than there is room for. No label that is of use
            // fills it, so one that seems to was not written.
            let is_told = |length: &usize| {
                *length < bytes.len() && (*kind == CKA_LABEL || *length <= room(*kind))
            };
            let length = length.ok().filter(is_told)?;
            bytes.truncate(length);
            Some((*kind, bytes))
        });
        Ok(told.collect())
    }

    /// AES-GCM with a tag of 128 bits: C_EncryptInit and C_Encrypt, once each unless `form` says
    /// more. What the module wrote, ciphertext and tag, replaces what was in `output`; an IV that
    /// the HSM wrote is in `iv`. `began` is called between the two.
    ///
    /// # Errors
    /// [`RawError`]; `output` is empty then.
    #[expect(clippy::too_many_arguments, reason = "they are the operation's")]
    pub fn encrypt(
        &self,
        form: GcmForm,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        iv: &mut GcmIv,
        aad: &[u8],
        plaintext: &[u8],
        output: &mut Vec<u8>,
        began: impl FnOnce(),
    ) -> Result<(), RawError> {
        output.clear();
        output.reserve(plaintext.len() + GCM_TAG_BYTES + MAX_GCM_IV_BYTES);
        let mut parameters = GcmParameters::new(iv, aad);
        let mut mechanism = parameters.mechanism(form);
        // Mechanism, parameters, IV and AAD outlive both calls, so a module that keeps the pointers
        // finds them.
        call!(self.C_EncryptInit(session, &raw mut mechanism, key)).map_err(init)?;
        began();
        one_part(form, plaintext, output, |input, bytes, output, length| {
            call!(self.C_Encrypt(session, input, bytes, output, length))
        })
    }

    /// AES-GCM with a tag of 128 bits: C_DecryptInit and C_Decrypt, once each unless `form` says
    /// more. The plaintext replaces what was in `output`.
    ///
    /// # Errors
    /// [`RawError`]; `output` is empty then.
    #[expect(clippy::too_many_arguments, reason = "they are the operation's")]
    pub fn decrypt(
        &self,
        form: GcmForm,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
        iv: &mut GcmIv,
        aad: &[u8],
        ciphertext_and_tag: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), RawError> {
        output.clear();
        // Some modules want room for the tag too, or for a whole block.
        output.reserve(ciphertext_and_tag.len() + MAX_GCM_IV_BYTES);
        let mut parameters = GcmParameters::new(iv, aad);
        let mut mechanism = parameters.mechanism(form);
        // As in `encrypt`.
        call!(self.C_DecryptInit(session, &raw mut mechanism, key)).map_err(init)?;
        one_part(form, ciphertext_and_tag, output, |input, bytes, output, length| {
            call!(self.C_Decrypt(session, input, bytes, output, length))
        })
    }
}

fn init(error: Error) -> RawError {
    error.code.map_or(RawError::Malformed, RawError::Init)
}

/// The bytes that there are for an attribute's value. A number's are not one more: NSS leaves the
/// length as it was given.
fn room(kind: CK_ATTRIBUTE_TYPE) -> usize {
    match kind {
        CKA_LABEL => ATTRIBUTE_WORDS * size_of::<u64>(),
        CKA_CLASS | CKA_KEY_TYPE | CKA_VALUE_LEN => size_of::<CK_ULONG>(),
        _ => size_of::<CK_BBOOL>(),
    }
}

fn attribute(attribute: &Attribute) -> CK_ATTRIBUTE {
    let (kind, value, length): (_, *const c_void, _) = match attribute {
        Attribute::Flag(kind, value) => (kind, ptr::from_ref(value).cast(), size_of_val(value)),
        Attribute::Number(kind, value) => (kind, ptr::from_ref(value).cast(), size_of_val(value)),
        Attribute::Bytes(kind, value) => (kind, value.as_ptr().cast(), value.len()),
    };
    CK_ATTRIBUTE { type_: *kind, pValue: value.cast_mut(), ulValueLen: ulong(length) }
}

/// `CK_GCM_PARAMS` in its two layouts.
struct GcmParameters {
    /// With `ulIvBits`: PKCS#11 v2.40, errata 01, 2.12.3.
    usual: CK_GCM_PARAMS,
    /// Without it: PKCS#11 v2.40 as it came out first, 2.12.3.
    first: FirstGcmParams,
}

#[repr(C)]
struct FirstGcmParams {
    iv: *mut CK_BYTE,
    iv_bytes: CK_ULONG,
    aad: *mut CK_BYTE,
    aad_bytes: CK_ULONG,
    tag_bits: CK_ULONG,
}

impl GcmParameters {
    fn new(iv: &mut GcmIv, aad: &[u8]) -> Self {
        debug_assert!(usize::from(iv.length) <= MAX_GCM_IV_BYTES);
        let usual = CK_GCM_PARAMS {
            pIv: if iv.length == 0 { ptr::null_mut() } else { iv.bytes.as_mut_ptr() },
            ulIvLen: CK_ULONG::from(iv.length),
            ulIvBits: CK_ULONG::from(iv.bits),
            pAAD: if aad.is_empty() { ptr::null_mut() } else { aad.as_ptr().cast_mut() },
            ulAADLen: ulong(aad.len()),
            ulTagBits: ulong(GCM_TAG_BYTES * 8),
        };
        let first = FirstGcmParams {
            iv: usual.pIv,
            iv_bytes: usual.ulIvLen,
            aad: usual.pAAD,
            aad_bytes: usual.ulAADLen,
            tag_bits: usual.ulTagBits,
        };
        Self { usual, first }
    }

    fn mechanism(&mut self, form: GcmForm) -> CK_MECHANISM {
        let (parameter, length) = if form.has_no_iv_bits {
            (ptr::from_mut(&mut self.first).cast(), size_of::<FirstGcmParams>())
        } else {
            (ptr::from_mut(&mut self.usual).cast(), size_of::<CK_GCM_PARAMS>())
        };
        CK_MECHANISM {
            mechanism: CKM_AES_GCM,
            pParameter: parameter,
            ulParameterLen: ulong(length),
        }
    }
}

/// A pointer to the bytes for a function that lacks `const`; never null, since some modules
/// refuse a null pointer even where the length is 0.
fn readable(bytes: &[u8]) -> *mut CK_BYTE {
    static EMPTY: [u8; 1] = [0];
    if bytes.is_empty() { EMPTY.as_ptr().cast_mut() } else { bytes.as_ptr().cast_mut() }
}

/// C_Encrypt or C_Decrypt, which have the same form: what the module wrote is in `output`, which
/// was empty, with the room that there may be need of. The module does not write to `input`: the
/// standard's C prototype lacks const.
fn one_part(
    form: GcmForm,
    input: &[u8],
    output: &mut Vec<u8>,
    operation: impl Fn(*mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG) -> Result<(), Error>,
) -> Result<(), RawError> {
    let failed = |error: Error| error.code.map_or(RawError::Malformed, RawError::Operation);
    let (data, bytes) = (readable(input), ulong(input.len()));
    if form.asks_length {
        let mut length = 0;
        operation(data, bytes, ptr::null_mut(), &raw mut length).map_err(failed)?;
        let length = usize::try_from(length).map_err(|_| RawError::Malformed)?;
        // One that says more than it can be is not believed; it gets what it may need.
        output.reserve(length.min(input.len() + MAX_OUTPUT_EXCESS));
    }
    let mut length = ulong(output.capacity());
    operation(data, bytes, output.as_mut_ptr(), &raw mut length).map_err(failed)?;
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

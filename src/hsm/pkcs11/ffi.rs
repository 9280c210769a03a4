//! All of the crate's `unsafe` code: calls into a PKCS#11 module, and changes to what a process
//! inherits: the environment variables that modules read, and descriptors that they leave open.
//!
//! All calls go through one function list, since a module may return an independent instance from
//! each C_GetFunctionList (see [`super::native`]). Output buffers are large enough from the start:
//! asking for the length first, as most clients do, would cost another round trip to a network HSM.

#![expect(unsafe_code, reason = "PKCS#11 is a C interface; nothing outside this file is unsafe")]

use std::ffi::{CStr, CString, c_int, c_long, c_uint, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki_sys::*;
use parking_lot::{Mutex, MutexGuard};

use super::gcm_parameters::GcmParameters;
use super::native::{Arguments, Attribute, Error, GcmIv, LoadError, RawError};
use super::one_part::one_part;
use crate::hsm::config::GcmForm;
use crate::limits::{GCM_TAG_BYTES, MAX_CKA_ID_BYTES, MAX_GCM_IV_BYTES, MAX_LABEL_BYTES};

/// Size of an attribute's buffer in 64-bit words. It is one more than the longest label needs, so
/// that a label that is too long can be recognised.
const ATTRIBUTE_WORDS: usize = MAX_LABEL_BYTES / 8 + 1;

/// Maximum number of interfaces listed.
const MAX_INTERFACES: usize = 16;

/// A loaded module and its function list.
pub struct RawModule {
    functions: CK_FUNCTION_LIST,
    /// True if the module is not thread-safe, so that calls are made one at a time.
    is_serial: AtomicBool,
    serial_lock: Mutex<()>,
    /// Keeps the functions mapped. It is the last field, so that it is dropped last.
    library: libloading::Library,
}

/// Sets environment variables that modules read when they are loaded (`[pkcs11_logger]`).
///
/// Must be called before the process starts a second thread: C code may read the environment at
/// any time without a lock (setenv(3)).
pub fn set_environment(variables: &[(String, String)]) {
    for (name, value) in variables {
        // SAFETY: by this function's contract there is no other thread.
        unsafe { std::env::set_var(name, value) };
    }
}

/// Removes environment variables, under the same contract as [`set_environment`].
pub fn remove_environment(names: &[&str]) {
    for name in names {
        // SAFETY: by this function's contract there is no other thread.
        unsafe { std::env::remove_var(name) };
    }
}

/// Number of the first descriptor after standard input, output and error.
const FIRST_DESCRIPTOR: c_int = 3;

/// Makes this process's descriptors close-on-exec, except for standard input, output and error.
/// Modules open files and connections without O_CLOEXEC, and a program started next would hold them
/// open: an HSM would keep the authenticated connection of a process that has ended.
pub fn close_descriptors_on_exec() {
    // SAFETY: this closes nothing.
    let code = unsafe { close_range(libc::CLOSE_RANGE_CLOEXEC) };
    if code != 0 {
        // Linux before 5.11, or a system call filter that does not know the call.
        for descriptor in open_descriptors() {
            // SAFETY: as above. A descriptor closed in the meantime gives an error.
            let _ = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
}

/// Closes all inherited descriptors except for standard input, output and error.
///
/// Must be called before the process opens anything.
pub fn close_inherited_descriptors() {
    // SAFETY: by this function's contract nothing in this process owns one of them.
    if unsafe { close_range(0) } != 0 {
        for descriptor in open_descriptors() {
            // SAFETY: as above. The listing's own descriptor is closed already.
            let _ = unsafe { libc::close(descriptor) };
        }
    }
}

/// Calls close_range(2) from [`FIRST_DESCRIPTOR`] on; returns 0 if that succeeded.
///
/// # Safety
/// Without CLOSE_RANGE_CLOEXEC, nothing in this process may own the descriptors.
unsafe fn close_range(flags: c_uint) -> c_long {
    let [first, last, flags] = [FIRST_DESCRIPTOR.into(), c_int::MAX.into(), c_long::from(flags)];
    // SAFETY: by this function's contract.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }
}

fn open_descriptors() -> Vec<c_int> {
    let Ok(listed) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let names = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    names.filter(|number| *number >= FIRST_DESCRIPTOR).collect()
}

/// Calls a function of the list, holding the lock if the module is not thread-safe.
macro_rules! call {
    ($module:ident.$name:ident($($argument:expr),*)) => {{
        let _guard = $module.serial_guard();
        match $module.functions.$name {
            // SAFETY: the function comes from the list of a loaded module. Each pointer refers to
            // a local or borrowed value of the accompanying length, which outlives the call.
            Some(function) => Error::check(stringify!($name), unsafe { function($($argument),*) }),
            None => Err(Error { function: stringify!($name), code: None }),
        }
    }};
}

impl RawModule {
    /// Loads the module and its function list, without calling C_Initialize.
    ///
    /// # Errors
    /// Returns [`LoadError`] if the file is not a shared library, or lacks C_GetFunctionList.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let failed = |error: libloading::Error| LoadError(error.to_string());
        // SAFETY: the operator names the module, so its initialisers are trusted.
        let library = unsafe { libloading::Library::new(path) }.map_err(failed)?;
        // SAFETY: the type is that of C_GetFunctionList (PKCS#11 v2.40, 5.4). The list lives as
        // long as the library, which is kept.
        let functions = unsafe {
            let get_function_list: libloading::Symbol<
                unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV,
            > = library.get(b"C_GetFunctionList\0").map_err(failed)?;
            let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
            let code = get_function_list(&raw mut list);
            if code != CKR_OK || list.is_null() {
                return Err(LoadError(format!("C_GetFunctionList failed (0x{code:08x})")));
            }
            ptr::read_unaligned(list)
        };
        let (is_serial, serial_lock) = (AtomicBool::new(false), Mutex::new(()));
        Ok(Self { functions, is_serial, serial_lock, library })
    }

    /// Returns the PKCS#11 version of the function list.
    #[must_use]
    pub fn version(&self) -> CK_VERSION {
        self.functions.version
    }

    /// Calls C_GetInterfaceList of PKCS#11 v3.0. Returns the names and versions of the interfaces,
    /// or none if the module lacks the function.
    #[must_use]
    pub fn interfaces(&self) -> Vec<(String, CK_VERSION)> {
        type GetInterfaceList = unsafe extern "C" fn(*mut CK_INTERFACE, *mut CK_ULONG) -> CK_RV;
        let mut list = [CK_INTERFACE::default(); MAX_INTERFACES];
        let mut count = ulong(list.len());
        // SAFETY: the type is that of C_GetInterfaceList (PKCS#11 v3.0, 5.4.5), and the list has
        // room for `count` interfaces.
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
                // SAFETY: by the same section a name ends with NUL, and each function list begins
                // with its version.
                unsafe {
                    let name = CStr::from_ptr(it.pInterfaceName.cast()).to_string_lossy();
                    (name.into_owned(), it.pFunctionList.cast::<CK_VERSION>().read_unaligned())
                }
            });
        named.collect()
    }

    /// Switches the lock around calls on or off.
    pub fn set_serial(&self, is_serial: bool) {
        self.is_serial.store(is_serial, Ordering::Release);
    }

    fn serial_guard(&self) -> Option<MutexGuard<'_, ()>> {
        self.is_serial.load(Ordering::Acquire).then(|| self.serial_lock.lock())
    }

    /// Calls C_Initialize.
    ///
    /// # Errors
    /// Returns the module's error, without a code if the parameters contain a NUL or the module
    /// lacks the function.
    pub fn initialize(&self, arguments: Arguments<'_>) -> Result<(), Error> {
        let flags = match arguments {
            Arguments::Parameters(parameters) => return self.initialize_with(parameters),
            Arguments::Null => return call!(self.C_Initialize(ptr::null_mut())),
            Arguments::OsLocking => CKF_OS_LOCKING_OK,
            Arguments::NoLocking => 0,
        };
        let mut arguments = CK_C_INITIALIZE_ARGS { flags, ..CK_C_INITIALIZE_ARGS::default() };
        call!(self.C_Initialize((&raw mut arguments).cast()))
    }

    /// Calls C_Initialize with CKF_OS_LOCKING_OK and a vendor-defined parameter string in place of
    /// the reserved pointer: NSS's `LibraryParameters`.
    ///
    /// # Errors
    /// Returns the module's error, without a code if `parameters` contains a NUL.
    fn initialize_with(&self, parameters: &str) -> Result<(), Error> {
        /// NSS's layout of the argument, with `LibraryParameters` before the reserved pointer
        /// (nss/lib/util/pkcs11t.h).
        #[repr(C)]
        struct NssInitializeArgs {
            base: [*mut c_void; 4],
            flags: CK_ULONG,
            library_parameters: *mut std::ffi::c_char,
            reserved: *mut c_void,
        }
        const {
            // `library_parameters` takes the place of the standard structure's reserved pointer.
            assert!(
                std::mem::offset_of!(NssInitializeArgs, library_parameters)
                    == std::mem::offset_of!(CK_C_INITIALIZE_ARGS, pReserved)
            );
        }
        let parameters =
            CString::new(parameters).map_err(|_| Error { function: "C_Initialize", code: None })?;
        let mut arguments = NssInitializeArgs {
            base: [ptr::null_mut(); 4],
            flags: CKF_OS_LOCKING_OK,
            library_parameters: parameters.as_ptr().cast_mut(),
            reserved: ptr::null_mut(),
        };
        // `arguments` begins like CK_C_INITIALIZE_ARGS, with four null functions and the flags. It
        // and the string outlive the call; the module copies what it keeps.
        call!(self.C_Initialize((&raw mut arguments).cast()))
    }

    /// Calls C_Finalize.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn finalize(&self) -> Result<(), Error> {
        call!(self.C_Finalize(ptr::null_mut()))
    }

    /// Calls C_GetInfo.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn info(&self) -> Result<CK_INFO, Error> {
        let mut info = CK_INFO::default();
        call!(self.C_GetInfo(&raw mut info)).map(|()| info)
    }

    /// Calls C_GetSlotList. Returns up to `max` slots with a token.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn slots(&self, max: usize) -> Result<Vec<CK_SLOT_ID>, Error> {
        let mut count = 0;
        call!(self.C_GetSlotList(CK_TRUE, ptr::null_mut(), &raw mut count))?;
        // More slots may appear between the two calls.
        let room = max.min(usize::try_from(count).unwrap_or(max).saturating_add(16));
        let mut slots: Vec<CK_SLOT_ID> = vec![0; room];
        count = ulong(room);
        let got = call!(self.C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &raw mut count));
        match got {
            // There are more slots than `max`.
            Err(Error { code: Some(CKR_BUFFER_TOO_SMALL), .. }) if room == max => {}
            got => got?,
        }
        slots.truncate(usize::try_from(count).unwrap_or(room));
        Ok(slots)
    }

    /// Calls C_GetTokenInfo.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn token_info(&self, slot: CK_SLOT_ID) -> Result<CK_TOKEN_INFO, Error> {
        let mut info = CK_TOKEN_INFO::default();
        call!(self.C_GetTokenInfo(slot, &raw mut info)).map(|()| info)
    }

    /// Calls C_GetMechanismInfo.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn mechanism_info(
        &self,
        slot: CK_SLOT_ID,
        mechanism: CK_MECHANISM_TYPE,
    ) -> Result<CK_MECHANISM_INFO, Error> {
        let mut info = CK_MECHANISM_INFO::default();
        call!(self.C_GetMechanismInfo(slot, mechanism, &raw mut info)).map(|()| info)
    }

    /// Calls C_OpenSession, without a notification callback.
    ///
    /// # Errors
    /// Returns the module's error.
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

    /// Calls C_CloseSession.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn close_session(&self, session: CK_SESSION_HANDLE) -> Result<(), Error> {
        call!(self.C_CloseSession(session))
    }

    /// Calls C_GetSessionInfo. Returns the session's state.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn session_state(&self, session: CK_SESSION_HANDLE) -> Result<CK_STATE, Error> {
        let mut info = CK_SESSION_INFO::default();
        call!(self.C_GetSessionInfo(session, &raw mut info)).map(|()| info.state)
    }

    /// Calls C_Login for the user. Without `pin`, the device itself asks for the PIN.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn login(&self, session: CK_SESSION_HANDLE, pin: Option<&str>) -> Result<(), Error> {
        let bytes = pin.map_or(&[][..], str::as_bytes);
        let pin = pin.map_or(ptr::null_mut(), |_| readable(bytes));
        call!(self.C_Login(session, CKU_USER, pin, ulong(bytes.len())))
    }

    /// Calls C_GenerateRandom.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn random(&self, session: CK_SESSION_HANDLE, bytes: &mut [u8]) -> Result<(), Error> {
        call!(self.C_GenerateRandom(session, bytes.as_mut_ptr(), ulong(bytes.len())))
    }

    /// Calls C_GenerateKey for an AES key.
    ///
    /// # Errors
    /// Returns the module's error.
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

    /// Calls C_DestroyObject.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn destroy_object(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
    ) -> Result<(), Error> {
        call!(self.C_DestroyObject(session, object))
    }

    /// Calls C_FindObjectsInit.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn find_init(
        &self,
        session: CK_SESSION_HANDLE,
        template: &[Attribute],
    ) -> Result<(), Error> {
        let mut template: Vec<_> = template.iter().map(attribute).collect();
        call!(self.C_FindObjectsInit(session, template.as_mut_ptr(), ulong(template.len())))
    }

    /// Calls C_FindObjects. Returns the number of handles written; zero at the end of the search.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn find(
        &self,
        session: CK_SESSION_HANDLE,
        handles: &mut [CK_OBJECT_HANDLE],
    ) -> Result<usize, Error> {
        // As for C_Encrypt: a module may report more handles than it wrote.
        handles.fill(CK_INVALID_HANDLE);
        let mut count = 0;
        let room = ulong(handles.len());
        call!(self.C_FindObjects(session, handles.as_mut_ptr(), room, &raw mut count))?;
        Ok(usize::try_from(count).map_or(handles.len(), |count| count.min(handles.len())))
    }

    /// Calls C_FindObjectsFinal.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn find_final(&self, session: CK_SESSION_HANDLE) -> Result<(), Error> {
        call!(self.C_FindObjectsFinal(session))
    }

    /// Calls C_GetAttributeValue for several attributes at once. Leaves out those that the object
    /// lacks, and labels and CKA_IDs that are too long to name a key.
    ///
    /// # Errors
    /// Returns the module's error.
    pub fn attributes(
        &self,
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        wanted: &[CK_ATTRIBUTE_TYPE],
    ) -> Result<Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>, Error> {
        // 64-bit words, so that the buffer is aligned for a CK_ULONG.
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
            // At least one attribute is unavailable; the others have been written.
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
            // CK_UNAVAILABLE_INFORMATION exceeds any buffer's length. No usable label or CKA_ID
            // fills its buffer, so a value that seems to fill it was not written.
            let is_told = |length: &usize| match *kind {
                CKA_LABEL | CKA_ID => *length < room(*kind),
                _ => *length <= room(*kind),
            };
            let length = length.ok().filter(is_told)?;
            bytes.truncate(length);
            Some((*kind, bytes))
        });
        Ok(told.collect())
    }

    /// Encrypts with AES-GCM and a tag of 128 bits: one C_EncryptInit and one C_Encrypt, unless
    /// `form` asks for more. Ciphertext and tag replace the contents of `output`; an IV made by the
    /// HSM is left in `iv`. `began` is called between the two calls.
    ///
    /// # Errors
    /// Returns [`RawError`]; `output` is then empty.
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
        let room = plaintext.len() + GCM_TAG_BYTES + MAX_GCM_IV_BYTES;
        output.reserve(room);
        let mut parameters = GcmParameters::new(iv, aad);
        let mut mechanism = parameters.mechanism(form);
        // Mechanism, parameters, IV and AAD outlive both calls, since a module may keep the
        // pointers until C_Encrypt.
        call!(self.C_EncryptInit(session, &raw mut mechanism, key)).map_err(init)?;
        began();
        let (input, bytes) = (readable(plaintext), ulong(plaintext.len()));
        one_part(form, plaintext.len(), room, output, |buffer| {
            let mut length = ulong(buffer.as_ref().map_or(0, |buffer| buffer.len()));
            let buffer = buffer.map_or(ptr::null_mut(), <[u8]>::as_mut_ptr);
            call!(self.C_Encrypt(session, input, bytes, buffer, &raw mut length)).map(|()| length)
        })
    }

    /// Decrypts with AES-GCM and a tag of 128 bits: one C_DecryptInit and one C_Decrypt, unless
    /// `form` asks for more. The plaintext replaces the contents of `output`.
    ///
    /// # Errors
    /// Returns [`RawError`]; `output` is then empty.
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
        // Some modules require room for the tag as well, or for a whole block.
        let room = ciphertext_and_tag.len() + MAX_GCM_IV_BYTES;
        output.reserve(room);
        let mut parameters = GcmParameters::new(iv, aad);
        let mut mechanism = parameters.mechanism(form);
        // Mechanism, parameters, IV and AAD outlive both calls, as in `encrypt`.
        call!(self.C_DecryptInit(session, &raw mut mechanism, key)).map_err(init)?;
        let (input, bytes) = (readable(ciphertext_and_tag), ulong(ciphertext_and_tag.len()));
        one_part(form, ciphertext_and_tag.len(), room, output, |buffer| {
            let mut length = ulong(buffer.as_ref().map_or(0, |buffer| buffer.len()));
            let buffer = buffer.map_or(ptr::null_mut(), <[u8]>::as_mut_ptr);
            call!(self.C_Decrypt(session, input, bytes, buffer, &raw mut length)).map(|()| length)
        })
    }
}

fn init(error: Error) -> RawError {
    error.code.map_or(RawError::Malformed, RawError::Init)
}

/// Returns the buffer length passed for an attribute. For a number it is the exact size, since NSS
/// does not update the length.
fn room(kind: CK_ATTRIBUTE_TYPE) -> usize {
    match kind {
        CKA_LABEL => ATTRIBUTE_WORDS * size_of::<u64>(),
        CKA_ID => MAX_CKA_ID_BYTES + 1,
        CKA_START_DATE | CKA_END_DATE => size_of::<CK_DATE>(),
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

/// Returns a pointer to the bytes, for a function whose prototype lacks `const`. It is never null:
/// some modules refuse a null pointer even when the length is 0.
fn readable(bytes: &[u8]) -> *mut CK_BYTE {
    static EMPTY: [u8; 1] = [0];
    if bytes.is_empty() { EMPTY.as_ptr().cast_mut() } else { bytes.as_ptr().cast_mut() }
}

fn ulong(number: usize) -> CK_ULONG {
    number as CK_ULONG
}

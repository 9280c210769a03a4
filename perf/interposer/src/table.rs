//! The functions that the application calls.
#![expect(non_snake_case, reason = "the standard's names")]

use std::ffi::c_void;

use cryptoki_sys::*;

use crate::counts;
use crate::functions::Function;
use crate::gcm;
use crate::interposer::{self, Interposer, Target};
use crate::real::call_real;
use crate::watcher;

/// Lets the settings act on a call, then forwards it.
fn forward(
    function: Function,
    target: Target,
    call_real: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV,
) -> CK_RV {
    let Some(interposer) = interposer::get() else {
        return CKR_GENERAL_ERROR;
    };
    match interposer.begin(function, target) {
        Ok(_call) => call_real(interposer.real),
        Err(code) => code,
    }
}

/// As [`forward`], for a function after which handles may refer to other objects.
fn forward_change(
    function: Function,
    target: Target,
    call_real: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV,
) -> CK_RV {
    let code = forward(function, target, call_real);
    if let Some(interposer) = interposer::get() {
        interposer.labels.forget(interposer.slot_of(target));
    }
    code
}

/// As [`forward`], for a function that begins an operation with a key.
fn forward_beginning(
    function: Function,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    call_real: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV,
) -> CK_RV {
    let Some(interposer) = interposer::get() else {
        return CKR_GENERAL_ERROR;
    };
    match interposer.begin(function, Target::Key(session, key)) {
        Ok(call) => {
            let code = call_real(interposer.real);
            interposer.began(function, session, call, code);
            code
        }
        Err(code) => code,
    }
}

macro_rules! forward_on {
    ($forward:ident $target:ident($handle:ident: $handle_type:ty): $($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
                        unsafe extern "C" fn $name($handle: $handle_type $(, $argument: $type)*) -> CK_RV {
                $forward(Function::$name, Target::$target($handle), |real| {
                    call_real!(real, $name, $handle $(, $argument)*)
                })
            }
        )*
    };
}

macro_rules! forward_on_module {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        $(
                        unsafe extern "C" fn $name($($argument: $type),*) -> CK_RV {
                forward(Function::$name, Target::Module, |real| {
                    call_real!(real, $name, $($argument),*)
                })
            }
        )*
    };
}

forward_on_module! {
    C_GetInfo(a: CK_INFO_PTR);
    C_GetSlotList(a: CK_BBOOL, b: CK_SLOT_ID_PTR, c: CK_ULONG_PTR);
    C_WaitForSlotEvent(a: CK_FLAGS, b: CK_SLOT_ID_PTR, c: *mut c_void);
}

forward_on! { forward_change Slot(slot: CK_SLOT_ID):
    C_InitToken(a: CK_UTF8CHAR_PTR, b: CK_ULONG, c: CK_UTF8CHAR_PTR);
}

forward_on! { forward_change Session(session: CK_SESSION_HANDLE):
    C_Logout();
    C_SetAttributeValue(a: CK_OBJECT_HANDLE, b: CK_ATTRIBUTE_PTR, c: CK_ULONG);
}

forward_on! { forward Slot(slot: CK_SLOT_ID):
    C_GetSlotInfo(a: CK_SLOT_INFO_PTR);
    C_GetMechanismList(a: CK_MECHANISM_TYPE_PTR, b: CK_ULONG_PTR);
    C_GetMechanismInfo(a: CK_MECHANISM_TYPE, b: CK_MECHANISM_INFO_PTR);
}

forward_on! { forward Session(session: CK_SESSION_HANDLE):
    C_InitPIN(a: CK_UTF8CHAR_PTR, b: CK_ULONG);
    C_SetPIN(a: CK_UTF8CHAR_PTR, b: CK_ULONG, c: CK_UTF8CHAR_PTR, d: CK_ULONG);
    C_GetSessionInfo(a: CK_SESSION_INFO_PTR);
    C_GetOperationState(a: CK_BYTE_PTR, b: CK_ULONG_PTR);
    C_SetOperationState(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_OBJECT_HANDLE, d: CK_OBJECT_HANDLE);
    C_Login(a: CK_USER_TYPE, b: CK_UTF8CHAR_PTR, c: CK_ULONG);
    C_CreateObject(a: CK_ATTRIBUTE_PTR, b: CK_ULONG, c: CK_OBJECT_HANDLE_PTR);
    C_CopyObject(a: CK_OBJECT_HANDLE, b: CK_ATTRIBUTE_PTR, c: CK_ULONG, d: CK_OBJECT_HANDLE_PTR);
    C_GetObjectSize(a: CK_OBJECT_HANDLE, b: CK_ULONG_PTR);
    C_FindObjectsFinal();
    C_EncryptUpdate(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_EncryptFinal(a: CK_BYTE_PTR, b: CK_ULONG_PTR);
    C_DecryptUpdate(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_DecryptFinal(a: CK_BYTE_PTR, b: CK_ULONG_PTR);
    C_DigestInit(a: CK_MECHANISM_PTR);
    C_Digest(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_DigestUpdate(a: CK_BYTE_PTR, b: CK_ULONG);
    C_DigestKey(a: CK_OBJECT_HANDLE);
    C_DigestFinal(a: CK_BYTE_PTR, b: CK_ULONG_PTR);
    C_SignInit(a: CK_MECHANISM_PTR, b: CK_OBJECT_HANDLE);
    C_Sign(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_SignUpdate(a: CK_BYTE_PTR, b: CK_ULONG);
    C_SignFinal(a: CK_BYTE_PTR, b: CK_ULONG_PTR);
    C_SignRecoverInit(a: CK_MECHANISM_PTR, b: CK_OBJECT_HANDLE);
    C_SignRecover(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_VerifyInit(a: CK_MECHANISM_PTR, b: CK_OBJECT_HANDLE);
    C_Verify(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG);
    C_VerifyUpdate(a: CK_BYTE_PTR, b: CK_ULONG);
    C_VerifyFinal(a: CK_BYTE_PTR, b: CK_ULONG);
    C_VerifyRecoverInit(a: CK_MECHANISM_PTR, b: CK_OBJECT_HANDLE);
    C_VerifyRecover(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_DigestEncryptUpdate(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_DecryptDigestUpdate(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_SignEncryptUpdate(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_DecryptVerifyUpdate(a: CK_BYTE_PTR, b: CK_ULONG, c: CK_BYTE_PTR, d: CK_ULONG_PTR);
    C_GenerateKeyPair(a: CK_MECHANISM_PTR, b: CK_ATTRIBUTE_PTR, c: CK_ULONG, d: CK_ATTRIBUTE_PTR, e: CK_ULONG, f: CK_OBJECT_HANDLE_PTR, g: CK_OBJECT_HANDLE_PTR);
    C_WrapKey(a: CK_MECHANISM_PTR, b: CK_OBJECT_HANDLE, c: CK_OBJECT_HANDLE, d: CK_BYTE_PTR, e: CK_ULONG_PTR);
    C_UnwrapKey(a: CK_MECHANISM_PTR, b: CK_OBJECT_HANDLE, c: CK_BYTE_PTR, d: CK_ULONG, e: CK_ATTRIBUTE_PTR, f: CK_ULONG, g: CK_OBJECT_HANDLE_PTR);
    C_DeriveKey(a: CK_MECHANISM_PTR, b: CK_OBJECT_HANDLE, c: CK_ATTRIBUTE_PTR, d: CK_ULONG, e: CK_OBJECT_HANDLE_PTR);
    C_SeedRandom(a: CK_BYTE_PTR, b: CK_ULONG);
    C_GenerateRandom(a: CK_BYTE_PTR, b: CK_ULONG);
    C_GetFunctionStatus();
    C_CancelFunction();
}

// ---- Functions that do more than forward

/// # Safety
/// As in PKCS#11 (v2.40, 5.4): `list` points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    let interposer = match watcher::start() {
        Ok(interposer) => interposer,
        Err(error) => {
            eprintln!("xks-interposer: {error}");
            return CKR_GENERAL_ERROR;
        }
    };
    if let Err(code) = interposer.begin(Function::C_GetFunctionList, Target::Module) {
        return code;
    }
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: the application promises memory for a pointer. The table is never written to: its
    // type is that of PKCS#11, which has no const.
    unsafe { *list = (&raw const TABLE).cast_mut() };
    CKR_OK
}

unsafe extern "C" fn C_Initialize(arguments: *mut c_void) -> CK_RV {
    // A forked process calls this again, and needs its own watcher.
    let _ = watcher::start();
    forward(Function::C_Initialize, Target::Module, |real| {
        let settings = interposer::get().map(|interposer| interposer.settings.load());
        let odd = settings.as_ref().map(|it| &it.odd);
        // SAFETY: the arguments are passed on from the application.
        let refusal = odd.and_then(|it| unsafe { it.refuses_to_initialize(arguments) });
        odd.inspect(|it| it.leave_open());
        refusal.unwrap_or_else(|| call_real!(real, C_Initialize, arguments))
    })
}

unsafe extern "C" fn C_Finalize(reserved: *mut c_void) -> CK_RV {
    forward(Function::C_Finalize, Target::Module, |real| {
        let code = call_real!(real, C_Finalize, reserved);
        with_sessions(code, |interposer| {
            interposer.all_closed(None);
            // The process may end before the watcher runs again.
            if let Some(path) = &interposer.environment.counts {
                let _ = counts::write(path, &counts::text(interposer));
            }
        })
    })
}

unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: CK_TOKEN_INFO_PTR) -> CK_RV {
    forward(Function::C_GetTokenInfo, Target::Slot(slot), |real| {
        let code = call_real!(real, C_GetTokenInfo, slot, info);
        with_sessions(code, |interposer| {
            // SAFETY: the application's memory, which the real module has filled.
            if let Some(info) = unsafe { info.as_mut() } {
                interposer.settings.load().odd.change(info);
            }
        })
    })
}

unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: CK_ATTRIBUTE_PTR,
    attributes: CK_ULONG,
) -> CK_RV {
    forward(Function::C_GetAttributeValue, Target::Session(session), |real| {
        let at_most = interposer::get().and_then(|it| it.settings.load().odd.attributes_at_most);
        if at_most.is_some_and(|at_most| attributes > at_most) {
            for at in 0..usize::try_from(attributes).unwrap_or(0) {
                // SAFETY: the application's template has that many attributes.
                unsafe { (*template.add(at)).ulValueLen = CK_UNAVAILABLE_INFORMATION };
            }
            return CKR_ATTRIBUTE_TYPE_INVALID;
        }
        let Some(object) = interposer::get().and_then(|it| it.real_handle(session, object)) else {
            return CKR_OBJECT_HANDLE_INVALID;
        };
        let code = call_real!(real, C_GetAttributeValue, session, object, template, attributes);
        let settings = interposer::get().map(|it| it.settings.load());
        let hidden = settings.as_ref().map_or(&[][..], |settings| &settings.odd.attributes_hidden);
        let mut is_any = false;
        for at in 0..usize::try_from(attributes).unwrap_or(0) {
            // SAFETY: the application's template has that many attributes.
            let attribute = unsafe { &mut *template.add(at) };
            if hidden.contains(&attribute.type_) {
                attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
                is_any = true;
            }
        }
        if is_any && code == CKR_OK { CKR_ATTRIBUTE_TYPE_INVALID } else { code }
    })
}

unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    template: CK_ATTRIBUTE_PTR,
    attributes: CK_ULONG,
    key: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    forward(Function::C_GenerateKey, Target::Session(session), |real| {
        let at_most = interposer::get().and_then(|it| it.settings.load().odd.new_key_at_most);
        if at_most.is_some_and(|at_most| attributes > at_most) {
            return CKR_TEMPLATE_INCONSISTENT;
        }
        let code = call_real!(real, C_GenerateKey, session, mechanism, template, attributes, key);
        with_sessions(code, |interposer| {
            // SAFETY: the application's memory, where the real module has written the handle.
            interposer.given_handles(session, std::slice::from_mut(unsafe { &mut *key }));
        });
        let fails = interposer::get().and_then(|it| it.settings.load().odd.new_key_fails_with);
        fails.filter(|_| code == CKR_OK).unwrap_or(code)
    })
}

unsafe extern "C" fn C_FindObjectsInit(
    session: CK_SESSION_HANDLE,
    template: CK_ATTRIBUTE_PTR,
    attributes: CK_ULONG,
) -> CK_RV {
    forward(Function::C_FindObjectsInit, Target::Session(session), |real| {
        let at_most = interposer::get().and_then(|it| it.settings.load().odd.template_at_most);
        if at_most.is_some_and(|at_most| attributes > at_most) {
            return CKR_TEMPLATE_INCONSISTENT;
        }
        if let Some(interposer) = interposer::get() {
            // SAFETY: the application's template has that many attributes.
            let is_for_label = (0..usize::try_from(attributes).unwrap_or(0))
                .any(|at| unsafe { (*template.add(at)).type_ } == CKA_LABEL);
            let strays = if is_for_label { 0 } else { interposer.settings.load().odd.find_strays };
            interposer.strays.begin(session, strays);
        }
        call_real!(real, C_FindObjectsInit, session, template, attributes)
    })
}

unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: CK_OBJECT_HANDLE_PTR,
    max_objects: CK_ULONG,
    found: CK_ULONG_PTR,
) -> CK_RV {
    forward(Function::C_FindObjects, Target::Session(session), |real| {
        let at_most = interposer::get().and_then(|it| it.settings.load().odd.find_at_most);
        let max_objects = at_most.map_or(max_objects, |at_most| at_most.min(max_objects));
        // SAFETY: the application's array, of the length that it gives.
        let handles = unsafe {
            std::slice::from_raw_parts_mut(objects, usize::try_from(max_objects).unwrap_or(0))
        };
        let strays = interposer::get().map_or(0, |it| it.strays.give(session, handles));
        if strays > 0 {
            // SAFETY: the application's memory for the count.
            unsafe { *found = strays as CK_ULONG };
            return CKR_OK;
        }
        let code = call_real!(real, C_FindObjects, session, objects, max_objects, found);
        with_sessions(code, |interposer| {
            // SAFETY: the application's memory for the count, which the real module has written.
            let found = usize::try_from(unsafe { *found }).unwrap_or(0).min(handles.len());
            interposer.given_handles(session, &mut handles[..found]);
        })
    })
}

unsafe extern "C" fn C_DestroyObject(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
) -> CK_RV {
    forward_change(Function::C_DestroyObject, Target::Session(session), |real| {
        let Some(object) = interposer::get().and_then(|it| it.real_handle(session, object)) else {
            return CKR_OBJECT_HANDLE_INVALID;
        };
        call_real!(real, C_DestroyObject, session, object)
    })
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    forward(Function::C_OpenSession, Target::Slot(slot), |real| {
        if let Some(code) = interposer::get()
            .and_then(|interposer| interposer.settings.load().emulation.refuses_session(flags))
        {
            return code;
        }
        let code = call_real!(real, C_OpenSession, slot, flags, application, notify, session);
        with_sessions(code, |interposer| {
            if !session.is_null() {
                // SAFETY: the real module has returned CKR_OK, so it has written the handle there.
                interposer.sessions.opened(unsafe { *session }, slot);
            }
        })
    })
}

unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    forward(Function::C_CloseSession, Target::Session(session), |real| {
        if let Some(interposer) = interposer::get() {
            interposer.closing(session);
        }
        call_real!(real, C_CloseSession, session)
    })
}

unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    forward(Function::C_CloseAllSessions, Target::Slot(slot), |real| {
        if let Some(interposer) = interposer::get() {
            interposer.all_closed(Some(slot));
        }
        call_real!(real, C_CloseAllSessions, slot)
    })
}

unsafe extern "C" fn C_EncryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(interposer) = interposer::get() else {
        return CKR_GENERAL_ERROR;
    };
    let Some(key) = interposer.real_handle(session, key) else {
        return CKR_KEY_HANDLE_INVALID;
    };
    forward_beginning(Function::C_EncryptInit, session, key, |real| {
        let settings = interposer.settings.load();
        let (mode, ivs) = (settings.emulation.iv, &interposer.made_ivs);
        // SAFETY: the arguments are passed on from the application.
        unsafe {
            settings.odd.with_iv_bits(mechanism, |mechanism| {
                gcm::encrypt_init(real, ivs, mode, session, mechanism, key)
            })
        }
    })
}

unsafe extern "C" fn C_DecryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    let Some(interposer) = interposer::get() else {
        return CKR_GENERAL_ERROR;
    };
    let Some(key) = interposer.real_handle(session, key) else {
        return CKR_KEY_HANDLE_INVALID;
    };
    forward_beginning(Function::C_DecryptInit, session, key, |real| {
        let settings = interposer.settings.load();
        let init = |mechanism| call_real!(real, C_DecryptInit, session, mechanism, key);
        // SAFETY: the arguments are passed on from the application.
        unsafe { settings.odd.with_iv_bits(mechanism, init) }
    })
}

unsafe extern "C" fn C_Encrypt(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_bytes: CK_ULONG,
    output: CK_BYTE_PTR,
    output_bytes: CK_ULONG_PTR,
) -> CK_RV {
    let Some(interposer) = interposer::get() else {
        return CKR_GENERAL_ERROR;
    };
    let call = match interposer.begin(Function::C_Encrypt, Target::Session(session)) {
        Ok(call) => call,
        Err(code) => return code,
    };
    if !interposer.may_go_on(Function::C_Encrypt, session, !output.is_null()) {
        return CKR_BUFFER_TOO_SMALL;
    }
    let (real, ivs) = (interposer.real, &interposer.made_ivs);
    // SAFETY: the arguments are passed on from the application.
    let code = unsafe { gcm::encrypt(real, ivs, session, data, data_bytes, output, output_bytes) };
    if call.flip_bit && code == CKR_OK && !output.is_null() && !output_bytes.is_null() {
        // SAFETY: the real module has returned CKR_OK: it has written the output and its length.
        unsafe {
            if *output_bytes > 0 {
                *output ^= 1;
            }
        }
    }
    code
}

unsafe extern "C" fn C_Decrypt(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_bytes: CK_ULONG,
    output: CK_BYTE_PTR,
    output_bytes: CK_ULONG_PTR,
) -> CK_RV {
    let Some(interposer) = interposer::get() else {
        return CKR_GENERAL_ERROR;
    };
    forward(Function::C_Decrypt, Target::Session(session), |real| {
        if !interposer.may_go_on(Function::C_Decrypt, session, !output.is_null()) {
            return CKR_BUFFER_TOO_SMALL;
        }
        let code = call_real!(real, C_Decrypt, session, data, data_bytes, output, output_bytes);
        interposer.settings.load().emulation.decrypted(code)
    })
}

/// Records the effect of a successful call on the sessions.
fn with_sessions(code: CK_RV, work: impl FnOnce(&Interposer)) -> CK_RV {
    if code == CKR_OK
        && let Some(interposer) = interposer::get()
    {
        work(interposer);
    }
    code
}

static TABLE: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
    version: CK_VERSION { major: 2, minor: 40 },
    C_Initialize: Some(C_Initialize),
    C_Finalize: Some(C_Finalize),
    C_GetInfo: Some(C_GetInfo),
    C_GetFunctionList: Some(C_GetFunctionList),
    C_GetSlotList: Some(C_GetSlotList),
    C_GetSlotInfo: Some(C_GetSlotInfo),
    C_GetTokenInfo: Some(C_GetTokenInfo),
    C_GetMechanismList: Some(C_GetMechanismList),
    C_GetMechanismInfo: Some(C_GetMechanismInfo),
    C_InitToken: Some(C_InitToken),
    C_InitPIN: Some(C_InitPIN),
    C_SetPIN: Some(C_SetPIN),
    C_OpenSession: Some(C_OpenSession),
    C_CloseSession: Some(C_CloseSession),
    C_CloseAllSessions: Some(C_CloseAllSessions),
    C_GetSessionInfo: Some(C_GetSessionInfo),
    C_GetOperationState: Some(C_GetOperationState),
    C_SetOperationState: Some(C_SetOperationState),
    C_Login: Some(C_Login),
    C_Logout: Some(C_Logout),
    C_CreateObject: Some(C_CreateObject),
    C_CopyObject: Some(C_CopyObject),
    C_DestroyObject: Some(C_DestroyObject),
    C_GetObjectSize: Some(C_GetObjectSize),
    C_GetAttributeValue: Some(C_GetAttributeValue),
    C_SetAttributeValue: Some(C_SetAttributeValue),
    C_FindObjectsInit: Some(C_FindObjectsInit),
    C_FindObjects: Some(C_FindObjects),
    C_FindObjectsFinal: Some(C_FindObjectsFinal),
    C_EncryptInit: Some(C_EncryptInit),
    C_Encrypt: Some(C_Encrypt),
    C_EncryptUpdate: Some(C_EncryptUpdate),
    C_EncryptFinal: Some(C_EncryptFinal),
    C_DecryptInit: Some(C_DecryptInit),
    C_Decrypt: Some(C_Decrypt),
    C_DecryptUpdate: Some(C_DecryptUpdate),
    C_DecryptFinal: Some(C_DecryptFinal),
    C_DigestInit: Some(C_DigestInit),
    C_Digest: Some(C_Digest),
    C_DigestUpdate: Some(C_DigestUpdate),
    C_DigestKey: Some(C_DigestKey),
    C_DigestFinal: Some(C_DigestFinal),
    C_SignInit: Some(C_SignInit),
    C_Sign: Some(C_Sign),
    C_SignUpdate: Some(C_SignUpdate),
    C_SignFinal: Some(C_SignFinal),
    C_SignRecoverInit: Some(C_SignRecoverInit),
    C_SignRecover: Some(C_SignRecover),
    C_VerifyInit: Some(C_VerifyInit),
    C_Verify: Some(C_Verify),
    C_VerifyUpdate: Some(C_VerifyUpdate),
    C_VerifyFinal: Some(C_VerifyFinal),
    C_VerifyRecoverInit: Some(C_VerifyRecoverInit),
    C_VerifyRecover: Some(C_VerifyRecover),
    C_DigestEncryptUpdate: Some(C_DigestEncryptUpdate),
    C_DecryptDigestUpdate: Some(C_DecryptDigestUpdate),
    C_SignEncryptUpdate: Some(C_SignEncryptUpdate),
    C_DecryptVerifyUpdate: Some(C_DecryptVerifyUpdate),
    C_GenerateKey: Some(C_GenerateKey),
    C_GenerateKeyPair: Some(C_GenerateKeyPair),
    C_WrapKey: Some(C_WrapKey),
    C_UnwrapKey: Some(C_UnwrapKey),
    C_DeriveKey: Some(C_DeriveKey),
    C_SeedRandom: Some(C_SeedRandom),
    C_GenerateRandom: Some(C_GenerateRandom),
    C_GetFunctionStatus: Some(C_GetFunctionStatus),
    C_CancelFunction: Some(C_CancelFunction),
    C_WaitForSlotEvent: Some(C_WaitForSlotEvent),
};

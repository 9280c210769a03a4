//! The functions that the application calls.
#![expect(non_snake_case, reason = "the standard's names")]

use std::ffi::c_void;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use cryptoki_sys::*;

use crate::arguments::{Output, Room, bytes, fill, gcm_parameters, template};
use crate::gcm::{TAG_BYTES, open, seal};
use crate::keys;
use crate::sessions::{self, MAX_SESSIONS, Operation};
use crate::unsupported::*;

const SLOT: CK_SLOT_ID = 0;
const VERSION: CK_VERSION = CK_VERSION { major: 2, minor: 40 };

static IS_LOGGED_IN: AtomicBool = AtomicBool::new(false);

/// # Safety
/// As in PKCS#11 (v2.40, 5.4): `list` points to memory for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    // The table is never written to: its type is that of PKCS#11, which has no const.
    // SAFETY: the application promises memory for a pointer.
    unsafe { put(list, (&raw const TABLE).cast_mut()) }
}

unsafe extern "C" fn C_Initialize(_: *mut c_void) -> CK_RV {
    if keys::all().is_empty() { CKR_GENERAL_ERROR } else { CKR_OK }
}

unsafe extern "C" fn C_Finalize(_: *mut c_void) -> CK_RV {
    sessions::close_all();
    IS_LOGGED_IN.store(false, Ordering::Release);
    CKR_OK
}

unsafe extern "C" fn C_GetInfo(info: CK_INFO_PTR) -> CK_RV {
    let told = CK_INFO {
        cryptokiVersion: VERSION,
        manufacturerID: padded("xks-fast-token"),
        libraryDescription: padded("for measuring, holds no secret"),
        ..CK_INFO::default()
    };
    // SAFETY: the application's memory for the answer.
    unsafe { put(info, told) }
}

unsafe extern "C" fn C_GetSlotList(
    _: CK_BBOOL,
    slots: CK_SLOT_ID_PTR,
    count: CK_ULONG_PTR,
) -> CK_RV {
    // SAFETY: the application's memory for a number.
    let Some(count) = (unsafe { count.as_mut() }) else { return CKR_ARGUMENTS_BAD };
    let has_room = *count > 0;
    *count = 1;
    if slots.is_null() {
        return CKR_OK;
    }
    if !has_room {
        return CKR_BUFFER_TOO_SMALL;
    }
    // SAFETY: the array has room for one.
    unsafe { put(slots, SLOT) }
}

unsafe extern "C" fn C_GetSlotInfo(slot: CK_SLOT_ID, info: CK_SLOT_INFO_PTR) -> CK_RV {
    let told = CK_SLOT_INFO {
        slotDescription: padded("fast-token"),
        manufacturerID: padded("xks-fast-token"),
        flags: CKF_TOKEN_PRESENT,
        ..CK_SLOT_INFO::default()
    };
    // SAFETY: the application's memory for the answer.
    on_slot(slot, || unsafe { put(info, told) })
}

unsafe extern "C" fn C_GetTokenInfo(slot: CK_SLOT_ID, info: CK_TOKEN_INFO_PTR) -> CK_RV {
    let told = CK_TOKEN_INFO {
        label: padded("perf"),
        manufacturerID: padded("xks-fast-token"),
        model: padded("fast-token"),
        serialNumber: padded("1"),
        flags: CKF_TOKEN_INITIALIZED
            | CKF_LOGIN_REQUIRED
            | CKF_USER_PIN_INITIALIZED
            | CKF_RNG
            | CKF_WRITE_PROTECTED,
        ulMaxSessionCount: MAX_SESSIONS as CK_ULONG,
        ulSessionCount: sessions::open_count() as CK_ULONG,
        ulMaxRwSessionCount: MAX_SESSIONS as CK_ULONG,
        ulRwSessionCount: 0,
        ulMaxPinLen: 255,
        ulTotalPublicMemory: CK_UNAVAILABLE_INFORMATION,
        ulFreePublicMemory: CK_UNAVAILABLE_INFORMATION,
        ulTotalPrivateMemory: CK_UNAVAILABLE_INFORMATION,
        ulFreePrivateMemory: CK_UNAVAILABLE_INFORMATION,
        ..CK_TOKEN_INFO::default()
    };
    // SAFETY: the application's memory for the answer.
    on_slot(slot, || unsafe { put(info, told) })
}

unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    list: CK_MECHANISM_TYPE_PTR,
    count: CK_ULONG_PTR,
) -> CK_RV {
    on_slot(slot, || {
        // SAFETY: the application's memory for a number.
        let Some(count) = (unsafe { count.as_mut() }) else { return CKR_ARGUMENTS_BAD };
        let has_room = *count > 0;
        *count = 1;
        match (list.is_null(), has_room) {
            (true, _) => CKR_OK,
            (false, false) => CKR_BUFFER_TOO_SMALL,
            // SAFETY: the array has room for one.
            (false, true) => unsafe { put(list, CKM_AES_GCM) },
        }
    })
}

unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: CK_MECHANISM_INFO_PTR,
) -> CK_RV {
    let flags = CKF_ENCRYPT | CKF_DECRYPT;
    let told = CK_MECHANISM_INFO { ulMinKeySize: 32, ulMaxKeySize: 32, flags };
    on_slot(slot, || match mechanism {
        // SAFETY: the application's memory for the answer.
        CKM_AES_GCM => unsafe { put(info, told) },
        _ => CKR_MECHANISM_INVALID,
    })
}

unsafe extern "C" fn C_OpenSession(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    _: *mut c_void,
    _: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    on_slot(slot, || {
        if flags & CKF_SERIAL_SESSION == 0 {
            return CKR_SESSION_PARALLEL_NOT_SUPPORTED;
        }
        match sessions::open() {
            // SAFETY: the application's memory for the handle.
            Some(handle) => unsafe { put(session, handle) },
            None => CKR_SESSION_COUNT,
        }
    })
}

unsafe extern "C" fn C_CloseSession(session: CK_SESSION_HANDLE) -> CK_RV {
    let code = sessions::close(session);
    if sessions::open_count() == 0 {
        IS_LOGGED_IN.store(false, Ordering::Release);
    }
    code
}

unsafe extern "C" fn C_CloseAllSessions(slot: CK_SLOT_ID) -> CK_RV {
    on_slot(slot, || {
        sessions::close_all();
        IS_LOGGED_IN.store(false, Ordering::Release);
        CKR_OK
    })
}

unsafe extern "C" fn C_GetSessionInfo(
    session: CK_SESSION_HANDLE,
    info: CK_SESSION_INFO_PTR,
) -> CK_RV {
    let is_logged_in = IS_LOGGED_IN.load(Ordering::Acquire);
    let told = CK_SESSION_INFO {
        slotID: SLOT,
        state: if is_logged_in { CKS_RO_USER_FUNCTIONS } else { CKS_RO_PUBLIC_SESSION },
        flags: CKF_SERIAL_SESSION,
        ulDeviceError: 0,
    };
    // SAFETY: the application's memory for the answer.
    sessions::with(session, |_| unsafe { put(info, told) })
}

unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    _: CK_USER_TYPE,
    _: CK_UTF8CHAR_PTR,
    _: CK_ULONG,
) -> CK_RV {
    sessions::with(session, |_| {
        let was_logged_in = IS_LOGGED_IN.swap(true, Ordering::AcqRel);
        if was_logged_in { CKR_USER_ALREADY_LOGGED_IN } else { CKR_OK }
    })
}

unsafe extern "C" fn C_Logout(session: CK_SESSION_HANDLE) -> CK_RV {
    sessions::with(session, |_| {
        let was_logged_in = IS_LOGGED_IN.swap(false, Ordering::AcqRel);
        if was_logged_in { CKR_OK } else { CKR_USER_NOT_LOGGED_IN }
    })
}

unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
) -> CK_RV {
    sessions::with(session, |_| match keys::get(object) {
        _ if template.is_null() => CKR_ARGUMENTS_BAD,
        // SAFETY: the application's template.
        Some(key) => unsafe { fill(key, template, count) },
        None => CKR_OBJECT_HANDLE_INVALID,
    })
}

unsafe extern "C" fn C_FindObjectsInit(
    session: CK_SESSION_HANDLE,
    attributes: CK_ATTRIBUTE_PTR,
    count: CK_ULONG,
) -> CK_RV {
    // SAFETY: the application's template.
    let Some(template) = (unsafe { template(attributes, count) }) else {
        return CKR_ARGUMENTS_BAD;
    };
    sessions::with(session, |state| {
        if state.found.is_some() {
            return CKR_OPERATION_ACTIVE;
        }
        state.found = Some(keys::find(&template).into_iter());
        CKR_OK
    })
}

unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    objects: CK_OBJECT_HANDLE_PTR,
    max_objects: CK_ULONG,
    count: CK_ULONG_PTR,
) -> CK_RV {
    if objects.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    sessions::with(session, |state| {
        let Some(found) = &mut state.found else { return CKR_OPERATION_NOT_INITIALIZED };
        let max_objects = usize::try_from(max_objects).unwrap_or(0);
        // SAFETY: the application's array, of the length that it gives.
        let room = unsafe { slice::from_raw_parts_mut(objects, max_objects) };
        let mut written = 0;
        for (place, handle) in room.iter_mut().zip(found) {
            *place = handle;
            written += 1;
        }
        // SAFETY: the application's memory for a number.
        unsafe { put(count, written) }
    })
}

unsafe extern "C" fn C_FindObjectsFinal(session: CK_SESSION_HANDLE) -> CK_RV {
    sessions::with(session, |state| match state.found.take() {
        Some(_) => CKR_OK,
        None => CKR_OPERATION_NOT_INITIALIZED,
    })
}

unsafe extern "C" fn C_EncryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the application's mechanism.
    unsafe { begin(session, mechanism, key, false) }
}

unsafe extern "C" fn C_DecryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: the application's mechanism.
    unsafe { begin(session, mechanism, key, true) }
}

unsafe extern "C" fn C_Encrypt(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    length: CK_ULONG,
    output: CK_BYTE_PTR,
    output_length: CK_ULONG_PTR,
) -> CK_RV {
    // SAFETY: the application's input and output.
    let memory = unsafe { (bytes(data, length), Output::new(output, output_length)) };
    let (Some(plaintext), Some(output)) = memory else { return CKR_ARGUMENTS_BAD };
    sessions::with(session, |state| {
        let Some(operation) = state.operation.filter(|operation| !operation.is_decrypt) else {
            return CKR_OPERATION_NOT_INITIALIZED;
        };
        if let Room::Return(code) = output.has_room(plaintext.len() + TAG_BYTES) {
            return code;
        }
        state.operation = None;
        // Input and output may overlap.
        state.text.clear();
        state.text.extend_from_slice(plaintext);
        match seal(&operation.key.cipher, operation.iv, &state.aad, &mut state.text) {
            Ok(()) => output.write(&state.text),
            Err(_) => return CKR_DATA_LEN_RANGE,
        }
        CKR_OK
    })
}

unsafe extern "C" fn C_Decrypt(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    length: CK_ULONG,
    output: CK_BYTE_PTR,
    output_length: CK_ULONG_PTR,
) -> CK_RV {
    // SAFETY: the application's input and output.
    let memory = unsafe { (bytes(data, length), Output::new(output, output_length)) };
    let (Some(sealed), Some(output)) = memory else { return CKR_ARGUMENTS_BAD };
    sessions::with(session, |state| {
        let Some(operation) = state.operation.filter(|operation| operation.is_decrypt) else {
            return CKR_OPERATION_NOT_INITIALIZED;
        };
        let Some(plaintext_bytes) = sealed.len().checked_sub(TAG_BYTES) else {
            state.operation = None;
            return CKR_ENCRYPTED_DATA_LEN_RANGE;
        };
        if let Room::Return(code) = output.has_room(plaintext_bytes) {
            return code;
        }
        state.operation = None;
        // Input and output may overlap.
        state.text.clear();
        state.text.extend_from_slice(sealed);
        match open(&operation.key.cipher, operation.iv, &state.aad, &mut state.text) {
            Ok(()) => output.write(&state.text),
            Err(_) => return CKR_ENCRYPTED_DATA_INVALID,
        }
        CKR_OK
    })
}

unsafe extern "C" fn C_GenerateRandom(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    length: CK_ULONG,
) -> CK_RV {
    if data.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    sessions::with(session, |_| {
        let length = usize::try_from(length).unwrap_or(0);
        // SAFETY: the application's buffer, of the length that it gives.
        let buffer = unsafe { slice::from_raw_parts_mut(data, length) };
        // Each thread has its own generator.
        aws_lc_rs::rand::fill(buffer).map_or(CKR_GENERAL_ERROR, |()| CKR_OK)
    })
}

/// C_EncryptInit and C_DecryptInit.
///
/// # Safety
/// The mechanism is as PKCS#11 demands.
unsafe fn begin(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
    is_decrypt: bool,
) -> CK_RV {
    sessions::with(session, |state| {
        if state.operation.is_some() {
            return CKR_OPERATION_ACTIVE;
        }
        let Some(key) = keys::get(key) else { return CKR_KEY_HANDLE_INVALID };
        // SAFETY: by this function's contract.
        match unsafe { gcm_parameters(mechanism, &mut state.aad) } {
            Ok(iv) => state.operation = Some(Operation { key, is_decrypt, iv }),
            Err(code) => return code,
        }
        CKR_OK
    })
}

fn on_slot(slot: CK_SLOT_ID, work: impl FnOnce() -> CK_RV) -> CK_RV {
    if slot == SLOT { work() } else { CKR_SLOT_ID_INVALID }
}

/// Writes an answer into the application's memory.
///
/// # Safety
/// `memory` is null, or has room for the answer.
unsafe fn put<T>(memory: *mut T, answer: T) -> CK_RV {
    if memory.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // The sample proxy packs its structures.
    // SAFETY: by this function's contract.
    unsafe { memory.write_unaligned(answer) };
    CKR_OK
}

/// Returns the text, padded with blanks as PKCS#11 demands.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    field
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

//! C_EncryptInit and C_Encrypt of HSMs that make the IV of AES-GCM themselves.
//!
//! The real module is given an IV of ours, drawn from its own generator. It has to copy the
//! mechanism's parameters during C_EncryptInit, as SoftHSM2 does.

use std::collections::HashMap;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use cryptoki_sys::*;

use crate::emulation::{IvMode, WrittenBy};
use crate::real::call_real;

const IV_BYTES: usize = 12;
const MAX_IV_BYTES: usize = 16;

/// IVs of operations that have begun, which C_Encrypt has yet to hand out.
#[derive(Default)]
pub struct MadeIvs {
    by_session: Mutex<HashMap<CK_SESSION_HANDLE, MadeIv>>,
    count: AtomicUsize,
}

struct MadeIv {
    bytes: [u8; MAX_IV_BYTES],
    length: usize,
    tag_bytes: usize,
    /// The application's buffer; null: at the end of the output.
    buffer: AtomicPtr<CK_BYTE>,
}

impl MadeIvs {
    /// The session's operation is over, or its session.
    pub fn forget(&self, session: CK_SESSION_HANDLE) {
        self.take(session);
    }

    fn take(&self, session: CK_SESSION_HANDLE) -> Option<MadeIv> {
        // A session is one thread's at a time, so what it put in, it sees.
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.change(|ivs| ivs.remove(&session))
    }

    fn put(&self, session: CK_SESSION_HANDLE, iv: MadeIv) {
        self.change(|ivs| ivs.insert(session, iv));
    }

    fn change<T>(&self, work: impl FnOnce(&mut HashMap<CK_SESSION_HANDLE, MadeIv>) -> T) -> T {
        let mut ivs = self.by_session.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut ivs);
        self.count.store(ivs.len(), Ordering::Relaxed);
        result
    }
}

/// C_EncryptInit.
///
/// # Safety
/// The arguments are those of an application that keeps to PKCS#11 v2.40, 5.8. Where C_Encrypt is
/// to write the IV, its buffer lives until that has returned.
pub unsafe fn encrypt_init(
    real: &CK_FUNCTION_LIST,
    ivs: &MadeIvs,
    mode: Option<IvMode>,
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    ivs.forget(session);
    // SAFETY: the application's mechanism, if it is one at all.
    let mut given = match (mode, unsafe { mechanism.as_ref() }) {
        (Some(_), Some(given)) if given.mechanism == CKM_AES_GCM => *given,
        _ => return call_real!(real, C_EncryptInit, session, mechanism, key),
    };
    if given.pParameter.is_null() || given.ulParameterLen != ulong(size_of::<CK_GCM_PARAMS>()) {
        return CKR_MECHANISM_PARAM_INVALID;
    }
    // SAFETY: AES-GCM's parameters, of the right size.
    let mut parameters = unsafe { given.pParameter.cast::<CK_GCM_PARAMS>().read_unaligned() };
    let buffer = parameters.pIv;
    let length = match mode {
        // SAFETY: the buffer has the length that goes with it.
        Some(IvMode::ZeroedBuffer(_)) if unsafe { is_zeroed(buffer, parameters.ulIvLen) } => {
            IV_BYTES
        }
        Some(IvMode::Appended(bytes)) if parameters.ulIvLen == 0 => {
            match (bytes, parameters.ulIvBits) {
                (Some(bytes), _) => bytes,
                (None, 96) => IV_BYTES,
                (None, 0 | 128) => MAX_IV_BYTES,
                (None, _) => return CKR_MECHANISM_PARAM_INVALID,
            }
        }
        // An IV of the application's own.
        _ => return CKR_MECHANISM_PARAM_INVALID,
    };
    let mut bytes = [0; MAX_IV_BYTES];
    let code = call_real!(real, C_GenerateRandom, session, bytes.as_mut_ptr(), ulong(length));
    if code != CKR_OK {
        return code;
    }
    parameters.pIv = bytes.as_mut_ptr();
    parameters.ulIvLen = ulong(length);
    parameters.ulIvBits = ulong(length * 8);
    given.pParameter = (&raw mut parameters).cast();
    let code = call_real!(real, C_EncryptInit, session, &raw mut given, key);
    if code != CKR_OK {
        return code;
    }
    let tag_bytes = usize::try_from(parameters.ulTagBits / 8).unwrap_or(usize::MAX);
    let made = |buffer| MadeIv { bytes, length, tag_bytes, buffer: AtomicPtr::new(buffer) };
    match mode {
        Some(IvMode::ZeroedBuffer(WrittenBy::EncryptInit)) => {
            // SAFETY: `is_zeroed` has found `length` bytes there; they are the application's to
            // give, and none of ours.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, length) };
        }
        Some(IvMode::ZeroedBuffer(WrittenBy::Encrypt)) => ivs.put(session, made(buffer)),
        _ => ivs.put(session, made(ptr::null_mut())),
    }
    CKR_OK
}

/// C_Encrypt.
///
/// # Safety
/// As [`encrypt_init`].
pub unsafe fn encrypt(
    real: &CK_FUNCTION_LIST,
    ivs: &MadeIvs,
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    data_bytes: CK_ULONG,
    output: CK_BYTE_PTR,
    output_bytes: CK_ULONG_PTR,
) -> CK_RV {
    let forward = || call_real!(real, C_Encrypt, session, data, data_bytes, output, output_bytes);
    let Some(iv) = ivs.take(session) else {
        return forward();
    };
    let buffer = iv.buffer.load(Ordering::Relaxed);
    if !buffer.is_null() {
        let code = forward();
        match code {
            CKR_OK if !output.is_null() => {
                // SAFETY: C_EncryptInit has found as many bytes there, and the application keeps
                // them until this call has returned.
                unsafe { ptr::copy_nonoverlapping(iv.bytes.as_ptr(), buffer, iv.length) };
            }
            CKR_OK | CKR_BUFFER_TOO_SMALL => ivs.put(session, iv),
            _ => {}
        }
        return code;
    }
    // SAFETY: the place of a length, if it is one at all.
    let Some(room) = (unsafe { output_bytes.as_mut() }) else {
        return forward();
    };
    // PKCS#11 v2.40, 5.2: a call that asks for the length, or has too little room, ends nothing.
    let needed = data_bytes.saturating_add(ulong(iv.tag_bytes)).saturating_add(ulong(iv.length));
    if output.is_null() || *room < needed {
        let is_question = output.is_null();
        *room = needed;
        ivs.put(session, iv);
        return if is_question { CKR_OK } else { CKR_BUFFER_TOO_SMALL };
    }
    let code = forward();
    if code != CKR_OK {
        return code;
    }
    // SAFETY: the module has written the length, again through the application's pointer.
    let written = unsafe { *output_bytes };
    if written != needed - ulong(iv.length) {
        // Not what GCM gives: there may be no room for the IV.
        return CKR_GENERAL_ERROR;
    }
    // SAFETY: the output has room for `needed` bytes, as the application said, and `written` are
    // written.
    unsafe {
        let end = output.add(usize::try_from(written).unwrap_or(0));
        ptr::copy_nonoverlapping(iv.bytes.as_ptr(), end, iv.length);
        *output_bytes = needed;
    }
    CKR_OK
}

/// Returns whether there are 12 bytes, all zero.
///
/// # Safety
/// `buffer` is null, or has `length` bytes that can be read.
unsafe fn is_zeroed(buffer: CK_BYTE_PTR, length: CK_ULONG) -> bool {
    if buffer.is_null() || length != ulong(IV_BYTES) {
        return false;
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(buffer, IV_BYTES) }.iter().all(|byte| *byte == 0)
}

fn ulong(number: usize) -> CK_ULONG {
    number as CK_ULONG
}

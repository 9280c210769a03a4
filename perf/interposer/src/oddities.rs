//! Behaviour that PKCS#11 allows or other modules show but the real module here does not: answers
//! that are changed on their way back, and calls that are refused for their form.

use std::collections::{HashMap, HashSet};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cryptoki_sys::*;
use serde::Deserialize;

use crate::functions::Function;

/// Settings of `[odd]`. By default there are no oddities.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Oddities {
    /// Bits to set in CK_TOKEN_INFO.flags.
    pub token_flags_set: u64,
    /// Bits to clear in CK_TOKEN_INFO.flags.
    pub token_flags_cleared: u64,
    /// Value of CK_TOKEN_INFO.serialNumber.
    pub serial: Option<String>,
    /// Value of CK_TOKEN_INFO.utcTime, which also sets CKF_CLOCK_ON_TOKEN.
    pub utc_time: Option<String>,
    /// Maximum number of handles that one C_FindObjects returns.
    pub find_at_most: Option<CK_ULONG>,
    /// Number of invalid handles that a search returns before all others, unless it is for a label.
    pub find_strays: u64,
    /// Maximum number of attributes in a template that C_FindObjectsInit accepts.
    pub template_at_most: Option<CK_ULONG>,
    /// Maximum number of attributes that C_GetAttributeValue reads: of more it returns none, with
    /// CKR_ATTRIBUTE_TYPE_INVALID.
    pub attributes_at_most: Option<CK_ULONG>,
    /// Attributes that no object has, with CKR_ATTRIBUTE_TYPE_INVALID.
    pub attributes_hidden: Vec<CK_ATTRIBUTE_TYPE>,
    /// Maximum number of attributes in a template that C_GenerateKey accepts.
    pub new_key_at_most: Option<CK_ULONG>,
    /// Code that C_GenerateKey returns although it has made the key.
    pub new_key_fails_with: Option<CK_RV>,
    /// Set if C_Encrypt and C_Decrypt return CKR_BUFFER_TOO_SMALL until asked for the length.
    pub wants_length_first: bool,
    /// Set if CK_GCM_PARAMS is that of PKCS#11 v2.40's first edition, without ulIvBits.
    pub no_iv_bits: bool,
    /// The arguments that C_Initialize accepts.
    pub initialize: Initialize,
    /// Set if each session numbers the objects that it finds, so that a handle of another session
    /// is invalid or another object's.
    pub handles_of_sessions: bool,
    /// Set if C_Initialize opens /dev/zero without O_CLOEXEC and leaves it open.
    pub leaves_open: bool,
}

/// The arguments that C_Initialize accepts.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Initialize {
    #[default]
    Anything,
    /// CKR_CANT_LOCK if CKF_OS_LOCKING_OK is set.
    NoOsLocking,
    /// CKR_ARGUMENTS_BAD for anything but a null pointer.
    NullOnly,
    /// CKR_NEED_TO_CREATE_THREADS for anything but a null pointer.
    NeedsThreads,
}

impl Oddities {
    /// Changes a token's description of itself.
    pub fn change(&self, info: &mut CK_TOKEN_INFO) {
        info.flags = (info.flags | self.token_flags_set as CK_FLAGS)
            & !(self.token_flags_cleared as CK_FLAGS);
        if let Some(serial) = &self.serial {
            pad(&mut info.serialNumber, serial);
        }
        if let Some(time) = &self.utc_time {
            info.flags |= CKF_CLOCK_ON_TOKEN;
            pad(&mut info.utcTime, time);
        }
    }

    /// Leaves a descriptor open that a program inherits which the process executes.
    pub fn leave_open(&self) {
        if self.leaves_open {
            // SAFETY: the path is a C string, which outlives the call.
            unsafe { libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY) };
        }
    }

    /// Returns the code of a C_Initialize that is refused; `None` if it is to be forwarded.
    ///
    /// # Safety
    /// `arguments` is null, or points to the structure specified in PKCS#11 v2.40, 5.4.
    pub unsafe fn refuses_to_initialize(&self, arguments: CK_VOID_PTR) -> Option<CK_RV> {
        // SAFETY: by this function's contract.
        let flags = unsafe { arguments.cast::<CK_C_INITIALIZE_ARGS>().as_ref() }.map(|it| it.flags);
        match (self.initialize, flags) {
            (Initialize::NoOsLocking, Some(flags)) if flags & CKF_OS_LOCKING_OK != 0 => {
                Some(CKR_CANT_LOCK)
            }
            (Initialize::NullOnly, Some(_)) => Some(CKR_ARGUMENTS_BAD),
            (Initialize::NeedsThreads, Some(_)) => Some(CKR_NEED_TO_CREATE_THREADS),
            _ => None,
        }
    }

    /// Calls a function that begins an AES-GCM operation, with parameters in the form that the real
    /// module expects.
    ///
    /// # Safety
    /// `mechanism` is null, or the application's pointer.
    pub unsafe fn with_iv_bits(
        &self,
        mechanism: CK_MECHANISM_PTR,
        call: impl FnOnce(CK_MECHANISM_PTR) -> CK_RV,
    ) -> CK_RV {
        /// The parameters without ulIvBits.
        #[repr(C)]
        #[derive(Clone, Copy)]
        struct FirstGcmParams {
            iv: CK_BYTE_PTR,
            iv_bytes: CK_ULONG,
            aad: CK_BYTE_PTR,
            aad_bytes: CK_ULONG,
            tag_bits: CK_ULONG,
        }
        // SAFETY: by this function's contract.
        let mut given = match unsafe { mechanism.as_ref() } {
            Some(given) if self.no_iv_bits && given.mechanism == CKM_AES_GCM => *given,
            _ => return call(mechanism),
        };
        if given.ulParameterLen != size_of::<FirstGcmParams>() as CK_ULONG {
            return CKR_MECHANISM_PARAM_INVALID;
        }
        // SAFETY: the parameters of that mechanism, with the right size.
        let first = unsafe { given.pParameter.cast::<FirstGcmParams>().read_unaligned() };
        let mut parameters = CK_GCM_PARAMS {
            pIv: first.iv,
            ulIvLen: first.iv_bytes,
            ulIvBits: first.iv_bytes * 8,
            pAAD: first.aad,
            ulAADLen: first.aad_bytes,
            ulTagBits: first.tag_bits,
        };
        given.pParameter = ptr::from_mut(&mut parameters).cast();
        given.ulParameterLen = size_of::<CK_GCM_PARAMS>() as CK_ULONG;
        call(&raw mut given)
    }
}

/// Fills a fixed-size field and pads it with blanks.
fn pad(field: &mut [CK_UTF8CHAR], text: &str) {
    field.fill(b' ');
    for (place, byte) in field.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
}

/// Sessions whose operation was asked for the length of its output.
#[derive(Default)]
pub struct Asked(Mutex<HashSet<(CK_SESSION_HANDLE, Function)>>);

impl Asked {
    /// Returns whether a call with or without a buffer is forwarded; remembers one without.
    pub fn may_go_on(
        &self,
        function: Function,
        session: CK_SESSION_HANDLE,
        has_buffer: bool,
    ) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if has_buffer {
            asked.remove(&(session, function))
        } else {
            asked.insert((session, function));
            true
        }
    }
}

/// Invalid handles that the current searches of sessions have yet to return.
#[derive(Default)]
pub struct Strays(Mutex<HashMap<CK_SESSION_HANDLE, u64>>);

impl Strays {
    /// Begins a search that returns that many.
    pub fn begin(&self, session: CK_SESSION_HANDLE, strays: u64) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if strays == 0 {
            left.remove(&session);
        } else {
            left.insert(session, strays);
        }
    }

    /// Fills `handles` with what is left. Returns the number written, which is 0 once all were
    /// returned.
    pub fn give(&self, session: CK_SESSION_HANDLE, handles: &mut [CK_OBJECT_HANDLE]) -> usize {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = left.get_mut(&session) else { return 0 };
        let mut given = 0;
        for handle in handles {
            if *left == 0 {
                break;
            }
            *handle = CK_OBJECT_HANDLE::MAX - *left as CK_OBJECT_HANDLE;
            *left -= 1;
            given += 1;
        }
        given
    }
}

/// Handles of sessions that number the objects they find, from 1 on: the real module's handles, in
/// the order of the numbers.
#[derive(Default)]
pub struct Numbers(Mutex<HashMap<CK_SESSION_HANDLE, Vec<CK_OBJECT_HANDLE>>>);

impl Numbers {
    /// Replaces the real module's handles by the session's numbers.
    pub fn number(&self, session: CK_SESSION_HANDLE, handles: &mut [CK_OBJECT_HANDLE]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(session).or_default();
        for handle in handles {
            let place = known.iter().position(|real| real == handle).unwrap_or_else(|| {
                known.push(*handle);
                known.len() - 1
            });
            *handle = place as CK_OBJECT_HANDLE + 1;
        }
    }

    /// Returns the real module's handle of the object with that number in the session.
    pub fn real(
        &self,
        session: CK_SESSION_HANDLE,
        number: CK_OBJECT_HANDLE,
    ) -> Option<CK_OBJECT_HANDLE> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(number).ok()?.checked_sub(1)?;
        known.get(&session)?.get(place).copied()
    }

    /// Forgets a session that is about to be closed.
    pub fn forget(&self, session: CK_SESSION_HANDLE) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length has to be requested, once for each operation.
    #[test]
    fn lengths() {
        let asked = Asked::default();
        let may = |has_buffer| asked.may_go_on(Function::C_Encrypt, 1, has_buffer);
        assert_eq!([true, false, true, true].map(may), [false, true, true, false]);
    }

    /// Each search returns all of them once, in portions of the requested size.
    #[test]
    fn strays() {
        let strays = Strays::default();
        let mut handles = [0; 2];
        assert_eq!(strays.give(1, &mut handles), 0);
        strays.begin(1, 3);
        let given = [(); 3].map(|()| strays.give(1, &mut handles));
        assert_eq!(given, [2, 1, 0]);
        strays.begin(1, 3);
        assert_eq!((strays.give(2, &mut handles), strays.give(1, &mut handles)), (0, 2));
    }

    /// Each session numbers its objects in the order in which it finds them.
    #[test]
    fn numbers() {
        let numbers = Numbers::default();
        let (mut there, mut back) = ([50, 70], [70, 50]);
        numbers.number(1, &mut there);
        numbers.number(2, &mut back);
        assert_eq!((there, back), ([1, 2], [1, 2]));
        assert_eq!((numbers.real(1, 1), numbers.real(2, 1)), (Some(50), Some(70)));
        assert_eq!(
            (numbers.real(1, 0), numbers.real(1, 3), numbers.real(3, 1)),
            (None, None, None)
        );
        numbers.forget(1);
        assert_eq!(numbers.real(1, 1), None);
    }

    /// Fields are filled completely.
    #[test]
    fn token_information() {
        let mut info = CK_TOKEN_INFO { flags: 5, ..CK_TOKEN_INFO::default() };
        let odd = Oddities {
            token_flags_set: 2,
            token_flags_cleared: 4,
            serial: Some("7".to_owned()),
            ..Oddities::default()
        };
        odd.change(&mut info);
        assert_eq!((info.flags, &info.serialNumber), (3, b"7               "));
    }
}

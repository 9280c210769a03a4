//! The parameters of AES-GCM in the layouts that modules expect.

use std::ptr;

use cryptoki_sys::{CK_BYTE, CK_GCM_PARAMS, CK_MECHANISM, CK_ULONG, CKM_AES_GCM};

use super::native::GcmIv;
use crate::hsm::config::GcmForm;
use crate::limits::{GCM_TAG_BYTES, MAX_GCM_IV_BYTES};

/// `CK_GCM_PARAMS`, in both of its layouts.
pub(super) struct GcmParameters {
    /// The layout with `ulIvBits` (PKCS#11 v2.40, errata 01, 2.12.3).
    usual: CK_GCM_PARAMS,
    /// The layout without it (PKCS#11 v2.40 as first published, 2.12.3).
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
    pub(super) fn new(iv: &mut GcmIv, aad: &[u8]) -> Self {
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

    pub(super) fn mechanism(&mut self, form: GcmForm) -> CK_MECHANISM {
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

fn ulong(number: usize) -> CK_ULONG {
    number as CK_ULONG
}

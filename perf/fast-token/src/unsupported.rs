//! Functions of PKCS#11 v2.40 that this module lacks: the sample proxy refuses a module in whose
//! list a function is missing.
#![expect(non_snake_case, reason = "the standard's names")]

use std::ffi::c_void;

use cryptoki_sys::*;

macro_rules! unsupported {
    ($($name:ident($($type:ty),*);)*) => {
        $(
            pub unsafe extern "C" fn $name($(_: $type),*) -> CK_RV {
                CKR_FUNCTION_NOT_SUPPORTED
            }
        )*
    };
}

type Session = CK_SESSION_HANDLE;
type Object = CK_OBJECT_HANDLE;
type Bytes = CK_BYTE_PTR;
type Length = CK_ULONG_PTR;
type Mechanism = CK_MECHANISM_PTR;
type Template = CK_ATTRIBUTE_PTR;

unsupported! {
    C_InitToken(CK_SLOT_ID, Bytes, CK_ULONG, Bytes);
    C_InitPIN(Session, Bytes, CK_ULONG);
    C_SetPIN(Session, Bytes, CK_ULONG, Bytes, CK_ULONG);
    C_GetOperationState(Session, Bytes, Length);
    C_SetOperationState(Session, Bytes, CK_ULONG, Object, Object);
    C_CreateObject(Session, Template, CK_ULONG, CK_OBJECT_HANDLE_PTR);
    C_CopyObject(Session, Object, Template, CK_ULONG, CK_OBJECT_HANDLE_PTR);
    C_DestroyObject(Session, Object);
    C_GetObjectSize(Session, Object, Length);
    C_SetAttributeValue(Session, Object, Template, CK_ULONG);
    C_EncryptUpdate(Session, Bytes, CK_ULONG, Bytes, Length);
    C_EncryptFinal(Session, Bytes, Length);
    C_DecryptUpdate(Session, Bytes, CK_ULONG, Bytes, Length);
    C_DecryptFinal(Session, Bytes, Length);
    C_DigestInit(Session, Mechanism);
    C_Digest(Session, Bytes, CK_ULONG, Bytes, Length);
    C_DigestUpdate(Session, Bytes, CK_ULONG);
    C_DigestKey(Session, Object);
    C_DigestFinal(Session, Bytes, Length);
    C_SignInit(Session, Mechanism, Object);
    C_Sign(Session, Bytes, CK_ULONG, Bytes, Length);
    C_SignUpdate(Session, Bytes, CK_ULONG);
    C_SignFinal(Session, Bytes, Length);
    C_SignRecoverInit(Session, Mechanism, Object);
    C_SignRecover(Session, Bytes, CK_ULONG, Bytes, Length);
    C_VerifyInit(Session, Mechanism, Object);
    C_Verify(Session, Bytes, CK_ULONG, Bytes, CK_ULONG);
    C_VerifyUpdate(Session, Bytes, CK_ULONG);
    C_VerifyFinal(Session, Bytes, CK_ULONG);
    C_VerifyRecoverInit(Session, Mechanism, Object);
    C_VerifyRecover(Session, Bytes, CK_ULONG, Bytes, Length);
    C_DigestEncryptUpdate(Session, Bytes, CK_ULONG, Bytes, Length);
    C_DecryptDigestUpdate(Session, Bytes, CK_ULONG, Bytes, Length);
    C_SignEncryptUpdate(Session, Bytes, CK_ULONG, Bytes, Length);
    C_DecryptVerifyUpdate(Session, Bytes, CK_ULONG, Bytes, Length);
    C_GenerateKey(Session, Mechanism, Template, CK_ULONG, CK_OBJECT_HANDLE_PTR);
    C_GenerateKeyPair(Session, Mechanism, Template, CK_ULONG, Template, CK_ULONG, CK_OBJECT_HANDLE_PTR, CK_OBJECT_HANDLE_PTR);
    C_WrapKey(Session, Mechanism, Object, Object, Bytes, Length);
    C_UnwrapKey(Session, Mechanism, Object, Bytes, CK_ULONG, Template, CK_ULONG, CK_OBJECT_HANDLE_PTR);
    C_DeriveKey(Session, Mechanism, Object, Template, CK_ULONG, CK_OBJECT_HANDLE_PTR);
    C_SeedRandom(Session, Bytes, CK_ULONG);
    C_GetFunctionStatus(Session);
    C_CancelFunction(Session);
    C_WaitForSlotEvent(CK_FLAGS, CK_SLOT_ID_PTR, *mut c_void);
}

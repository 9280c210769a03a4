//! Calls of the real module.

/// `real.C_Name(arguments)`, if the real module has that function.
macro_rules! call_real {
    ($real:expr, $name:ident, $($argument:expr),*) => {
        match $real.$name {
            // SAFETY: the arguments are the application's own, passed on as they came: what it
            // promises to us by PKCS#11, it promises to the real module.
            Some(function) => unsafe { function($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}

pub(crate) use call_real;

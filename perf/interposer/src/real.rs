//! Calls of the real module.

/// Calls `real.C_Name(arguments)`, if the real module has that function.
macro_rules! call_real {
    ($real:expr, $name:ident, $($argument:expr),*) => {
        match $real.$name {
            // SAFETY: the arguments come from the application unchanged: what it guarantees us by
            // PKCS#11, it guarantees the real module.
            Some(function) => unsafe { function($($argument),*) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        }
    };
}

pub(crate) use call_real;

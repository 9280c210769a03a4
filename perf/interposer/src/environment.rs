//! Which copy of the library this is, and what the environment says to it.

use std::env;
use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::ptr;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_RV, CKR_OK};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::random::fresh_seed;

/// Environment variables as they were when the library was first used.
pub struct Environment {
    /// `XKS_INTERPOSER_MODULE`
    pub module: PathBuf,
    /// `XKS_INTERPOSER_CONFIG`
    pub config: Option<PathBuf>,
    /// `XKS_INTERPOSER_SETTINGS`
    pub inline_settings: Option<String>,
    /// `XKS_INTERPOSER_COUNTS`
    pub counts: Option<PathBuf>,
    /// The seed where settings name none.
    pub default_seed: u64,
}

impl Environment {
    /// Reads the variables, this copy's own ones first.
    ///
    /// # Errors
    /// The module isn't named, or settings are given in both ways.
    pub fn read() -> Result<Self, String> {
        let own_path = own_path();
        let suffix = own_path.as_deref().map(suffix).unwrap_or_default();
        if let Some(path) = &own_path {
            stay_loaded(path);
        }
        let variable = |name: &str| -> Option<OsString> {
            let name = format!("XKS_INTERPOSER_{name}");
            env::var_os(format!("{name}_{suffix}")).or_else(|| env::var_os(name))
        };
        let environment = Self {
            module: variable("MODULE").ok_or("XKS_INTERPOSER_MODULE is not set")?.into(),
            config: variable("CONFIG").map(Into::into),
            inline_settings: variable("SETTINGS").map(|text| text.to_string_lossy().into_owned()),
            counts: variable("COUNTS").map(Into::into),
            default_seed: fresh_seed(),
        };
        if environment.config.is_some() && environment.inline_settings.is_some() {
            return Err("XKS_INTERPOSER_CONFIG and XKS_INTERPOSER_SETTINGS are both set".to_owned());
        }
        Ok(environment)
    }

    /// The settings as they are now.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn settings_text(&self) -> Result<String, String> {
        match &self.config {
            Some(path) => fs::read_to_string(path)
                .map_err(|error| format!("XKS_INTERPOSER_CONFIG: {}: {error}", path.display())),
            None => Ok(self.inline_settings.clone().unwrap_or_default()),
        }
    }
}

/// `libxks_interposer_b` for `/path/libxks_interposer_b.so`.
fn suffix(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect()
}

/// The file this copy was loaded from.
fn own_path() -> Option<PathBuf> {
    let here: fn() -> Option<PathBuf> = own_path;
    let mut info = libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    };
    // SAFETY: dladdr looks an address up and fills in `info`, which outlives the call.
    let is_found = unsafe { libc::dladdr(here as *const libc::c_void, &raw mut info) } != 0;
    if !is_found || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr has set dli_fname to a NUL-terminated string that lives as long as this
    // library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// Keeps the library in memory when the application unloads it: its thread goes on running.
fn stay_loaded(path: &Path) {
    let flags = RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
    // SAFETY: with RTLD_NOLOAD nothing is loaded and no initialiser runs.
    if let Ok(library) = unsafe { Library::open(Some(path), flags) } {
        std::mem::forget(library);
    }
}

/// Loads the real module, for good.
///
/// # Errors
/// It can't be loaded, or is none of PKCS#11.
pub fn load(path: &Path) -> Result<&'static CK_FUNCTION_LIST, String> {
    let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    // SAFETY: the operator names a PKCS#11 module, whose initialisers are made to be run so.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| explain(&error))?;
    let library: &'static Library = Box::leak(Box::new(library));
    let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
    // SAFETY: the type is that of C_GetFunctionList (PKCS#11 v2.40, 5.2); `list` outlives the call.
    let code = unsafe {
        library
            .get::<unsafe extern "C" fn(CK_FUNCTION_LIST_PTR_PTR) -> CK_RV>(b"C_GetFunctionList\0")
            .map_err(|error| explain(&error))?(&raw mut list)
    };
    if code != CKR_OK || list.is_null() {
        return Err(explain(&format!("C_GetFunctionList returned {code:#x}")));
    }
    // SAFETY: the module has said CKR_OK, so the list is its own, constant, and there until the
    // module is unloaded, which it never is.
    Ok(unsafe { &*list })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of a copy's own variables.
    #[test]
    fn suffixes() {
        assert_eq!(suffix(Path::new("/lib/libxks_interposer.so")), "libxks_interposer");
        assert_eq!(suffix(Path::new("hsm-2.so")), "hsm_2");
    }
}

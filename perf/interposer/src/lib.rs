//! A PKCS#11 module in front of a real one: it forwards every call, and on request delays,
//! counts, fails or hangs it. For measuring and testing users of an HSM; not for production.
//!
//! An application loads `libxks_interposer.so` in place of its HSM's module.
//!
//! # Environment
//!
//! | variable | meaning |
//! | --- | --- |
//! | `XKS_INTERPOSER_MODULE` | path of the real module; required |
//! | `XKS_INTERPOSER_CONFIG` | path of a settings file. It must exist at the start. It is read again when it changes (checked every 40 ms); if it can't be read, the previous settings stay in force |
//! | `XKS_INTERPOSER_SETTINGS` | the settings themselves (TOML), for simple cases: `XKS_INTERPOSER_SETTINGS='hsm_milli = 2'`. Not together with `XKS_INTERPOSER_CONFIG` |
//! | `XKS_INTERPOSER_COUNTS` | path of the counts file: written every 100 ms if a count changed, after C_Finalize, and at once when the file `<path>.request` appears, which is then removed |
//! | `XKS_INTERPOSER_MARKS` | path of a file to which a byte is appended before each C_Encrypt, so that its length is their number even after a kill |
//!
//! Two copies of this library under different file names are two interposers, even in one process.
//! Each first looks for variables with its own file name appended: a copy
//! `libxks_interposer_b.so` reads `XKS_INTERPOSER_CONFIG_libxks_interposer_b`, and
//! `XKS_INTERPOSER_CONFIG` if there is no such variable. Characters other than letters, digits
//! and `_` in the file's name are replaced by `_`.
//!
//! # Settings
//!
//! ```toml
//! name = "step 3"         # free text; the counts file shows which settings are in force
//! seed = 42               # of all random choices; random by default, and shown in the counts file
//!
//! # "An HSM of 2 ms": C_Encrypt, C_Decrypt, C_GenerateRandom, C_FindObjectsInit and
//! # C_GetAttributeValue take 2 ms longer, other functions are not delayed.
//! hsm_milli = 2
//!
//! # Emulation of other HSMs. With an IV mode, C_EncryptInit refuses an IV from the application
//! # (CKR_MECHANISM_PARAM_INVALID), as HSMs in FIPS mode do; C_DecryptInit is unaffected.
//! iv = "zeroed_buffer"          # nShield, AWS CloudHSM: the application passes 12 zero bytes,
//!                               # which the IV overwrites
//! iv_written_by = "C_Encrypt"   # in that mode; by default C_EncryptInit
//! # iv = "appended"             # Thales Luna: ulIvLen is 0, the IV follows the tag
//! # appended_iv_bytes = 16      # as before firmware 7.9.3; by default 12 if ulIvBits is 96, 16 if
//! #                             # it is 0 or 128
//! bad_tag = "CKR_FUNCTION_FAILED"   # code of C_Decrypt for a bad tag (or a number)
//! no_session_keys = true        # C_GenerateKey and C_CreateObject return CKR_FUNCTION_FAILED (or
//!                               # the code in place of true), as without a card in a FIPS 140
//!                               # level 3 world
//! needs_rw = true               # a read-only session is refused with CKR_FUNCTION_FAILED
//! # no_rw_sessions = true       # a read-write one, with CKR_TOKEN_WRITE_PROTECTED
//!
//! [odd]                   # behaviour that PKCS#11 allows or real modules show; all off by default
//! token_flags_set = 0x40000     # here CKF_USER_PIN_LOCKED; also token_flags_cleared
//! serial = "7"                  # in CK_TOKEN_INFO; utc_time = "..." also sets CKF_CLOCK_ON_TOKEN
//! find_at_most = 3              # handles that one C_FindObjects returns
//! template_at_most = 2          # attributes; else C_FindObjectsInit: CKR_TEMPLATE_INCONSISTENT
//! attributes_at_most = 13       # else C_GetAttributeValue: none, CKR_ATTRIBUTE_TYPE_INVALID
//! attributes_hidden = [0x103]   # C_GetAttributeValue: not available (here CKA_SENSITIVE)
//! new_key_at_most = 9           # attributes; else C_GenerateKey: CKR_TEMPLATE_INCONSISTENT
//! new_key_fails_with = 0x30     # C_GenerateKey makes the key, but returns this code
//! wants_length_first = true     # C_Encrypt and C_Decrypt return CKR_BUFFER_TOO_SMALL for a
//!                               # buffer unless the length was requested first
//! no_iv_bits = true             # AES-GCM accepts only the first CK_GCM_PARAMS of PKCS#11 v2.40
//! find_strays = 100000          # invalid handles before all others, except in searches by label
//! leaves_open = true            # C_Initialize opens /dev/zero, inheritable, and leaves it open
//! initialize = "no_os_locking"  # C_Initialize: CKR_CANT_LOCK; or "null_only", "needs_threads"
//!
//! # At most 8 calls at a time are inside functions that have a latency (inside all functions, if
//! # none has one); the others wait their turn.
//! parallel_calls = 8
//!
//! [latency]               # by function, instead of hsm_milli; "*" is all others
//! C_Encrypt = "150us"
//! C_Decrypt = "2ms, p=0.01:200ms, p=0.001:1.5s"   # a tail: 1 % of calls take 200 ms, 0.1 % 1.5 s
//!
//! # Faults. Each has one action; those that fit a call act in the order of the file, before any
//! # latency. New settings reset their counters.
//! [[fault]]
//! return = "CKR_DEVICE_ERROR"    # the call fails with this (or a number) and is not forwarded
//! functions = ["C_Encrypt"]      # by default all but C_GetFunctionList, C_Initialize, C_Finalize
//! slot = 1234                    # only calls on this slot or its sessions
//! key = "label"                  # only calls about this key: C_EncryptInit and C_DecryptInit that
//!                                # name it, and C_Encrypt and C_Decrypt of that operation
//! keys = ["one", "two"]          # or one of these
//! key_prefix = "bad-"            # or one whose label begins with this
//! skip = 10                      # number of fitting calls to spare first
//! count = 200                    # number of times to act
//! probability = 0.5              # of acting on each fitting call
//! from_milli = 1000              # start and end of acting, from the reading of the settings
//! until_milli = 5000
//!
//! [[fault]]
//! hang = true             # the call waits until settings without a hang for it are read, or until
//!                         # until_milli; then it continues (or returns `return`)
//! # hang = "120s"         # or at most for this time
//! [[fault]]
//! delay = "200ms"         # additional latency, optionally with a tail
//! [[fault]]
//! close_session = true    # the session is closed behind the application's back; the real module
//!                         # then returns CKR_SESSION_HANDLE_INVALID
//! [[fault]]
//! remove_token = true     # requires slot. Calls on the slot return CKR_TOKEN_NOT_PRESENT, on its
//!                         # sessions CKR_DEVICE_REMOVED (or `return`); its sessions are closed
//!                         # afterwards, and the login ends with the last one
//! [[fault]]
//! flip_bit = true         # one bit of a successful C_Encrypt's output is flipped. A call
//!                         # that only requests the length also counts for skip and count
//! [[fault]]
//! leak_bytes = 4096       # so much memory and one descriptor are in use until the process ends
//! ```
//!
//! A random choice depends only on the seed and on the number of the call since the settings were
//! read (among calls of its function for a latency, among fitting calls for a fault): the same seed
//! gives the same choices in the same order.
//!
//! Keys are identified by CKA_LABEL, which is read from the real module once for each handle, and
//! again when the handle may refer to another object. This is done only while a fault has a key. An
//! operation that began before the fault's settings were read fits no key.
//!
//! If C_Encrypt or C_Decrypt fails through a fault with a key, the operation is over, as on a real
//! token (except with CKR_BUFFER_TOO_SMALL). Through a fault without a key it is not: the call was
//! not forwarded, and the session's next C_EncryptInit returns CKR_OPERATION_ACTIVE.
//!
//! # Counts file
//!
//! TOML: `seed`, `name`, `settings_read` (number of times), `settings_error`, `hung` (calls that
//! hang at present), `[calls]` (calls of each function since the start), and `[[fault]]` with
//! `fitted` and `acted` for each fault of the settings in force. A fault without effect
//! (`delay = "0ms"`) counts the calls that fit it, such as those about one key. It must
//! precede faults that fail those calls.
//!
//! # Limitations
//!
//! Functions added after PKCS#11 v2.40 are not offered. IV modes apply to single-part encryption:
//! C_EncryptFinal neither appends nor writes an IV. C_GetSlotList still lists a removed token's
//! slot. After a fork, calls are counted and settings followed only from the process's C_Initialize
//! on.

mod calls;
mod codes;
mod counts;
mod emulation;
#[expect(unsafe_code, reason = "loads modules")]
mod environment;
mod fault;
mod functions;
mod gate;
#[expect(unsafe_code, reason = "works on the application's parameters and buffers")]
mod gcm;
mod interposer;
#[expect(unsafe_code, reason = "asks the real module for labels")]
mod keys;
mod latency;
mod marks;
#[expect(unsafe_code, reason = "works on the application's parameters")]
mod oddities;
mod random;
mod real;
mod sessions;
mod settings;
#[expect(unsafe_code, reason = "the C interface itself")]
mod table;
mod watcher;

//! A PKCS#11 module in front of a real one: it forwards every call, and on demand delays it,
//! counts it, fails it, hangs it. For measuring and testing what uses an HSM; not for production.
//!
//! An application loads `libxks_interposer.so` where it would load its HSM's module.
//!
//! # Environment
//!
//! | variable | meaning |
//! | --- | --- |
//! | `XKS_INTERPOSER_MODULE` | path of the real module. Required |
//! | `XKS_INTERPOSER_CONFIG` | path of a settings file. It must be there at the start; it is read again when it changes (looked at every 40 ms), and one that can't be read leaves the former settings in force |
//! | `XKS_INTERPOSER_SETTINGS` | the settings themselves (TOML), for the simple case: `XKS_INTERPOSER_SETTINGS='hsm_milli = 2'`. Not beside `XKS_INTERPOSER_CONFIG` |
//! | `XKS_INTERPOSER_COUNTS` | path of the counts file: written every 100 ms if something changed, after C_Finalize, and at once when the file `<path>.request` appears, which is then removed |
//!
//! Two copies of this library under different file names are two interposers, in one process
//! too. Each looks first for the variables with its own file name behind them: a copy
//! `libxks_interposer_b.so` reads `XKS_INTERPOSER_CONFIG_libxks_interposer_b`, and
//! `XKS_INTERPOSER_CONFIG` if there is no such variable. Other characters than letters, digits
//! and `_` in the file's name stand as `_`.
//!
//! # Settings
//!
//! ```toml
//! name = "step 3"         # free text; the counts file shows which settings are in force
//! seed = 42               # of all random choices; else one is made, and shown in the counts file
//!
//! # "An HSM of 2 ms": C_Encrypt, C_Decrypt, C_GenerateRandom, C_FindObjectsInit and
//! # C_GetAttributeValue take 2 ms longer, the other functions go straight through.
//! hsm_milli = 2
//!
//! # Ways of other HSMs. With an IV mode, C_EncryptInit refuses an IV of the application's own
//! # (CKR_MECHANISM_PARAM_INVALID), as HSMs in FIPS mode do; C_DecryptInit takes it as ever.
//! iv = "zeroed_buffer"          # nShield, AWS CloudHSM: the application gives 12 zero bytes, into
//!                               # which the IV is written
//! iv_written_by = "C_Encrypt"   # then, else by C_EncryptInit
//! # iv = "appended"             # Thales Luna: ulIvLen is 0, the IV stands after the tag
//! # appended_iv_bytes = 16      # as before firmware 7.9.3; else 12 if ulIvBits is 96, and 16 if
//! #                             # it is 0 or 128
//! bad_tag = "CKR_FUNCTION_FAILED"   # what C_Decrypt says of a bad tag (or a number)
//! no_session_keys = true        # C_GenerateKey and C_CreateObject say CKR_FUNCTION_FAILED (or the
//!                               # code in the place of true), as without a card in a FIPS 140
//!                               # level 3 world
//! needs_rw = true               # a read-only session is refused with CKR_FUNCTION_FAILED
//! # no_rw_sessions = true       # a read-write session is, with CKR_TOKEN_WRITE_PROTECTED
//!
//! [odd]                   # what PKCS#11 allows, or real modules show; each is left out by default
//! token_flags_set = 0x40000     # in CK_TOKEN_INFO: here CKF_USER_PIN_LOCKED; token_flags_cleared
//! serial = "7"                  # another one; utc_time = "..." comes with CKF_CLOCK_ON_TOKEN
//! find_at_most = 3              # handles that one C_FindObjects gives
//! template_at_most = 2          # more attributes: C_FindObjectsInit says CKR_TEMPLATE_INCONSISTENT
//! wants_length_first = true     # C_Encrypt and C_Decrypt say CKR_BUFFER_TOO_SMALL to a buffer that
//!                               # comes before a question of the length
//! no_iv_bits = true             # AES-GCM takes PKCS#11 v2.40's first CK_GCM_PARAMS alone
//! find_strays = 100000          # handles of no object, before all others, unless of one label
//! initialize = "no_os_locking"  # C_Initialize: CKR_CANT_LOCK; or "null_only", "needs_threads"
//!
//! # At most 8 calls at a time are inside of functions that have a latency (of all functions, if
//! # none has one); the others wait their turn.
//! parallel_calls = 8
//!
//! [latency]               # a function's own, in place of hsm_milli; "*" is all that aren't named
//! C_Encrypt = "150us"
//! C_Decrypt = "2ms, p=0.01:200ms, p=0.001:1.5s"   # a tail: 1 % of calls take 200 ms, 0.1 % 1.5 s
//!
//! # Faults. Each has one of the actions; those that fit a call act in this order, before any
//! # latency. New settings reset their counters.
//! [[fault]]
//! return = "CKR_DEVICE_ERROR"    # the call fails with this (or a number), unforwarded
//! functions = ["C_Encrypt"]      # else all but C_GetFunctionList, C_Initialize, C_Finalize
//! slot = 1234                    # calls on this slot or a session of it alone
//! key = "label"                  # calls about this key alone: C_EncryptInit and C_DecryptInit that
//!                                # name it, and C_Encrypt and C_Decrypt of the operation begun so
//! keys = ["one", "two"]          # or about one of these
//! key_prefix = "bad-"            # or about one whose label begins so
//! skip = 10                      # the first so many calls that fit are spared
//! count = 200                    # acts so many times, then no more
//! probability = 0.5              # acts at each call that fits with this probability
//! from_milli = 1000              # acts in this time since the settings were read
//! until_milli = 5000
//!
//! [[fault]]
//! hang = true             # the call waits until settings without a hang for it are read, or
//!                         # until_milli; then it goes on (or returns `return`)
//! # hang = "120s"         # or for that time at most
//! [[fault]]
//! delay = "200ms"         # a latency more, with a tail if need be
//! [[fault]]
//! close_session = true    # the session is closed behind the application's back; the real module
//!                         # then says CKR_SESSION_HANDLE_INVALID
//! [[fault]]
//! remove_token = true     # needs slot. Calls on the slot say CKR_TOKEN_NOT_PRESENT, calls on its
//!                         # sessions CKR_DEVICE_REMOVED (or `return`); the sessions are gone
//!                         # afterwards, and with the last one the login
//! [[fault]]
//! flip_bit = true         # one bit of the output of a C_Encrypt that succeeds is wrong. A call
//!                         # that asks for the length alone fits too, for skip and count
//! ```
//!
//! A random choice depends on the seed and on the number of the call since the settings were read
//! (of those of its function for a latency, of those that fit for a fault) and on nothing else:
//! the same seed gives the same choices in the same order.
//!
//! Keys are known by CKA_LABEL, which is asked of the real module once for each handle, and again
//! when the handle may have become another object's. That, as the rest, is done only while a
//! fault has a key. An operation that began before the fault's settings were read fits no key.
//!
//! C_Encrypt and C_Decrypt that fail by a fault of a key have ended the operation, as a token does
//! (but with CKR_BUFFER_TOO_SMALL). By a fault without a key they have not: the call went nowhere,
//! and the next C_EncryptInit of the session hears CKR_OPERATION_ACTIVE.
//!
//! # Counts file
//!
//! TOML: `seed`, `name`, `settings_read` (how many times), `settings_error`, `hung` (calls that
//! hang now), `[calls]` (calls of each function since the start), and `[[fault]]` with `fitted`
//! and `acted` for each fault of the settings in force. A fault that does nothing
//! (`delay = "0ms"`) counts what fits it: the calls that one key costs, say. It stands before the
//! faults that fail those calls.
//!
//! # What it does not do
//!
//! Functions beyond PKCS#11 v2.40 are not offered. IV modes are those of single-part encryption:
//! C_EncryptFinal appends no IV, nor does it write one. C_GetSlotList goes on to list a removed token's
//! slot. Calls of a process that forked are watched again from its C_Initialize on.

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
#[expect(unsafe_code, reason = "works on the application's parameters")]
mod oddities;
mod random;
mod real;
mod sessions;
mod settings;
#[expect(unsafe_code, reason = "the C interface itself")]
mod table;
mod watcher;

//! A measuring device: a PKCS#11 module that computes AES-256-GCM in the process, without locks
//! and without a system call. A measurement with it shows the cost of the module's user, where one
//! with SoftHSM2 mostly shows SoftHSM2's.
//!
//! It is neither an HSM nor a stand-in for one: its keys are known to everyone (each is the SHA-256
//! of its label), every PIN is right, and no call ever fails for want of a device. Tests of
//! behaviour use SoftHSM2 and `perf/interposer`.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `XKS_FAST_TOKEN_LABELS` | labels of the keys, separated by commas; by default "foo" |
//!
//! There is one slot (id 0) with a token "perf", and up to 1,024 sessions, each with its own state
//! in a fixed array. As PKCS#11 demands, a session is used by one thread at a time; a second one gets
//! CKR_OPERATION_ACTIVE. Functions that neither the proxy nor the sample proxy calls return
//! CKR_FUNCTION_NOT_SUPPORTED.

#[expect(unsafe_code, reason = "reads and writes the application's memory")]
mod arguments;
mod gcm;
mod keys;
#[expect(unsafe_code, reason = "hands out each session's state")]
mod sessions;
#[expect(unsafe_code, reason = "the C interface itself")]
mod table;
#[expect(unsafe_code, reason = "the C interface itself")]
mod unsupported;

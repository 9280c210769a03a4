//! `[pkcs11]`, `[pkcs11_logger]` and `[hsm_capabilities]`

use super::member::{
    Absent, Form, MemberSchema, SectionSchema, ignored, integer, optional, switch,
};
use crate::limits::{
    DEFAULT_HEDGE_BUDGET_PERCENT, MAX_HEDGE_AFTER_MILLI, MAX_PRIORITY, MAX_SESSIONS_PER_TOKEN,
    MAX_WEIGHT,
};

const SESSIONS: Form = integer(1, MAX_SESSIONS_PER_TOKEN as u64, "sessions");
const PROFILES: Form = Form::OneOf(&[
    "cloudhsm",
    "fortanix",
    "kryoptic",
    "luna",
    "nshield",
    "nss",
    "opencryptoki",
    "primus",
    "softhsm2",
    "utimaco",
    "vault",
]);
const IN_PKCS11: Absent = Absent::Described("that of `[pkcs11]`");
const IN_CAPABILITIES: Absent = Absent::Described("that of `[hsm_capabilities]`");
const BY_PROFILE: Absent = Absent::Described("`false`, or what the profile says");

pub(super) const PKCS11: SectionSchema = SectionSchema {
    path: "pkcs11",
    is_list: false,
    meaning: "The HSM. Required.",
    members: PKCS11_MEMBERS,
};

const PKCS11_MEMBERS: &[MemberSchema] = &[
    optional(
        "session_pool_max_size",
        SESSIONS,
        Absent::Described("required, unless each token has its own"),
        "Sessions to keep open with each token: the requests a second times the seconds that the \
         HSM takes for one, and some more.",
    ),
    ignored("session_pool_timeout_milli", "A setting of the sample proxy's session pool."),
    ignored("session_eager_close", "A setting of the sample proxy's session pool."),
    optional(
        "user_pin",
        Form::Text,
        Absent::Described("required, unless there is a file or each token has its own"),
        "PIN of the token's user; empty if there is none.",
    ),
    optional(
        "user_pin_file",
        Form::Path,
        Absent::None,
        "File with the PIN, instead of `user_pin`.",
    ),
    optional(
        "PKCS11_HSM_MODULE",
        Form::Path,
        Absent::Described("required, unless each token has its own"),
        "The HSM vendor's PKCS#11 library; the environment variable of this name overrides it.",
    ),
    ignored("context_read_timeout_milli", "A setting of the sample proxy's session pool."),
    switch(
        "allow_ambiguous_labels",
        "Uses the first of several keys with one label, as the sample proxy does, instead of \
         refusing the label.",
    ),
    switch(
        "require_private_keys",
        "Refuses keys that are public objects (`CKA_PRIVATE` false), which can be put into a token \
         without the PIN.",
    ),
    optional(
        "initialize_parameters",
        Form::Text,
        Absent::None,
        "Text passed to the module at C_Initialize; NSS softokn needs it.",
    ),
    optional(
        "hedge_after_milli",
        integer(0, MAX_HEDGE_AFTER_MILLI, "milliseconds"),
        Absent::Described(
            "three times what 9 in 10 calls of the best token take, at least 5 ms; 50 ms while \
             that is unknown",
        ),
        "Time after which a call is also sent to another session, and the first answer counts; 0 \
         never does so.",
    ),
    optional(
        "hedge_budget_percent",
        integer(0, 100, "calls in a hundred"),
        Absent::Integer(DEFAULT_HEDGE_BUDGET_PERCENT as u64),
        "Share of calls that may be sent twice.",
    ),
    switch(
        "exit_when_wedged",
        "Ends the process with exit code 75 when no token is usable and calls do not return, so \
         that a supervisor restarts it.",
    ),
    optional(
        "health_key",
        Form::Text,
        Absent::None,
        "Label (`CKA_LABEL`), or `id:` and the `CKA_ID` in hexadecimal digits, of an AES-256 key on \
         each token that only health checks use.",
    ),
    optional(
        "trust_token",
        Form::Text,
        Absent::None,
        "Label or serial number of the token that is right where tokens hold different keys under \
         one label.",
    ),
];

pub(super) const TOKENS: SectionSchema = SectionSchema {
    path: "pkcs11.tokens",
    is_list: true,
    meaning: "The tokens of a fleet, up to 16, each named by one of `label`, `serial` and `slot`. \
              Without the section, the first slot that has a token.",
    members: &[
        optional("label", Form::Text, Absent::None, "The token's label."),
        optional("serial", Form::Text, Absent::None, "The token's serial number."),
        optional(
            "slot",
            integer(0, i64::MAX.unsigned_abs(), ""),
            Absent::None,
            "Id of the slot that the token is in.",
        ),
        optional(
            "module",
            Form::Path,
            Absent::Described("`PKCS11_HSM_MODULE`"),
            "PKCS#11 library of this token.",
        ),
        optional(
            "user_pin",
            Form::Text,
            Absent::Described("that of `[pkcs11]`; required with another module"),
            "PIN of this token's user.",
        ),
        optional("user_pin_file", Form::Path, Absent::None, "File with this token's PIN."),
        optional(
            "session_pool_max_size",
            SESSIONS,
            IN_PKCS11,
            "Sessions to keep open with this token.",
        ),
        optional(
            "weight",
            integer(1, MAX_WEIGHT as u64, ""),
            Absent::Integer(1),
            "Share of the work, relative to the other tokens' weights.",
        ),
        optional(
            "priority",
            integer(0, MAX_PRIORITY as u64, ""),
            Absent::Integer(0),
            "Order of choice: tokens of a higher number are used only when none of a lower one is \
             usable.",
        ),
        optional(
            "initialize_parameters",
            Form::Text,
            Absent::Described("that of `[pkcs11]`; none with its own module"),
            "Text passed to this token's module at C_Initialize.",
        ),
        optional("profile", PROFILES, IN_CAPABILITIES, "As in `[hsm_capabilities]`."),
        optional("can_generate_iv", Form::Boolean, IN_CAPABILITIES, "As in `[hsm_capabilities]`."),
        optional(
            "is_zero_iv_required",
            Form::Boolean,
            IN_CAPABILITIES,
            "As in `[hsm_capabilities]`.",
        ),
        optional(
            "ask_output_length",
            Form::Boolean,
            IN_CAPABILITIES,
            "As in `[hsm_capabilities]`.",
        ),
        optional(
            "gcm_params_without_iv_bits",
            Form::Boolean,
            IN_CAPABILITIES,
            "As in `[hsm_capabilities]`.",
        ),
        optional(
            "has_deterministic_ivs",
            Form::Boolean,
            IN_CAPABILITIES,
            "As in `[hsm_capabilities]`.",
        ),
        optional(
            "handles_per_session",
            Form::Boolean,
            IN_CAPABILITIES,
            "As in `[hsm_capabilities]`.",
        ),
    ],
};

pub(super) const LOGGER: SectionSchema = SectionSchema {
    path: "pkcs11_logger",
    is_list: false,
    meaning: "Environment of the pkcs11-logger library, for tests only: it writes down PINs and \
              plaintext. A variable that the environment has already is left alone.",
    members: &[
        optional(
            "PKCS11_LOGGER_LIBRARY_PATH",
            Form::Text,
            Absent::None,
            "The PKCS#11 library that the logger calls.",
        ),
        optional("PKCS11_LOGGER_LOG_FILE_PATH", Form::Text, Absent::None, "The logger's file."),
        optional("PKCS11_LOGGER_FLAGS", Form::Text, Absent::None, "The logger's flags, as a text."),
    ],
};

pub(super) const CAPABILITIES: SectionSchema = SectionSchema {
    path: "hsm_capabilities",
    is_list: false,
    meaning: "How the HSM does AES-GCM. Required, unless each token says so itself.",
    members: &[
        optional(
            "can_generate_iv",
            Form::Boolean,
            Absent::Described("required, unless `profile` is set"),
            "Whether the HSM generates initialization vectors itself.",
        ),
        optional(
            "is_zero_iv_required",
            Form::Boolean,
            Absent::Described("required, unless `profile` is set"),
            "Whether an HSM that generates them is passed a zeroed buffer for the vector, instead \
             of appending it to the ciphertext.",
        ),
        optional(
            "profile",
            PROFILES,
            Absent::None,
            "The HSM's name, in place of the two switches; it also says which codes can mean a bad \
             tag, and the largest operation.",
        ),
        optional(
            "ask_output_length",
            Form::Boolean,
            BY_PROFILE,
            "Asks the module for the length of each output first, which costs a call.",
        ),
        optional(
            "gcm_params_without_iv_bits",
            Form::Boolean,
            BY_PROFILE,
            "Passes the first `CK_GCM_PARAMS` of PKCS#11 2.40, which has no `ulIvBits`.",
        ),
        optional(
            "has_deterministic_ivs",
            Form::Boolean,
            Absent::Boolean(false),
            "Whether the HSM's documentation says that its vectors for AES-GCM are deterministic (NIST \
             SP 800-38D, 8.2.1), never random, so that no limit of 2^32 encryptions applies.",
        ),
        optional(
            "handles_per_session",
            Form::Boolean,
            BY_PROFILE,
            "Whether the handle of a key is valid only in the session that found it. Each session \
             then searches for each key that it uses, and proves it, once.",
        ),
    ],
};

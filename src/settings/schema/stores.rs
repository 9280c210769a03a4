//! `[[external_key_stores]]`

use super::member::{
    Absent, Form, MemberSchema, SectionSchema, integer, optional, required, switch,
};
use crate::limits::MAX_RATE_PER_SEC;

const NO_LIMIT: Absent = Absent::Described("no limit");
const SECRET_FILE: MemberSchema = optional(
    "sigv4_secret_access_key_file",
    Form::Path,
    Absent::None,
    "File with the secret access key, instead of `sigv4_secret_access_key`.",
);

pub(super) const STORES: SectionSchema = SectionSchema {
    path: "external_key_stores",
    is_list: true,
    meaning: "One for each external key store in KMS; at least one is required.",
    members: &[
        required(
            "uri_path_prefix",
            Form::Text,
            "Beginning of the path that KMS calls, up to `/kms/xks/v1`: empty, or `/` and 8 to 116 \
             letters, digits, `/`, `-` or `_`; no two stores share one.",
        ),
        optional(
            "sigv4_access_key_id",
            Form::Text,
            Absent::Described("required, unless there are `credentials`"),
            "Access key id of the store's credential: 20 to 30 of A-Z and 2-7.",
        ),
        optional(
            "sigv4_secret_access_key",
            Form::Text,
            Absent::Described("required, unless there are `credentials` or a file"),
            "Secret access key of the store's credential: 43 to 64 of a-z, A-Z, 0-9, `/`, `+`, `=`.",
        ),
        SECRET_FILE,
        optional(
            "xks_key_id_set",
            Form::List,
            Absent::Described("required, unless there are `keys`"),
            "External key ids that the store may use, each the label (`CKA_LABEL`) of an AES-256 \
             key in the HSM.",
        ),
        optional(
            "max_requests_per_sec",
            integer(1, MAX_RATE_PER_SEC as u64, "calls a second"),
            NO_LIMIT,
            "Rate of calls to the HSM, beyond which the store's callers get ThrottlingException.",
        ),
        optional(
            "max_in_flight",
            integer(1, MAX_RATE_PER_SEC as u64, "calls"),
            NO_LIMIT,
            "Unanswered calls to the HSM, beyond which the store's callers get ThrottlingException.",
        ),
        switch("disabled", "Kill switch: the store neither encrypts nor decrypts."),
        optional(
            "disabled_keys",
            Form::List,
            Absent::None,
            "Kill switch for single external key ids, with all their versions.",
        ),
    ],
};

pub(super) const CREDENTIALS: SectionSchema = SectionSchema {
    path: "external_key_stores.credentials",
    is_list: true,
    meaning: "Further credentials of the store, up to 8 in all; all of them are valid at once.",
    members: &[
        required("sigv4_access_key_id", Form::Text, "Access key id: 20 to 30 of A-Z and 2-7."),
        optional(
            "sigv4_secret_access_key",
            Form::Text,
            Absent::Described("required, unless there is a file"),
            "Secret access key: 43 to 64 of a-z, A-Z, 0-9, `/`, `+`, `=`.",
        ),
        SECRET_FILE,
        optional(
            "name",
            Form::Text,
            Absent::None,
            "Name for people, up to 64 characters, which `xks-proxy credentials list` shows.",
        ),
        optional(
            "created",
            Form::Date,
            Absent::None,
            "Day on which the credential was made; an alert reports those older than a year.",
        ),
    ],
};

pub(super) const KEYS: SectionSchema = SectionSchema {
    path: "external_key_stores.keys",
    is_list: true,
    meaning: "External key ids with versions, each a key in the HSM; an id here is not in \
              `xks_key_id_set`.",
    members: &[
        required("id", Form::Text, "External key id, as KMS names it."),
        optional(
            "encrypt_with",
            integer(1, u32::MAX as u64, ""),
            Absent::Integer(1),
            "Version that encrypts. Every replica must list it before the first one encrypts with \
             it.",
        ),
    ],
};

pub(super) const VERSIONS: SectionSchema = SectionSchema {
    path: "external_key_stores.keys.versions",
    is_list: true,
    meaning: "Versions of the key, up to 64, usually written in one line: `versions = [{ label = \
              \"my-key\" }, { version = 2, label = \"my-key-2\" }]`. All of them decrypt.",
    members: &[
        optional(
            "version",
            integer(1, u32::MAX as u64, ""),
            Absent::Integer(1),
            "Number of the version, never used again for another key. Version 1 is the original, \
             and decrypts all that was encrypted before the key had versions.",
        ),
        optional(
            "label",
            Form::Text,
            Absent::Described("required, unless there is `cka_id`"),
            "Label (`CKA_LABEL`) of the version's AES-256 key in the HSM.",
        ),
        optional(
            "cka_id",
            Form::Text,
            Absent::Described("required, unless there is `label`"),
            "`CKA_ID` of the version's AES-256 key in the HSM, in hexadecimal digits.",
        ),
        switch(
            "retired",
            "The version no longer decrypts: callers get InvalidStateException. Its key can be \
             deleted from the HSM once nobody has missed it.",
        ),
    ],
};

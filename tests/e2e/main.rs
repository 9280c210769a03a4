//! End-to-end tests of the proxy over sockets, against a PKCS#11 module, with signatures and
//! cryptography that are not the proxy's own code.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../proto/fixed_ciphertexts.rs"]
mod fixed_ciphertexts;

mod admin;
mod audit;
mod audit_files;
mod audit_handover;
mod audit_report;
mod audit_report_injection;
mod audit_verify;
mod authentication;
mod bad_settings;
mod bootstrap;
mod calls;
mod capacity;
mod clock;
mod confinement;
mod credentials;
mod descriptors;
mod drain;
mod errors;
mod forgeries;
#[cfg(feature = "otlp")]
mod hostile_collectors;
mod hostile_http;
mod hsm_trouble;
mod http;
mod iv_modes;
mod journal;
mod key_trouble;
mod key_usage;
mod keys;
mod keys_audit;
mod keys_new;
mod keys_rotate;
mod limits;
mod load;
mod logins;
mod logs;
mod lost_keys;
mod memory;
mod memory_dump;
mod metrics;
mod modules;
mod mtls;
mod nshield;
#[cfg(feature = "otlp")]
mod otlp;
mod output;
mod policy;
mod probes;
mod proxy_protocol;
mod quotas;
mod reload;
mod signers;
mod sizes;
mod slow_peers;
mod socket_activation;
mod status_page;
mod stores;
mod syslog;
mod tls;
mod upgrade;
mod versions;
mod witnesses;

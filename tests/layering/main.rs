//! The rules of `docs/architecture.md` on imports and sizes, checked against the sources.

#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

mod arrows;
mod functions;
mod sources;
mod structure;
mod tree;
mod words;

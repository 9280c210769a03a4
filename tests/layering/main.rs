//! The rules of `docs/architecture.md` on who may import whom, and on sizes, read off the sources.

#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

mod arrows;
mod functions;
mod sources;
mod structure;
mod tree;
mod words;

//! Tests of the documentation: its pages are true to the sources, and to each other.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod alerts;
mod commands;
mod links;
mod pages;
mod threats;

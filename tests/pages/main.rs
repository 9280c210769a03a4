//! Tests of the documentation: its pages match the sources and each other.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod alerts;
mod architecture;
mod aws_words;
mod command_table;
mod commands;
mod links;
mod log_texts;
mod pages;
mod partitions;
mod rehearsals;
mod settings;
mod threats;

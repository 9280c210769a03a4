//! Instruction counts of each stage under callgrind, compared with the baselines in
//! `perf/instructions.toml`: `cargo bench --bench instructions`.
//!
//! Instructions do not depend on the machine's other load, so a count that grows by more than 5 %
//! is due to a change of the code. SHA-256's compression function is left out: a processor with SHA
//! instructions, which callgrind does not know, runs it in a fraction of the time.
//!
//! `-- --write` rewrites the baselines; `-- --profile STAGE` keeps callgrind's output file for
//! `callgrind_annotate` and prints its path.
#![expect(clippy::expect_used, clippy::panic, reason = "a bench may")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The stages that a decrypt request goes through.
const DECRYPT: [&str; 5] =
    ["http_head", "sigv4_verify", "json_decrypt", "encode_decrypted", "response_head"];
/// Limit on the sum of their counts.
const MAX_DECRYPT_INSTRUCTIONS: u64 = 15_000;
/// Number of runs of a stage before counting begins, and again while counting.
const RUNS: u64 = 100;
/// Percentage by which a count may exceed its baseline.
const TOLERANCE_PERCENT: u64 = 5;
/// Environment variable that names the one stage to run under callgrind.
const STAGE_VARIABLE: &str = "INSTRUCTIONS_STAGE";

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(STAGE_VARIABLE) {
        return run_stage(&name);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--profile") {
        let stage = arguments.get(at + 1).expect("--profile wants a stage's name");
        let output = callgrind(stage);
        println!("{}: {} instructions", output.display(), count(&output));
        return ExitCode::SUCCESS;
    }
    let baselines_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("perf/instructions.toml");
    let counts: BTreeMap<&str, u64> = common::stages()
        .iter()
        .map(|(name, _)| {
            let output = callgrind(name);
            let counted = count(&output);
            std::fs::remove_file(output).expect("callgrind's output is ours");
            (*name, counted)
        })
        .collect();
    if arguments.iter().any(|argument| argument == "--write") {
        write(&baselines_path, &counts);
    }
    compare(&baselines_path, &counts)
}

/// Runs one stage under callgrind.
fn run_stage(name: &str) -> ExitCode {
    let (_, mut stage) = common::stages()
        .into_iter()
        .find(|(stage, _)| *stage == name)
        .expect("a stage of that name");
    for _ in 0..RUNS {
        stage();
    }
    for _ in 0..RUNS {
        counted_by_callgrind(&mut stage);
    }
    ExitCode::SUCCESS
}

/// Callgrind counts from the entry of this function to its return.
#[inline(never)]
fn counted_by_callgrind(stage: &mut dyn FnMut()) {
    stage();
    // Without anything after it, the call would become a jump, and callgrind would see no return.
    std::hint::black_box(());
}

/// Runs this program for one stage under callgrind, and returns the path of its output.
fn callgrind(stage: &str) -> PathBuf {
    let output = std::env::temp_dir().join(format!("callgrind.{}.{stage}", std::process::id()));
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted_by_callgrind*", "--quiet"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(std::env::current_exe().expect("our own path"))
        .env(STAGE_VARIABLE, stage)
        .status()
        .expect("valgrind starts (apt-get install valgrind)");
    assert!(status.success(), "valgrind: {status}");
    output
}

/// Returns the instructions of one run from callgrind's output: each function's own ("self cost")
/// without those of SHA-256's compression function.
fn count(output: &Path) -> u64 {
    let text = std::fs::read_to_string(output).expect("callgrind's output");
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut is_left_out, mut is_call, mut total) = (false, false, 0);
    for line in text.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            // "(12) name" the first time, "(12)" from then on.
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            let name = if name.is_empty() { names[id] } else { name };
            names.insert(id, name);
            is_left_out = name.contains("sha256") && name.contains("compress");
        } else if let Some(function) = line.strip_prefix("cfn=") {
            if let Some((id, name)) = function.split_once(' ') {
                names.insert(id, name);
            }
        } else if line.starts_with("calls=") {
            // The next line is the callee's cost, which is counted where it arises.
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse().ok()).unwrap_or(0);
            if !std::mem::take(&mut is_call) && !is_left_out {
                total += cost;
            }
        }
    }
    total / RUNS
}

fn write(path: &Path, counts: &BTreeMap<&str, u64>) {
    let mut text = String::from(
        "# Instructions of each stage outside SHA-256's compression function; written by\n\
         # `cargo bench --bench instructions -- --write`. A count more than 5 % higher fails.\n\n",
    );
    for (name, count) in counts {
        text.push_str(&format!("{name} = {count}\n"));
    }
    std::fs::write(path, text).expect("the baselines can be written");
}

fn compare(path: &Path, counts: &BTreeMap<&str, u64>) -> ExitCode {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let baselines: BTreeMap<String, u64> = toml::from_str(&text).expect("the baselines are TOML");
    let mut has_failed = false;
    println!("{:24} {:>12} {:>12}", "stage", "instructions", "baseline");
    for (name, count) in counts {
        let (baseline, verdict) = match baselines.get(*name) {
            None => ("none".to_owned(), "FAILED: no baseline"),
            Some(baseline) if count * 100 > baseline * (100 + TOLERANCE_PERCENT) => {
                (baseline.to_string(), "FAILED: more than 5 % above")
            }
            Some(baseline) if count * (100 + TOLERANCE_PERCENT) < baseline * 100 => {
                (baseline.to_string(), "better: rewrite the baselines")
            }
            Some(baseline) => (baseline.to_string(), ""),
        };
        has_failed |= verdict.starts_with("FAILED");
        println!("{name:24} {count:>12} {baseline:>12} {verdict}");
    }
    let decrypt: u64 = DECRYPT.iter().map(|stage| counts[stage]).sum();
    println!("{} = {decrypt}, limit {MAX_DECRYPT_INSTRUCTIONS}", DECRYPT.join(" + "));
    has_failed |= decrypt > MAX_DECRYPT_INSTRUCTIONS;
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

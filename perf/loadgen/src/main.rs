//! A load generator for XKS proxies.
//!
//! ```text
//! args      the command line            settings    a proxy's settings file
//! run       one run: threads, progress, figures
//!   corpus    ciphertexts made beforehand, through client
//!   pool      ciphertexts of the run itself
//!   worker    a thread's event loop: schedule says when, request builds and sigv4 signs,
//!             connection sends, response reads, check compares, stats counts
//! results   JSON and summary            plot        SVG
//! failures  log of failed requests
//! ramp      runs at rising rates, until the proxy cannot keep up; metrics  the proxy's own
//!   recommendation   sessions and replicas, from those runs
//! ```
//!
//! Latency is measured from the time at which a request was due, so that a proxy cannot hide a
//! stall by holding up the generator ("coordinated omission").

mod args;
mod certificates;
mod check;
mod ciphertext;
mod client;
mod connection;
mod corpus;
mod failures;
mod metrics;
#[path = "../../../src/partition.rs"]
mod partition;
mod plot;
mod pool;
mod process;
mod ramp;
mod recommendation;
mod request;
mod response;
mod results;
mod run;
mod schedule;
mod settings;
mod sigv4;
mod stats;
mod svg;
mod target;
mod timer;
mod tls;
mod worker;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Arguments, Command, PlotArguments, PlotKind, RunArguments};
use crate::recommendation::Recommendation;
use crate::results::Results;

/// Exit code after wrong answers. Refused and lost requests are figures and not errors.
const WRONG_ANSWERS: u8 = 2;
/// Exit code of a ramp whose lowest rate exceeds the limits already.
const NO_RATE: u8 = 3;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) if arguments.recommend => recommend(&arguments),
        Command::Run(arguments) => load(&arguments),
        Command::Plot(arguments) => plot_files(&arguments).map(|()| ExitCode::SUCCESS),
        Command::MakeCert { directory, client_name, region } => {
            let client_name = client_name.unwrap_or_else(|| partition::kms_client_name(&region));
            certificates::make(&directory, &client_name)
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| format!("{}: {error}", directory.display()))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("xks-load: {error}");
        ExitCode::FAILURE
    })
}

fn load(arguments: &RunArguments) -> Result<ExitCode, String> {
    let results = run::run(arguments)?;
    if !arguments.quiet {
        print!("{}", results.text());
    }
    if let Some(file) = &arguments.json {
        let json = serde_json::to_string_pretty(&results).map_err(|error| error.to_string())?;
        write(file, &json)?;
    }
    let has_wrong_answers = results.has_wrong_answers();
    if let Some(directory) = &arguments.plots {
        fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let has_rates = results.phases.len() > 1;
        let runs = [results];
        write(&directory.join("latency.svg"), &plot::latency(&runs, &arguments.name))?;
        write(&directory.join("over-time.svg"), &plot::over_time(&runs, &arguments.name))?;
        if has_rates {
            write(&directory.join("rate.svg"), &plot::rate(&runs, &arguments.name))?;
        }
    }
    Ok(if has_wrong_answers { ExitCode::from(WRONG_ANSWERS) } else { ExitCode::SUCCESS })
}

fn recommend(arguments: &RunArguments) -> Result<ExitCode, String> {
    let ramp = ramp::run(arguments)?;
    let recommendation = Recommendation::of(&ramp);
    if !arguments.quiet {
        print!("{}", recommendation.text(&ramp));
    }
    if let Some(file) = &arguments.json {
        let value = serde_json::json!({"ramp": ramp, "recommendation": recommendation});
        let json = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
        write(file, &json)?;
    }
    if let Some(why) = &ramp.broke_off {
        return Err(format!("the ramp broke off: {why}"));
    }
    let is_wrong = ramp.steps.iter().any(|step| step.has_wrong_answers);
    Ok(match (is_wrong, recommendation.max_rate) {
        (true, _) => ExitCode::from(WRONG_ANSWERS),
        (false, None) => ExitCode::from(NO_RATE),
        (false, Some(_)) => ExitCode::SUCCESS,
    })
}

fn plot_files(arguments: &PlotArguments) -> Result<(), String> {
    let read = |file: &std::path::PathBuf| {
        let describe = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = fs::read_to_string(file).map_err(|error| describe(&error))?;
        serde_json::from_str(&text).map_err(|error| describe(&error))
    };
    let runs: Vec<Results> = arguments.results.iter().map(read).collect::<Result<_, _>>()?;
    let (draw, default): (fn(&[Results], &str) -> String, _) = match arguments.kind {
        PlotKind::Latency => (plot::latency, "Latency by percentile"),
        PlotKind::OverTime => (plot::over_time, "Latency over time"),
        PlotKind::Goodput => (plot::goodput, "Requests answered within 250 ms"),
        PlotKind::Rate => (plot::rate, "99th percentile by rate"),
    };
    write(&arguments.output, &draw(&runs, arguments.title.as_deref().unwrap_or(default)))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

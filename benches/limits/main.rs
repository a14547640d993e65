//! `make bench` measures the service against what this machine can do and writes the results to `docs/benchmarks/`.
//! `make bench-quick` measures less of everything and writes no files.
//!
//! The speed of a machine varies, so both sides of a comparison take turns in the same run. A ratio is the median of the
//! rounds' ratios. The exit status is 1 if a required value is missed.
//!
//! - `cargo bench --bench limits -- [quick] [PART]...` measures some parts only.
//! - `make bench-quick BEFORE=/path/to/toggled` compares this source with another build instead.

mod parts;
mod report;
mod rig;
mod scale;
mod stats;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use mimalloc::MiMalloc;
use report::Report;
use rig::{Rig, bare};
use scale::Scale;

/// The program's own allocator, so that the bare server uses the same one.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The error is a message for the person who runs the benchmark.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The folder with the results of the last full run.
const RESULTS_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks");

/// Measures the service against what this machine can do.
#[derive(Parser)]
struct Arguments {
    /// Measure this program instead of the one that Cargo built with the benchmark
    #[arg(long, value_name = "PROGRAM", default_value = env!("CARGO_BIN_EXE_toggled"))]
    program: PathBuf,
    /// Compare with this build instead: measures both in turns
    #[arg(long, value_name = "PROGRAM")]
    before: Option<PathBuf>,
    /// Measure this build, made with the release profile, beside the current one
    #[arg(long, value_name = "PROGRAM")]
    release: Option<PathBuf>,
    /// `quick` for less of everything, then the parts to measure; all parts by default
    #[arg(value_name = "PART")]
    words: Vec<String>,
    /// Passed by `cargo bench`; has no effect
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let words: Vec<_> = arguments.words.iter().map(String::as_str).collect();
    let result = match words[..] {
        [bare::COMMAND] => bare::serve().await.map(|()| true),
        ["quick", ref parts @ ..] => run(&scale::QUICK, parts, &arguments).await,
        ref parts => run(&scale::FULL, parts, &arguments).await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the parts and prints the results. Returns whether every goal is met.
async fn run(scale: &'static Scale, parts: &[&str], arguments: &Arguments) -> Result<bool> {
    let Arguments { program, before, release, .. } = arguments;
    let compares = before.is_some() || release.is_some();
    if let Some(unknown) = parts.iter().find(|part| !parts::NAMES.contains(part)) {
        return Err(format!("unknown part {unknown:?}; the parts are {}", parts::NAMES.join(", ")).into());
    }
    let selected = match parts {
        [] if compares => &[parts::COMPARE][..],
        [] => &parts::NAMES,
        parts => parts,
    };
    let began = Instant::now();
    let mut report = Report::default();
    let mut rig = Rig::new(scale, program, before.as_deref(), release.as_deref()).await?;
    for part in selected {
        parts::measure(part, &mut rig, &mut report).await?;
    }
    println!("\n{}", report.table());
    println!("measured in {:.0} s", began.elapsed().as_secs_f64());
    if selected == parts::NAMES && scale.writes_results {
        report.write(Path::new(RESULTS_FOLDER))?;
    }
    Ok(report.meets_goals())
}

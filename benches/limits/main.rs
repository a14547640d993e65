//! `make bench`: what the service does against what this machine can do, measured in turns in one run, and written down
//! under `docs/benchmarks/`. `make bench-quick` does the same with less of everything, and writes nothing down.
//!
//! A machine is never equally fast twice, so both sides of a comparison take turns, and a ratio is the median of what the
//! rounds gave. Exits with status 1 when one of them misses what is demanded of it: then the design has been missed somewhere.
//!
//! `cargo bench --bench limits -- [quick] [PART]...` measures some parts alone.

mod parts;
mod report;
mod rig;
mod scale;
mod stats;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use mimalloc::MiMalloc;
use report::Report;
use rig::{Rig, bare};
use scale::Scale;

/// The program's own, or bare servers would be compared with another allocator's as well.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Anything that keeps the benchmark from measuring, told to a person.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Where the last full run is written down.
const WRITTEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks");

#[tokio::main]
async fn main() -> ExitCode {
    // `cargo bench` adds an option of its own, which means nothing here.
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let result = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [bare::COMMAND] => bare::serve().await.map(|()| true),
        ["quick", ref parts @ ..] => run(&scale::QUICK, parts).await,
        ref parts => run(&scale::FULL, parts).await,
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

/// Measures and tells; whether everything is as it must be.
async fn run(scale: &'static Scale, wanted: &[&str]) -> Result<bool> {
    if let Some(unknown) = wanted.iter().find(|word| !parts::NAMES.contains(word)) {
        return Err(format!("there is no part {unknown:?}, but {}", parts::NAMES.join(", ")).into());
    }
    let began = Instant::now();
    let mut report = Report::default();
    let mut rig = Rig::new(scale).await?;
    for name in parts::NAMES.into_iter().filter(|name| wanted.is_empty() || wanted.contains(name)) {
        parts::measure(name, &mut rig, &mut report).await?;
    }
    println!("\n{}", report.table());
    println!("measured in {:.0} s", began.elapsed().as_secs_f64());
    if wanted.is_empty() && scale.is_written_down {
        report.write(Path::new(WRITTEN))?;
    }
    Ok(report.is_enough())
}

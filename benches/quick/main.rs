//! `make bench-quick`: two ratios of what the service does to what the machine can do, from one run of about two minutes.
//!
//! 1. Flips a second with 64 in flight, on PostgreSQL, every one durable with its audit entry, against the best that
//!    `pgbench` reaches with the same flip and entry as one single-statement transaction each, on the same cluster.
//! 2. GetFeatureFlag a second with a token, against a bare tonic server that gives the same answer to anyone.
//!
//! And it tells how fast an exported log is verified, and with what memory; how long after a flip was acknowledged the last
//! of 1,000 watchers has it; how soon the program serves with 10,000 flags; and what memory it takes while idle.
//!
//! A machine is never equally fast twice, so both sides take turns, and a ratio is the median of what the rounds gave.
//! Exits with status 1 when one is under its minimum: then the design has been missed somewhere.

mod bare;
mod cluster;
mod fanout;
mod flips;
mod pgbench;
mod processes;
mod reads;
mod report;
mod start;
mod verify;

use std::process::{ExitCode, Stdio};

use cluster::Cluster;
use fanout::Fanout;
use flips::Callers;
use pgbench::Pgbench;
use processes::Server;
use reads::Reads;
use report::Comparison;
use start::Start;
use tokio::process::Command;
use verify::Verifying;

/// Anything that keeps the benchmark from measuring, told to a person.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Both sides of a comparison take so many turns.
const ROUNDS: usize = 7;

/// How many flags there are, `flag-1` and on. The scripts of pgbench know it too.
const FLAGS: usize = 1_000;

#[tokio::main]
async fn main() -> ExitCode {
    // `cargo bench` adds arguments of its own, which mean nothing here.
    let result = match std::env::args().nth(1).as_deref() {
        Some(bare::COMMAND) => bare::serve().await.map(|()| true),
        // This part alone, without PostgreSQL.
        Some(verify::COMMAND) => Verifying::measure().await.map(|verifying| verifying.told().is_enough()),
        _ => run().await,
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("bench-quick: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and tells; whether every ratio is what it must be.
async fn run() -> Result<bool> {
    reads::check_h2load().await?;
    let cluster = Cluster::start().await?;
    let url = cluster.new_database("ours").await?;
    let server = Server::toggled(&url).await?;
    let callers = Callers::connect(server.address).await?;
    callers.create_flags(FLAGS).await?;
    let pgbench = Pgbench::best(&cluster).await?;
    // Both sides have their statistics, and start without anything left to write.
    cluster.settle(&url).await?;

    let flips = compare_flips(&callers, &pgbench).await?;
    let reads = compare_reads(&server).await?;
    let fanout = Fanout::measure(server.address).await?;
    let start = Start::measure().await?;
    let verifying = Verifying::measure().await?;
    report::table(&[&flips, &reads]);
    fanout.tell();
    start.tell();
    Ok(flips.is_enough() && reads.is_enough() && start.is_enough() && verifying.told().is_enough())
}

async fn compare_flips(callers: &Callers, pgbench: &Pgbench) -> Result<Comparison> {
    let mut flips = Comparison::new(format!("flips/s, {} in flight", flips::IN_FLIGHT), pgbench.to_string(), 1.5);
    for _ in 0..ROUNDS {
        let ours = callers.flip().await?;
        flips.add(ours, pgbench.flip().await?);
    }
    Ok(flips)
}

async fn compare_reads(server: &Server) -> Result<Comparison> {
    let answer = flips::get(server.address).await?;
    let bare = Server::bare(&answer).await?;
    if flips::get(bare.address).await? != answer {
        return Err("the bare server gives another answer".into());
    }
    let reads = Reads::of(&answer)?;
    let mut comparison =
        Comparison::new("GetFeatureFlag/s with a token".into(), "a bare tonic server, no token checked".into(), 0.7);
    for _ in 0..ROUNDS {
        let ours = reads.load(server.address).await?;
        comparison.add(ours, reads.load(bare.address).await?);
    }
    Ok(comparison)
}

/// What a program prints, if it succeeds.
async fn output(mut command: Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{:?} ended with {}: {said}", command.as_std().get_program(), done.status).into());
    }
    Ok(String::from_utf8(done.stdout)?)
}

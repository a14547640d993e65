//! Fault injection under load. Clients flip flags, watch them and read the log while each fault is injected: no acknowledged
//! change may be lost, and none may happen twice.
//!
//! `cargo test --test faults [WORD...]` runs the short form, optionally only the faults whose name contains a word.
//! `make faults` runs the long form, which injects each fault more often. Both print a table at the end.
//! `docs/faults.md` describes the faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod clock;
mod comparison;
mod database;
mod disk;
mod failover;
mod hostile_clients;
mod hostile_memory;
mod load;
mod moved_file;
mod readers;
mod replicas;
mod server_killed;
mod tied_accounts;

#[path = "../it/support/mod.rs"]
mod support;

use std::process::ExitCode;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

use comparison::Comparison;

/// How many faults the short form injects at the same time. They spend most of their time waiting.
const SHORT_CONCURRENCY: usize = 8;

/// How often each fault is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunLength {
    /// Runs with all other tests.
    Short,
    /// `make faults`.
    Long,
}

impl RunLength {
    /// Picks the number of rounds for this run.
    pub fn rounds(self, short: usize, long: usize) -> usize {
        match self {
            Self::Short => short,
            Self::Long => long,
        }
    }
}

/// The result of injecting one fault.
pub struct FaultReport {
    /// How often it was injected.
    pub rounds: usize,
    /// What the clients received, compared with the database.
    pub comparison: Comparison,
    /// Why it was not injected at all.
    skip_reason: Option<&'static str>,
}

impl FaultReport {
    /// The report of a fault that was injected this often.
    pub fn new(rounds: usize, comparison: Comparison) -> Self {
        Self { rounds, comparison, skip_reason: None }
    }

    /// The fault needs something that this machine does not provide. The table says so; it is not a failure.
    pub fn skipped(reason: &'static str) -> Self {
        let comparison = Comparison { chain_is_intact: true, ..Comparison::default() };
        Self { rounds: 0, comparison, skip_reason: Some(reason) }
    }
}

type Injection = BoxFuture<'static, FaultReport>;

/// A fault and its name in the table.
struct Fault {
    name: &'static str,
    inject: fn(RunLength) -> Injection,
}

/// Defines `FAULTS`, in the order of the table.
macro_rules! faults {
    ($($name:literal: $inject:expr,)*) => {
        const FAULTS: &[Fault] = &[$(Fault { name: $name, inject: |length| $inject(length).boxed() }),*];
    };
}

faults! {
    "SQLite: kill -9 of the server": server_killed::on_sqlite,
    "PostgreSQL: kill -9 of the server": server_killed::on_postgres,
    "PostgreSQL: immediate stop and restart": database::stopped,
    "PostgreSQL: crash with synchronous_commit off": database::asynchronous_commits,
    "PostgreSQL: connections cut": database::cut,
    "PostgreSQL: connection cut during COMMIT": database::cut_in_commit,
    "PostgreSQL: session terminated during COMMIT": database::terminated_in_commit,
    "PostgreSQL: slow network": database::slow,
    "PostgreSQL: network stall of 5 seconds": database::stalled,
    "PostgreSQL: read connection pool exhausted": database::pool_exhausted,
    "PostgreSQL: max_connections reached": database::no_connections,
    "PostgreSQL: statement timeout": database::statement_timeout,
    "PostgreSQL: deadlock": database::deadlock,
    "PostgreSQL: serialization failure": database::serialization,
    "PostgreSQL: failover to a synchronous standby": failover::promoted,
    "two replicas: one killed": replicas::killed,
    "two replicas: one stopped for 10 seconds": replicas::stopped,
    "two replicas: contention": replicas::contention,
    "SQLite: file moved away and back": moved_file::moved,
    "SQLite: disk full": disk::sqlite,
    "PostgreSQL: disk of the tables full": disk::tables,
    "PostgreSQL: disk of the write-ahead log full": disk::write_ahead_log,
    "SQLite: clock jumps back and forth": clock::on_sqlite,
    "PostgreSQL: clock jumps back and forth": clock::on_postgres,
    "clients: accounts tied while they retry": tied_accounts::tied,
    "clients: 1,000 idle connections": hostile_clients::idle,
    "clients: slow readers of every stream": hostile_clients::slow_readers,
    "clients: floods of cancelled calls": hostile_clients::cancellations,
    "clients: garbage, truncated and oversized frames": hostile_clients::garbage,
    "clients: connections opened and closed": hostile_clients::connections,
    "clients: unfinished requests, unread answers": hostile_memory::exhaustion,
}

#[tokio::main]
async fn main() -> ExitCode {
    let length = if std::env::var_os("TOGGLED_FAULTS").is_some_and(|length| length == "long") {
        RunLength::Long
    } else {
        RunLength::Short
    };
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen = |fault: &&Fault| words.is_empty() || words.iter().any(|word| fault.name.contains(word));
    let faults: Vec<_> = FAULTS.iter().filter(chosen).collect();
    let concurrency = if length == RunLength::Short { SHORT_CONCURRENCY } else { 1 };
    // As each ends, the next begins; the table is in the order of the list.
    let injections = stream::iter(faults.iter().enumerate())
        .map(|(place, fault)| inject(fault, length).map(move |report| (place, report)))
        .buffer_unordered(concurrency);
    let mut reports: Vec<_> = injections.collect().await;
    reports.sort_by_key(|(place, _)| *place);
    let reports: Vec<_> = reports.into_iter().map(|(_, report)| report).collect();
    println!(
        "\n{:<50} {:>6} {:>8} {:>5} {:>10} {:>5} {:>6} {:>9}",
        "fault", "rounds", "acked", "lost", "duplicated", "gaps", "chain", "outage"
    );
    let rows = faults.iter().zip(&reports).map(|(fault, report)| row(fault.name, report.as_ref()));
    rows.for_each(|row| println!("{row}"));
    let failed = reports.iter().filter(|report| !report.as_ref().is_some_and(|r| r.comparison.is_passed())).count();
    println!("\n{} faults, {failed} failed\n", reports.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Injects a fault and prints its row. Returns `None` if the test panicked.
async fn inject(fault: &Fault, length: RunLength) -> Option<FaultReport> {
    let report = tokio::spawn((fault.inject)(length)).await.ok();
    println!("{}", row(fault.name, report.as_ref()));
    report
}

fn row(name: &str, report: Option<&FaultReport>) -> String {
    let Some(FaultReport { rounds, comparison, skip_reason }) = report else {
        return format!("{name:<50} FAILED: see the panic message above");
    };
    if let Some(reason) = skip_reason {
        return format!("{name:<50} skipped: {reason}");
    }
    let chain = if comparison.chain_is_intact { "intact" } else { "BROKEN" };
    let Comparison { acknowledged, lost, duplicated, gaps, outage, problems, .. } = comparison;
    let problems: String = problems.iter().map(|problem| format!("\n    {problem}")).collect();
    let outage = format!("{:.2} s", outage.as_secs_f64());
    format!(
        "{name:<50} {rounds:>6} {acknowledged:>8} {lost:>5} {duplicated:>10} {gaps:>5} {chain:>6} {outage:>9}{problems}"
    )
}

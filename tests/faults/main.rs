//! Faults, injected while clients flip, watch and read the log: nothing that was acknowledged is lost, nothing happens twice.
//!
//! By `cargo test --test faults`, or a part of it by a word in its name, in a short form; `make faults` has the long one, which
//! injects each fault more often. Either ends by itself, with a table. `docs/faults.md` tells what the faults are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod clock;
mod database;
mod disk;
mod failover;
mod hostile;
mod killed;
mod load;
mod readers;
mod replicas;
mod verdict;

#[path = "../it/support/mod.rs"]
mod support;

use std::process::ExitCode;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};

use verdict::Verdict;

/// Faults that are injected side by side in the short form. Most of their time is spent waiting.
const SIDE_BY_SIDE: usize = 5;

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For every run of the tests.
    Short,
    /// For a run of its own.
    Long,
}

impl Form {
    /// How often.
    pub fn times(self, short: usize, long: usize) -> usize {
        match self {
            Self::Short => short,
            Self::Long => long,
        }
    }
}

/// What came of a fault.
pub struct Outcome {
    /// How often it was injected.
    pub times: usize,
    /// What was told and what is kept.
    pub verdict: Verdict,
    /// Why it was not injected at all.
    why_not: Option<&'static str>,
}

impl Outcome {
    /// Of one that was injected so often.
    pub fn of(times: usize, verdict: Verdict) -> Self {
        Self { times, verdict, why_not: None }
    }

    /// Of a fault that takes what this machine does not give. It is told in the table, and no failure.
    pub fn not_injected(why: &'static str) -> Self {
        let verdict = Verdict { chain_is_intact: true, ..Verdict::default() };
        Self { times: 0, verdict, why_not: Some(why) }
    }
}

type Injected = BoxFuture<'static, Outcome>;

/// A fault by its name.
struct Fault {
    name: &'static str,
    inject: fn(Form) -> Injected,
}

/// All of them, in the order of the table.
macro_rules! faults {
    ($($name:literal: $inject:expr,)*) => {
        const FAULTS: &[Fault] = &[$(Fault { name: $name, inject: |form| $inject(form).boxed() }),*];
    };
}

faults! {
    "SQLite: kill -9 of the server": killed::on_sqlite,
    "PostgreSQL: kill -9 of the server": killed::on_postgres,
    "PostgreSQL: stopped at once and started": database::stopped,
    "PostgreSQL: connections cut": database::cut,
    "PostgreSQL: cut while a COMMIT runs": database::cut_in_commit,
    "PostgreSQL: session ended while a COMMIT runs": database::ended_in_commit,
    "PostgreSQL: slow line": database::slow,
    "PostgreSQL: stall of 5 seconds": database::stalled,
    "PostgreSQL: connections for reads used up": database::pool_exhausted,
    "PostgreSQL: max_connections reached": database::no_connections,
    "PostgreSQL: statement timeout": database::statement_timeout,
    "PostgreSQL: deadlock": database::deadlock,
    "PostgreSQL: serialization failure": database::serialization,
    "PostgreSQL: failover to a synchronous standby": failover::promoted,
    "two replicas: one killed": replicas::killed,
    "two replicas: one stopped for 10 seconds": replicas::stopped,
    "two replicas: contention": replicas::contention,
    "SQLite: disk full": disk::sqlite,
    "PostgreSQL: disk full of tables": disk::tables,
    "PostgreSQL: disk full of its log": disk::write_ahead_log,
    "clock set back and jumping, SQLite": clock::on_sqlite,
    "clock set back and jumping, PostgreSQL": clock::on_postgres,
    "clients: 1,000 that say nothing": hostile::silent,
    "clients: slow readers of every stream": hostile::slow_readers,
    "clients: cancel storms": hostile::cancel_storms,
    "clients: garbage, truncated and oversized frames": hostile::garbage,
    "clients: connections opened and closed": hostile::connections,
}

#[tokio::main]
async fn main() -> ExitCode {
    let form =
        if std::env::var_os("TOGGLED_FAULTS").is_some_and(|form| form == "long") { Form::Long } else { Form::Short };
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen = |fault: &&Fault| words.is_empty() || words.iter().any(|word| fault.name.contains(word));
    let faults: Vec<_> = FAULTS.iter().filter(chosen).collect();
    let side_by_side = if form == Form::Short { SIDE_BY_SIDE } else { 1 };
    let injected = stream::iter(&faults).map(|fault| inject(fault, form)).buffered(side_by_side);
    let outcomes: Vec<_> = injected.collect().await;
    println!(
        "\n{:<50} {:>5} {:>8} {:>5} {:>7} {:>5} {:>6} {:>9}",
        "fault", "times", "acked", "lost", "doubled", "gaps", "chain", "outage"
    );
    let rows = faults.iter().zip(&outcomes).map(|(fault, outcome)| row(fault.name, outcome.as_ref()));
    rows.for_each(|row| println!("{row}"));
    let failed = outcomes.iter().filter(|outcome| !outcome.as_ref().is_some_and(|o| o.verdict.is_good())).count();
    println!("\n{} faults, {failed} of them not survived\n", outcomes.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Injects a fault; nothing if that could not be done, or somebody was told what must not be.
async fn inject(fault: &Fault, form: Form) -> Option<Outcome> {
    let outcome = tokio::spawn((fault.inject)(form)).await;
    let told = outcome.as_ref().map(|outcome| row(fault.name, Some(outcome)));
    println!("{}", told.unwrap_or_else(|_| row(fault.name, None)));
    outcome.ok()
}

fn row(name: &str, outcome: Option<&Outcome>) -> String {
    let Some(Outcome { times, verdict, why_not }) = outcome else {
        return format!("{name:<50} FAILED: what it says is above");
    };
    if let Some(why) = why_not {
        return format!("{name:<50} not injected: {why}");
    }
    let chain = if verdict.chain_is_intact { "intact" } else { "BROKEN" };
    let Verdict { acknowledged, lost, doubled, gaps, outage, problems, .. } = verdict;
    let problems: String = problems.iter().map(|problem| format!("\n    {problem}")).collect();
    let outage = format!("{:.2} s", outage.as_secs_f64());
    format!("{name:<50} {times:>5} {acknowledged:>8} {lost:>5} {doubled:>7} {gaps:>5} {chain:>6} {outage:>9}{problems}")
}

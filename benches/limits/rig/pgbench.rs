//! The limit of flips on PostgreSQL: pgbench at its best, with one prepared single-statement transaction per flip.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::process::Command;

use super::callers::Callers;
use super::cluster::Cluster;
use super::process::output;
use super::program::Program;
use super::server::Server;
use crate::Result;
use crate::scale::{FLAGS, Scale};
use crate::stats::median;

/// Ways to write a flip as one statement. They differ in the source of the revision.
const VARIANTS: [Variant; 2] = [
    Variant {
        revision_from: "the head of the log",
        database: "pgbench_head",
        script: concat!(env!("CARGO_MANIFEST_DIR"), "/benches/limits/rig/flip_head.sql"),
        prepare: "",
    },
    Variant {
        revision_from: "a sequence",
        database: "pgbench_sequence",
        script: concat!(env!("CARGO_MANIFEST_DIR"), "/benches/limits/rig/flip_sequence.sql"),
        prepare: "CREATE SEQUENCE bench_revision;
                  SELECT setval('bench_revision', (SELECT revision FROM log_head))",
    },
];

/// Numbers of clients to try.
const CLIENTS: [usize; 6] = [1, 2, 4, 8, 16, 32];

struct Variant {
    revision_from: &'static str,
    database: &'static str,
    script: &'static str,
    /// SQL to run in the database first.
    prepare: &'static str,
}

/// pgbench with one variant and number of clients.
#[derive(Clone)]
pub struct Pgbench {
    program: PathBuf,
    variant: &'static Variant,
    url: String,
    clients: usize,
}

impl Pgbench {
    /// Tries all variants with all numbers of clients and returns the fastest.
    pub async fn best(cluster: &Cluster, program: &Program, scale: &Scale) -> Result<Self> {
        let Scale { trial, trials, .. } = *scale;
        println!("pgbench, flips/s with {CLIENTS:?} clients, best of {trials} trials of {trial:?}");
        let mut best: Option<(f64, Self)> = None;
        for variant in &VARIANTS {
            let url = prepare(cluster, program, variant).await?;
            print!("  revision from {:<20}", variant.revision_from);
            for clients in CLIENTS {
                let pgbench = Self { program: cluster.program("pgbench"), variant, url: url.clone(), clients };
                let mut flips = 0.0_f64;
                for _ in 0..trials {
                    flips = flips.max(pgbench.flip(trial).await?);
                }
                print!("{flips:>8.0}");
                if best.as_ref().is_none_or(|(most, _)| flips > *most) {
                    best = Some((flips, pgbench));
                }
            }
            println!();
        }
        best.map(|(_, best)| best).ok_or_else(|| "there is no variant of pgbench".into())
    }

    /// The same variant with one client.
    pub fn with_one_client(self) -> Self {
        Self { clients: 1, ..self }
    }

    /// Runs one turn. Returns flips per second.
    pub async fn flip(&self, length: Duration) -> Result<f64> {
        number(&self.run(length, self.command(length)?).await?, "tps = ")
    }

    /// Runs one turn. Returns the median duration of a flip in milliseconds.
    pub async fn median_ms(&self, length: Duration) -> Result<f64> {
        let folder = TempDir::new()?;
        let mut command = self.command(length)?;
        command.current_dir(folder.path()).arg("--log");
        self.run(length, command).await?;
        let mut lengths = Vec::new();
        for file in std::fs::read_dir(folder.path())? {
            for line in std::fs::read_to_string(file?.path())?.lines() {
                // Fields of a line: client, transaction, duration in microseconds.
                let micros: f64 = line.split(' ').nth(2).unwrap_or_default().parse()?;
                lengths.push(micros / 1_000.0);
            }
        }
        Ok(median(&lengths))
    }

    fn command(&self, length: Duration) -> Result<Command> {
        let threads = self.clients.min(std::thread::available_parallelism()?.get());
        let mut command = Command::new(&self.program);
        command
            .args(["--no-vacuum", "--protocol", "prepared", "--file", self.variant.script])
            .args(["--client", &self.clients.to_string(), "--jobs", &threads.to_string()])
            .args(["--time", &length.as_secs().max(1).to_string(), &self.url]);
        Ok(command)
    }

    /// Fails unless every transaction wrote an entry. An update that finds no flag would look fast.
    async fn run(&self, length: Duration, command: Command) -> Result<String> {
        let before = self.entries().await?;
        let printed = output(command).await.map_err(|problem| format!("in {length:?}: {problem}"))?;
        let flips = number(&printed, "number of transactions actually processed: ")?;
        let entries = self.entries().await? - before;
        if entries as f64 == flips {
            Ok(printed)
        } else {
            Err(format!("pgbench reports {flips} flips but wrote {entries} entries").into())
        }
    }

    async fn entries(&self) -> Result<i64> {
        let mut connection = PgConnection::connect(&self.url).await?;
        Ok(sqlx::query_scalar("SELECT count(*) FROM audit_logs").fetch_one(&mut connection).await?)
    }
}

impl fmt::Display for Pgbench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, clients) = (self.variant.revision_from, self.clients);
        let s = if clients == 1 { "" } else { "s" };
        write!(f, "pgbench, one statement per flip, revision from {from}, {clients} client{s}")
    }
}

/// Creates a database whose schema and flags the service itself has made.
async fn prepare(cluster: &Cluster, program: &Program, variant: &Variant) -> Result<String> {
    let url = cluster.new_database(variant.database).await?;
    let server = Server::start(program, &url).await?;
    Callers::connect(server.address).await?.create_flags(FLAGS).await?;
    server.stop().await?;
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql(variant.prepare).execute(&mut connection).await?;
    cluster.vacuum_and_checkpoint(&url).await?;
    Ok(url)
}

/// The number after `label`.
fn number(printed: &str, label: &str) -> Result<f64> {
    let rest = printed.split_once(label).map(|(_, rest)| rest).and_then(|rest| rest.split_whitespace().next());
    Ok(rest.ok_or_else(|| format!("pgbench does not print \"{label}\": {printed}"))?.parse()?)
}

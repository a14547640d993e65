//! The limit of flips: the best that pgbench does with one single-statement transaction a flip, prepared.

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

/// Ways to write a flip as one statement, by the revision's source: a script, the name of its database, and what to
/// prepare there.
const VARIANTS: [Variant; 2] = [
    Variant {
        revision_from: "the head of the log",
        database: "theirs_head",
        script: concat!(env!("CARGO_MANIFEST_DIR"), "/benches/limits/rig/flip_head.sql"),
        prepare: "",
    },
    Variant {
        revision_from: "a sequence",
        database: "theirs_sequence",
        script: concat!(env!("CARGO_MANIFEST_DIR"), "/benches/limits/rig/flip_sequence.sql"),
        prepare: "CREATE SEQUENCE bench_revision;
                  SELECT setval('bench_revision', (SELECT revision FROM log_head))",
    },
];

/// Client counts among which the best is searched.
const CLIENTS: [usize; 6] = [1, 2, 4, 8, 16, 32];

struct Variant {
    revision_from: &'static str,
    database: &'static str,
    script: &'static str,
    prepare: &'static str,
}

/// pgbench in one way.
#[derive(Clone)]
pub struct Pgbench {
    program: PathBuf,
    variant: &'static Variant,
    url: String,
    clients: usize,
}

impl Pgbench {
    /// Tries all variants with all client counts.
    pub async fn best(cluster: &Cluster, program: &Program, scale: &Scale) -> Result<Self> {
        let Scale { trial, trials, .. } = *scale;
        println!("pgbench, flips/s with {CLIENTS:?} clients, the best of {trials} times {trial:?}");
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
        best.map(|(_, best)| best).ok_or_else(|| "pgbench was not tried".into())
    }

    /// The same with one client.
    pub fn alone(self) -> Self {
        Self { clients: 1, ..self }
    }

    /// One turn; flips a second.
    pub async fn flip(&self, length: Duration) -> Result<f64> {
        number(&self.run(length, self.command(length)?).await?, "tps = ")
    }

    /// One turn; how long a flip takes at the median, in milliseconds.
    pub async fn median_ms(&self, length: Duration) -> Result<f64> {
        let folder = TempDir::new()?;
        let mut command = self.command(length)?;
        command.current_dir(folder.path()).arg("--log");
        self.run(length, command).await?;
        let mut lengths = Vec::new();
        for file in std::fs::read_dir(folder.path())? {
            for line in std::fs::read_to_string(file?.path())?.lines() {
                // A client's number, its transaction's, and how long that took, in microseconds.
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

    /// Every transaction must have left its entry: an update that finds no flag would be quick as well.
    async fn run(&self, length: Duration, command: Command) -> Result<String> {
        let before = self.entries().await?;
        let said = output(command).await.map_err(|problem| format!("in {length:?}: {problem}"))?;
        let flips = number(&said, "number of transactions actually processed: ")?;
        let entries = self.entries().await? - before;
        if entries as f64 == flips {
            Ok(said)
        } else {
            Err(format!("pgbench made {flips} flips and {entries} entries").into())
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
        write!(f, "pgbench, one statement a flip, revision from {from}, {clients} client{s}")
    }
}

/// A database with our schema and flags, made as ours is, by the service itself.
async fn prepare(cluster: &Cluster, program: &Program, variant: &Variant) -> Result<String> {
    let url = cluster.new_database(variant.database).await?;
    let server = Server::start(program, &url).await?;
    Callers::connect(server.address).await?.create_flags(FLAGS).await?;
    server.stop().await?;
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql(variant.prepare).execute(&mut connection).await?;
    cluster.settle(&url).await?;
    Ok(url)
}

/// The number that follows `label`.
fn number(said: &str, label: &str) -> Result<f64> {
    let rest = said.split_once(label).map(|(_, rest)| rest).and_then(|rest| rest.split_whitespace().next());
    Ok(rest.ok_or_else(|| format!("pgbench does not say \"{label}\": {said}"))?.parse()?)
}

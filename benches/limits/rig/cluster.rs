//! A PostgreSQL of our own, durable as it comes, for both sides of the comparison.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Result;

/// The script that the tests use as well.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/cluster.sh");

/// A checkpoint in one side's turn would be the other's luck: the log of the whole run fits in before the first. When
/// a commit is durable is not touched.
const OPTIONS: &str = "-c max_wal_size=8GB -c checkpoint_timeout=1h";

/// A running cluster; stopped and removed with this value.
pub struct Cluster {
    port: u16,
    programs: PathBuf,
    /// Its standard input is what keeps the cluster running.
    _process: Child,
}

impl Cluster {
    pub async fn start() -> Result<Self> {
        let programs = programs()?;
        // A port that is free now may be taken a moment later: then the next one is tried.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut process = Command::new("sh")
                .arg(SCRIPT)
                .arg(&programs)
                .arg(port.to_string())
                .env("CLUSTER_OPTIONS", OPTIONS)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let output = process.stdout.take().ok_or("the cluster has no output")?;
            if BufReader::new(output).lines().next_line().await?.as_deref() == Some("ready") {
                return Ok(Self { port, programs, _process: process });
            }
        }
        Err("PostgreSQL does not start; what it says is above".into())
    }

    /// The URL of a new, empty database in which every commit is durable.
    pub async fn new_database(&self, name: &str) -> Result<String> {
        let mut admin = PgConnection::connect(&self.url("postgres")).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await?;
        let url = self.url(name);
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String =
                sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&mut admin).await?;
            if value != "on" {
                return Err(format!("{setting} is {value}: what is measured would not be durable").into());
            }
        }
        Ok(url)
    }

    /// Gathers the statistics of a database, and writes out what was changed in the cluster so far.
    pub async fn settle(&self, url: &str) -> Result<()> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::query("VACUUM ANALYZE").execute(&mut connection).await?;
        sqlx::query("CHECKPOINT").execute(&mut connection).await?;
        Ok(())
    }

    /// One of PostgreSQL's own programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

/// The folder of the newest server programs on this machine.
fn programs() -> Result<PathBuf> {
    let complete = |folder: &PathBuf| ["initdb", "pgbench"].iter().all(|program| folder.join(program).exists());
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = installed
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| complete(folder))
        .max();
    let path = std::env::var_os("PATH").unwrap_or_default();
    newest
        .map(|(_, folder)| folder)
        .or_else(|| std::env::split_paths(&path).find(complete))
        .ok_or_else(|| "PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)".into())
}

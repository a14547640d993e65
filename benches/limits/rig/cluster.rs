//! A PostgreSQL cluster for the benchmark, with the default durability settings.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Result;

/// Shared with the tests.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/cluster.sh");

/// Prevents checkpoints during the run, because one would slow only the side whose turn it is. Durability is unchanged.
const OPTIONS: &str = "-c max_wal_size=8GB -c checkpoint_timeout=1h";

/// A running cluster. Dropping it stops the cluster and removes its files.
pub struct Cluster {
    port: u16,
    programs: PathBuf,
    /// The cluster stops when the standard input of this process closes.
    _process: Child,
}

impl Cluster {
    pub async fn start() -> Result<Self> {
        let programs = programs()?;
        // Another process may take the free port before PostgreSQL does. Then try another port.
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
            let output = process.stdout.take().ok_or("the cluster's standard output is not available")?;
            if BufReader::new(output).lines().next_line().await?.as_deref() == Some("ready") {
                return Ok(Self { port, programs, _process: process });
            }
        }
        Err("PostgreSQL does not start; its output is above".into())
    }

    /// Creates an empty database and returns its URL. Fails if commits would not be durable.
    pub async fn new_database(&self, name: &str) -> Result<String> {
        let mut admin = PgConnection::connect(&self.url("postgres")).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut admin).await?;
        let url = self.url(name);
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String =
                sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&mut admin).await?;
            if value != "on" {
                return Err(format!("{setting} is {value}, so commits would not be durable; set it to on").into());
            }
        }
        Ok(url)
    }

    /// Updates the statistics of a database and writes all changes of the cluster to its data files.
    pub async fn vacuum_and_checkpoint(&self, url: &str) -> Result<()> {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::query("VACUUM ANALYZE").execute(&mut connection).await?;
        sqlx::query("CHECKPOINT").execute(&mut connection).await?;
        Ok(())
    }

    /// Path of a PostgreSQL program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

/// The folder of the newest installed PostgreSQL server programs.
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

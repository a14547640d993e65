//! The test rig: a PostgreSQL cluster, servers as processes, clients, and the programs that show the machine's limits. Servers
//! and data are created on first use and shared by later parts.

pub mod bare;
pub mod call_load;
pub mod callers;
mod cluster;
mod connection;
pub mod fill;
pub mod h2load;
pub mod past_readers;
pub mod pgbench;
pub mod process;
pub mod program;
/// Shared with the tests. Leaves answers encoded, since decoding would add to the measured time.
#[path = "../../../tests/it/support/raw_codec.rs"]
pub mod raw_codec;
pub mod requests;
pub mod server;
pub mod silent_watchers;
pub mod sqlite;
mod watch_messages;
pub mod watchers;

use std::path::Path;

use tempfile::TempDir;

use crate::Result;
use crate::scale::{FLAGS, Scale};
use callers::Callers;
use cluster::Cluster;
use pgbench::Pgbench;
use program::Program;
use server::Server;

/// Everything that the parts share.
pub struct Rig {
    pub scale: &'static Scale,
    /// The measured program.
    pub current: Program,
    /// Builds to compare with it.
    pub before: Option<Program>,
    pub release: Option<Program>,
    pub cluster: Cluster,
    main_server: Option<Deployment>,
    large_log: Option<Deployment>,
    large_sqlite: Option<Deployment>,
    /// Holds the files of the shared databases on SQLite.
    folder: TempDir,
    pgbench: Option<Pgbench>,
}

/// A database, a server on it, and the server's clients.
pub struct Deployment {
    pub url: String,
    pub server: Server,
    pub callers: Callers,
}

impl Deployment {
    /// Starts a server on a database and creates [`FLAGS`] flags if they do not exist.
    pub async fn start(program: &Program, url: String) -> Result<Self> {
        let server = Server::start(program, &url).await?;
        Self::on(server, url).await
    }

    async fn on(server: Server, url: String) -> Result<Self> {
        let callers = Callers::connect(server.address).await?;
        if callers.flag_1().await.is_err() {
            callers.create_flags(FLAGS).await?;
        }
        Ok(Self { url, server, callers })
    }
}

impl Rig {
    pub async fn new(
        scale: &'static Scale,
        program: &Path,
        before: Option<&Path>,
        release: Option<&Path>,
    ) -> Result<Self> {
        h2load::check().await?;
        Ok(Self {
            scale,
            current: Program::open(program).await?,
            before: open_program(before).await?,
            release: open_program(release).await?,
            cluster: Cluster::start().await?,
            main_server: None,
            large_log: None,
            large_sqlite: None,
            folder: TempDir::new()?,
            pgbench: None,
        })
    }

    /// A server on a new PostgreSQL database.
    pub async fn new_on_postgres(&self, name: &str) -> Result<Deployment> {
        let served = Deployment::start(&self.current, self.cluster.new_database(name).await?).await?;
        self.cluster.vacuum_and_checkpoint(&served.url).await?;
        Ok(served)
    }

    /// The same with a server that exposes its metrics.
    pub async fn new_on_postgres_with_metrics(&self, name: &str) -> Result<Deployment> {
        let url = self.cluster.new_database(name).await?;
        let server = Server::start_with_metrics(&self.current, &url).await?;
        let served = Deployment::on(server, url).await?;
        self.cluster.vacuum_and_checkpoint(&served.url).await?;
        Ok(served)
    }

    /// The server on PostgreSQL that most parts use.
    pub async fn main_server(&mut self) -> Result<&Deployment> {
        match &mut self.main_server {
            Some(served) => Ok(served),
            empty => {
                let url = self.cluster.new_database("main_server").await?;
                let served = Deployment::start(&self.current, url).await?;
                self.cluster.vacuum_and_checkpoint(&served.url).await?;
                Ok(empty.insert(served))
            }
        }
    }

    /// A server on PostgreSQL whose log is long.
    pub async fn large_log(&mut self) -> Result<&mut Deployment> {
        match &mut self.large_log {
            Some(served) => Ok(served),
            empty => {
                let url = self.cluster.new_database("large").await?;
                Deployment::start(&self.current, url.clone()).await?.server.stop().await?;
                fill::fill(&url, self.scale.entries).await?;
                self.cluster.vacuum_and_checkpoint(&url).await?;
                Ok(empty.insert(Deployment::start(&self.current, url).await?))
            }
        }
    }

    /// A server on SQLite whose log is long.
    pub async fn large_sqlite(&mut self) -> Result<&Deployment> {
        match &mut self.large_sqlite {
            Some(served) => Ok(served),
            empty => {
                let url = format!("sqlite://{}", self.folder.path().join("large.db").display());
                Deployment::start(&self.current, url.clone()).await?.server.stop().await?;
                fill::fill(&url, self.scale.sqlite_entries + 1).await?;
                Ok(empty.insert(Deployment::start(&self.current, url).await?))
            }
        }
    }

    /// pgbench with its best variant and number of clients. Searched on first use.
    pub async fn pgbench(&mut self) -> Result<Pgbench> {
        match &self.pgbench {
            Some(best) => Ok(best.clone()),
            None => Ok(self.pgbench.insert(Pgbench::best(&self.cluster, &self.current, self.scale).await?).clone()),
        }
    }
}

async fn open_program(path: Option<&Path>) -> Result<Option<Program>> {
    match path {
        Some(path) => Program::open(path).await.map(Some),
        None => Ok(None),
    }
}

//! What is measured with: a PostgreSQL of our own, servers as processes, callers, and what stands for the limits. Made when
//! it is first asked for, and shared by the parts that follow.

pub mod bare;
pub mod callers;
mod cluster;
pub mod fill;
pub mod flip_load;
pub mod h2load;
pub mod pgbench;
pub mod process;
pub mod program;
/// As the tests have it: what answers cost whoever asks is not what is measured.
#[path = "../../../tests/it/support/raw.rs"]
pub mod raw;
pub mod requests;
pub mod server;
pub mod sqlite;
pub mod watchers;

use std::path::PathBuf;

use crate::Result;
use crate::scale::{FLAGS, Scale};
use callers::Callers;
use cluster::Cluster;
use pgbench::Pgbench;
use program::Program;
use server::Server;

/// What parts share.
pub struct Rig {
    pub scale: &'static Scale,
    /// The build of this source.
    pub current: Program,
    /// Builds to compare with it.
    pub before: Option<Program>,
    pub release: Option<Program>,
    pub cluster: Cluster,
    ours: Option<Served>,
    large: Option<Served>,
    pgbench: Option<Pgbench>,
}

/// A database, a server on it, and callers of that.
pub struct Served {
    pub url: String,
    pub server: Server,
    pub callers: Callers,
}

impl Served {
    /// A server on a database with [`FLAGS`] flags, which are made if they are not there.
    pub async fn start(program: &Program, url: String) -> Result<Self> {
        let server = Server::start(program, &url).await?;
        let callers = Callers::connect(server.address).await?;
        if callers.flag_1().await.is_err() {
            callers.create_flags(FLAGS).await?;
        }
        Ok(Self { url, server, callers })
    }
}

impl Rig {
    pub async fn new(scale: &'static Scale, before: Option<PathBuf>, release: Option<PathBuf>) -> Result<Self> {
        h2load::check().await?;
        Ok(Self {
            scale,
            current: Program::current().await?,
            before: open_program(before).await?,
            release: open_program(release).await?,
            cluster: Cluster::start().await?,
            ours: None,
            large: None,
            pgbench: None,
        })
    }

    /// A server on a new database of PostgreSQL, with the flags.
    pub async fn on_postgres(&self, name: &str) -> Result<Served> {
        let served = Served::start(&self.current, self.cluster.new_database(name).await?).await?;
        // With its statistics, and without anything left to write.
        self.cluster.settle(&served.url).await?;
        Ok(served)
    }

    /// The server on PostgreSQL that most is asked of.
    pub async fn ours(&mut self) -> Result<&Served> {
        match &mut self.ours {
            Some(ours) => Ok(ours),
            ours => {
                let url = self.cluster.new_database("ours").await?;
                let served = Served::start(&self.current, url).await?;
                self.cluster.settle(&served.url).await?;
                Ok(ours.insert(served))
            }
        }
    }

    /// One whose log is large.
    pub async fn large(&mut self) -> Result<&mut Served> {
        match &mut self.large {
            Some(large) => Ok(large),
            large => {
                let url = self.cluster.new_database("large").await?;
                Served::start(&self.current, url.clone()).await?.server.stop().await?;
                fill::fill(&url, self.scale.entries).await?;
                self.cluster.settle(&url).await?;
                Ok(large.insert(Served::start(&self.current, url).await?))
            }
        }
    }

    /// pgbench as it does best, and so much of it as it takes to ask for it again.
    pub async fn pgbench(&mut self) -> Result<Pgbench> {
        match &self.pgbench {
            Some(best) => Ok(best.clone()),
            None => Ok(self.pgbench.insert(Pgbench::best(&self.cluster, &self.current, self.scale).await?).clone()),
        }
    }
}

async fn open_program(path: Option<PathBuf>) -> Result<Option<Program>> {
    match path {
        Some(path) => Program::at(path).await.map(Some),
        None => Ok(None),
    }
}

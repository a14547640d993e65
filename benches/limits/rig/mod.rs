//! What is measured with: a PostgreSQL of our own, servers as processes, callers, and what stands for the limits. Made when
//! it is first asked for, and shared by the parts that follow.

pub mod bare;
pub mod callers;
mod cluster;
pub mod fill;
pub mod flipping;
pub mod h2load;
pub mod pgbench;
pub mod process;
/// As the tests have it: what answers cost whoever asks is not what is measured.
#[path = "../../../tests/it/support/raw.rs"]
pub mod raw;
pub mod requests;
pub mod server;
pub mod sqlite;
pub mod watchers;

use crate::Result;
use crate::scale::{FLAGS, Scale};
use callers::Callers;
use cluster::Cluster;
use pgbench::Pgbench;
use server::Server;

/// What parts share.
pub struct Rig {
    pub scale: &'static Scale,
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
    pub async fn on(url: String) -> Result<Self> {
        let server = Server::toggled(&url).await?;
        let callers = Callers::connect(server.address).await?;
        if callers.flag_1().await.is_err() {
            callers.create_flags(FLAGS).await?;
        }
        Ok(Self { url, server, callers })
    }
}

impl Rig {
    pub async fn new(scale: &'static Scale) -> Result<Self> {
        h2load::check().await?;
        Ok(Self { scale, cluster: Cluster::start().await?, ours: None, large: None, pgbench: None })
    }

    /// A server on a new database of PostgreSQL, with the flags.
    pub async fn on_postgres(&self, name: &str) -> Result<Served> {
        let served = Served::on(self.cluster.new_database(name).await?).await?;
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
                let served = Served::on(url).await?;
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
                Served::on(url.clone()).await?.server.stop().await?;
                fill::fill(&url, self.scale.entries).await?;
                self.cluster.settle(&url).await?;
                Ok(large.insert(Served::on(url).await?))
            }
        }
    }

    /// pgbench as it does best, and so much of it as it takes to ask for it again.
    pub async fn pgbench(&mut self) -> Result<Pgbench> {
        match &self.pgbench {
            Some(best) => Ok(best.clone()),
            None => Ok(self.pgbench.insert(Pgbench::best(&self.cluster, self.scale).await?).clone()),
        }
    }
}

//! Starting: how soon the program serves on a database that holds flags, and how much memory it then takes, idle.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Result;
use crate::flips::Callers;
use crate::processes::Server;

/// Flags in the database.
const FLAGS: usize = 10_000;

/// Starts, one after the other.
const STARTS: usize = 5;

/// A start is slower than this only if something is wrong.
const AT_MOST: Duration = Duration::from_secs(1);

/// What starting takes.
pub struct Start {
    /// From the start of the process to the line that says that it serves, shortest first.
    lengths: Vec<Duration>,
    /// Resident memory then, in MiB: of a server on an empty database, and with the flags.
    empty: f64,
    full: f64,
}

impl Start {
    pub async fn measure() -> Result<Self> {
        let folder = TempDir::new()?;
        let url = format!("sqlite://{}/start.db", folder.path().display());
        let server = Server::toggled(&url).await?;
        let empty = server.resident_mib()?;
        Callers::connect(server.address).await?.create_flags(FLAGS).await?;
        server.stop().await?;
        let (mut lengths, mut full) = (Vec::new(), 0.0);
        for _ in 0..STARTS {
            let begun = Instant::now();
            let server = Server::toggled(&url).await?;
            lengths.push(begun.elapsed());
            full = server.resident_mib()?;
            server.stop().await?;
        }
        lengths.sort_unstable();
        Ok(Self { lengths, empty, full })
    }

    fn median(&self) -> Duration {
        self.lengths[self.lengths.len() / 2]
    }

    /// Whether it starts as soon as it must.
    pub fn is_enough(&self) -> bool {
        self.median() <= AT_MOST
    }

    /// Tells of it.
    pub fn tell(&self) {
        let (median, missed) = (self.median().as_millis(), if self.is_enough() { "" } else { "  MISSED" });
        println!("\nstart to serving with {FLAGS} flags (SQLite): median {median} ms, at most {AT_MOST:?}{missed}");
        println!("idle memory: {:.0} MiB empty, {:.0} MiB with {FLAGS} flags", self.empty, self.full);
    }
}

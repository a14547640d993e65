//! A million flags: flips and reads of any of them, memory, and the time of a start, on both databases. Compared with few flags on the
//! same database.

use tempfile::TempDir;

use super::sizes::start_ms;
use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::call_load::CallLoad;
use crate::rig::callers::Callers;
use crate::rig::server::Server;
use crate::rig::{Deployment, Rig, fill};
use crate::scale::FLAGS;

const IN_FLIGHT: usize = 64;

/// Starts whose median is reported.
const STARTS: usize = 3;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let few = rig.new_on_postgres("few_flags").await?;
    let url = rig.cluster.new_database("many_flags").await?;
    create_many(rig, &url).await?;
    rig.cluster.vacuum_and_checkpoint(&url).await?;
    compare(rig, report, "PostgreSQL", &url, few).await?;
    let folder = TempDir::new()?;
    let [few, many] = ["few.db", "many.db"].map(|name| format!("sqlite://{}", folder.path().join(name).display()));
    let few = Deployment::start(&rig.current, few).await?;
    create_many(rig, &many).await?;
    compare(rig, report, "SQLite", &many, few).await
}

/// Creates the flags. The server only creates the schema and the administrator.
async fn create_many(rig: &Rig, url: &str) -> Result<()> {
    Server::start(&rig.current, url).await?.stop().await?;
    fill::create_flags(url, rig.scale.many_flags).await
}

async fn compare(rig: &Rig, report: &mut Report, database: &str, url: &str, few: Deployment) -> Result<()> {
    let (flags, rounds, length) = (rig.scale.many_flags, rig.scale.rounds, rig.scale.turn);
    let mut starts = Row::single(format!("start, {flags} flags, {database}"), " ms", Goal::AtMost(3_500.0, 2_000.0));
    for _ in 0..STARTS {
        starts.measure(start_ms(&rig.current, url).await?);
    }
    report.add(starts);
    let server = Server::start(&rig.current, url).await?;
    let name = format!("memory: {flags} flags, {database}");
    report.add(Row::single(name, " MiB", Goal::AtMost(450.0, 300.0)).with(server.resident_mib()?));
    let callers = Callers::connect(server.address).await?;
    let row = |what: &str, goal| {
        let name = format!("{what} {flags} flags on {database}, {IN_FLIGHT} in flight");
        Row::compared(name, format!("the same of {FLAGS} flags"), "/s", goal)
    };
    let mut flips = row("flips of", Goal::AtLeast(0.8, 0.9));
    let mut reads = row("reads of", Goal::AtLeast(0.9, 0.95));
    let flip = |flags| CallLoad::flips_of(1..flags + 1, IN_FLIGHT, length);
    let read = |flags| CallLoad::reads_of(1..flags + 1, IN_FLIGHT, length);
    let (flip_many, flip_few, read_many, read_few) = (flip(flags), flip(FLAGS), read(flags), read(FLAGS));
    // At its first change after a checkpoint, PostgreSQL writes a page whole. A few flags have few pages.
    callers.flip(&CallLoad::flips_of(1..flags + 1, IN_FLIGHT, rig.scale.many_flags_warm_up)).await?;
    for _ in 0..rounds {
        flips.add(callers.flip(&flip_many).await?.per_second, few.callers.flip(&flip_few).await?.per_second);
        reads.add(callers.read(&read_many).await?.per_second, few.callers.read(&read_few).await?.per_second);
    }
    report.add(flips);
    report.add(reads);
    Ok(())
}

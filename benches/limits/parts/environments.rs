//! Flags in many environments: the time of a start, memory, flips and reads, on both databases. Compared with as many flags in one.

use tempfile::TempDir;

use super::sizes::start_ms;
use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::call_load::{CallLoad, Method};
use crate::rig::callers::Callers;
use crate::rig::server::Server;
use crate::rig::{Rig, fill};

const ENVIRONMENTS: usize = 50;

const IN_FLIGHT: usize = 64;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let [spread, together] =
        [rig.cluster.new_database("environments").await?, rig.cluster.new_database("one_environment").await?];
    compare(rig, report, "PostgreSQL", [&spread, &together]).await?;
    let folder = TempDir::new()?;
    let [spread, together] =
        ["spread.db", "together.db"].map(|name| format!("sqlite://{}", folder.path().join(name).display()));
    compare(rig, report, "SQLite", [&spread, &together]).await
}

/// Compares a database whose flags are spread over the environments with one whose flags are all in one.
async fn compare(rig: &Rig, report: &mut Report, database: &str, [spread, together]: [&str; 2]) -> Result<()> {
    let (flags, rounds) = (rig.scale.spread_flags, rig.scale.rounds);
    for url in [spread, together] {
        // The server creates the schema, the administrator and the first environment.
        Server::start(&rig.current, url).await?.stop().await?;
    }
    fill::create_flags_in(spread, ENVIRONMENTS, flags).await?;
    fill::create_flags(together, flags).await?;
    let name = |what: &str| format!("{what}, {flags} flags in {ENVIRONMENTS} environments, {database}");
    let against = "the same flags in one environment";
    let mut starts = Row::compared(name("start"), against, " ms", Goal::AtMost(1.15, 1.05));
    for _ in 0..rounds {
        starts.add(start_ms(&rig.current, spread).await?, start_ms(&rig.current, together).await?);
    }
    report.add(starts);
    let servers = [Server::start(&rig.current, spread).await?, Server::start(&rig.current, together).await?];
    let mut memory = Row::compared(name("memory"), against, " MiB", Goal::AtMost(1.15, 1.05));
    memory.add(servers[0].resident_mib()?, servers[1].resident_mib()?);
    report.add(memory);
    let callers = [Callers::connect(servers[0].address).await?, Callers::connect(servers[1].address).await?];
    // The requests name the environment, and so are a tenth longer.
    for (what, method, least) in [("flips", Method::Flip, 0.87), ("reads", Method::Read, 0.8)] {
        let mut row = Row::compared(name(what), against, "/s", Goal::AtLeast(least, 0.95));
        let in_one = CallLoad { method, ..CallLoad::flips_of(1..flags + 1, IN_FLIGHT, rig.scale.turn) };
        let in_many = CallLoad { environments: Some(ENVIRONMENTS), ..in_one.clone() };
        for _ in 0..rounds {
            row.add(run(&callers[0], &in_many).await?, run(&callers[1], &in_one).await?);
        }
        report.add(row);
    }
    Ok(())
}

/// The calls a second.
async fn run(callers: &Callers, load: &CallLoad) -> Result<f64> {
    let result = match load.method {
        Method::Flip => callers.flip(load).await?,
        Method::Read => callers.read(load).await?,
    };
    Ok(result.per_second)
}

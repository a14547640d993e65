//! Size: what a long log and many flags cost in flips, starts and memory.

use tempfile::TempDir;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::callers::Callers;
use crate::rig::flip_load::FlipLoad;
use crate::rig::server::Server;
use crate::scale::FLAGS;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    flips_on_a_long_log(rig, report).await?;
    many_flags(rig, report).await?;
    starts(rig, report).await
}

async fn flips_on_a_long_log(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, entries) = (rig.scale.rounds, rig.scale.entries);
    let load = FlipLoad::of_all_flags(64, rig.scale.turn);
    let short = rig.on_postgres("short").await?;
    let long = rig.large().await?;
    let what = format!("flips on a log of {entries} entries");
    let mut row = Row::beside(what, "a log that has just begun", "/s", Goal::AtLeast(0.85, 0.95));
    for _ in 0..rounds {
        row.add(long.callers.flip(&load).await?.per_second, short.callers.flip(&load).await?.per_second);
    }
    report.add(row);
    Ok(())
}

async fn many_flags(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, flags, length) = (rig.scale.rounds, rig.scale.many_flags, rig.scale.turn);
    let url = rig.cluster.new_database("many").await?;
    let server = Server::start(&rig.current, &url).await?;
    report.add(Row::alone("memory: idle, no flags", " MiB", Goal::Told).with(server.resident_mib()?));
    let callers = Callers::connect(server.address).await?;
    callers.create_flags(flags).await?;
    rig.cluster.settle(&url).await?;
    let load = FlipLoad { in_flight: 64, flags: 1..flags + 1, length };
    let few = rig.ours().await?;
    let mut row = Row::beside(format!("flips among {flags} flags"), format!("among {FLAGS} flags"), "/s", Goal::Told);
    for _ in 0..rounds {
        let ours = callers.flip(&load).await?.per_second;
        row.add(ours, few.callers.flip(&FlipLoad::of_all_flags(64, length)).await?.per_second);
    }
    report.add(row);
    server.stop().await?;
    let server = Server::start(&rig.current, &url).await?;
    report.add(Row::alone(format!("memory: {flags} flags"), " MiB", Goal::Told).with(server.resident_mib()?));
    Ok(())
}

/// So many flags are there in well under a second.
const SOON: usize = 10_000;

/// To the line that says that it serves; on PostgreSQL, but for the one on an embedded file.
async fn starts(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, flags, entries) = (rig.scale.rounds, rig.scale.many_flags, rig.scale.entries);
    let empty = rig.cluster.new_database("empty").await?;
    Server::start(&rig.current, &empty).await?.stop().await?;
    let many = rig.cluster.url("many");
    let few = rig.ours().await?.url.clone();
    let long = rig.large().await?.url.clone();
    let folder = TempDir::new()?;
    let embedded = format!("sqlite://{}", folder.path().join("soon.db").display());
    let server = Server::start(&rig.current, &embedded).await?;
    Callers::connect(server.address).await?.create_flags(SOON).await?;
    server.stop().await?;
    let row = |what: String, goal| Row::alone(what, " ms", goal);
    let mut on_empty = row("start, empty".to_owned(), Goal::Told);
    let mut on_embedded = row(format!("start, {SOON} flags, SQLite"), Goal::AtMost(1_000.0, 200.0));
    let mut on_many = row(format!("start, {flags} flags"), Goal::Told);
    let mut on_long = Row::beside(
        format!("start, a log of {entries} entries"),
        "the same flags, a log that has just begun",
        " ms",
        Goal::AtMost(1.5, 1.1),
    );
    for _ in 0..rounds {
        on_empty = on_empty.with(start_ms(&empty).await?);
        on_embedded = on_embedded.with(start_ms(&embedded).await?);
        on_many = on_many.with(start_ms(&many).await?);
        on_long.add(start_ms(&long).await?, start_ms(&few).await?);
    }
    [on_empty, on_embedded, on_many, on_long].into_iter().for_each(|row| report.add(row));
    Ok(())
}

async fn start_ms(url: &str) -> Result<f64> {
    let server = Server::start(&rig.current, url).await?;
    let took = server.started_in;
    server.stop().await?;
    Ok(took.as_secs_f64() * 1_000.0)
}

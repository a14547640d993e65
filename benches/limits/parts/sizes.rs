//! Sizes: how a long log affects flips and starts.

use tempfile::TempDir;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::call_load::CallLoad;
use crate::rig::callers::Callers;
use crate::rig::program::Program;
use crate::rig::server::Server;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    flips_on_a_long_log(rig, report).await?;
    starts(rig, report).await
}

async fn flips_on_a_long_log(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, entries) = (rig.scale.rounds, rig.scale.entries);
    let load = CallLoad::flips(64, rig.scale.turn);
    let short = rig.new_on_postgres("short").await?;
    let long = rig.large_log().await?;
    let name = format!("flips on a log of {entries} entries");
    let mut row = Row::compared(name, "a new log", "/s", Goal::AtLeast(0.85, 0.95));
    for _ in 0..rounds {
        row.add(long.callers.flip(&load).await?.per_second, short.callers.flip(&load).await?.per_second);
    }
    report.add(row);
    Ok(())
}

/// Flags of the server on SQLite whose start is measured.
const FLAGS_ON_SQLITE: usize = 10_000;

/// Time until the server is ready. On PostgreSQL, except for one database on SQLite.
async fn starts(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, entries) = (rig.scale.rounds, rig.scale.entries);
    let empty = rig.cluster.new_database("empty").await?;
    let server = Server::start(&rig.current, &empty).await?;
    report.add(Row::single("memory: idle, no flags", " MiB", Goal::Informational).with(server.resident_mib()?));
    server.stop().await?;
    let few = rig.main_server().await?.url.clone();
    let long = rig.large_log().await?.url.clone();
    let folder = TempDir::new()?;
    let sqlite = format!("sqlite://{}", folder.path().join("start.db").display());
    let server = Server::start(&rig.current, &sqlite).await?;
    Callers::connect(server.address).await?.create_flags(FLAGS_ON_SQLITE).await?;
    server.stop().await?;
    let row = |name: String, goal| Row::single(name, " ms", goal);
    let mut on_empty = row("start, empty".to_owned(), Goal::Informational);
    let mut on_sqlite = row(format!("start, {FLAGS_ON_SQLITE} flags, SQLite"), Goal::AtMost(1_000.0, 200.0));
    let mut on_long = Row::compared(
        format!("start, a log of {entries} entries"),
        "the same flags, a new log",
        " ms",
        Goal::AtMost(1.5, 1.1),
    );
    let program = &rig.current;
    for _ in 0..rounds {
        on_empty = on_empty.with(start_ms(program, &empty).await?);
        on_sqlite = on_sqlite.with(start_ms(program, &sqlite).await?);
        on_long.add(start_ms(program, &long).await?, start_ms(program, &few).await?);
    }
    [on_empty, on_sqlite, on_long].into_iter().for_each(|row| report.add(row));
    Ok(())
}

/// Milliseconds until a server on this database is ready.
pub async fn start_ms(program: &Program, url: &str) -> Result<f64> {
    let server = Server::start(program, url).await?;
    let took = server.started_in;
    server.stop().await?;
    Ok(took.as_secs_f64() * 1_000.0)
}

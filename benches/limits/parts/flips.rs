//! Flips, many in flight and one at a time: on PostgreSQL compared with pgbench, on SQLite with the C library.

use tempfile::TempDir;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::call_load::CallLoad;
use crate::rig::server::Server;
use crate::rig::sqlite::Sqlite;
use crate::rig::{Deployment, Rig};

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    many_in_flight(rig, report).await?;
    one_at_a_time(rig, report).await?;
    on_sqlite(rig, report).await
}

async fn many_in_flight(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, turn, pgbench) = (rig.scale.rounds, rig.scale.turn, rig.pgbench().await?);
    let callers = &rig.main_server().await?.callers;
    let row = |in_flight, goal| {
        let name = format!("flips on PostgreSQL, {in_flight} in flight");
        (CallLoad::flips(in_flight, turn), Row::compared(name, pgbench.to_string(), "/s", goal))
    };
    let mut rows = [row(64, Goal::AtLeast(1.8, 2.5)), row(256, Goal::AtLeast(2.2, 3.0))];
    for _ in 0..rounds {
        let limit = pgbench.flip(turn).await?;
        for (load, row) in &mut rows {
            row.add(callers.flip(load).await?.per_second, limit);
        }
    }
    rows.into_iter().for_each(|(_, row)| report.add(row));
    Ok(())
}

async fn one_at_a_time(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, turn, pgbench) = (rig.scale.rounds, rig.scale.turn, rig.pgbench().await?.with_one_client());
    let callers = &rig.main_server().await?.callers;
    let mut row = Row::compared("one flip at a time, median", pgbench.to_string(), " ms", Goal::AtMost(2.0, 1.4));
    for _ in 0..rounds {
        let service = callers.flip(&CallLoad::flips(1, turn)).await?.median_ms();
        row.add(service, pgbench.median_ms(turn).await?);
    }
    report.add(row);
    Ok(())
}

/// Both sides have a database of their own, created by the service with the same flags.
async fn on_sqlite(rig: &Rig, report: &mut Report) -> Result<()> {
    let folder = TempDir::new()?;
    let url = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    let for_library: Server = Deployment::start(&rig.current, url("library.db")).await?.server;
    for_library.stop().await?;
    let (mut library, service) =
        (Sqlite::open(&folder.path().join("library.db"))?, Deployment::start(&rig.current, url("service.db")).await?);
    let against = "SQLite's C library, prepared statements, one commit per flip";
    let mut row = Row::compared("flips on SQLite, 64 in flight", against, "/s", Goal::AtLeast(2.0, 4.0));
    for _ in 0..rig.scale.rounds {
        let flips = service.callers.flip(&CallLoad::flips(64, rig.scale.turn)).await?;
        row.add(flips.per_second, tokio::task::block_in_place(|| library.flip_for(rig.scale.turn))?);
    }
    report.add(row);
    Ok(())
}

//! Two replicas on one PostgreSQL: their flips together, compared with one server.

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::call_load::CallLoad;
use crate::rig::callers::Callers;
use crate::rig::program::Program;
use crate::rig::server::Server;
use crate::stats::median;

/// Metrics with the number of flips in all batches, and the number of batches.
const BATCHES: [&str; 2] = ["toggled_committer_batch_size_sum", "toggled_committer_batch_size_count"];

struct Replica {
    server: Server,
    callers: Callers,
    batches: Vec<f64>,
}

impl Replica {
    async fn start(program: &Program, url: &str) -> Result<Self> {
        let server = Server::start_with_metrics(program, url).await?;
        let callers = Callers::connect(server.address).await?;
        Ok(Self { server, callers, batches: Vec::new() })
    }

    /// Runs one turn and records its mean batch size. Returns flips per second.
    async fn flip(&mut self, load: &CallLoad) -> Result<f64> {
        let before = self.batches_so_far().await?;
        let flips = self.callers.flip_with_other_changes(load).await?;
        let after = self.batches_so_far().await?;
        self.batches.push((after[0] - before[0]) / (after[1] - before[1]));
        Ok(flips.per_second)
    }

    async fn batches_so_far(&self) -> Result<[f64; 2]> {
        Ok([self.server.metric(BATCHES[0]).await?, self.server.metric(BATCHES[1]).await?])
    }
}

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let [pair, single] = [rig.new_on_postgres("pair").await?, rig.new_on_postgres("single").await?];
    let (of_pair, of_single) = (pair.url, single.url);
    pair.server.stop().await?;
    single.server.stop().await?;
    let program = &rig.current;
    let [mut one, mut other, mut alone] = [
        Replica::start(program, &of_pair).await?,
        Replica::start(program, &of_pair).await?,
        Replica::start(program, &of_single).await?,
    ];
    let name = "flips of two replicas together, 64 in flight each";
    let mut row = Row::compared(name, "one replica, 128 in flight", "/s", Goal::Informational);
    let [half, all] = [64, 128].map(|in_flight| CallLoad::flips(in_flight, rig.scale.turn));
    for _ in 0..rig.scale.rounds {
        let (first, second) = tokio::try_join!(one.flip(&half), other.flip(&half))?;
        row.add(first + second, alone.flip(&all).await?);
    }
    report.add(row);
    let batches =
        |name: &str, of: &[f64]| Row::single(format!("batch size: {name}"), "", Goal::Informational).with(median(of));
    report.add(batches("each of two replicas", &[one.batches, other.batches].concat()));
    report.add(batches("one replica", &alone.batches));
    Ok(())
}

//! Watching: how soon the last of a thousand has a flip, beside a bare tonic server that broadcasts, and what a thousand
//! watchers cost those who flip other flags.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::reads::answers;
use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::flip_load::FlipLoad;
use crate::rig::requests::{flip_request, token, with_token};
use crate::rig::server::Server;
use crate::rig::watchers::{WATCHERS, Watchers};
use crate::scale::FLAGS;
use crate::stats::percentile;
use toggled::grpc::pb::toggle_service_client::ToggleServiceClient;

/// The flags with the highest numbers are watched, one after the other is flipped, so often a second.
const WATCHED: usize = 10;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    how_soon(rig, report).await?;
    what_it_costs(rig, report).await
}

async fn how_soon(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, flips) = (rig.scale.rounds, rig.scale.watched_flips);
    let ours = rig.ours().await?;
    let bare = Server::bare(&answers(&ours.callers).await?).await?;
    let (ours, theirs) = (Watchers::open(ours.server.address, &[]).await?, Watchers::open(bare.address, &[]).await?);
    let what = format!("flip answered to last of {WATCHERS} watchers, 99th percentile");
    let mut row = Row::beside(what, "a bare tonic server that broadcasts", " ms", Goal::AtMost(2.0, 1.2));
    for _ in 0..rounds {
        let [ours, theirs] = [ours.flips(flips).await?, theirs.flips(flips).await?];
        let p99 = |lengths: &[Duration]| percentile(lengths, 0.99).as_secs_f64() * 1_000.0;
        row.add(p99(&ours), p99(&theirs));
    }
    report.add(row);
    Ok(())
}

async fn what_it_costs(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, length) = (rig.scale.rounds, rig.scale.turn);
    let load = FlipLoad { in_flight: 64, flags: 1..FLAGS + 1 - WATCHED, length };
    let what = format!("flips with {WATCHERS} watchers who see {WATCHED} others a second");
    let mut row = Row::beside(what, "the same without watchers", "/s", Goal::AtLeast(0.7, 0.9));
    let (watched, alone) = (rig.on_postgres("watched").await?, rig.on_postgres("unwatched").await?);
    let keys: Vec<_> = (FLAGS + 1 - WATCHED..=FLAGS).map(|n| format!("flag-{n}")).collect();
    let before = watched.server.resident_mib()?;
    let watchers = Watchers::open(watched.server.address, &keys).await?;
    let memory = watched.server.resident_mib()?;
    for _ in 0..rounds {
        let delivered = watchers.delivered();
        let mut seen = JoinSet::new();
        seen.spawn(flip_watched(ToggleServiceClient::new(watched.callers.channel(0))));
        let ours = watched.callers.flip_with_other_changes(&load).await?;
        seen.shutdown().await;
        if watchers.delivered() < delivered + WATCHERS {
            return Err("watchers saw nothing".into());
        }
        row.add(ours.per_second, alone.callers.flip(&load).await?.per_second);
    }
    report.add(row);
    report.add(Row::alone(format!("memory: {WATCHERS} watchers"), " MiB", Goal::Told).with(memory));
    println!("  before they watched: {before:.0} MiB");
    Ok(())
}

/// Flips the watched flags, until it is stopped.
async fn flip_watched(mut client: ToggleServiceClient<tonic::transport::Channel>) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(WATCHED)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for n in (FLAGS + 1 - WATCHED..=FLAGS).cycle() {
        ticks.tick().await;
        client.toggle_feature_flag(with_token(flip_request(n), &token()?)).await?;
    }
    Ok(())
}

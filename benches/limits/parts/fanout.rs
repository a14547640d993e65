//! Watches: the delay until a flip reaches the last of a thousand watchers, compared with a bare tonic server that
//! broadcasts, and how much a thousand watchers slow other flips.

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
use toggled::api::pb::toggle_service_client::ToggleServiceClient;

/// Number of watched flags, those with the highest numbers, and flips of them per second.
const WATCHED: usize = 10;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    delivery_time(rig, report).await?;
    cost_of_watchers(rig, report).await
}

async fn delivery_time(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, flips) = (rig.scale.rounds, rig.scale.watched_flips);
    let served = rig.main_server().await?;
    let bare = Server::bare(&answers(&served.callers).await?).await?;
    let (service, limit) =
        (Watchers::open(served.server.address, &[]).await?, Watchers::open(bare.address, &[]).await?);
    let name = format!("flip reaches last of {WATCHERS} watchers, 99th percentile");
    let mut row = Row::compared(name, "a bare tonic server that broadcasts", " ms", Goal::AtMost(2.0, 1.2));
    for _ in 0..rounds {
        let [service, limit] = [service.delivery_times(flips).await?, limit.delivery_times(flips).await?];
        let p99 = |lengths: &[Duration]| percentile(lengths, 0.99).as_secs_f64() * 1_000.0;
        row.add(p99(&service), p99(&limit));
    }
    report.add(row);
    Ok(())
}

async fn cost_of_watchers(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, length) = (rig.scale.rounds, rig.scale.turn);
    let load = FlipLoad { in_flight: 64, flags: 1..FLAGS + 1 - WATCHED, length };
    let name = format!("flips with {WATCHERS} watchers of {WATCHED} other flips/s");
    let mut row = Row::compared(name, "the same without watchers", "/s", Goal::AtLeast(0.7, 0.9));
    let (watched, alone) = (rig.new_on_postgres("watched").await?, rig.new_on_postgres("unwatched").await?);
    let keys: Vec<_> = (FLAGS + 1 - WATCHED..=FLAGS).map(|n| format!("flag-{n}")).collect();
    let before = watched.server.resident_mib()?;
    let watchers = Watchers::open(watched.server.address, &keys).await?;
    let memory = watched.server.resident_mib()?;
    for _ in 0..rounds {
        let delivered = watchers.delivered();
        let mut flipping = JoinSet::new();
        flipping.spawn(flip_watched(ToggleServiceClient::new(watched.callers.channel(0))));
        let flips = watched.callers.flip_with_other_changes(&load).await?;
        flipping.shutdown().await;
        if watchers.delivered() < delivered + WATCHERS {
            return Err("a watched flip did not reach the watchers".into());
        }
        row.add(flips.per_second, alone.callers.flip(&load).await?.per_second);
    }
    report.add(row);
    report.add(Row::single(format!("memory: {WATCHERS} watchers"), " MiB", Goal::Informational).with(memory));
    println!("  memory without watchers: {before:.0} MiB");
    Ok(())
}

/// Flips the watched flags until aborted.
async fn flip_watched(mut client: ToggleServiceClient<tonic::transport::Channel>) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(WATCHED)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for n in (FLAGS + 1 - WATCHED..=FLAGS).cycle() {
        ticks.tick().await;
        client.toggle_feature_flag(with_token(flip_request(n), &token()?)).await?;
    }
    Ok(())
}

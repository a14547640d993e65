//! Watches: the delay until a flip reaches the last of a thousand watchers, compared with a bare tonic server that
//! broadcasts, and how much a thousand watchers slow other flips.

use std::time::Duration;

use toggled::api::pb::toggle_service_client::ToggleServiceClient;
use toggled::domain::Revision;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;

use super::reads::answers;
use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::call_load::CallLoad;
use crate::rig::requests::{flip_request, token, with_token};
use crate::rig::server::Server;
use crate::rig::watchers::{LoneFlips, Watchers};
use crate::scale::FLAGS;
use crate::stats::percentile;

/// Open watches.
const WATCHERS: usize = 1_000;

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
    let (service, limit) = (
        Watchers::open(served.server.address, WATCHERS, &[]).await?,
        Watchers::open(bare.address, WATCHERS, &[]).await?,
    );
    let name = format!("flip reaches last of {WATCHERS} watchers, 99th percentile");
    let mut row = Row::compared(name, "a bare tonic server that broadcasts", " ms", Goal::AtMost(2.0, 1.2));
    for _ in 0..rounds {
        let [service, limit] = [service.lone_flips(flips).await?, limit.lone_flips(flips).await?];
        let p99 = |flips: LoneFlips| percentile(&flips.last_watchers, 0.99).as_secs_f64() * 1_000.0;
        row.add(p99(service), p99(limit));
    }
    report.add(row);
    Ok(())
}

async fn cost_of_watchers(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, length) = (rig.scale.rounds, rig.scale.turn);
    let load = CallLoad::flips_of(1..FLAGS + 1 - WATCHED, 64, length);
    let name = format!("flips with {WATCHERS} watchers of {WATCHED} other flips/s");
    let mut row = Row::compared(name, "the same without watchers", "/s", Goal::AtLeast(0.7, 0.9));
    let (watched, alone) = (rig.new_on_postgres("watched").await?, rig.new_on_postgres("unwatched").await?);
    let keys: Vec<_> = (FLAGS + 1 - WATCHED..=FLAGS).map(|n| format!("flag-{n}")).collect();
    let before = watched.server.resident_mib()?;
    let watchers = Watchers::open(watched.server.address, WATCHERS, &keys).await?;
    let memory = watched.server.resident_mib()?;
    for _ in 0..rounds {
        let mut flipping = JoinSet::new();
        flipping.spawn(flip_watched(ToggleServiceClient::new(watched.callers.channel(0))));
        let flips = watched.callers.flip_with_other_changes(&load).await?;
        flipping.shutdown().await;
        let mut client = ToggleServiceClient::new(watched.callers.channel(0));
        watchers.reached(flip(&mut client, FLAGS).await?).await?;
        row.add(flips.per_second, alone.callers.flip(&load).await?.per_second);
    }
    report.add(row);
    report.add(Row::single(format!("memory: {WATCHERS} watchers"), " MiB", Goal::Informational).with(memory));
    println!("  memory without watchers: {before:.0} MiB");
    Ok(())
}

/// Flips a flag. Returns the revision.
async fn flip(client: &mut ToggleServiceClient<Channel>, flag: usize) -> Result<Revision> {
    Ok(client.toggle_feature_flag(with_token(flip_request(flag), &token()?)).await?.into_inner().revision)
}

/// Flips the watched flags until aborted.
async fn flip_watched(mut client: ToggleServiceClient<Channel>) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(WATCHED)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for n in (FLAGS + 1 - WATCHED..=FLAGS).cycle() {
        ticks.tick().await;
        flip(&mut client, n).await?;
    }
    Ok(())
}

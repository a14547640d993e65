//! Thousands of watchers: what a flip takes beside them, compared with a bare tonic server that broadcasts, how much they slow a load of
//! flips, and the memory that they cost, also if they never read.

use std::time::Duration;

use super::reads::answers;
use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::call_load::CallLoad;
use crate::rig::server::Server;
use crate::rig::silent_watchers::SilentWatchers;
use crate::rig::watchers::{LoneFlips, Watchers};
use crate::rig::{Deployment, Rig};
use crate::scale::FLAGS;
use crate::stats::percentile;

/// Flips in flight beside watchers. They flip all flags at random, so a watcher that is late finds many changed flags: the costliest
/// load for watchers of all flags.
const IN_FLIGHT: usize = 64;

/// Flags that are flipped where a watcher must not be late. All flags, some kilobytes a message for each of thousands of watchers,
/// would be more than the machine can copy.
const FEW_FLAGS: usize = 10;

/// How late a watcher may be under load, and the aim, in milliseconds.
const LATENESS: Goal = Goal::AtMost(250.0, 100.0);

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let alone = rig.new_on_postgres("alone").await?;
    lone_flips(rig, report, &alone).await?;
    load_of_flips(rig, report, &alone).await?;
    without_readers(rig, report, &alone).await
}

/// One flip at a time of a flag that everyone watches. The bare server commits nothing, so a limit is what it takes there, and what the
/// answer to a flip takes that only one client watches.
async fn lone_flips(rig: &mut Rig, report: &mut Report, alone: &Deployment) -> Result<()> {
    let (rounds, flips, [.., count]) = (rig.scale.rounds, rig.scale.lone_flips, rig.scale.watchers);
    let served = rig.new_on_postgres("one_key").await?;
    let bare = Server::bare(&answers(&served.callers).await?).await?;
    let keys = ["flag-1".to_owned()];
    let (service, limit) =
        (Watchers::open(served.server.address, count, &keys).await?, Watchers::open(bare.address, count, &keys).await?);
    let memory = served.server.resident_mib()?;
    let one = Watchers::open(alone.server.address, 1, &keys).await?;
    let against = "a bare tonic server that broadcasts, and a flip with one watcher";
    let row = |what: &str, goal| {
        Row::compared(format!("lone flip, {count} watchers of its flag: {what}"), against, " ms", goal)
    };
    let mut rows = [
        row("answer, median", Goal::AtMost(1.0, 0.8)),
        row("answer, 90th percentile", Goal::AtMost(1.3, 0.8)),
        row("last watcher, median", Goal::AtMost(1.2, 1.05)),
    ];
    for _ in 0..rounds {
        let [commit, service, limit] =
            [one.lone_flips(flips).await?, service.lone_flips(flips).await?, limit.lone_flips(flips).await?]
                .map(milliseconds);
        let limits = [limit[0] + commit[0], limit[1] + commit[1], limit[2] + commit[0]];
        for (row, (service, limit)) in rows.iter_mut().zip(service.into_iter().zip(limits)) {
            row.add(service, limit);
        }
    }
    rows.into_iter().for_each(|row| report.add(row));
    report.add(memory_row(format!("memory: {count} watchers of one flag, idle"), Goal::Informational).with(memory));
    Ok(())
}

fn milliseconds(LoneFlips { answers, last_watchers }: LoneFlips) -> [f64; 3] {
    [percentile(&answers, 0.5), percentile(&answers, 0.9), percentile(&last_watchers, 0.5)].map(ms)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn memory_row(name: String, goal: Goal) -> Row {
    Row::single(name, " MiB", goal)
}

/// A server, its watchers of all flags, and what flips beside them do.
struct Watched {
    served: Deployment,
    watchers: Watchers,
    flips: Row,
    lateness: Row,
}

impl Watched {
    async fn open(rig: &Rig, count: usize, goal: Goal) -> Result<Self> {
        let served = rig.new_on_postgres(&format!("watched_by_{count}")).await?;
        let watchers = Watchers::open(served.server.address, count, &[]).await?;
        let name = format!("flips of {FLAGS} flags, {IN_FLIGHT} in flight, {count} watchers of all flags");
        Ok(Self {
            served,
            watchers,
            flips: Row::compared(&name, "the same without watchers", "/s", goal),
            lateness: Row::single(format!("{name}: last watcher is late by"), " ms", Goal::Informational),
        })
    }

    /// Runs a load. Returns flips per second and how late the last watcher was at most. All watchers have all flips afterwards.
    async fn flip(&self, load: &CallLoad) -> Result<(f64, Duration)> {
        let flips = self.served.callers.flip_with_refusals(load);
        let (flips, late) = self.watchers.lateness_during(flips).await?;
        if flips.refused > 0 {
            println!("  {} flips were refused", flips.refused);
        }
        self.watchers.reached(self.served.callers.flag_1().await?.revision).await?;
        Ok((flips.per_second, late))
    }
}

fn most_watched(all: &[Watched]) -> Result<&Watched> {
    Ok(all.last().ok_or("no watchers are to be measured")?)
}

/// Every round measures flips without watchers, then with each number of them.
async fn load_of_flips(rig: &mut Rig, report: &mut Report, alone: &Deployment) -> Result<()> {
    let (rounds, length) = (rig.scale.rounds, rig.scale.turn);
    let goals = [Goal::AtLeast(0.9, 0.95), Goal::AtLeast(0.7, 0.8), Goal::AtLeast(0.4, 0.6)];
    let mut all_watched = Vec::new();
    for (count, goal) in rig.scale.watchers.into_iter().zip(goals) {
        all_watched.push(Watched::open(rig, count, goal).await?);
    }
    let [.., count] = rig.scale.watchers;
    let memory = most_watched(&all_watched)?.served.server.resident_mib()?;
    let name = format!("memory: {count} watchers of all {FLAGS} flags, idle");
    report.add(memory_row(name, Goal::AtMost(250.0, 160.0)).with(memory));
    let load = CallLoad::flips(IN_FLIGHT, length);
    for _ in 0..rounds {
        let limit = alone.callers.flip(&load).await?.per_second;
        for watched in &mut all_watched {
            let (per_second, late) = watched.flip(&load).await?;
            watched.flips.add(per_second, limit);
            watched.lateness.measure(ms(late));
        }
    }
    let few = CallLoad::flips_of(1..FEW_FLAGS + 1, IN_FLIGHT, length);
    let (name, against) = (
        format!("flips of {FEW_FLAGS} flags, {IN_FLIGHT} in flight, {count} watchers of all flags"),
        "the same without watchers",
    );
    let mut flips = Row::compared(&name, against, "/s", Goal::AtLeast(0.4, 0.6));
    let mut lateness = Row::single(format!("{name}: last watcher is late by"), " ms", LATENESS);
    for _ in 0..rounds {
        let (per_second, late) = most_watched(&all_watched)?.flip(&few).await?;
        flips.add(per_second, alone.callers.flip(&few).await?.per_second);
        lateness.measure(ms(late));
    }
    for Watched { flips, lateness, .. } in all_watched {
        report.add(flips);
        report.add(lateness);
    }
    report.add(flips);
    report.add(lateness);
    Ok(())
}

/// Watchers that never read anything.
async fn without_readers(rig: &mut Rig, report: &mut Report, alone: &Deployment) -> Result<()> {
    let (rounds, [.., count]) = (rig.scale.rounds, rig.scale.watchers);
    let served = rig.new_on_postgres_with_metrics("never_read").await?;
    let load = CallLoad::flips(IN_FLIGHT, rig.scale.turn);
    let name = format!("{count} watchers of all flags that never read");
    let mut row = Row::compared(
        format!("flips, {IN_FLIGHT} in flight, {name}"),
        "the same without watchers",
        "/s",
        Goal::AtLeast(0.4, 0.6),
    );
    let _watchers = SilentWatchers::open(&served.server, count).await?;
    for _ in 0..rounds {
        row.add(served.callers.flip(&load).await?.per_second, alone.callers.flip(&load).await?.per_second);
    }
    report.add(row);
    report.add(
        memory_row(format!("memory: {name}, at most"), Goal::AtMost(500.0, 250.0)).with(served.server.peak_mib()?),
    );
    Ok(())
}

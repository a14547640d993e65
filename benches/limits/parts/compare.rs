//! Builds of the program compared with each other: they take turns in the same run, under the same load.

use std::path::Path;

use tempfile::TempDir;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::call_load::CallLoad;
use crate::rig::h2load::Calls;
use crate::rig::past_readers::{self, PastReaders};
use crate::rig::program::Program;
use crate::rig::requests::{GET, read_request};
use crate::rig::{Deployment, Rig};

/// Least and desired ratio of this build to the one before.
const GOAL: Goal = Goal::AtLeast(0.97, 1.0);

const IN_FLIGHT: usize = 64;

/// A build and its server. Each build has a database of its own, since the schemas may differ.
struct Deployed {
    build: Build,
    served: Deployment,
}

#[derive(Clone, Copy, PartialEq)]
enum Build {
    Current,
    Before,
    Release,
}

impl Build {
    fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Before => "before",
            Self::Release => "release",
        }
    }
}

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let mut deployed = Vec::new();
    for (build, program) in builds(rig) {
        let url = rig.cluster.new_database(&format!("compare_{}", build.name())).await?;
        let served = Deployment::start(&program, url).await?;
        rig.cluster.vacuum_and_checkpoint(&served.url).await?;
        deployed.push(Deployed { build, served });
    }
    for beside in [Beside::Nothing, Beside::PastReaders] {
        reads(rig, report, &deployed, beside).await?;
        flips(rig, report, &deployed, "PostgreSQL", beside).await?;
    }
    drop(deployed);
    let folder = TempDir::new()?;
    let deployed = on_sqlite(rig, folder.path()).await?;
    for beside in [Beside::Nothing, Beside::PastReaders] {
        flips(rig, report, &deployed, "SQLite", beside).await?;
    }
    Ok(())
}

/// What goes on beside the measured load.
#[derive(Clone, Copy)]
enum Beside {
    Nothing,
    PastReaders,
}

impl Beside {
    fn name(self, load: &str) -> String {
        match self {
            Self::Nothing => load.to_owned(),
            Self::PastReaders => format!("{load}, while {} callers ask about the last second", past_readers::CALLERS),
        }
    }

    /// Measures a load with this beside it.
    async fn measure(self, served: &Deployment, load: impl Future<Output = Result<f64>>) -> Result<f64> {
        match self {
            Self::Nothing => load.await,
            Self::PastReaders => {
                let readers = PastReaders::start(&served.callers)?;
                let measured = load.await?;
                readers.stop().await?;
                Ok(measured)
            }
        }
    }
}

fn builds(rig: &Rig) -> Vec<(Build, Program)> {
    let [before, release] = [(Build::Before, &rig.before), (Build::Release, &rig.release)]
        .map(|(build, program)| program.clone().map(|program| (build, program)));
    [Some((Build::Current, rig.current.clone())), before, release].into_iter().flatten().collect()
}

async fn on_sqlite(rig: &Rig, folder: &Path) -> Result<Vec<Deployed>> {
    let mut deployed = Vec::new();
    for (build, program) in builds(rig) {
        let url = format!("sqlite://{}.db", folder.join(build.name()).display());
        deployed.push(Deployed { build, served: Deployment::start(&program, url).await? });
    }
    Ok(deployed)
}

async fn reads(rig: &Rig, report: &mut Report, deployed: &[Deployed], beside: Beside) -> Result<()> {
    let mut calls = Vec::new();
    for Deployed { served, .. } in deployed {
        calls.push(Calls::new(GET, &read_request(), &served.callers.flag_1().await?, rig.scale.compared_reads)?);
    }
    let (rounds, name) = (rig.scale.compared_read_rounds, beside.name("GetFeatureFlag with a token"));
    take_turns(rounds, report, deployed, &name, async |index| {
        let served = &deployed[index].served;
        beside.measure(served, calls[index].load(served.server.address)).await
    })
    .await
}

async fn flips(rig: &Rig, report: &mut Report, deployed: &[Deployed], database: &str, beside: Beside) -> Result<()> {
    let load = CallLoad::flips(IN_FLIGHT, rig.scale.compared_length);
    let name = beside.name(&format!("flips on {database}, {IN_FLIGHT} in flight"));
    take_turns(rig.scale.compared_rounds, report, deployed, &name, async |index| {
        let served = &deployed[index].served;
        beside.measure(served, async { Ok(served.callers.flip(&load).await?.per_second) }).await
    })
    .await
}

/// Measures all builds in every round. Every second round runs in reverse order, so that a slow drift of the machine affects
/// all builds alike. Reports the current build against the one before, and the release build against the current one.
async fn take_turns(
    rounds: usize,
    report: &mut Report,
    deployed: &[Deployed],
    name: &str,
    measure: impl AsyncFn(usize) -> Result<f64>,
) -> Result<()> {
    let mut to_before = Row::compared(name, "the build before", "/s", GOAL);
    let mut release = Row::compared(format!("{name}: release profile"), "the current build", "/s", Goal::Informational);
    // The first turn of each build warms it up and is not counted.
    for index in 0..deployed.len() {
        measure(index).await?;
    }
    for round in 0..rounds {
        let mut order: Vec<_> = (0..deployed.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        let mut rates = vec![0.0; deployed.len()];
        for index in order {
            rates[index] = measure(index).await?;
        }
        let rate_of = |build| deployed.iter().position(|deployed| deployed.build == build).map(|index| rates[index]);
        let current = rate_of(Build::Current).ok_or("the current build was not measured")?;
        if let Some(before) = rate_of(Build::Before) {
            to_before.add(current, before);
        }
        if let Some(rate) = rate_of(Build::Release) {
            release.add(rate, current);
        }
    }
    [to_before, release].into_iter().filter(Row::has_rounds).for_each(|row| report.add(row));
    Ok(())
}

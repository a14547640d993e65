//! Verification of an exported log: entries per second, and that memory does not grow with the log.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::process::{output, resident_mib};
use crate::rig::program::Program;
use crate::rig::{Deployment, Rig, fill};

/// Entries verified per second, at least.
const MIN_RATE: f64 = 300_000.0;

/// Additional memory allowed for the larger log, in MiB. Allocators do not return all memory.
const MAX_EXTRA_MIB: f64 = 8.0;

/// Time between two samples of memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let folder = TempDir::new()?;
    let url = format!("sqlite://{}", folder.path().join("log.db").display());
    let [few, many] = rig.scale.verified;
    let mut peaks = Vec::new();
    for entries in [few, many] {
        let file = folder.path().join(entries.to_string());
        export(rig, &url, entries, &file).await?;
        // The first run loads the file into the page cache and is not counted.
        verify(&rig.current, &file).await?;
        let (mut durations, mut peak) = (Vec::new(), 0.0_f64);
        for _ in 0..rig.scale.rounds {
            let (length, mib) = verify(&rig.current, &file).await?;
            durations.push(length);
            peak = peak.max(mib);
        }
        peaks.push(peak);
        if entries == many {
            let name = format!("entries verified, of a file of {entries}");
            let rates = durations.iter().map(|length| entries as f64 / length.as_secs_f64());
            report.add(rates.fold(Row::single(name, "/s", Goal::AtLeast(MIN_RATE, MIN_RATE)), Row::with));
        }
    }
    report.add(Row::single(format!("memory: verifying {few} entries"), " MiB", Goal::Informational).with(peaks[0]));
    let flat = Goal::AtMost(peaks[0] + MAX_EXTRA_MIB, peaks[0]);
    report.add(Row::single(format!("memory: verifying {many} entries"), " MiB", flat).with(peaks[1]));
    Ok(())
}

/// Extends the log to this many entries and exports it with `audit export`.
async fn export(rig: &Rig, url: &str, entries: u64, file: &Path) -> Result<()> {
    Deployment::start(&rig.current, url.to_owned()).await?.server.stop().await?;
    fill::fill(url, i64::try_from(entries)?).await?;
    let served = Deployment::start(&rig.current, url.to_owned()).await?;
    let mut command = rig.current.command(["audit", "export", "--output-file"]);
    command
        .arg(file)
        .env("TOGGLED_ADDR", served.server.address.to_string())
        .env("TOGGLED_TOKEN", crate::rig::server::TOKEN);
    output(command).await.map(drop)
}

/// Verifies a file. Returns the duration and the peak memory in MiB.
async fn verify(program: &Program, file: &Path) -> Result<(Duration, f64)> {
    let began = Instant::now();
    let mut command = program.command(["audit", "verify", "--file"]);
    let mut process = command.arg(file).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    let id = process.id().ok_or("the verifier has already exited")?;
    let mut mib = 0.0_f64;
    let status = loop {
        // Fails if the process has just ended.
        mib = mib.max(resident_mib(id, "VmHWM:").unwrap_or_default());
        if let Ok(status) = tokio::time::timeout(SAMPLE_INTERVAL, process.wait()).await {
            break status?;
        }
    };
    let length = began.elapsed();
    if status.success() { Ok((length, mib)) } else { Err("verification of an intact log failed".into()) }
}

//! Verifying an exported log: how many entries a second, and that memory does not grow with the log.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::process::{output, resident_mib};
use crate::rig::program::Program;
use crate::rig::{Rig, Served, fill};

/// Verified a second, at least.
const AT_LEAST: f64 = 300_000.0;

/// The larger takes at most so much more memory, in MiB: what an allocator happens to keep.
const AT_MOST_MORE: f64 = 8.0;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(5);

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let folder = TempDir::new()?;
    let url = format!("sqlite://{}", folder.path().join("log.db").display());
    let [few, many] = rig.scale.verified;
    let mut peaks = Vec::new();
    for entries in [few, many] {
        let file = folder.path().join(entries.to_string());
        export(rig, &url, entries, &file).await?;
        // The first time brings the file into memory.
        verify(&rig.current, &file).await?;
        let (mut lengths, mut peak) = (Vec::new(), 0.0_f64);
        for _ in 0..rig.scale.rounds {
            let (length, mib) = verify(&rig.current, &file).await?;
            lengths.push(length);
            peak = peak.max(mib);
        }
        peaks.push(peak);
        if entries == many {
            let what = format!("entries verified, of a file of {entries}");
            let rates = lengths.iter().map(|length| entries as f64 / length.as_secs_f64());
            report.add(rates.fold(Row::alone(what, "/s", Goal::AtLeast(AT_LEAST, AT_LEAST)), Row::with));
        }
    }
    report.add(Row::alone(format!("memory: verifying {few} entries"), " MiB", Goal::Told).with(peaks[0]));
    let flat = Goal::AtMost(peaks[0] + AT_MOST_MORE, peaks[0]);
    report.add(Row::alone(format!("memory: verifying {many} entries"), " MiB", flat).with(peaks[1]));
    Ok(())
}

/// A log of at least so many entries, made longer if need be, as `audit export` writes it.
async fn export(rig: &Rig, url: &str, entries: u64, file: &Path) -> Result<()> {
    Served::start(&rig.current, url.to_owned()).await?.server.stop().await?;
    fill::fill(url, i64::try_from(entries)?).await?;
    let served = Served::start(&rig.current, url.to_owned()).await?;
    let mut command = rig.current.command(["audit", "export", "--output-file"]);
    command
        .arg(file)
        .env("TOGGLED_ADDR", served.server.address.to_string())
        .env("TOGGLED_TOKEN", crate::rig::server::TOKEN);
    output(command).await.map(drop)
}

/// How long it takes, and the most memory at once.
async fn verify(program: &Program, file: &Path) -> Result<(Duration, f64)> {
    let began = Instant::now();
    let mut command = program.command(["audit", "verify", "--file"]);
    let mut process = command.arg(file).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    let id = process.id().ok_or("it is gone already")?;
    let mut mib = 0.0_f64;
    let status = loop {
        // Nothing is told any more of a process that has just ended.
        mib = mib.max(resident_mib(id, "VmHWM:").unwrap_or_default());
        if let Ok(status) = tokio::time::timeout(LOOK, process.wait()).await {
            break status?;
        }
    };
    let length = began.elapsed();
    if status.success() { Ok((length, mib)) } else { Err("a log that is intact is not".into()) }
}

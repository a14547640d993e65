//! Other programs: their output and their memory.

use std::process::Stdio;

use tokio::process::Command;

use crate::Result;

/// Runs a program and returns its standard output. Fails if the program does.
pub async fn output(mut command: Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if !done.status.success() {
        let errors = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{:?} ended with {}: {errors}", command.as_std().get_program(), done.status).into());
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// Resident memory of a process in MiB: `VmRSS:` for the current value, `VmHWM:` for the peak.
pub fn resident_mib(process: u32, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).ok_or("the process has ended")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024.0)
}

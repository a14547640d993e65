//! Other programs: their output and their memory.

use std::process::Stdio;

use tokio::process::Command;

use crate::Result;

/// What a program prints, if it succeeds.
pub async fn output(mut command: Command) -> Result<String> {
    let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(format!("{:?} ended with {}: {said}", command.as_std().get_program(), done.status).into());
    }
    Ok(String::from_utf8(done.stdout)?)
}

/// What the kernel says of a process's memory, in MiB: `VmRSS:`, what it takes now, or `VmHWM:`, the most that it took.
pub fn resident_mib(process: u32, what: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).ok_or("the process has ended")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024.0)
}

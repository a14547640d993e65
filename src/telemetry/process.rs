//! Metrics of this process, under the names that Prometheus' own client libraries use. Linux reports them in `/proc`;
//! elsewhere they are absent.

use std::fs;
use std::str::FromStr;
use std::sync::OnceLock;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

pub(super) const CPU_SECONDS: &str = "process_cpu_seconds_total";
pub(super) const OPEN_FDS: &str = "process_open_fds";
pub(super) const MAX_FDS: &str = "process_max_fds";
pub(super) const RESIDENT_MEMORY: &str = "process_resident_memory_bytes";
pub(super) const START_TIME: &str = "process_start_time_seconds";
const VIRTUAL_MEMORY: &str = "process_virtual_memory_bytes";
const VIRTUAL_MEMORY_MAX: &str = "process_virtual_memory_max_bytes";
const THREADS: &str = "process_threads";

/// The unit of times in `/proc/self/stat`: `USER_HZ`, which is 100 on every architecture that this program is built for.
const TICKS_PER_SECOND: u64 = 100;

/// Describes the metrics of the process.
pub(super) fn describe() {
    describe_counter!(CPU_SECONDS, Unit::Seconds, "Total user and system CPU time spent in seconds.");
    describe_gauge!(OPEN_FDS, Unit::Count, "Number of open file descriptors.");
    describe_gauge!(MAX_FDS, Unit::Count, "Maximum number of open file descriptors.");
    describe_gauge!(VIRTUAL_MEMORY, Unit::Bytes, "Virtual memory size in bytes.");
    describe_gauge!(VIRTUAL_MEMORY_MAX, Unit::Bytes, "Maximum amount of virtual memory available in bytes.");
    describe_gauge!(RESIDENT_MEMORY, Unit::Bytes, "Resident memory size in bytes.");
    describe_gauge!(START_TIME, Unit::Seconds, "Start time of the process since unix epoch in seconds.");
    describe_gauge!(THREADS, Unit::Count, "Number of OS threads in the process.");
}

/// Sets the metrics of the process. One that cannot be read keeps its value.
pub(super) fn measure() {
    if let Some(ticks) = read("/proc/self/stat").as_deref().and_then(cpu_ticks) {
        counter!(CPU_SECONDS).absolute(ticks / TICKS_PER_SECOND);
    }
    if let Ok(folder) = fs::read_dir("/proc/self/fd") {
        // Reading the folder opens a descriptor of its own.
        set(OPEN_FDS, Some(folder.count().saturating_sub(1) as u64));
    }
    if let Some(limits) = read("/proc/self/limits") {
        set(MAX_FDS, limit(&limits, "Max open files"));
        set(VIRTUAL_MEMORY_MAX, limit(&limits, "Max address space"));
    }
    if let Some(status) = read("/proc/self/status") {
        set(VIRTUAL_MEMORY, status_field(&status, "VmSize:").map(|kib| kib * 1_024));
        set(RESIDENT_MEMORY, status_field(&status, "VmRSS:").map(|kib| kib * 1_024));
        set(THREADS, status_field(&status, "Threads:"));
    }
    set(START_TIME, start_time());
}

fn set(name: &'static str, value: Option<u64>) {
    if let Some(value) = value {
        gauge!(name).set(value as f64);
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// When this process started. Read once: the kernel derives the time of its own start from the clock, which can be set.
fn start_time() -> Option<u64> {
    static START: OnceLock<Option<u64>> = OnceLock::new();
    *START.get_or_init(|| {
        let boot =
            read("/proc/stat")?.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok())?;
        let since_boot: u64 = stat_field(&read("/proc/self/stat")?, 22)?;
        Some(boot + since_boot / TICKS_PER_SECOND)
    })
}

fn cpu_ticks(stat: &str) -> Option<u64> {
    Some(stat_field::<u64>(stat, 14)? + stat_field::<u64>(stat, 15)?)
}

/// A field of `/proc/self/stat` by its number in proc_pid_stat(5). The second is the program's name in parentheses, which
/// may itself contain spaces and parentheses.
fn stat_field<T: FromStr>(stat: &str, number: usize) -> Option<T> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// The first number of a line of `/proc/self/status`.
fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// A soft limit in `/proc/self/limits`; 0 if there is none.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let soft = line.split_ascii_whitespace().next()?;
    if soft == "unlimited" { Some(0) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_fields_are_counted_after_the_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1009 0 3 0 250 120 0 0 20 0 9 0 4321 87654400 2345 184467";
        assert_eq!(cpu_ticks(stat), Some(370));
        assert_eq!(stat_field::<u64>(stat, 22), Some(4321));
        assert_eq!(stat_field::<u64>(stat, 99), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn status_and_limits_are_read_by_name() {
        let status = "Name:\ta\nVmSize:\t  85600 kB\nVmRSS:\t   9380 kB\nThreads:\t9\n";
        assert_eq!(status_field(status, "VmRSS:"), Some(9_380));
        assert_eq!(status_field(status, "Threads:"), Some(9));
        assert_eq!(status_field(status, "VmSwap:"), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(limit(limits, "Max open files"), Some(1_024));
        assert_eq!(limit(limits, "Max address space"), Some(0));
        assert_eq!(limit(limits, "Max nothing"), None);
    }

    #[test]
    fn start_time_is_in_the_past() {
        let start = start_time().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(start <= now + 1 && start > 1_500_000_000, "{start}, {now}");
    }
}

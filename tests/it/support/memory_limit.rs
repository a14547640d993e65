//! A limit on a process's memory, by a cgroup.

use std::path::{Path, PathBuf};

use super::with_timeout;

/// A cgroup with a limit. It holds one process.
pub struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// Limits a process. `None` where this machine lets us make no cgroup for memory.
    pub fn new(process: u32, mib: u64) -> Option<Self> {
        // Version 2, and 1.
        let kinds = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        kinds.into_iter().find_map(|(root, limit)| {
            let group = Self(Path::new(root).join(format!("toggled-{process}")));
            std::fs::create_dir(&group.0).ok()?;
            let write = |file: &str, text: String| std::fs::write(group.0.join(file), text);
            let is_limited = group.0.join(limit).exists()
                && write(limit, (mib << 20).to_string()).is_ok()
                && write("cgroup.procs", process.to_string()).is_ok();
            if is_limited {
                return Some(group);
            }
            let _ = std::fs::remove_dir(&group.0);
            None
        })
    }

    /// Removes the cgroup, once its process has ended.
    pub async fn remove(self) {
        with_timeout("the cgroup to be empty", async {
            while std::fs::remove_dir(&self.0).is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

//! Verifying an exported log: how many entries a second, and that memory does not grow with the log.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use toggled::domain::audit::{Action, EntityType, Entry};
use toggled::domain::hash::{GENESIS, chain};
use toggled::domain::time::Timestamp;
use tokio::process::Command;
use uuid::Uuid;

use crate::Result;

/// What asks for this part alone.
pub const COMMAND: &str = "verify";

/// Entries in the smaller and in the larger file.
const SIZES: [u64; 2] = [200_000, 1_000_000];

/// Verified a second, at least.
const AT_LEAST: f64 = 300_000.0;

/// The larger takes at most so much more memory, in MiB: what a machine's allocator happens to keep.
const AT_MOST_MORE: f64 = 8.0;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What verifying takes: for each size, entries a second and the most memory at once, in MiB.
pub struct Verifying([(f64, f64); 2]);

impl Verifying {
    pub async fn measure() -> Result<Self> {
        let folder = TempDir::new()?;
        let mut measured = [(0.0, 0.0); 2];
        for (entries, measured) in SIZES.into_iter().zip(&mut measured) {
            let file = folder.path().join(entries.to_string());
            write(&file, entries)?;
            // The first time brings the file into memory.
            run(&file).await?;
            let (length, mib) = run(&file).await?;
            *measured = (entries as f64 / length.as_secs_f64(), mib);
        }
        Ok(Self(measured))
    }

    /// Whether it is fast, and its memory flat.
    pub fn is_enough(&self) -> bool {
        let [(_, small), (rate, large)] = self.0;
        rate >= AT_LEAST && large - small <= AT_MOST_MORE
    }

    /// Tells of it.
    pub fn told(self) -> Self {
        println!("\nverifying an exported log, at least {AT_LEAST:.0} entries/s and memory that does not grow:");
        for (entries, (rate, mib)) in SIZES.iter().zip(self.0) {
            println!("{entries:>9} entries: {rate:>8.0} entries/s, peak memory {mib:.0} MiB");
        }
        if !self.is_enough() {
            println!("MISSED");
        }
        self
    }
}

/// How long it takes, and the most memory at once, as the kernel counts it.
async fn run(file: &Path) -> Result<(Duration, f64)> {
    let begun = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_toggled"));
    let mut process =
        command.args(["audit", "verify", "--file"]).arg(file).stdout(Stdio::null()).kill_on_drop(true).spawn()?;
    let id = process.id().ok_or("it is gone already")?;
    let mut kib = 0.0_f64;
    let status = loop {
        // Nothing is told any more of a process that has just ended.
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let peak = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            kib = kib.max(peak.unwrap_or_default());
        }
        if let Ok(status) = tokio::time::timeout(LOOK, process.wait()).await {
            break status?;
        }
    };
    let length = begun.elapsed();
    if status.success() { Ok((length, kib / 1_024.0)) } else { Err("a log that is intact is not".into()) }
}

/// A log of flips, as `audit export` writes it.
fn write(file: &Path, entries: u64) -> Result<()> {
    let log_id = Uuid::from_u128(7);
    let (mut file, mut entry) = (BufWriter::new(File::create(file)?), flip());
    for revision in 1..=entries {
        entry.id = Uuid::now_v7();
        entry.revision = revision.try_into()?;
        entry.timestamp = Timestamp::from_micros(1_700_000_000_000_000 + entry.revision * 1_001);
        entry.hash = chain(&entry.hash, log_id, &entry);
        writeln!(file, "{}", line(log_id, &entry))?;
    }
    Ok(file.flush()?)
}

fn flip() -> Entry {
    Entry {
        id: Uuid::nil(),
        revision: 0,
        timestamp: Timestamp::default(),
        user_id: Some(Uuid::now_v7()),
        user_email: "operator@example.com".into(),
        token_id: Some(Uuid::now_v7()),
        action: Action::ToggleEnabled,
        entity_type: EntityType::FeatureFlag,
        entity_id: Some(Uuid::now_v7()),
        entity_key: "checkout.new-payment-page".into(),
        entity_name: "The new payment page".into(),
        old_value: Some("disabled".into()),
        new_value: Some("enabled".into()),
        reason: Some("Rolled out to everybody, as agreed with \"payments\"".into()),
        request_id: Some("01900000-0000-7000-8000-000000000001".into()),
        method: "toggled.v1.ToggleService/ToggleFeatureFlag".into(),
        peer: Some("192.0.2.10:54321".into()),
        user_agent: Some("grpc-python/1.70.0 grpc-c/45.0.0 (linux; chttp2)".into()),
        previous_entity_revision: Some(1),
        reverts: None,
        hash_version: 1,
        hash: GENESIS,
        created_at: Timestamp::default(),
    }
}

fn line(log_id: Uuid, entry: &Entry) -> serde_json::Value {
    let hash: String = entry.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    serde_json::json!({
        "log_id": log_id, "id": entry.id, "revision": entry.revision, "timestamp": entry.timestamp.to_string(),
        "user_id": entry.user_id, "user_email": &*entry.user_email, "token_id": entry.token_id,
        "action_type": entry.action.as_str(), "entity_type": entry.entity_type.as_str(), "entity_id": entry.entity_id,
        "entity_key": &*entry.entity_key, "entity_name": &*entry.entity_name, "old_value": entry.old_value.as_deref(),
        "new_value": entry.new_value.as_deref(), "reason": entry.reason.as_deref(),
        "request_id": entry.request_id.as_deref(), "method": &*entry.method, "peer": entry.peer.as_deref(),
        "user_agent": entry.user_agent.as_deref(), "previous_entity_revision": entry.previous_entity_revision,
        "hash_version": entry.hash_version, "hash": hash, "created_at": entry.timestamp.to_string(),
    })
}

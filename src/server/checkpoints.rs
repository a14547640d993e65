//! Signs checkpoints of the log at regular revisions and stores them with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use uuid::Uuid;

use super::{RETRY_INTERVAL, Server};
use crate::checkpoint::{Checkpoint, SigningKey};
use crate::domain::Revision;
use crate::domain::time::Clock;
use crate::store::{Store, StoreError, with_timeout};
use crate::telemetry::errors;

/// How long reading, signing and storing one checkpoint may take.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(10);

/// Stores the key with the log, so that its checkpoints can be verified after the key was replaced.
pub(super) async fn store_key(
    store: &dyn Store,
    key: &SigningKey,
    log_id: Uuid,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    let key = key.verifier(log_id).to_string();
    let stored = store.checkpoint_keys().await?;
    if stored.iter().any(|(stored, _)| *stored == key) {
        return Ok(());
    }
    store.add_checkpoint_key(&key, clock.now()).await
}

impl Server {
    /// Starts signing checkpoints, if there is a key.
    pub(super) fn sign_checkpoints(&mut self) {
        let Some(key) = self.checkpoints.key.clone() else {
            tracing::warn!(
                "no checkpoints are signed, so later tampering with the log may go unnoticed; give every server the same key \
                 with --checkpoint-key-file (TOGGLED_CHECKPOINT_KEY_FILE)"
            );
            return;
        };
        self.log_key(&key);
        let (store, clock, interval) = (Arc::clone(&self.store), Arc::clone(&self.clock), self.checkpoints.interval);
        self.background.spawn(Signer { store, clock, key, interval }.follow(self.mirror.revisions()));
    }

    /// Logs the key, so that a replaced one is noticed.
    fn log_key(&self, key: &SigningKey) {
        let from = match key.file() {
            Some(file) => file.display().to_string(),
            None => "memory".to_owned(),
        };
        if let Some(log_id) = self.mirror.read(|state| state.head().log_id) {
            let key_id = key.verifier(log_id).id();
            tracing::info!(%key_id, from, "checkpoints are signed with this key");
        }
    }
}

/// Signs checkpoints as the log grows. Several servers may do so at once; the first to store a checkpoint wins.
struct Signer {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    key: Arc<SigningKey>,
    interval: Revision,
}

impl Signer {
    /// Signs the newest checkpoint that is due, then each one that the log reaches.
    async fn follow(self, mut revisions: watch::Receiver<Revision>) {
        let mut next = None;
        let mut is_failing = false;
        loop {
            let reached = *revisions.borrow_and_update();
            // At start, or when the log was replaced by an older one.
            if next.is_none_or(|next: Revision| reached < next - self.interval) {
                next = Some((reached - reached % self.interval).max(self.interval));
            }
            match next.filter(|next| *next <= reached) {
                // The sender is gone: the server stops.
                None if revisions.changed().await.is_err() => return,
                None => {}
                Some(due) => match with_timeout(CHECKPOINT_TIMEOUT, self.store_at(due)).await {
                    Ok(()) => {
                        is_failing = false;
                        next = Some(due + self.interval);
                    }
                    // A damaged entry stays damaged, so this checkpoint is skipped.
                    Err(error @ StoreError::Corrupt { .. }) => {
                        errors::report_internal_error(&format!("checkpoint at revision {due} skipped: {error}"));
                        next = Some(due + self.interval);
                    }
                    Err(error) => {
                        // Once per outage, not once per attempt.
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(%error, revision = due, "checkpoint not stored; retrying");
                        }
                        sleep(RETRY_INTERVAL).await;
                    }
                },
            }
        }
    }

    /// Signs and stores the checkpoint at a revision, unless one is stored.
    async fn store_at(&self, revision: Revision) -> Result<(), StoreError> {
        let head = self.store.head().await?;
        if head.revision < revision {
            // A backup was restored. The mirror reloads it, and `revisions` reports the lower revision.
            return Ok(());
        }
        if head.floor >= revision {
            tracing::info!(revision, floor = head.floor, "checkpoint skipped: revision is trimmed");
            return Ok(());
        }
        let Some((_, hash)) = self.store.entry_at(revision).await? else {
            let (row, problem) = (revision.to_string(), "the entry is missing".to_owned());
            return Err(StoreError::Corrupt { table: "audit_logs", column: "revision", row, problem });
        };
        let log_id = head.log_id;
        // Stored at start already, unless an older backup was restored since.
        store_key(&*self.store, &self.key, log_id, &*self.clock).await?;
        let note = self.key.sign(Checkpoint { log_id, revision, hash, time: self.clock.now() });
        self.store.add_checkpoint(revision, &note.to_string()).await
    }
}

//! The checkpoints that are stored with the log, one every so many revisions.

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

/// How long the database may take for one checkpoint.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps the key with the log, so that what it signs can be verified when another has taken its place.
pub(super) async fn make_known(
    store: &dyn Store,
    key: &SigningKey,
    log_id: Uuid,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    let key = key.verifier(log_id).to_string();
    let known = store.checkpoint_keys().await?;
    if known.iter().any(|(known, _)| *known == key) {
        return Ok(());
    }
    store.add_checkpoint_key(&key, clock.now()).await
}

impl Server {
    /// Has checkpoints signed as the log grows, if there is a key, and says so.
    pub(super) fn sign_checkpoints(&mut self) {
        let Some(key) = self.proof.key.clone() else {
            tracing::warn!(
                "no checkpoints of the log are signed, so that nobody can prove later what it was: give every server the \
                 same key by --checkpoint-key-file (TOGGLED_CHECKPOINT_KEY_FILE)"
            );
            return;
        };
        self.tell_of_key(&key);
        let (store, clock, interval) = (Arc::clone(&self.store), Arc::clone(&self.clock), self.proof.interval);
        self.background.spawn(Signer { store, clock, key, interval }.follow(self.mirror.revisions()));
    }

    /// Says what it signs with: one that took the place of a lost key is seen there.
    fn tell_of_key(&self, key: &SigningKey) {
        let from = match key.file() {
            Some(file) => file.display().to_string(),
            None => "memory".to_owned(),
        };
        if let Some(log_id) = self.mirror.read(|state| state.head().log_id) {
            let key_id = key.verifier(log_id).id();
            tracing::info!(%key_id, from, "checkpoints of the log are signed with this key");
        }
    }
}

/// Who signs checkpoints as the log grows. Several servers do so side by side: the first to store one is in time.
struct Signer {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    key: Arc<SigningKey>,
    interval: Revision,
}

impl Signer {
    /// Signs for as long as it is polled: first the newest checkpoint that is due, and then each that the log passes.
    async fn follow(self, mut revisions: watch::Receiver<Revision>) {
        let mut next = None;
        let mut failing = false;
        loop {
            let reached = *revisions.borrow_and_update();
            // The log is an older one than it was, or all of it is new to us.
            if next.is_none_or(|next: Revision| reached < next - self.interval) {
                next = Some((reached - reached % self.interval).max(self.interval));
            }
            match next.filter(|next| *next <= reached) {
                // It ends with what tells of revisions.
                None if revisions.changed().await.is_err() => return,
                None => {}
                Some(due) => match with_timeout(PATIENCE, self.store_at(due)).await {
                    Ok(()) => {
                        failing = false;
                        next = Some(due + self.interval);
                    }
                    // It will not be there at the next try either. The log is told of as broken; what comes after is signed.
                    Err(error @ StoreError::Corrupt { .. }) => {
                        errors::internal(&format!("no checkpoint of revision {due}: {error}"));
                        next = Some(due + self.interval);
                    }
                    Err(error) => {
                        // Once an outage, not once a try.
                        if !std::mem::replace(&mut failing, true) {
                            tracing::warn!(%error, revision = due, "could not store a checkpoint of the log; trying on");
                        }
                        sleep(RETRY_INTERVAL).await;
                    }
                },
            }
        }
    }

    /// Signs what the log was at a revision and stores it, unless that is done.
    async fn store_at(&self, revision: Revision) -> Result<(), StoreError> {
        let head = self.store.head().await?;
        if head.revision < revision {
            // A backup was restored: we shall hear of it.
            return Ok(());
        }
        if head.floor >= revision {
            tracing::info!(revision, floor = head.floor, "no checkpoint of what has been removed from the log");
            return Ok(());
        }
        let there = self.store.entry_at(revision).await?;
        let Some((_, hash)) = there else {
            let (row, problem) = (revision.to_string(), "it is not there".to_owned());
            return Err(StoreError::Corrupt { table: "audit_logs", column: "revision", row, problem });
        };
        let log_id = head.log_id;
        // Again, where a backup was restored that is older than the key.
        make_known(&*self.store, &self.key, log_id, &*self.clock).await?;
        let note = self.key.sign(Checkpoint { log_id, revision, hash, time: self.clock.now() });
        self.store.add_checkpoint(revision, &note.to_string()).await
    }
}

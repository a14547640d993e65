//! The follower: applies to the mirror what other replicas append.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Mirror;
use crate::domain::state::Head;
use crate::domain::time::Timestamp;
use crate::store::{FollowOutcome, Followed, Store, StoreError, with_timeout};

/// How long one look at the log may take.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(10);

/// How long loading the whole state may take.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

impl Mirror {
    /// Catches up with the database. Loads the whole state if the log does not continue from the mirror's
    /// head.
    ///
    /// # Errors
    /// The database's error. The mirror is then unchanged.
    pub async fn follow(&self, store: &dyn Store) -> Result<(), StoreError> {
        let _guard = self.following.lock().await;
        // Each repetition finds the mirror moved by the committer, so this makes progress whatever happens.
        loop {
            let asked = Instant::now();
            let mut missing = 0;
            let caught_up = match self.read(|state| *state.head()) {
                None => {
                    self.load(store).await?;
                    true
                }
                Some(known) => {
                    let Followed { outcome, closed_at } = with_timeout(FOLLOW_TIMEOUT, store.follow(&known)).await?;
                    if let FollowOutcome::Changed(head, _) = &outcome {
                        missing = head.revision - known.revision;
                    }
                    self.apply_outcome(store, &known, outcome, closed_at).await?
                }
            };
            self.lag.fetch_max(missing, Ordering::Relaxed);
            if caught_up {
                self.confirm(asked);
                return Ok(());
            }
            // The committer moved the mirror meanwhile, so these changes do not apply: follow again.
        }
    }

    /// Applies what happened to the log since `known`. Returns whether the mirror has caught up.
    async fn apply_outcome(
        &self,
        store: &dyn Store,
        known: &Head,
        outcome: FollowOutcome,
        closed_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let caught_up = match outcome {
            FollowOutcome::Unchanged => true,
            FollowOutcome::Changed(head, delta) => {
                self.apply(known, head, &delta);
                self.read(|state| state.head().revision >= head.revision).unwrap_or_default()
            }
            FollowOutcome::Diverged if self.read(|state| *state.head()) == Some(*known) => {
                tracing::warn!(
                    revision = known.revision,
                    "log diverged from the state in memory; loading the whole state"
                );
                self.load(store).await?;
                return Ok(true);
            }
            FollowOutcome::Diverged => false,
        };
        if caught_up {
            self.close_reached(closed_at);
        }
        Ok(caught_up)
    }

    /// Loads the whole state.
    async fn load(&self, store: &dyn Store) -> Result<(), StoreError> {
        self.replace(with_timeout(LOAD_TIMEOUT, store.load()).await?);
        Ok(())
    }
}

/// Follows the log at each notification of an append, and at least once per `every`, since notifications may be lost.
/// Runs until its future is dropped.
pub async fn follow(mirror: Arc<Mirror>, store: Arc<dyn Store>, every: Duration) {
    let mut notifications = store.notifications();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        tokio::select! {
            Some(()) = notifications.next() => {
                // One look answers all notifications so far.
                while let Some(Some(())) = notifications.next().now_or_never() {}
            }
            _ = ticks.tick() => {}
        }
        match mirror.follow(&*store).await {
            Ok(()) => is_failing = false,
            // Logged once for each outage.
            Err(error) if !is_failing => {
                is_failing = true;
                tracing::warn!(%error, "log not followed; retrying");
            }
            Err(_) => {}
        }
    }
}

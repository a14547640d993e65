//! The follower: takes over what other replicas append.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Mirror;
use crate::store::{FollowOutcome, Store, StoreError, with_timeout};

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
        loop {
            let asked = Instant::now();
            let mut missing = 0;
            let caught_up = match self.read(|state| *state.head()) {
                None => {
                    self.load(store).await?;
                    true
                }
                Some(known) => match with_timeout(FOLLOW_TIMEOUT, store.follow(&known)).await? {
                    FollowOutcome::Unchanged => true,
                    FollowOutcome::Changed(head, delta) => {
                        missing = head.revision - known.revision;
                        self.apply(&known, head, &delta);
                        self.read(|state| state.head().revision >= head.revision).unwrap_or_default()
                    }
                    FollowOutcome::Diverged if self.read(|state| *state.head()) == Some(known) => {
                        tracing::warn!(
                            revision = known.revision,
                            "log diverged from the state in memory; loading the whole state"
                        );
                        self.load(store).await?;
                        true
                    }
                    FollowOutcome::Diverged => false,
                },
            };
            self.lag.fetch_max(missing, Ordering::Relaxed);
            if caught_up {
                self.confirm(asked);
                return Ok(());
            }
            // The committer moved the mirror meanwhile, so these changes do not apply: follow again.
        }
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

//! Following the log that other replicas append to as well.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Mirror;
use crate::store::{Followed, Store, StoreError, in_time};

/// How long one look at the log may take ...
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// ... and how long reading everything anew.
const LOAD_PATIENCE: Duration = Duration::from_secs(120);

impl Mirror {
    /// Catches up with the database. One that is not the one we knew is read anew.
    ///
    /// # Errors
    /// What the database said. The mirror is then as it was.
    pub async fn follow(&self, store: &dyn Store) -> Result<(), StoreError> {
        let _turn = self.following.lock().await;
        loop {
            let asked = Instant::now();
            let mut missing = 0;
            let caught_up = match self.read(|state| *state.head()) {
                None => {
                    self.load(store).await?;
                    true
                }
                Some(known) => match in_time(LOOK_PATIENCE, store.follow(&known)).await? {
                    Followed::Current => true,
                    Followed::Changed(head, delta) => {
                        missing = head.revision - known.revision;
                        self.apply(&known, head, &delta);
                        self.read(|state| state.head().revision >= head.revision).unwrap_or_default()
                    }
                    Followed::Diverged if self.read(|state| *state.head()) == Some(known) => {
                        tracing::warn!(
                            revision = known.revision,
                            "the log does not go on from where it was known: reading everything anew"
                        );
                        self.load(store).await?;
                        true
                    }
                    Followed::Diverged => false,
                },
            };
            self.lag.fetch_max(missing, Ordering::Relaxed);
            // Otherwise a local append has moved the mirror meanwhile, and what was read does not fit on top.
            if caught_up {
                self.confirm(asked);
                return Ok(());
            }
        }
    }

    /// Reads everything anew.
    async fn load(&self, store: &dyn Store) -> Result<(), StoreError> {
        self.replace(in_time(LOAD_PATIENCE, store.load()).await?);
        Ok(())
    }
}

/// Follows the log of other replicas for as long as it is polled: at once at a hint of the database that somebody has
/// appended, and `every` so often in any case, since hints may be lost.
pub async fn follow(mirror: Arc<Mirror>, store: Arc<dyn Store>, every: Duration) {
    let mut hints = store.hints();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            Some(()) = hints.next() => {
                // One look answers all hints so far.
                while let Some(Some(())) = hints.next().now_or_never() {}
            }
            _ = ticks.tick() => {}
        }
        match mirror.follow(&*store).await {
            Ok(()) => failing = false,
            // Once an outage, not once a tick.
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "cannot follow the log; trying on");
            }
            Err(_) => {}
        }
    }
}

//! What the streams of flags wait for: changes, but not each by itself.

use std::sync::Arc;
use std::time::Duration;

use super::HEARTBEAT;
use crate::domain::text::FlagKey;
use crate::mirror::{Mirror, Subscription};
use tokio::time::{Instant, sleep_until, timeout};

/// Word of changes to flags, for a stream.
pub(super) struct Feed {
    subscription: Subscription,
    /// How long after one message the next may come: what changes meanwhile is told together.
    pace: Duration,
}

impl Feed {
    /// Subscribes to these flags, or to all. Read the state afterwards, not before, or what changes in between is lost.
    pub fn new(mirror: &Arc<Mirror>, keys: Option<Vec<FlagKey>>, pace: Duration) -> Self {
        Self { subscription: mirror.subscribe(keys), pace }
    }

    /// The subscription.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Waits until flags may have changed; `false` when nothing has for a long time. Called when a message has been
    /// taken, so that the first change after a rest is told at once.
    pub async fn changed(&self) -> bool {
        let rested = Instant::now() + self.pace;
        if timeout(HEARTBEAT, self.subscription.changed()).await.is_err() {
            return false;
        }
        sleep_until(rested).await;
        true
    }
}

//! What the streams wait for: changes, but not each by itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::domain::error::Error;
use crate::grpc::status::status;
use crate::mirror::{Mirror, Subscription};

/// How long a stream waits for a change before it says that it is still there.
const SILENCE: Duration = Duration::from_secs(20);

/// Word of changes to any flag, for a stream.
pub(super) struct Feed {
    subscription: Subscription,
    /// How long after one message the next may come: what changes meanwhile is told together.
    pace: Duration,
    shutdown: CancellationToken,
}

impl Feed {
    /// Subscribes. Read the state afterwards, not before, or what changes in between is lost.
    pub fn new(mirror: &Arc<Mirror>, pace: Duration, shutdown: CancellationToken) -> Self {
        Self { subscription: mirror.subscribe(None), pace, shutdown }
    }

    /// The subscription.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Waits until flags may have changed; `false` when nothing has for a long time. Called when a message has been
    /// taken, so that the first change after a rest is told at once.
    ///
    /// # Errors
    /// When the server stops. A stream that simply ended would leave its client with what it knows, for good.
    pub async fn changed(&self) -> Result<bool, Status> {
        let rested = Instant::now() + self.pace;
        tokio::select! {
            () = self.subscription.changed() => {}
            () = sleep(SILENCE) => return Ok(false),
            () = self.shutdown.cancelled() => return Err(status(Error::Draining)),
        }
        tokio::select! {
            () = sleep_until(rested) => Ok(true),
            () = self.shutdown.cancelled() => Err(status(Error::Draining)),
        }
    }
}

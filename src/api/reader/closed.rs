//! Reads as of a time: answered once the answer can no longer change.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::Status;

use super::StateReader;
use crate::domain::error::{Error, Violation};
use crate::domain::time::Timestamp;

/// How far ahead of the present a time may lie, in seconds. Clocks of callers differ a little, so the server waits for it.
const MAX_SECONDS_AHEAD: i64 = 5;

/// How long a read waits for its time to be closed. At the deadline of its call, `middleware/admit` answers.
const CLOSED_TIMEOUT: Duration = Duration::from_secs(10);

impl StateReader {
    /// Waits until the mirror has all entries up to `time`, and no replica can add one. What is read about this time afterwards is
    /// the same for ever, on every replica. A time before that of the last entry costs nothing.
    pub(in crate::api) async fn until_closed(&self, field: &str, time: Timestamp) -> Result<(), Status> {
        if self.mirror.is_closed(time) {
            return Ok(());
        }
        let now = self.clock.now();
        if time > now.plus_seconds(MAX_SECONDS_AHEAD) {
            let rule =
                format!("must not be more than {MAX_SECONDS_AHEAD} seconds ahead of the server: it is {now} now");
            return Err(Error::Invalid(vec![Violation { field: field.to_owned(), rule }]).into());
        }
        if !self.mirror.is_fresh() {
            return Err(Error::Stale.into());
        }
        let closed = timeout(CLOSED_TIMEOUT, async {
            // Repeated only if the clock was set back meanwhile.
            while let Some(ahead) = Some(self.clock.now().until(time)).filter(|ahead| !ahead.is_zero()) {
                sleep(ahead).await;
            }
            self.mirror.until_closed(time, self.clock.now()).await
        });
        match closed.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::DatabaseUnavailable.into()),
            Err(_) => Err(Error::Stale.into()),
        }
    }
}

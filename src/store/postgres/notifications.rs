//! Notifications of appends: each append sends one, and every server listens.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::postgres::PgListener;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::connect::Connector;
use super::session::Purpose;

/// The channel. Each database of a PostgreSQL server has its own channels.
pub(super) const CHANNEL: &str = "toggled";

/// How long to wait before listening again after the connection was lost.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// After how long without a notification the connection is probed. A lost connection can stay silent.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// How long to wait for the answer to a probe.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An item for each append of another server, and one whenever listening begins, because earlier notifications were missed.
pub(super) fn notifications(connector: Connector, instance: Uuid) -> BoxStream<'static, ()> {
    let ours = instance.to_string();
    async_stream::stream! {
        loop {
            match listen(&connector).await {
                Ok(mut listener) => {
                    yield ();
                    loop {
                        match timeout(PROBE_INTERVAL, listener.try_recv()).await {
                            Ok(Ok(Some(notification))) if notification.payload() == ours => {}
                            Ok(Ok(Some(_))) => yield (),
                            Err(_) if is_alive(&mut listener).await => {}
                            _ => break,
                        }
                    }
                }
                // Polling still finds appends, and reports a lost database.
                Err(error) => tracing::debug!(%error, "listening for notifications failed"),
            }
            sleep(RETRY_DELAY).await;
        }
    }
    .boxed()
}

async fn listen(connector: &Connector) -> Result<PgListener, sqlx::Error> {
    // A new pool of one each time, so that a silent connection blocks nothing else.
    let mut listener = PgListener::connect_with(&connector.pool(Purpose::Querying, 1)).await?;
    // The caller reconnects.
    listener.eager_reconnect(false);
    timeout(ANSWER_TIMEOUT, listener.listen(CHANNEL)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    Ok(listener)
}

async fn is_alive(listener: &mut PgListener) -> bool {
    let answer = timeout(ANSWER_TIMEOUT, sqlx::query("SELECT 1").execute(listener)).await;
    answer.is_ok_and(|answer| answer.is_ok())
}

//! Hints of appends: each append notifies, and every server listens.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// What is notified and listened on; a database has its own channels.
pub(super) const CHANNEL: &str = "toggled";

/// How long to wait before listening again when the connection was lost.
const PAUSE: Duration = Duration::from_millis(500);

/// After how long without a word the connection is asked whether it is still there: it may be gone without a word, too.
const SILENCE: Duration = Duration::from_secs(30);

/// How long it may take to connect, or to say that it is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// A hint for each append but our own, and whenever listening begins: what was appended before went unheard.
pub(super) fn notifications(options: PgConnectOptions, instance: Uuid) -> BoxStream<'static, ()> {
    let ours = instance.to_string();
    async_stream::stream! {
        loop {
            match listen(&options).await {
                Ok(mut listener) => {
                    yield ();
                    loop {
                        match timeout(SILENCE, listener.try_recv()).await {
                            Ok(Ok(Some(heard))) if heard.payload() == ours => {}
                            Ok(Ok(Some(_))) => yield (),
                            Err(_) if is_there(&mut listener).await => {}
                            _ => break,
                        }
                    }
                }
                // Polling finds what is appended, and whether the database is there.
                Err(error) => tracing::debug!(%error, "cannot listen to the appends of others; trying on"),
            }
            sleep(PAUSE).await;
        }
    }
    .boxed()
}

async fn listen(options: &PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    // A pool of one, and a new one each time: a connection that says nothing any more holds up nobody else.
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    // A connection that was lost is told, and made again above.
    listener.eager_reconnect(false);
    timeout(PATIENCE, listener.listen(CHANNEL)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    Ok(listener)
}

async fn is_there(listener: &mut PgListener) -> bool {
    let asked = timeout(PATIENCE, sqlx::query("SELECT 1").execute(listener)).await;
    asked.is_ok_and(|answered| answered.is_ok())
}

//! Hints of appends: each append notifies, and every server listens.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use sqlx::postgres::{PgListener, PgPool};
use uuid::Uuid;

/// What is notified and listened on; a database has its own channels.
macro_rules! channel {
    () => {
        "toggled"
    };
}
pub(super) use channel;

/// How long to wait before listening again when the connection was lost.
const PAUSE: Duration = Duration::from_millis(500);

/// A hint for each append but our own, and whenever listening begins: what was appended before went unheard.
pub(super) fn hints(pool: PgPool, instance: Uuid) -> BoxStream<'static, ()> {
    let ours = instance.to_string();
    async_stream::stream! {
        loop {
            match listen(&pool).await {
                Ok(mut listener) => {
                    yield ();
                    while let Ok(Some(heard)) = listener.try_recv().await {
                        if heard.payload() != ours {
                            yield ();
                        }
                    }
                }
                // Polling finds what is appended, and whether the database is there.
                Err(error) => tracing::debug!(%error, "cannot listen to the appends of others; trying on"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    .boxed()
}

async fn listen(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    // A connection that was lost is told, and made again above.
    listener.eager_reconnect(false);
    listener.listen(channel!()).await?;
    Ok(listener)
}

//! Queries of the log for callers: each has its turn and a connection, and is stopped in the database when its call ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Pool;
use sqlx::pool::PoolConnection;

use super::StoreError;
use super::backend::Backend;
use super::query_throttle::{QueryThrottle, Turn};

/// A query of the log in progress. If it is dropped before [`end`](Self::end), because the call was cancelled or its deadline has passed, the
/// database stops working on it.
pub(super) struct LogQuery<'s, B: Backend> {
    connection: PoolConnection<B>,
    is_abandoned: Arc<AtomicBool>,
    is_ended: bool,
    _turn: Turn<'s>,
}

impl<'s, B: Backend> LogQuery<'s, B> {
    /// Waits for a turn and a connection.
    pub async fn begin(pool: &Pool<B>, throttle: &'s QueryThrottle) -> Result<Self, StoreError> {
        let turn = throttle.turn().await;
        let mut connection = pool.acquire().await.map_err(B::classify)?;
        let is_abandoned = Arc::default();
        B::stop_when(&mut connection, Arc::clone(&is_abandoned)).await.map_err(B::classify)?;
        Ok(Self { connection, is_abandoned, is_ended: false, _turn: turn })
    }

    pub fn connection(&mut self) -> &mut B::Connection {
        &mut self.connection
    }

    /// Returns the connection to its pool.
    pub fn end(mut self) {
        self.is_ended = true;
    }
}

impl<B: Backend> Drop for LogQuery<'_, B> {
    fn drop(&mut self) {
        if !self.is_ended {
            self.is_abandoned.store(true, Ordering::Relaxed);
            B::abandon(&mut self.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sqlx::Sqlite;
    use sqlx::sqlite::SqlitePoolOptions;
    use tokio::time::timeout;

    use super::*;
    use crate::store::sql::Sql;

    async fn run(pool: &Pool<Sqlite>, throttle: &QueryThrottle, sql: &str) -> Result<i64, StoreError> {
        let mut log_query = LogQuery::begin(pool, throttle).await?;
        let answer = Sql::<Sqlite>::new(sql).number_on(log_query.connection()).await;
        log_query.end();
        answer
    }

    /// The only connection is free again, although the statement would never have ended.
    #[tokio::test]
    async fn abandoned_query_ends_in_sqlite() {
        let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await.unwrap();
        let throttle = QueryThrottle::default();
        let endless =
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n WHERE n < 0";
        assert!(timeout(Duration::from_millis(50), run(&pool, &throttle, endless)).await.is_err());
        let next = timeout(Duration::from_secs(20), run(&pool, &throttle, "SELECT 7")).await;
        assert_eq!(next.expect("the connection is not free").unwrap(), 7);
    }
}

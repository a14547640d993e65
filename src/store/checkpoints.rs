//! Checkpoints and the keys that have signed them, written once for both databases.

use sqlx::{AssertSqlSafe, ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Pool, Type};

use super::backend::Backend;
use super::rows::{Time, read_all, select};
use super::{StoreError, StoredCheckpoint};
use crate::domain::Revision;
use crate::domain::filter::Range;
use crate::domain::time::Timestamp;

/// The checkpoints that are kept in a database.
pub(super) struct Checkpoints<'p, DB: Database> {
    /// The connections to use.
    pub pool: &'p Pool<DB>,
    /// What an error of this database means.
    pub read: fn(sqlx::Error) -> StoreError,
}

impl<'p, DB> Checkpoints<'p, DB>
where
    DB: Backend,
    DB::Arguments: IntoArguments<DB>,
    &'p Pool<DB>: Executor<'p, Database = DB>,
    usize: ColumnIndex<DB::Row>,
    for<'v> i64: Encode<'v, DB> + Type<DB>,
    for<'v> Time: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    for<'v> String: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
{
    /// See [`super::Store::add_checkpoint`].
    pub async fn add(&self, revision: Revision, note: &str) -> Result<(), StoreError> {
        // Two who add one at the same time do not see each other's; SQLite, though, knows a conflict only after the trigger
        // that refuses to put another in its place.
        let sql = "INSERT INTO checkpoints (revision, note) SELECT $1, $2
            WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE revision = $1) ON CONFLICT DO NOTHING";
        let query = sqlx::query(sql).bind(revision).bind(note.to_owned());
        query.execute(self.pool).await.map(drop).map_err(self.read)
    }

    /// See [`super::Store::checkpoints`].
    pub async fn list(&self, range: Range, limit: i64) -> Result<Vec<StoredCheckpoint>, StoreError> {
        let sql =
            format!("{} WHERE revision BETWEEN $1 AND $2 ORDER BY revision LIMIT $3", select::<StoredCheckpoint>());
        let query = sqlx::query(AssertSqlSafe(sql)).bind(range.first).bind(range.last).bind(limit);
        read_all::<DB, _, _>(query.fetch(self.pool)).await
    }

    /// See [`super::Store::last_checkpoint`].
    pub async fn last(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        let sql = format!("{} ORDER BY revision DESC LIMIT 1", select::<StoredCheckpoint>());
        Ok(read_all::<DB, _, _>(sqlx::query(AssertSqlSafe(sql)).fetch(self.pool)).await?.pop())
    }

    /// See [`super::Store::add_checkpoint_key`].
    pub async fn add_key(&self, key: &str, at: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT INTO checkpoint_keys (key, added_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        let query = sqlx::query(sql).bind(key.to_owned()).bind(Time(at));
        query.execute(self.pool).await.map(drop).map_err(self.read)
    }

    /// See [`super::Store::checkpoint_keys`].
    pub async fn keys(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let sql = "SELECT key, added_at FROM checkpoint_keys ORDER BY added_at, key";
        let rows: Vec<(String, Time)> = sqlx::query_as(sql).fetch_all(self.pool).await.map_err(self.read)?;
        Ok(rows.into_iter().map(|(key, at)| (key, at.0)).collect())
    }
}

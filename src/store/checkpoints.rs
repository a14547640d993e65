//! Checkpoints and the keys that signed them, written once for both databases.

use sqlx::Pool;

use super::backend::Backend;
use super::rows::{Time, select};
use super::sql::Sql;
use super::{StoreError, StoredCheckpoint};
use crate::domain::Revision;
use crate::domain::filter::Range;
use crate::domain::time::Timestamp;

/// The checkpoints of a database.
pub(super) struct Checkpoints<'p, B: Backend>(pub &'p Pool<B>);

impl<B: Backend> Checkpoints<'_, B> {
    /// See [`super::Store::add_checkpoint`].
    pub async fn add(&self, revision: Revision, note: &str) -> Result<(), StoreError> {
        // Two servers that add one at the same time do not see each other's, hence ON CONFLICT. On SQLite the trigger that
        // refuses a replacement fires before the conflict is found, hence NOT EXISTS.
        let sql = "INSERT INTO checkpoints (revision, note) SELECT $1, $2
            WHERE NOT EXISTS (SELECT 1 FROM checkpoints WHERE revision = $1) ON CONFLICT DO NOTHING";
        Sql::new(sql).bind(revision).bind(note).execute(self.0).await
    }

    /// See [`super::Store::checkpoints`].
    pub async fn list(&self, range: Range, limit: i64) -> Result<Vec<StoredCheckpoint>, StoreError> {
        let sql =
            format!("{} WHERE revision BETWEEN $1 AND $2 ORDER BY revision LIMIT $3", select::<StoredCheckpoint>());
        Sql::new(sql).bind(range.first).bind(range.last).bind(limit).rows(self.0).await
    }

    /// See [`super::Store::last_checkpoint`].
    pub async fn last(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        Sql::new(format!("{} ORDER BY revision DESC LIMIT 1", select::<StoredCheckpoint>())).row(self.0).await
    }

    /// See [`super::Store::add_checkpoint_key`].
    pub async fn add_key(&self, key: &str, at: Timestamp) -> Result<(), StoreError> {
        let sql = "INSERT INTO checkpoint_keys (key, added_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        Sql::new(sql).bind(key).bind(Time(at)).execute(self.0).await
    }

    /// See [`super::Store::checkpoint_keys`].
    pub async fn keys(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let sql = Sql::new("SELECT key, added_at FROM checkpoint_keys ORDER BY added_at, key");
        sql.values(self.0, |row| Ok((B::get(row, 0)?, B::get::<Time>(row, 1)?.0))).await
    }
}

//! Counting the entries that pass a filter, written once for both databases.
//!
//! Walking a million entries takes seconds when they are not in the database's memory. So the log is counted ahead, in
//! blocks: except for the object, each field of a filter has few values, so a block needs only a few rows for each user.
//! A count adds up the blocks that lie in its range, and walks only the entries at both ends.

use std::ops::RangeInclusive;

use sqlx::Pool;

use super::StoreError;
use super::audit;
use super::backend::Backend;
use super::sql::Sql;
use crate::domain::Revision;
use crate::domain::filter::{Filter, Range};
use crate::domain::state::Head;

/// Entries per block. The counts are stored: another number takes a migration.
const BLOCK: Revision = 16_384;

/// The counts of a database.
pub(super) struct Counts<'p, B: Backend>(pub &'p Pool<B>);

impl<B: Backend> Counts<'_, B> {
    /// See [`super::Store::count_ahead`].
    pub async fn ahead(&self, head: &Head) -> Result<bool, StoreError> {
        let sql = "SELECT max(block) FROM audit_log_counts";
        let last: Option<Option<i64>> = Sql::new(sql).first_value(self.0).await?;
        let block = next(last.flatten(), head.floor);
        if revisions(&(block..=block)).last > head.revision {
            return Ok(false);
        }
        // The floor is checked in the same statement, so that the block is complete. The order keeps two servers that count
        // the same block from waiting for each other.
        let sql = "INSERT INTO audit_log_counts (block, user_id, user_email, action_type, entity_type, entries)
            SELECT $1, user_id, user_email, action_type, entity_type, count(*) FROM audit_logs
            WHERE revision >= $2 AND revision <= $3 AND (SELECT floor FROM log_head) < $2
            GROUP BY user_id, user_email, action_type, entity_type
            ORDER BY user_email, action_type, entity_type, user_id
            ON CONFLICT DO NOTHING RETURNING block";
        let Range { first, last } = revisions(&(block..=block));
        let written = Sql::new(sql).bind(block).bind(first).bind(last).first_value::<i64>(self.0).await?;
        Ok(written.is_some())
    }

    /// Deletes the counts of blocks that were trimmed, in part or whole. They are not used any more.
    pub async fn forget_trimmed(&self) -> Result<(), StoreError> {
        let sql = "DELETE FROM audit_log_counts WHERE block < ((SELECT floor FROM log_head) + $1 - 1) / $1";
        Sql::new(sql).bind(BLOCK).execute(self.0).await
    }

    /// See [`super::Store::count`].
    pub async fn count(&self, filter: &Filter, range: Range) -> Result<i64, StoreError> {
        let blocks = match filter.entity_id {
            // An object has an index of its own, and few entries.
            Some(_) => None,
            None => self.counted(within(range)).await?,
        };
        let Some(blocks) = blocks else { return self.walk(filter, range).await };
        let counted = revisions(&blocks);
        let before = self.walk(filter, Range { last: counted.first - 1, ..range }).await?;
        let after = self.walk(filter, Range { first: counted.last + 1, ..range }).await?;
        Ok(before + self.add_up(filter, &blocks).await? + after)
    }

    /// The counted blocks among these. They have no gap.
    async fn counted(&self, blocks: RangeInclusive<i64>) -> Result<Option<RangeInclusive<i64>>, StoreError> {
        if blocks.is_empty() {
            return Ok(None);
        }
        let sql = "SELECT (SELECT min(block) FROM audit_log_counts WHERE block >= $1),
            (SELECT max(block) FROM audit_log_counts WHERE block <= $2)";
        let query = Sql::new(sql).bind(*blocks.start()).bind(*blocks.end());
        let bounds = query.values(self.0, |row| Ok((B::get::<Option<i64>>(row, 0)?, B::get::<Option<i64>>(row, 1)?)));
        let counted = bounds.await?.into_iter().find_map(|(first, last)| Some(first?..=last?));
        Ok(counted.filter(|counted| !counted.is_empty()))
    }

    async fn add_up(&self, filter: &Filter, blocks: &RangeInclusive<i64>) -> Result<i64, StoreError> {
        let mut sql =
            Sql::new("SELECT CAST(coalesce(sum(entries), 0) AS BIGINT) FROM audit_log_counts WHERE block >= ");
        sql.push_value(*blocks.start()).push(" AND block <= ").push_value(*blocks.end());
        if let Some(kind) = filter.entity_type {
            sql.push(" AND entity_type = ").push_value(kind.as_str());
        }
        audit::push_user_and_action(&mut sql, filter);
        self.number(sql).await
    }

    async fn walk(&self, filter: &Filter, range: Range) -> Result<i64, StoreError> {
        if range.is_empty() {
            return Ok(0);
        }
        self.number(audit::count(filter, range)).await
    }

    async fn number(&self, sql: Sql<B>) -> Result<i64, StoreError> {
        sql.first_value(self.0).await?.ok_or_else(|| B::read_error(sqlx::Error::RowNotFound))
    }
}

/// The block to count after the last counted one. A log that begins after `floor` starts with its first complete block.
fn next(last: Option<i64>, floor: Revision) -> i64 {
    let whole = (floor + BLOCK - 1).div_euclid(BLOCK);
    last.map_or(whole, |last| whole.max(last + 1))
}

/// The revisions of these blocks.
fn revisions(blocks: &RangeInclusive<i64>) -> Range {
    Range { first: blocks.start() * BLOCK + 1, last: (blocks.end() + 1) * BLOCK }
}

/// The blocks that lie completely in a range.
fn within(range: Range) -> RangeInclusive<i64> {
    let first = (range.first.max(1) - 1 + BLOCK - 1).div_euclid(BLOCK);
    first..=range.last.div_euclid(BLOCK) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cut_by_a_range_are_not_used() {
        for (first, last, blocks) in [
            (1, BLOCK, 0..=0),
            (-7, BLOCK, 0..=0),
            (2, 2 * BLOCK, 1..=1),
            (1, 2 * BLOCK - 1, 0..=0),
            (BLOCK + 1, 3 * BLOCK + 5, 1..=2),
            (BLOCK, 3 * BLOCK - 1, 1..=1),
        ] {
            assert_eq!(within(Range { first, last }), blocks, "{first} to {last}");
            let Range { first: begin, last: end } = revisions(&blocks);
            assert!(begin >= first && end <= last, "{blocks:?} are not in {first} to {last}");
        }
        for (first, last) in [(1, BLOCK - 1), (2, BLOCK), (2, 2 * BLOCK - 1), (BLOCK, BLOCK + 5), (9, 8), (1, 0)] {
            assert!(within(Range { first, last }).is_empty(), "{first} to {last}");
        }
    }

    #[test]
    fn next_block_is_complete_and_follows_the_last() {
        assert_eq!(next(None, 0), 0);
        assert_eq!(next(Some(4), 0), 5);
        for (floor, whole) in [(1, 1), (BLOCK, 1), (BLOCK + 1, 2), (10 * BLOCK - 1, 10)] {
            assert_eq!(next(None, floor), whole);
            assert_eq!(next(Some(0), floor), whole);
            assert_eq!(next(Some(20), floor), 21);
        }
    }
}

//! How many entries pass a filter, written once for both databases.
//!
//! Walking a million entries takes a database seconds when they are not in its memory. So the log is counted ahead, in blocks:
//! what an entry can be filtered by, but for its object, has few values, and a block needs a few rows for everybody who did
//! something in it. A count adds up the blocks that lie in its range, and walks no more than what is left at both ends.

use std::ops::RangeInclusive;

use sqlx::{ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Pool, QueryBuilder, Type};
use uuid::Uuid;

use super::StoreError;
use super::audit::{self, Question};
use crate::domain::Revision;
use crate::domain::filter::{Filter, Range};
use crate::domain::state::Head;

/// Entries of a block. What was counted lies in the database: another number takes a migration.
const BLOCK: Revision = 16_384;

/// The counts that are kept in a database, and the log that they are of.
pub(super) struct Counts<'p, DB: Database> {
    /// The connections to use.
    pub pool: &'p Pool<DB>,
    /// What an error of this database means.
    pub read: fn(sqlx::Error) -> StoreError,
}

impl<'p, DB> Counts<'p, DB>
where
    DB: Database,
    DB::Arguments: IntoArguments<DB>,
    &'p Pool<DB>: Executor<'p, Database = DB>,
    usize: ColumnIndex<DB::Row>,
    for<'v> i64: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    for<'v> Option<i64>: Decode<'v, DB> + Type<DB>,
    for<'v> Uuid: Encode<'v, DB> + Type<DB>,
    for<'v> String: Encode<'v, DB> + Type<DB>,
    for<'v> &'static str: Encode<'v, DB> + Type<DB>,
{
    /// See [`super::Store::count_ahead`].
    pub async fn ahead(&self, head: &Head) -> Result<bool, StoreError> {
        let sql = "SELECT max(block) FROM audit_log_counts";
        let last: Option<i64> = sqlx::query_scalar(sql).fetch_one(self.pool).await.map_err(self.read)?;
        let block = next(last, head.floor);
        if revisions(&(block..=block)).last > head.revision {
            return Ok(false);
        }
        // Asked for the floor once more: of one moment, and so of a block that is whole. In order, so that nobody who counts the
        // same block waits for us while we wait for them.
        let sql = "INSERT INTO audit_log_counts (block, user_id, user_email, action_type, entity_type, entries)
            SELECT $1, user_id, user_email, action_type, entity_type, count(*) FROM audit_logs
            WHERE revision >= $2 AND revision <= $3 AND (SELECT floor FROM log_head) < $2
            GROUP BY user_id, user_email, action_type, entity_type
            ORDER BY user_email, action_type, entity_type, user_id
            ON CONFLICT DO NOTHING RETURNING block";
        let Range { first, last } = revisions(&(block..=block));
        let query = sqlx::query_scalar(sql).bind(block).bind(first).bind(last);
        let written: Vec<i64> = query.fetch_all(self.pool).await.map_err(self.read)?;
        Ok(!written.is_empty())
    }

    /// Forgets the counts of blocks that were trimmed, in part or whole: nobody asks for them any more.
    pub async fn forget_trimmed(&self) -> Result<(), StoreError> {
        let sql = "DELETE FROM audit_log_counts WHERE block < ((SELECT floor FROM log_head) + $1 - 1) / $1";
        sqlx::query(sql).bind(BLOCK).execute(self.pool).await.map(drop).map_err(self.read)
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

    /// Those of some blocks that were counted. Nobody leaves a gap in them.
    async fn counted(&self, blocks: RangeInclusive<i64>) -> Result<Option<RangeInclusive<i64>>, StoreError> {
        if blocks.is_empty() {
            return Ok(None);
        }
        let sql = "SELECT (SELECT min(block) FROM audit_log_counts WHERE block >= $1),
            (SELECT max(block) FROM audit_log_counts WHERE block <= $2)";
        let query = sqlx::query_as(sql).bind(*blocks.start()).bind(*blocks.end());
        let (first, last): (Option<i64>, Option<i64>) = query.fetch_one(self.pool).await.map_err(self.read)?;
        Ok(first.zip(last).map(|(first, last)| first..=last).filter(|counted| !counted.is_empty()))
    }

    async fn add_up(&self, filter: &Filter, blocks: &RangeInclusive<i64>) -> Result<i64, StoreError> {
        let mut sql =
            QueryBuilder::new("SELECT CAST(coalesce(sum(entries), 0) AS BIGINT) FROM audit_log_counts WHERE block >= ");
        sql.push_bind(*blocks.start()).push(" AND block <= ").push_bind(*blocks.end());
        if let Some(kind) = filter.entity_type {
            sql.push(" AND entity_type = ").push_bind(kind.as_str());
        }
        audit::by_whom_and_what(&mut sql, filter);
        sql.build_query_scalar().fetch_one(self.pool).await.map_err(self.read)
    }

    async fn walk(&self, filter: &Filter, range: Range) -> Result<i64, StoreError> {
        if range.is_empty() {
            return Ok(0);
        }
        let mut sql = audit::sql(&Question::Count(filter, range));
        sql.build_query_scalar().fetch_one(self.pool).await.map_err(self.read)
    }
}

/// The block to count after the last that was: of a log that begins after `floor`, the first that is whole.
fn next(last: Option<i64>, floor: Revision) -> i64 {
    let whole = (floor + BLOCK - 1).div_euclid(BLOCK);
    last.map_or(whole, |last| whole.max(last + 1))
}

/// The revisions of some blocks.
fn revisions(blocks: &RangeInclusive<i64>) -> Range {
    Range { first: blocks.start() * BLOCK + 1, last: (blocks.end() + 1) * BLOCK }
}

/// The blocks that lie whole in a range.
fn within(range: Range) -> RangeInclusive<i64> {
    let first = (range.first.max(1) - 1 + BLOCK - 1).div_euclid(BLOCK);
    first..=range.last.div_euclid(BLOCK) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_lie_whole_in_a_range_count() {
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
            assert!(begin >= first && end <= last, "{blocks:?} lie in {first} to {last}");
        }
        for (first, last) in [(1, BLOCK - 1), (2, BLOCK), (2, 2 * BLOCK - 1), (BLOCK, BLOCK + 5), (9, 8), (1, 0)] {
            assert!(within(Range { first, last }).is_empty(), "{first} to {last}");
        }
    }

    #[test]
    fn the_next_block_is_whole_and_comes_after_the_last() {
        assert_eq!(next(None, 0), 0);
        assert_eq!(next(Some(4), 0), 5);
        for (floor, whole) in [(1, 1), (BLOCK, 1), (BLOCK + 1, 2), (10 * BLOCK - 1, 10)] {
            assert_eq!(next(None, floor), whole);
            assert_eq!(next(Some(0), floor), whole);
            assert_eq!(next(Some(20), floor), 21);
        }
    }
}

//! Counting the entries that pass a filter, written once for both databases.
//!
//! Walking a million entries takes seconds when they are not in the database's memory. So the log is counted ahead, in blocks. Except
//! for the object, each field of a filter has few values. So a block needs only a few rows for each user, and a few for all users
//! together, in each environment and in all of them.
//!
//! A count adds up the blocks that lie in its range, and walks only the entries at both ends. The same counts say in which blocks a
//! page's entries are (`pages.rs`).

use std::ops::RangeInclusive;

use super::backend::Backend;
use super::sql::Sql;
use super::{Order, StoreError, audit};
use crate::domain::Revision;
use crate::domain::filter::{Filter, Range};
use crate::domain::state::Head;

/// Entries per block. The counts are stored, and on SQLite an index is made of blocks: another number takes a migration.
pub(super) const BLOCK: Revision = 16_384;

/// An object with fewer entries than this in a range is walked without looking at the counts.
const FEW_ENTRIES: i64 = 4_096;

/// The counts of a database, on one connection.
pub(super) struct Counts<'c, B: Backend>(pub &'c mut B::Connection);

impl<B: Backend> Counts<'_, B> {
    /// See [`super::Store::count_ahead`].
    pub async fn ahead(&mut self, head: &Head) -> Result<bool, StoreError> {
        let sql = "SELECT max(block) FROM audit_log_counts";
        let last: Option<Option<i64>> = Sql::<B>::new(sql).first_value_on(self.0).await?;
        let block = next_block(last.flatten(), head.floor);
        if revisions(&(block..=block)).last > head.revision {
            return Ok(false);
        }
        // The floor is checked in the same statement, so that the block is complete. The order keeps two servers that count
        // the same block from waiting for each other.
        let without_reason = audit::WITHOUT_REASON;
        let sql = format!(
            "WITH counted AS MATERIALIZED (
                SELECT user_id, user_email, action_type, entity_type, environment, count(*) AS entries,
                    sum(CASE WHEN {without_reason} THEN 1 ELSE 0 END) AS without_reason
                FROM audit_logs WHERE revision >= $2 AND revision <= $3 AND (SELECT floor FROM log_head) < $2
                GROUP BY user_id, user_email, action_type, entity_type, environment
            ), of_users AS MATERIALIZED (
                SELECT user_id, user_email, action_type, entity_type, environment, entries, without_reason FROM counted
                WHERE environment IS NOT NULL
                UNION ALL
                SELECT user_id, user_email, action_type, entity_type, '', sum(entries), sum(without_reason) FROM counted
                GROUP BY user_id, user_email, action_type, entity_type
            )
            INSERT INTO audit_log_counts (block, user_id, user_email, action_type, entity_type, environment, entries, without_reason)
            SELECT $1, user_id, user_email, action_type, entity_type, environment, entries, without_reason FROM (
                SELECT user_id, user_email, action_type, entity_type, environment, entries, without_reason FROM of_users
                UNION ALL
                SELECT NULL, '', action_type, entity_type, environment, sum(entries), sum(without_reason) FROM of_users
                GROUP BY action_type, entity_type, environment
            ) AS counts
            ORDER BY user_email, environment, action_type, entity_type, user_id
            ON CONFLICT DO NOTHING RETURNING block"
        );
        let Range { first, last } = revisions(&(block..=block));
        let written = Sql::<B>::new(sql).bind(block).bind(first).bind(last).first_value_on::<i64>(self.0).await?;
        Ok(written.is_some())
    }

    /// Deletes the counts of blocks that were trimmed, in part or whole. They are not used any more.
    pub async fn forget_trimmed(&mut self) -> Result<(), StoreError> {
        let sql = "DELETE FROM audit_log_counts WHERE block < ((SELECT floor FROM log_head) + $1 - 1) / $1";
        Sql::<B>::new(sql).bind(BLOCK).values_on(self.0, |_| Ok(())).await.map(drop)
    }

    /// See [`super::Store::count`].
    pub async fn count(&mut self, filter: &Filter, range: Range) -> Result<i64, StoreError> {
        let Some(Counted { before, blocks, after }) = self.counted(filter, range).await? else {
            return self.walk(filter, range).await;
        };
        let at_ends = self.walk(filter, before).await? + self.walk(filter, after).await?;
        if !filter.is_about_objects() {
            return Ok(at_ends + self.add_up(filter, &blocks).await?);
        }
        let mut sum = at_ends;
        for run in runs(self.by_block(filter, &blocks, Order::OldestFirst).await?, i64::MAX) {
            sum += self.walk(filter, revisions(&run)).await?;
        }
        Ok(sum)
    }

    /// The counted blocks in a range that are of use for this filter. `None` if walking the range is as good.
    pub async fn counted(&mut self, filter: &Filter, range: Range) -> Result<Option<Counted>, StoreError> {
        let blocks = blocks_within(range);
        if blocks.is_empty() || filter.is_empty() || self.is_small_object(filter, range).await? {
            return Ok(None);
        }
        // The counted blocks have no gap, so the first and the last are enough.
        let sql = "SELECT (SELECT min(block) FROM audit_log_counts WHERE block >= $1),
            (SELECT max(block) FROM audit_log_counts WHERE block <= $2)";
        let query = Sql::<B>::new(sql).bind(*blocks.start()).bind(*blocks.end());
        let bounds =
            query.values_on(self.0, |row| Ok((B::get::<Option<i64>>(row, 0)?, B::get::<Option<i64>>(row, 1)?)));
        let counted = bounds.await?.into_iter().find_map(|(first, last)| Some(first?..=last?));
        Ok(counted.filter(|counted| !counted.is_empty()).map(|blocks| {
            let counted = revisions(&blocks);
            Counted {
                before: Range { last: counted.first - 1, ..range },
                after: Range { first: counted.last + 1, ..range },
                blocks,
            }
        }))
    }

    /// Whether the filter is about an object, and either has no other condition or the object has few entries. Objects are not
    /// counted. The environment is no other condition, since all entries of an object are about the same one.
    async fn is_small_object(&mut self, filter: &Filter, range: Range) -> Result<bool, StoreError> {
        if filter.entity_id.is_none() {
            return Ok(false);
        }
        let object = Filter { entity_type: filter.entity_type, entity_id: filter.entity_id, ..Filter::default() };
        if object == (Filter { environment: None, ..filter.clone() }) {
            return Ok(true);
        }
        let entries = audit::count_up_to::<B>(&object, range, FEW_ENTRIES).number_on(self.0).await?;
        Ok(entries < FEW_ENTRIES)
    }

    /// The blocks among these that have entries which pass the filter, in this order, with their number of entries. Ignores the
    /// filter's object and key.
    pub async fn by_block(
        &mut self,
        filter: &Filter,
        blocks: &RangeInclusive<i64>,
        order: Order,
    ) -> Result<Vec<(i64, i64)>, StoreError> {
        let column = counted_column(filter);
        let mut sql = Sql::<B>::new(format!("SELECT block, CAST(sum({column}) AS BIGINT) FROM audit_log_counts"));
        push_conditions(&mut sql, filter, blocks);
        sql.push(match order {
            Order::NewestFirst => " GROUP BY block ORDER BY block DESC",
            Order::OldestFirst => " GROUP BY block ORDER BY block",
        });
        sql.values_on(self.0, |row| Ok((B::get(row, 0)?, B::get(row, 1)?))).await
    }

    async fn add_up(&mut self, filter: &Filter, blocks: &RangeInclusive<i64>) -> Result<i64, StoreError> {
        let column = counted_column(filter);
        let mut sql = Sql::<B>::new(format!("SELECT CAST(coalesce(sum({column}), 0) AS BIGINT) FROM audit_log_counts"));
        push_conditions(&mut sql, filter, blocks);
        sql.number_on(self.0).await
    }

    /// Counts entries by walking them.
    pub async fn walk(&mut self, filter: &Filter, range: Range) -> Result<i64, StoreError> {
        if range.is_empty() {
            return Ok(0);
        }
        audit::count::<B>(filter, range).number_on(self.0).await
    }
}

/// A range of revisions, split at the blocks in it that are counted.
pub(super) struct Counted {
    pub before: Range,
    pub blocks: RangeInclusive<i64>,
    pub after: Range,
}

/// The column with the number of entries that pass a filter.
fn counted_column(filter: &Filter) -> &'static str {
    if filter.without_reason { "without_reason" } else { "entries" }
}

fn push_conditions<B: Backend>(sql: &mut Sql<B>, filter: &Filter, blocks: &RangeInclusive<i64>) {
    sql.push(" WHERE block >= ").push_value(*blocks.start()).push(" AND block <= ").push_value(*blocks.end());
    if let Some(kind) = filter.entity_type {
        sql.push(" AND entity_type = ").push_value(kind.as_str());
    }
    if filter.user_id.is_none() && filter.user_email.is_none() {
        sql.push(" AND user_email = ''");
    }
    if filter.without_reason {
        sql.push(" AND without_reason > 0");
    }
    sql.push(" AND environment = ").push_value(filter.environment.as_ref().map_or("", |key| key.as_str()));
    audit::push_user_and_action(sql, filter);
}

/// Adjacent blocks, joined until they have this many entries together.
pub(super) fn runs(counts: Vec<(i64, i64)>, enough: i64) -> Vec<RangeInclusive<i64>> {
    let mut runs: Vec<(RangeInclusive<i64>, i64)> = Vec::new();
    for (block, entries) in counts {
        match runs.last_mut() {
            Some((run, sum)) if *sum < enough && block == run.end() + 1 => {
                (*run, *sum) = (*run.start()..=block, sum.saturating_add(entries));
            }
            Some((run, sum)) if *sum < enough && block == run.start() - 1 => {
                (*run, *sum) = (block..=*run.end(), sum.saturating_add(entries));
            }
            _ => runs.push((block..=block, entries)),
        }
    }
    runs.into_iter().map(|(run, _)| run).collect()
}

/// The block to count after the last counted one. A log that begins after `floor` starts with its first complete block.
fn next_block(last: Option<i64>, floor: Revision) -> i64 {
    let whole = (floor + BLOCK - 1).div_euclid(BLOCK);
    last.map_or(whole, |last| whole.max(last + 1))
}

/// The revisions of these blocks.
pub(super) fn revisions(blocks: &RangeInclusive<i64>) -> Range {
    Range { first: blocks.start() * BLOCK + 1, last: (blocks.end() + 1) * BLOCK }
}

/// The blocks that lie completely in a range.
fn blocks_within(range: Range) -> RangeInclusive<i64> {
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
            assert_eq!(blocks_within(Range { first, last }), blocks, "{first} to {last}");
            let Range { first: begin, last: end } = revisions(&blocks);
            assert!(begin >= first && end <= last, "{blocks:?} are not in {first} to {last}");
        }
        for (first, last) in [(1, BLOCK - 1), (2, BLOCK), (2, 2 * BLOCK - 1), (BLOCK, BLOCK + 5), (9, 8), (1, 0)] {
            assert!(blocks_within(Range { first, last }).is_empty(), "{first} to {last}");
        }
    }

    #[test]
    fn adjacent_blocks_are_joined_up_to_a_sum() {
        let up = vec![(1, 10), (2, 10), (4, 10), (5, 10), (6, 10)];
        assert_eq!(runs(up.clone(), i64::MAX), [1..=2, 4..=6]);
        assert_eq!(runs(up.clone(), 15), [1..=2, 4..=5, 6..=6]);
        let down = up.into_iter().rev().collect::<Vec<_>>();
        assert_eq!(runs(down.clone(), i64::MAX), [4..=6, 1..=2]);
        assert_eq!(runs(down, 1), [6..=6, 5..=5, 4..=4, 2..=2, 1..=1]);
        assert_eq!(runs(Vec::new(), 1), []);
    }

    #[test]
    fn next_block_is_complete_and_follows_the_last() {
        assert_eq!(next_block(None, 0), 0);
        assert_eq!(next_block(Some(4), 0), 5);
        for (floor, whole) in [(1, 1), (BLOCK, 1), (BLOCK + 1, 2), (10 * BLOCK - 1, 10)] {
            assert_eq!(next_block(None, floor), whole);
            assert_eq!(next_block(Some(0), floor), whole);
            assert_eq!(next_block(Some(20), floor), 21);
        }
    }
}

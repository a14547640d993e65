//! Reading the entries that pass a filter, written once for both databases.
//!
//! For a single condition there is an index that gives its entries in order. For several conditions, and to skip entries, the counts
//! are used. They say how many entries each block of the log has, so that only blocks with entries on the page are walked.

use std::ops::RangeInclusive;

use super::backend::Backend;
use super::counts::{Counted, Counts, revisions, runs};
use super::{EntryChunk, EntryQuery, Order, StoreError, audit};
use crate::domain::audit::Entry;
use crate::domain::filter::Range;

/// How many blocks are looked up in the counts at first. Later look-ups are for as many times more.
const BLOCKS: i64 = 8;

/// The most entries that are read block by block before their size is looked at.
const MAX_ENTRIES: i64 = 500;

/// The entries of a query, on one connection.
pub(super) struct Pages<'c, B: Backend> {
    counts: Counts<'c, B>,
    /// The plan of each statement, if asked for.
    plans: Option<(&'static str, Vec<String>)>,
}

/// A page as far as it was read.
struct Page<'q> {
    query: &'q EntryQuery,
    entries: Vec<Entry>,
    /// How many entries are still to be skipped.
    skip: i64,
}

impl Page<'_> {
    fn missing(&self) -> i64 {
        self.query.limit.saturating_sub_unsigned(self.entries.len() as u64)
    }

    /// Skips whole blocks, given the number of entries in each, and returns the rest.
    fn skip_blocks(&mut self, counts: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
        let rest = counts.into_iter().skip_while(|(_, entries)| {
            let is_skipped = *entries <= self.skip;
            self.skip -= if is_skipped { *entries } else { 0 };
            is_skipped
        });
        rest.collect()
    }
}

impl<'c, B: Backend> Pages<'c, B> {
    pub fn new(connection: &'c mut B::Connection) -> Self {
        Self { counts: Counts(connection), plans: None }
    }

    /// Returns the plans of the statements that a query takes, in the order in which they run. `explain` asks the database for
    /// one.
    pub async fn explain(mut self, explain: &'static str, query: &EntryQuery) -> Result<Vec<String>, StoreError> {
        self.plans = Some((explain, Vec::new()));
        self.read(query).await?;
        Ok(self.plans.map(|(_, plans)| plans).unwrap_or_default())
    }

    /// See [`super::Store::entries`].
    pub async fn entries(mut self, query: &EntryQuery) -> Result<Vec<Entry>, StoreError> {
        self.read(query).await
    }

    /// See [`super::Store::entry_chunk`].
    pub async fn entry_chunk(mut self, query: &EntryQuery, max_bytes: usize) -> Result<EntryChunk, StoreError> {
        if query.filter.is_empty() || audit::has_own_index(&query.filter) {
            return audit::entry_chunk::<B>(query, max_bytes, self.counts.0).await;
        }
        let limit = query.limit.min(MAX_ENTRIES);
        let mut entries = self.read(&EntryQuery { limit, ..query.clone() }).await?;
        let is_full = limit < query.limit && entries.len() as i64 >= limit;
        let mut has_room = audit::has_room(max_bytes);
        let last = entries.iter().position(|entry| !has_room(entry));
        if let Some(last) = last {
            entries.truncate(last + 1);
        }
        Ok(EntryChunk { is_cut: is_full || last.is_some(), entries })
    }

    async fn read(&mut self, query: &EntryQuery) -> Result<Vec<Entry>, StoreError> {
        let is_direct = query.offset == 0 && audit::has_own_index(&query.filter);
        let counted = if is_direct { None } else { self.counts.counted(&query.filter, query.range).await? };
        let Some(Counted { before, blocks, after }) = counted else { return self.walk(query).await };
        let mut page = Page { query, entries: Vec::new(), skip: query.offset };
        let (first, last) = match query.order {
            Order::NewestFirst => (after, before),
            Order::OldestFirst => (before, after),
        };
        self.read_uncounted(&mut page, first).await?;
        self.read_blocks(&mut page, blocks).await?;
        self.read_uncounted(&mut page, last).await?;
        Ok(page.entries)
    }

    /// Reads on in a range that is not counted.
    async fn read_uncounted(&mut self, page: &mut Page<'_>, range: Range) -> Result<(), StoreError> {
        if range.is_empty() || page.missing() <= 0 {
            return Ok(());
        }
        let found = self.read_range(page, range).await?;
        if found == 0 && page.skip > 0 {
            page.skip -= self.counts.walk(&page.query.filter, range).await?.min(page.skip);
        } else if found > 0 {
            page.skip = 0;
        }
        Ok(())
    }

    /// Reads on in blocks that are counted.
    async fn read_blocks(&mut self, page: &mut Page<'_>, blocks: RangeInclusive<i64>) -> Result<(), StoreError> {
        let EntryQuery { filter, order, .. } = page.query;
        // The entries of a key are sorted before the page is cut off, and a page of a common key is in one block.
        let few = if filter.key.is_some() { 1 } else { BLOCKS };
        let (mut first, mut last, mut number) = (*blocks.start(), *blocks.end(), few);
        while first <= last && page.missing() > 0 {
            let part = match order {
                Order::NewestFirst => (last - number + 1).max(first)..=last,
                Order::OldestFirst => first..=(first + number - 1).min(last),
            };
            let counts = self.counts.by_block(filter, &part, *order).await?;
            if filter.is_about_objects() {
                for run in runs(counts, i64::MAX) {
                    self.read_uncounted(page, revisions(&run)).await?;
                }
            } else {
                let rest = page.skip_blocks(counts);
                for run in runs(rest, page.missing().saturating_add(page.skip)) {
                    if page.missing() > 0 {
                        self.read_range(page, revisions(&run)).await?;
                        page.skip = 0;
                    }
                }
            }
            match order {
                Order::NewestFirst => last = part.start() - 1,
                Order::OldestFirst => first = part.end() + 1,
            }
            number = number.saturating_mul(BLOCKS);
        }
        Ok(())
    }

    /// Reads on in a range, and returns how many entries were found.
    async fn read_range(&mut self, page: &mut Page<'_>, range: Range) -> Result<usize, StoreError> {
        let query = EntryQuery { range, offset: page.skip, limit: page.missing(), ..page.query.clone() };
        let found = self.walk(&query).await?;
        let number = found.len();
        page.entries.extend(found);
        Ok(number)
    }

    /// Runs one statement.
    async fn walk(&mut self, query: &EntryQuery) -> Result<Vec<Entry>, StoreError> {
        if let Some((explain, plans)) = &mut self.plans {
            let plan = audit::entries::<B>(explain, query).values_on(self.counts.0, B::plan_line).await?;
            plans.push(format!("revisions {} to {}\n{}", query.range.first, query.range.last, plan.join("\n")));
        }
        audit::entries::<B>("", query).rows_on::<Entry, Entry>(self.counts.0).await
    }
}

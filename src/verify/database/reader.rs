//! The entries of a log in a database, read page by page.

use std::time::Duration;

use super::{DatabaseError, unreadable_entry};
use crate::domain::audit::Entry;
use crate::domain::filter::{Filter, Range};
use crate::domain::hash::GENESIS;
use crate::domain::state::Head;
use crate::domain::{Hash, Revision};
use crate::store::{EntryQuery, Order, Store, StoreError, with_timeout};
use crate::verify::{Fault, HashSource, KnownHash, Problem, Stop, Verifier};

/// The number of entries or checkpoints in a page.
pub(super) const PAGE_SIZE: i64 = 1_000;

/// How long the database may take for one page.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The log as of one head.
pub(super) struct LogReader<'a> {
    pub store: &'a dyn Store,
    pub head: Head,
}

impl LogReader<'_> {
    /// The hashes that the head knows: at the end of the log and at its floor.
    pub fn known_hashes(&self) -> [KnownHash; 2] {
        let Head { revision, hash, floor, floor_hash, .. } = self.head;
        [
            KnownHash { revision: floor, hash: floor_hash, source: HashSource::Floor },
            KnownHash { revision, hash, source: HashSource::Head },
        ]
    }

    /// Verifies the entries after a revision up to the head.
    pub async fn verify(
        &self,
        after: Revision,
        verifier: &mut Verifier,
        on_entry: &mut (dyn FnMut(&Entry) + Send),
    ) -> Result<(), Stop<DatabaseError>> {
        self.push_entries(after, verifier, on_entry).await?;
        verifier.finish()?;
        Ok(())
    }

    /// Each page begins with the last entry of the one before, so that a second entry with its revision is not skipped.
    async fn push_entries(
        &self,
        after: Revision,
        verifier: &mut Verifier,
        on_entry: &mut (dyn FnMut(&Entry) + Send),
    ) -> Result<(), Stop<DatabaseError>> {
        let mut range = Range { first: after + 1, last: self.head.revision };
        let (mut last, mut is_cut) = (None::<Entry>, false);
        loop {
            let page = self.entries(Filter::default(), range, Order::OldestFirst, PAGE_SIZE).await;
            // If an entry cannot be read, verify those before it first: one of them may have an earlier fault.
            if let Some(revision) = page.as_ref().err().and_then(unreadable_entry) {
                (range.last, is_cut) = (revision - 1, true);
                continue;
            }
            let page = page?;
            let is_full = i64::try_from(page.len()).is_ok_and(|length| length == PAGE_SIZE);
            let previous = std::mem::replace(&mut last, page.last().cloned());
            for entry in page {
                if previous.as_ref() != Some(&entry) {
                    on_entry(&entry);
                    verifier.push(entry)?;
                }
            }
            match &last {
                _ if verifier.is_done() => return Ok(()),
                Some(last) if is_full => range.first = last.revision,
                _ if is_cut => return Err(verifier.invalid_entry().into()),
                _ => return Ok(()),
            }
        }
    }

    /// Reports an entry after the head, unless the head has moved since.
    pub async fn check_end(&self) -> Result<(), Stop<DatabaseError>> {
        let Some(revision) = self.first_after(self.head.revision).await? else { return Ok(()) };
        if with_timeout(READ_TIMEOUT, self.store.head()).await?.revision >= revision {
            return Ok(());
        }
        Err(Fault { revision, problem: Problem::Inserted }.into())
    }

    /// The hash at a revision of the log.
    pub async fn hash_at(&self, revision: Revision) -> Result<Hash, Stop<DatabaseError>> {
        match with_timeout(READ_TIMEOUT, self.store.entry_at(revision)).await? {
            Some((_, hash)) => Ok(hash),
            None if revision == 0 => Ok(GENESIS),
            None if revision == self.head.floor => Ok(self.head.floor_hash),
            None => {
                let end = revision - 1;
                let (known_by, known) = (HashSource::Head, self.head.revision);
                let problem = match self.first_after(revision).await? {
                    Some(next) => Problem::Missing { next },
                    None => Problem::Truncated { end, known_by, known },
                };
                Err(Fault { revision, problem }.into())
            }
        }
    }

    /// The revision of the next entry, whether it can be read or not.
    async fn first_after(&self, revision: Revision) -> Result<Option<Revision>, StoreError> {
        let range = Range { first: revision + 1, last: Revision::MAX };
        match self.entries(Filter::default(), range, Order::OldestFirst, 1).await {
            Ok(entries) => Ok(entries.first().map(|entry| entry.revision)),
            Err(error) => unreadable_entry(&error).map(Some).ok_or(error),
        }
    }

    pub async fn entries(
        &self,
        filter: Filter,
        range: Range,
        order: Order,
        limit: i64,
    ) -> Result<Vec<Entry>, StoreError> {
        let query = EntryQuery { filter, range, order, offset: 0, limit };
        with_timeout(READ_TIMEOUT, self.store.entries(&query)).await
    }

    /// Turns a fault into an error if the log was trimmed meanwhile: the entries may have been removed while they were read.
    pub async fn unless_trimmed<T>(&self, verified: Result<T, Stop<DatabaseError>>) -> Result<T, Stop<DatabaseError>> {
        if let Err(Stop::Fault(_)) = &verified {
            let head = with_timeout(READ_TIMEOUT, self.store.head()).await;
            if head.map_err(|error| Stop::Error(error.into()))?.floor != self.head.floor {
                return Err(Stop::Error(DatabaseError::TrimmedMeanwhile));
            }
        }
        verified
    }
}

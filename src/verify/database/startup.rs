//! The check of the log before a server serves it.

use super::DatabaseError;
use super::reader::{LogReader, READ_TIMEOUT};
use crate::checkpoint::SigningKey;
use crate::domain::Revision;
use crate::domain::audit::{Action, Entry, LogStart};
use crate::domain::filter::{Filter, Range};
use crate::domain::hash::GENESIS;
use crate::store::{Order, Store, with_timeout};
use crate::verify::bounds::{parse_keys, stored_hash};
use crate::verify::{Fault, HashSource, KnownHash, Problem, Start, Stop, Verified, Verifier};

/// The number of entries to verify at most with [`Scope::Recent`].
const RECENT: Revision = 10_000;

/// How much of the log to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// From the entry of the last checkpoint on, at most the last 10,000 entries.
    Recent,
    /// All entries that are kept.
    All,
}

/// Verifies the log of a database before it is served: its entries, the last checkpoint, its floor and its end. `own_key`
/// may have signed the checkpoint without being listed in the database.
///
/// # Errors
/// The first fault of the log, or why it could not be read.
pub async fn verify_at_start(
    store: &dyn Store,
    own_key: Option<&SigningKey>,
    scope: Scope,
) -> Result<Verified, Stop<DatabaseError>> {
    // Checkpoints first, then keys, then the head: so each checkpoint's key is listed, and none is after the head.
    let checkpoint = with_timeout(READ_TIMEOUT, store.last_checkpoint()).await?;
    let keys = with_timeout(READ_TIMEOUT, store.checkpoint_keys()).await?;
    let head = with_timeout(READ_TIMEOUT, store.head()).await?;
    let mut keys = parse_keys(keys.iter().map(|(key, _)| key.as_str()));
    keys.extend(own_key.map(|key| key.verifier(head.log_id)));
    let checkpoint = checkpoint.map(|stored| stored_hash(head.log_id, &stored, &keys)).transpose()?;
    let log = LogReader { store, head };
    let verified = log.verify_start(checkpoint, scope).await;
    log.unless_trimmed(verified).await
}

impl LogReader<'_> {
    async fn verify_start(&self, checkpoint: Option<KnownHash>, scope: Scope) -> Result<Verified, Stop<DatabaseError>> {
        let head = self.head;
        self.check_floor().await?;
        let kept = checkpoint.filter(|known| (head.floor..=head.revision).contains(&known.revision));
        let after = match scope {
            Scope::All => head.floor,
            // The entry of the checkpoint is verified as well: the checkpoint proves its hash, not its content.
            Scope::Recent => {
                kept.map_or(head.floor, |known| known.revision - 1).max(head.revision - RECENT).max(head.floor)
            }
        };
        let hash = if after == 0 { GENESIS } else { self.hash_at(after).await? };
        if let Some(known) = kept.filter(|known| known.revision < after) {
            self.compare(known).await?;
        }
        let known = checkpoint.into_iter().chain(self.known_hashes()).collect();
        let mut verifier = Verifier::new(head.log_id, Start::After(after, hash), None, known);
        self.verify(after, &mut verifier, &mut |_| ()).await?;
        self.check_end().await?;
        Ok(verifier.verified())
    }

    /// Checks that the newest `log_trimmed` entry confirms the floor.
    async fn check_floor(&self) -> Result<(), Stop<DatabaseError>> {
        let head = self.head;
        if head.floor == 0 {
            return Ok(());
        }
        let filter = Filter { actions: vec![Action::LogTrimmed], ..Filter::default() };
        let kept = Range { first: head.floor + 1, last: head.revision };
        let newest = self.entries(filter, kept, Order::NewestFirst, 1).await?;
        if newest.first().and_then(Entry::log_start) == Some(LogStart { floor: head.floor, hash: head.floor_hash }) {
            return Ok(());
        }
        Err(Fault { revision: head.floor, problem: Problem::UnknownStart { first: head.floor + 1 } }.into())
    }

    async fn compare(&self, known: KnownHash) -> Result<(), Stop<DatabaseError>> {
        if self.hash_at(known.revision).await? == known.hash {
            return Ok(());
        }
        Err(Fault { revision: known.revision, problem: Problem::Forked(HashSource::Stored) }.into())
    }
}

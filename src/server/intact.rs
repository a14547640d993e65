//! Whether the log is what was written, before anybody is served from it: its end, the last checkpoint, and what came after
//! that. `toggled audit verify` goes through all of it.

use std::time::{Duration, Instant};

use super::Proof;
use crate::checkpoint::{Misfit, Note, VerifierKey};
use crate::domain::Revision;
use crate::domain::audit::{Action, Entry, LogStart};
use crate::domain::filter::{Filter, Range};
use crate::domain::state::Head;
use crate::store::{EntryQuery, Order, Store, StoreError, StoredCheckpoint, with_timeout};
use crate::verify::{Chain, Fault, Problem};

/// How many entries are recomputed at most, unless all are.
const RECENT: Revision = 10_000;

/// Entries that are read at once.
const PAGE: i64 = 1_000;

/// How long the database may take for each question.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is wrong with the log, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotIntact {
    /// An entry is not as it was written, or is not there.
    #[error("{0}")]
    Entry(#[from] Fault),
    /// The last entries are not there.
    #[error("revision {revision}: missing: the log should go on to revision {end}")]
    Short {
        /// The first that is not there.
        revision: Revision,
        /// Where the log should end.
        end: Revision,
    },
    /// There are entries behind the end.
    #[error("revision {revision}: behind the end: the log should end at revision {end}")]
    Long {
        /// The first that should not be there.
        revision: Revision,
        /// Where the log should end.
        end: Revision,
    },
    /// The last entry is another than that which the log should end with.
    #[error("revision {0}: altered: the log should end with an entry that has another hash")]
    End(Revision),
    /// What was before the oldest entry was removed without an entry that says so.
    #[error("revision {0}: missing: no log_trimmed entry tells that the log was trimmed up to there, with that hash")]
    LogStart(Revision),
    /// A checkpoint does not fit the log.
    #[error("revision {revision}: the checkpoint there is not of this log: {problem}")]
    Checkpoint {
        /// Where it stands.
        revision: Revision,
        /// How it does not.
        problem: Misfit,
    },
}

/// What was read or what is wrong with it, or else why it could not be read.
type Verified<T> = Result<Result<T, NotIntact>, StoreError>;

/// What the log claims to be. Read in this order no log that grows meanwhile contradicts itself.
struct Claims {
    checkpoint: Option<StoredCheckpoint>,
    keys: Vec<VerifierKey>,
    last: Revision,
    head: Head,
}

/// Verifies the log: all that is kept, or what came after the last checkpoint, at most the last 10,000 entries.
pub(super) async fn verify(store: &dyn Store, proof: &Proof) -> Verified<()> {
    let began = Instant::now();
    loop {
        let claims = match within_rows(claims(store, proof).await)? {
            Ok(claims) => claims,
            Err(fault) => return Ok(Err(fault)),
        };
        let verified = within_rows(examine(store, proof, &claims).await)?.flatten();
        // Another server may have removed what was being read.
        if verified.is_err() && store.head().await?.floor > claims.head.floor {
            continue;
        }
        if proof.verify_all && verified.is_ok() {
            let (first, last) = (claims.head.floor + 1, claims.head.revision);
            tracing::info!(first, last, took = ?began.elapsed(), "all of the log was verified");
        }
        return Ok(verified);
    }
}

/// A row that stands for nothing was altered.
fn within_rows<T>(read: Result<T, StoreError>) -> Verified<T> {
    match read {
        Ok(read) => Ok(Ok(read)),
        Err(StoreError::Corrupt { table: "audit_logs", row, column, problem }) => match row.parse() {
            Ok(revision) => Ok(Err(Fault { revision, problem: Problem::Altered }.into())),
            Err(_) => Err(StoreError::Corrupt { table: "audit_logs", row, column, problem }),
        },
        Err(error) => Err(error),
    }
}

async fn claims(store: &dyn Store, proof: &Proof) -> Result<Claims, StoreError> {
    let checkpoint = with_timeout(PATIENCE, store.last_checkpoint()).await?;
    let keys = with_timeout(PATIENCE, store.checkpoint_keys()).await?;
    let all = Range { first: 1, last: Revision::MAX };
    let last = entries(store, Filter::default(), all, Order::NewestFirst, 1).await?;
    let last = last.first().map(|entry| entry.revision).unwrap_or_default();
    let head = with_timeout(PATIENCE, store.head()).await?;
    let mut keys: Vec<_> = keys.iter().filter_map(|(key, _)| VerifierKey::parse(key).ok()).collect();
    keys.extend(proof.key.as_ref().map(|key| key.verifier(head.log_id)));
    Ok(Claims { checkpoint, keys, last, head })
}

async fn examine(store: &dyn Store, proof: &Proof, claims: &Claims) -> Verified<()> {
    let head = &claims.head;
    if claims.last > head.revision {
        return Ok(Err(NotIntact::Long { revision: head.revision + 1, end: head.revision }));
    }
    if head.floor > 0 {
        let filter = Filter { action: Some(Action::LogTrimmed), ..Filter::default() };
        let kept = Range { first: head.floor + 1, last: head.revision };
        let trims = entries(store, filter, kept, Order::NewestFirst, 1).await?;
        let beginning = LogStart { floor: head.floor, hash: head.floor_hash };
        if trims.first().and_then(Entry::log_start) != Some(beginning) {
            return Ok(Err(NotIntact::LogStart(head.floor)));
        }
    }
    let anchor = match &claims.checkpoint {
        None => None,
        Some(stored) => match checkpoint(store, stored, claims).await? {
            Ok(anchor) => anchor,
            Err(problem) => return Ok(Err(NotIntact::Checkpoint { revision: stored.revision, problem })),
        },
    };
    // The checkpoint's own entry is recomputed as well: that it has the hash says nothing of the rest of it.
    let behind = anchor.map_or(head.floor, |revision| revision - 1).max(head.revision - RECENT).max(head.floor);
    let behind = if proof.verify_all { head.floor } else { behind };
    let hash = match head.hash_at(behind) {
        Some(hash) => hash,
        None => match with_timeout(PATIENCE, store.entry_at(behind)).await? {
            Some((_, hash)) => hash,
            None => return Ok(Err(Fault { revision: behind, problem: Problem::Missing { next: behind + 1 } }.into())),
        },
    };
    walk(store, Chain::behind(head.log_id, behind, hash), head).await
}

/// Where a checkpoint that fits the log stands, if that is kept.
async fn checkpoint(
    store: &dyn Store,
    stored: &StoredCheckpoint,
    claims: &Claims,
) -> Result<Result<Option<Revision>, Misfit>, StoreError> {
    let (head, revision) = (&claims.head, stored.revision);
    let note = match Note::of(head.log_id, revision, &stored.note, &claims.keys) {
        Ok(note) => note.checkpoint,
        Err(misfit) => return Ok(Err(misfit)),
    };
    if revision > head.revision {
        return Ok(Err(Misfit::Beyond(head.revision)));
    }
    let there = match revision {
        below if below < head.floor => return Ok(Ok(None)),
        at if at == head.floor => Some(head.floor_hash),
        kept => with_timeout(PATIENCE, store.entry_at(kept)).await?.map(|(_, hash)| hash),
    };
    Ok(if there == Some(note.hash) { Ok(Some(revision)) } else { Err(Misfit::Hash) })
}

/// Recomputes every entry up to the end, page by page.
async fn walk(store: &dyn Store, mut chain: Chain, head: &Head) -> Verified<()> {
    while chain.revision() < head.revision {
        let rest = Range { first: chain.revision() + 1, last: head.revision };
        let page = entries(store, Filter::default(), rest, Order::OldestFirst, PAGE).await?;
        if page.is_empty() {
            return Ok(Err(NotIntact::Short { revision: rest.first, end: rest.last }));
        }
        for entry in &page {
            if let Err(fault) = chain.take(entry) {
                return Ok(Err(fault.into()));
            }
        }
    }
    Ok(if chain.hash() == head.hash { Ok(()) } else { Err(NotIntact::End(head.revision)) })
}

async fn entries(
    store: &dyn Store,
    filter: Filter,
    range: Range,
    order: Order,
    limit: i64,
) -> Result<Vec<Entry>, StoreError> {
    let query = EntryQuery { filter, range, order, offset: 0, limit };
    with_timeout(PATIENCE, store.entries(&query)).await
}

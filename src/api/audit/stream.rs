//! StreamAuditLogs: the audit log from a cursor on, without gaps.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::vec;

use futures::Stream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::conditions;
use crate::api::errors::log_corrupt;
use crate::api::middleware::limits::{ByteAccount, Charge};
use crate::api::pb;
use crate::api::streams::HEARTBEAT;
use crate::api::validate::{Edge, FilterFields, RequestValidator};
use crate::domain::audit::Entry;
use crate::domain::error::Error;
use crate::domain::filter::{Filter, Period, Range};
use crate::domain::hash::GENESIS;
use crate::domain::state::{EnvironmentScope, Head};
use crate::domain::text::EnvironmentKey;
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};
use crate::mirror::{ClientConnection, Mirror};
use crate::store::{EntryChunk, EntryQuery, Order, Store};
use crate::telemetry::request;

/// The size of the entries that one read returns, by [`Entry::size`]: about a thousand flips. They are one message.
///
/// With smaller parts, the database waits for the queries in between; larger ones are hardly faster, and a client that does not read keeps
/// one in memory.
const CHUNK_BYTES: usize = 512 << 10;

/// How many entries the first read asks for. Later reads ask for as many as will fit, by the size of those before.
const FIRST_CHUNK: i64 = 500;

/// The most entries that a read asks for.
const MAX_CHUNK: i64 = 2_000;

/// The messages of one stream.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<pb::StreamAuditLogsResponse, Status>> + Send>>;

/// StreamAuditLogs, parsed, and the stream's position.
#[derive(Clone)]
pub(super) struct AuditStream {
    /// The environments that the request names, or else the caller's own.
    pub environments: Option<EnvironmentScope>,
    filter: Filter,
    period: Period,
    /// The next read starts after this revision; what was read up to it may not be sent yet. `hash` is the hash there, which the
    /// log must still have at the next read.
    through: Revision,
    hash: Hash,
    after: Option<Revision>,
    log_id: Option<uuid::Uuid>,
    after_hash: Option<Hash>,
    follow: bool,
    /// How many more entries may be sent.
    remaining: i64,
    /// How many entries the next read asks for.
    chunk_size: i64,
    /// The head when the stream began, where a stream without `follow` ends.
    end: Revision,
}

/// The entries of one read.
struct Chunk {
    entries: vec::IntoIter<Entry>,
    /// Their size.
    bytes: usize,
    /// The last revision covered by the read, and the hash there.
    through: Revision,
    hash: Hash,
    /// The head before the read, or after an earlier one.
    head: Head,
    /// The head after the read.
    now: Head,
    /// Whether no entry can follow: the requested period has ended, and this read has reached its end.
    is_last: bool,
}

impl AuditStream {
    pub fn parse(request: pb::StreamAuditLogsRequest, own: Option<&EnvironmentKey>) -> Result<Self, Error> {
        let mut validator = RequestValidator::default();
        let (environments, filter, period) = conditions!(validator, request, own);
        let after = validator.at_least("after_revision", 0, request.after_revision);
        let log_id = request.log_id.as_deref().and_then(|id| validator.uuid("log_id", id));
        let after_hash = validator.after_hash(request.after_revision, request.after_hash);
        let remaining = validator.at_least("limit", 1, request.limit).unwrap_or(i64::MAX);
        let follow = request.follow;
        validator.finish(Some(Self {
            environments,
            filter,
            period,
            through: 0,
            hash: GENESIS,
            after,
            log_id,
            after_hash,
            follow,
            remaining,
            chunk_size: FIRST_CHUNK,
            end: 0,
        }))
    }

    /// The stream, limited to entries of a scope.
    pub fn in_scope(self, scope: &EnvironmentScope) -> Self {
        Self { filter: self.filter.in_scope(scope), ..self }
    }

    /// The `to_date` that must be closed before the stream begins. A stream with `follow` needs none: it ends with the first entry after
    /// its `to_date`, when no earlier one can come any more.
    pub fn time_to_close(&self) -> Option<Timestamp> {
        self.period.to.filter(|_| !self.follow)
    }

    /// Positions the stream at its cursor, after checking that the cursor belongs to this log.
    pub async fn start(mut self, store: &dyn Store, head: &Head) -> Result<Self, Status> {
        if self.log_id.is_some_and(|id| id != head.log_id) {
            return Err(Error::LogMismatch("log_id").into());
        }
        if let Some(after) = self.after {
            if after > head.revision {
                return Err(Error::CursorInFuture { asked: after, head: head.revision }.into());
            }
            if after < head.floor {
                return Err(too_old(after, head));
            }
        }
        self.log_id = Some(head.log_id);
        self.through = self.after.unwrap_or(head.floor);
        self.hash = hash_at(store, head, self.through).await?;
        if self.after_hash.is_some_and(|given| given != self.hash) {
            return Err(Error::LogMismatch("after_hash").into());
        }
        self.end = head.revision;
        Ok(self)
    }

    /// The stream. It reads a chunk when the client asks for more, and while memory is plentiful the next chunk while that one is sent. What it
    /// reads ahead is charged to `account`: many clients that do not read take a bounded part of the memory.
    pub fn messages(
        mut self,
        store: Arc<dyn Store>,
        mirror: &Mirror,
        connection: ClientConnection,
        account: Option<Arc<ByteAccount>>,
    ) -> Messages {
        // Subscribed before the log is read, so that no entry in between is missed.
        let appended = self.follow.then(|| mirror.subscribe_to_log(connection));
        Box::pin(async_stream::try_stream! {
            let mut next = self.spawn_read(&store, None, None);
            loop {
                let chunk = next.chunk().await?;
                let head = chunk.head.revision;
                self.remaining -= chunk.entries.len() as i64;
                self.chunk_size = next_size(self.chunk_size, chunk.entries.len(), chunk.bytes);
                (self.through, self.hash) = (chunk.through, chunk.hash);
                let ended = chunk.is_last || self.remaining == 0 || !self.follow && self.through >= self.end;
                let has_more = self.through < head;
                let room = account.as_ref().filter(|_| !ended && has_more).and_then(|own| own.charge_ahead(CHUNK_BYTES));
                let ahead = room.map(|room| self.spawn_read(&store, Some(chunk.now), Some(room)));
                yield chunk.into_message();
                if ended {
                    break;
                }
                next = match ahead {
                    Some(ahead) => ahead,
                    None => {
                        if let Some(appended) = appended.as_ref().filter(|_| !has_more) {
                            // The mirror moves at every append, on this replica or another.
                            appended.changed_within(HEARTBEAT).await;
                        }
                        self.spawn_read(&store, None, None)
                    }
                };
            }
        })
    }

    /// Reads in a task of its own. The stream is polled only when its client takes messages, and a read that stopped half-way would
    /// hold its database connection. `known` is the head of a moment ago; `room` is charged until the chunk is sent.
    fn spawn_read(&self, store: &Arc<dyn Store>, known: Option<Head>, room: Option<Charge>) -> PendingChunk {
        let (stream, store) = (self.clone(), Arc::clone(store));
        let read = async move { stream.read(&*store, known).await };
        let read = AbortOnDropHandle::new(match request::RequestContext::current() {
            Some(current) => tokio::spawn(current.scope(read)),
            None => tokio::spawn(read),
        });
        PendingChunk { read, _room: room }
    }

    /// Reads a chunk. Two queries suffice where the log is read without a filter: the entries, beginning with the one at the cursor, which
    /// shows that the log is still the same, and then the head, which shows that none of them was trimmed meanwhile.
    async fn read(&self, store: &dyn Store, known: Option<Head>) -> Result<Chunk, Status> {
        let head = match known {
            Some(head) => head,
            None => store.head().await?,
        };
        self.check(&head)?;
        let until = if self.follow { head.revision } else { self.end };
        let rest = Range { first: self.through + 1, last: until };
        let is_whole = self.filter.is_empty() && self.period == Period::default();
        let begins_at_cursor = is_whole && self.through > head.floor && !rest.is_empty();
        if !begins_at_cursor {
            self.check_cursor(store, &head).await?;
        }
        let range = store.range(self.period, rest).await?;
        if range.is_empty() {
            let hash = hash_at(store, &head, until).await?;
            let is_last = self.period_has_ended(&head);
            return Ok(Chunk {
                entries: Vec::new().into_iter(),
                bytes: 0,
                through: until,
                hash,
                head,
                now: head,
                is_last,
            });
        }
        let limit = self.remaining.min(self.chunk_size);
        let EntryChunk { mut entries, is_cut } = match begins_at_cursor {
            true => self.entries(store, Range { first: self.through, ..range }, limit.saturating_add(1)).await?,
            false => self.entries(store, range, limit).await?,
        };
        let now = store.head().await?;
        self.check(&now)?;
        let at_cursor = entries.first().filter(|first| begins_at_cursor && first.revision == self.through);
        match at_cursor {
            Some(first) if first.hash != self.hash => return Err(self.mismatch()),
            // It was trimmed meanwhile.
            None if begins_at_cursor => self.check_cursor(store, &now).await?,
            _ => {}
        }
        let skipped = usize::from(at_cursor.is_some());
        entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(skipped));
        let mut entries = entries.into_iter();
        if skipped > 0 {
            entries.next();
        }
        let is_full = is_cut || entries.len() as i64 == limit;
        let (through, hash) = match entries.as_slice().last().filter(|last| is_full || last.revision == until) {
            Some(last) => (last.revision, last.hash),
            None => (until, hash_at(store, &now, until).await?),
        };
        let bytes = entries.as_slice().iter().map(Entry::size).sum();
        let is_last = self.period_has_ended(&head) && !is_full;
        Ok(Chunk { entries, bytes, through, hash, head, now, is_last })
    }

    async fn entries(&self, store: &dyn Store, range: Range, limit: i64) -> Result<EntryChunk, Status> {
        let query = EntryQuery { filter: self.filter.clone(), range, order: Order::OldestFirst, offset: 0, limit };
        Ok(store.entry_chunk(&query, CHUNK_BYTES).await?)
    }

    /// Fails if entries after the cursor were trimmed, or if the log cannot be the one that the stream reads: during the stream, a backup
    /// may be restored.
    fn check(&self, head: &Head) -> Result<(), Status> {
        if self.log_id != Some(head.log_id) || head.revision < self.through.max(if self.follow { 0 } else { self.end })
        {
            return Err(self.mismatch());
        }
        if head.floor > self.through { Err(too_old(self.through, head)) } else { Ok(()) }
    }

    /// Fails if the log has another entry at the cursor.
    async fn check_cursor(&self, store: &dyn Store, head: &Head) -> Result<(), Status> {
        if hash_at(store, head, self.through).await? == self.hash { Ok(()) } else { Err(self.mismatch()) }
    }

    fn mismatch(&self) -> Status {
        Error::LogMismatch("the stream's cursor").into()
    }

    fn period_has_ended(&self, head: &Head) -> bool {
        self.period.to.is_some_and(|to| head.timestamp > to)
    }
}

/// A read in progress, aborted when this is dropped.
struct PendingChunk {
    read: AbortOnDropHandle<Result<Chunk, Status>>,
    _room: Option<Charge>,
}

impl PendingChunk {
    async fn chunk(self) -> Result<Chunk, Status> {
        match self.read.await {
            Ok(chunk) => chunk,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(Error::Draining.into()),
            },
        }
    }
}

impl Chunk {
    /// The message. It may have no entries: it moves the client's cursor.
    fn into_message(self) -> pb::StreamAuditLogsResponse {
        pb::StreamAuditLogsResponse {
            items: self.entries.as_slice().iter().map(Into::into).collect(),
            through_revision: self.through,
            through_hash: self.hash.to_vec(),
            head_revision: self.head.revision,
            caught_up: self.through == self.head.revision,
            log_id: self.head.log_id.to_string(),
        }
    }
}

/// How many entries the next read asks for, after one that asked for `asked` and got `entries` of this size in all: as many as fit, if they
/// are as large as these. At most twice as many, so that a few short entries before long ones cost little: the database sends all that a
/// read asks for.
fn next_size(asked: i64, entries: usize, bytes: usize) -> i64 {
    let fitting = CHUNK_BYTES.checked_div(bytes / entries.max(1)).and_then(|fitting| i64::try_from(fitting).ok());
    fitting.map_or(asked, |fitting| fitting.clamp(1, asked.saturating_mul(2).min(MAX_CHUNK)))
}

/// The hash at a revision that may be trimmed during the lookup.
async fn hash_at(store: &dyn Store, head: &Head, revision: Revision) -> Result<Hash, Status> {
    if let Some(hash) = head.hash_at(revision) {
        return Ok(hash);
    }
    if let Some((_, hash)) = store.entry_at(revision).await? {
        return Ok(hash);
    }
    let now = store.head().await?;
    match now.hash_at(revision) {
        Some(hash) => Ok(hash),
        None if revision < now.floor => Err(too_old(revision, &now)),
        None if revision > now.revision => Err(Error::LogMismatch("the stream's cursor").into()),
        None => Err(log_corrupt(revision, &format!("there is no entry at revision {revision}"))),
    }
}

fn too_old(asked: Revision, head: &Head) -> Status {
    Error::CursorTooOld { asked, oldest: head.floor + 1 }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_read_asks_for_as_many_as_fit() {
        assert_eq!(next_size(500, 500, CHUNK_BYTES / 2), 1_000);
        assert_eq!(next_size(500, 500, CHUNK_BYTES / 8), 1_000, "twice as many at most");
        assert_eq!(next_size(2_000, 10, 1), MAX_CHUNK);
        assert_eq!(next_size(2_000, 60, CHUNK_BYTES), 60);
        assert_eq!(next_size(60, 1, 2 * CHUNK_BYTES), 1);
        assert_eq!(next_size(60, 0, 0), 60);
    }
}

//! StreamAuditLogs: the audit log from a cursor on, without gaps.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use prost::Message;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::conditions;
use crate::api::errors::log_corrupt;
use crate::api::pb;
use crate::api::streams::{HEARTBEAT, MESSAGE_BYTES};
use crate::api::validate::{Edge, RequestValidator};
use crate::domain::audit::Entry;
use crate::domain::error::Error;
use crate::domain::filter::{Filter, Period, Range};
use crate::domain::hash::GENESIS;
use crate::domain::state::Head;
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};
use crate::mirror::Mirror;
use crate::store::{EntryQuery, Order, Store};
use crate::telemetry::request;

/// How many entries one read returns.
const CHUNK_SIZE: i64 = 500;

/// The messages of one stream.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<pb::StreamAuditLogsResponse, Status>> + Send>>;

/// StreamAuditLogs, parsed, and the stream's position.
#[derive(Clone)]
pub(super) struct AuditStream {
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
    /// The head when the stream began, where a stream without `follow` ends.
    end: Revision,
}

/// The entries of one read.
struct Chunk {
    entries: Vec<Entry>,
    /// The last revision covered by the read, and the hash there.
    through: Revision,
    hash: Hash,
    /// The head at the time of the read.
    head: Head,
    /// Whether no entry can follow: the requested period has ended, and this read has reached its end.
    is_last: bool,
}

impl AuditStream {
    pub fn parse(request: pb::StreamAuditLogsRequest) -> Result<Self, Error> {
        let mut validator = RequestValidator::default();
        let (filter, period) = conditions!(validator, request);
        let after = validator.at_least("after_revision", 0, request.after_revision);
        let log_id = request.log_id.as_deref().and_then(|id| validator.uuid("log_id", id));
        let after_hash = validator.after_hash(request.after_revision, request.after_hash);
        let remaining = validator.at_least("limit", 1, request.limit).unwrap_or(i64::MAX);
        let follow = request.follow;
        validator.finish(Some(Self {
            filter,
            period,
            through: 0,
            hash: GENESIS,
            after,
            log_id,
            after_hash,
            follow,
            remaining,
            end: 0,
        }))
    }

    /// The time at which the stream ends although the log goes on. A stream with `follow` ends with the first entry after its
    /// time, when no earlier one can come any more.
    pub fn end_date(&self) -> Option<Timestamp> {
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

    /// The stream. It reads a chunk when the client asks for more, and the next chunk while that one is sent: a slow client costs the
    /// memory of two chunks.
    pub fn messages(mut self, store: Arc<dyn Store>, mirror: &Mirror, connection: usize) -> Messages {
        // Subscribed before the log is read, so that no entry in between is missed.
        let appended = self.follow.then(|| mirror.subscribe_to_log(connection));
        Box::pin(async_stream::try_stream! {
            let mut next = self.spawn_read(&store);
            loop {
                let chunk = next.chunk().await?;
                let head = chunk.head.revision;
                self.remaining -= chunk.entries.len() as i64;
                (self.through, self.hash) = (chunk.through, chunk.hash);
                let ended = chunk.is_last || self.remaining == 0 || !self.follow && self.through >= self.end;
                let ahead = (!ended && self.through < head).then(|| self.spawn_read(&store));
                for message in chunk.into_messages() {
                    yield message;
                }
                if ended {
                    break;
                }
                next = match ahead {
                    Some(ahead) => ahead,
                    None => {
                        // The mirror moves at every append, on this replica or another.
                        if let Some(appended) = &appended {
                            appended.changed_within(HEARTBEAT).await;
                        }
                        self.spawn_read(&store)
                    }
                };
            }
        })
    }

    /// Reads in a task of its own. The stream is polled only when its client takes messages, and a read that stopped half-way would
    /// hold its database connection.
    fn spawn_read(&self, store: &Arc<dyn Store>) -> PendingChunk {
        let (stream, store) = (self.clone(), Arc::clone(store));
        let read = async move { stream.read(&*store).await };
        PendingChunk(AbortOnDropHandle::new(match request::RequestContext::current() {
            Some(current) => tokio::spawn(current.scope(read)),
            None => tokio::spawn(read),
        }))
    }

    async fn read(&self, store: &dyn Store) -> Result<Chunk, Status> {
        let head = store.head().await?;
        if head.floor > self.through {
            return Err(too_old(self.through, &head));
        }
        let until = if self.follow { head.revision } else { self.end };
        // If the database is restored from a backup during the stream, the cursor may not belong to its log.
        let mismatch = || Status::from(Error::LogMismatch("the stream's cursor"));
        if self.log_id != Some(head.log_id) || head.revision < self.through.max(until) {
            return Err(mismatch());
        }
        if hash_at(store, &head, self.through).await? != self.hash {
            return Err(mismatch());
        }
        let period_has_ended = self.period.to.is_some_and(|to| head.timestamp > to);
        let rest = Range { first: self.through + 1, last: until };
        let range = store.range(self.period, rest).await?;
        let limit = self.remaining.min(CHUNK_SIZE);
        let query = EntryQuery { filter: self.filter.clone(), range, order: Order::OldestFirst, offset: 0, limit };
        let entries = if range.is_empty() { Vec::new() } else { store.entries(&query).await? };
        if !range.is_empty() {
            // Entries that were trimmed meanwhile may be missing.
            let now = store.head().await?;
            if now.floor > self.through {
                return Err(too_old(self.through, &now));
            }
        }
        let is_full = entries.len() as i64 == limit;
        let (through, hash) = match entries.last().filter(|_| is_full) {
            Some(entry) => (entry.revision, entry.hash),
            None => (until, hash_at(store, &head, until).await?),
        };
        Ok(Chunk { entries, through, hash, head, is_last: period_has_ended && !is_full })
    }
}

/// A read in progress, aborted when this is dropped.
struct PendingChunk(AbortOnDropHandle<Result<Chunk, Status>>);

impl PendingChunk {
    async fn chunk(self) -> Result<Chunk, Status> {
        match self.0.await {
            Ok(chunk) => chunk,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(Error::Draining.into()),
            },
        }
    }
}

impl Chunk {
    /// The chunk in messages of about a mebibyte. There is always at least one, so that the client's cursor moves.
    fn into_messages(self) -> Vec<pb::StreamAuditLogsResponse> {
        let log_id = self.head.log_id.to_string();
        let message = |items, through_revision, through_hash: Hash| pb::StreamAuditLogsResponse {
            items,
            through_revision,
            through_hash: through_hash.to_vec(),
            head_revision: self.head.revision,
            caught_up: through_revision == self.head.revision,
            log_id: log_id.clone(),
        };
        let mut messages = Vec::new();
        let (mut items, mut bytes) = (Vec::new(), 0);
        for (index, entry) in self.entries.iter().enumerate() {
            let item = pb::AuditLog::from(entry);
            bytes += item.encoded_len();
            items.push(item);
            if bytes > MESSAGE_BYTES && index + 1 < self.entries.len() {
                messages.push(message(std::mem::take(&mut items), entry.revision, entry.hash));
                bytes = 0;
            }
        }
        messages.push(message(items, self.through, self.hash));
        messages
    }
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

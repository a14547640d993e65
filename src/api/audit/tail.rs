//! StreamAuditLogs: the log from a cursor on, without a gap.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use prost::Message;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::conditions;
use crate::api::errors::{log_corrupt, read_failed, status};
use crate::api::validate::{Edge, Fields};
use crate::api::{HEARTBEAT, PAGE_BYTES, pb};
use crate::domain::audit::Entry;
use crate::domain::error::Error;
use crate::domain::filter::{Filter, Period, Range};
use crate::domain::hash::GENESIS;
use crate::domain::state::Head;
use crate::domain::{Hash, Revision};
use crate::store::{EntryQuery, Order, Store};
use crate::telemetry::request;

/// Entries that a stream reads at once.
const STREAM_PAGE: i64 = 500;

/// What a stream sends.
pub(super) type Messages = Pin<Box<dyn Stream<Item = Result<pb::StreamAuditLogsResponse, Status>> + Send>>;

/// StreamAuditLogs, parsed, and then where it has come to.
#[derive(Clone)]
pub(super) struct Tail {
    filter: Filter,
    period: Period,
    /// Everything up to here has been sent, and this is the hash there: the log must still have it when it is read on.
    through: Revision,
    hash: Hash,
    after: Option<Revision>,
    log_id: Option<uuid::Uuid>,
    after_hash: Option<Hash>,
    follow: bool,
    /// How many entries may still be sent.
    left: i64,
    /// Without `follow`: where the log ended when the stream began.
    end: Revision,
}

/// What was read of the log at once.
struct Part {
    entries: Vec<Entry>,
    /// Where the part ends, and the hash there.
    through: Revision,
    hash: Hash,
    /// The end of the log when it was read.
    head: Head,
    /// Whether nothing can come after it: the period has passed.
    last: bool,
}

impl Tail {
    pub fn parse(request: pb::StreamAuditLogsRequest) -> Result<Self, Error> {
        let mut fields = Fields::default();
        let (filter, period) = conditions!(fields, request);
        let after = fields.at_least("after_revision", 0, request.after_revision);
        let log_id = request.log_id.as_deref().and_then(|id| fields.uuid("log_id", id));
        let after_hash = fields.after_hash(request.after_revision, request.after_hash);
        let left = fields.at_least("limit", 1, request.limit).unwrap_or(i64::MAX);
        let follow = request.follow;
        fields.finish(Some(Self {
            filter,
            period,
            through: 0,
            hash: GENESIS,
            after,
            log_id,
            after_hash,
            follow,
            left,
            end: 0,
        }))
    }

    /// Where the stream begins, if the log is the one that the client has read so far.
    pub async fn start(mut self, store: &dyn Store, head: &Head) -> Result<Self, Status> {
        if self.log_id.is_some_and(|id| id != head.log_id) {
            return Err(status(Error::LogMismatch("log_id")));
        }
        if let Some(after) = self.after {
            if after > head.revision {
                return Err(status(Error::CursorInFuture { asked: after, head: head.revision }));
            }
            if after < head.floor {
                return Err(too_old(after, head));
            }
        }
        self.log_id = Some(head.log_id);
        self.through = self.after.unwrap_or(head.floor);
        self.hash = hash_at(store, head, self.through).await?;
        if self.after_hash.is_some_and(|given| given != self.hash) {
            return Err(status(Error::LogMismatch("after_hash")));
        }
        self.end = head.revision;
        Ok(self)
    }

    /// The stream itself. It reads a part when it is asked for more, and the next one while that is sent: a slow client costs
    /// no more memory than those two, and loses nothing.
    pub fn messages(mut self, store: Arc<dyn Store>, mut revisions: watch::Receiver<Revision>) -> Messages {
        Box::pin(async_stream::try_stream! {
            let mut next = self.read_apart(&store);
            loop {
                let part = next.part().await?;
                let head = part.head.revision;
                self.left -= part.entries.len() as i64;
                (self.through, self.hash) = (part.through, part.hash);
                let ended = part.last || self.left == 0 || !self.follow && self.through >= self.end;
                let ahead = (!ended && self.through < head).then(|| self.read_apart(&store));
                for message in part.messages() {
                    yield message;
                }
                if ended {
                    break;
                }
                next = match ahead {
                    Some(ahead) => ahead,
                    None => {
                        // The mirror learns of every append, ours and others'.
                        let _ = timeout(HEARTBEAT, revisions.wait_for(|revision| *revision > head)).await;
                        self.read_apart(&store)
                    }
                };
            }
        })
    }

    /// Reads in a task of its own. This stream is only gone on with when its client takes something; a read that stopped
    /// half-way would keep its connection to the database from everybody else.
    fn read_apart(&self, store: &Arc<dyn Store>) -> Reading {
        let (tail, store) = (self.clone(), Arc::clone(store));
        let read = async move { tail.read(&*store).await };
        Reading(AbortOnDropHandle::new(match request::Request::current() {
            Some(current) => tokio::spawn(current.scope(read)),
            None => tokio::spawn(read),
        }))
    }

    async fn read(&self, store: &dyn Store) -> Result<Part, Status> {
        let head = store.head().await.map_err(read_failed)?;
        if head.floor > self.through {
            return Err(too_old(self.through, &head));
        }
        let until = if self.follow { head.revision } else { self.end };
        // A log that was restored while it was read, and perhaps written on since, is not the same any more.
        let mismatch = || status(Error::LogMismatch("the stream's cursor"));
        if self.log_id != Some(head.log_id) || head.revision < self.through.max(until) {
            return Err(mismatch());
        }
        if hash_at(store, &head, self.through).await? != self.hash {
            return Err(mismatch());
        }
        let last = self.period.to.is_some_and(|to| head.timestamp > to);
        let rest = Range { first: self.through + 1, last: until };
        let range = store.range(self.period, rest).await.map_err(read_failed)?;
        let limit = self.left.min(STREAM_PAGE);
        let query = EntryQuery { filter: self.filter.clone(), range, order: Order::OldestFirst, offset: 0, limit };
        let entries = if range.is_empty() { Vec::new() } else { store.entries(&query).await.map_err(read_failed)? };
        if !range.is_empty() {
            // What was trimmed meanwhile may be missing in what was read.
            let now = store.head().await.map_err(read_failed)?;
            if now.floor > self.through {
                return Err(too_old(self.through, &now));
            }
        }
        let full = entries.len() as i64 == limit;
        let (through, hash) = match entries.last().filter(|_| full) {
            Some(entry) => (entry.revision, entry.hash),
            None => (until, hash_at(store, &head, until).await?),
        };
        Ok(Part { entries, through, hash, head, last: last && !full })
    }
}

/// A part that is being read; given up with this value.
struct Reading(AbortOnDropHandle<Result<Part, Status>>);

impl Reading {
    async fn part(self) -> Result<Part, Status> {
        match self.0.await {
            Ok(part) => part,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(status(Error::Draining)),
            },
        }
    }
}

impl Part {
    /// The part in messages of about a mebibyte; there is always one, so that the cursor moves.
    fn messages(self) -> Vec<pb::StreamAuditLogsResponse> {
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
            if bytes > PAGE_BYTES && index + 1 < self.entries.len() {
                messages.push(message(std::mem::take(&mut items), entry.revision, entry.hash));
                bytes = 0;
            }
        }
        messages.push(message(items, self.through, self.hash));
        messages
    }
}

/// The hash at a revision, which may be trimmed while it is looked up.
async fn hash_at(store: &dyn Store, head: &Head, revision: Revision) -> Result<Hash, Status> {
    if let Some(hash) = head.hash_at(revision) {
        return Ok(hash);
    }
    if let Some((_, hash)) = store.entry_at(revision).await.map_err(read_failed)? {
        return Ok(hash);
    }
    let now = store.head().await.map_err(read_failed)?;
    match now.hash_at(revision) {
        Some(hash) => Ok(hash),
        None if revision < now.floor => Err(too_old(revision, &now)),
        None if revision > now.revision => Err(status(Error::LogMismatch("the stream's cursor"))),
        None => Err(log_corrupt(revision, &format!("there is no entry at revision {revision}"))),
    }
}

fn too_old(asked: Revision, head: &Head) -> Status {
    status(Error::CursorTooOld { asked, oldest: head.floor + 1 })
}

//! AuditService: reading and following the log. Always from the database: an answer is complete or it is an error.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::fields::{Edge, Fields};
use super::pb::audit_service_server::AuditService;
use super::status::{read_failed, status};
use super::{PAGE_BYTES, pb};
use crate::domain::Hash;
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::domain::error::Error;
use crate::domain::filter::{Filter, Period, Range};
use crate::domain::hash::GENESIS;
use crate::domain::page::LogCursor;
use crate::domain::state::Head;
use crate::mirror::Mirror;
use crate::store::{EntryQuery, Order, Store};

const DEFAULT_LIMIT: i32 = 50;
const LARGEST_LIMIT: i32 = 100;

/// Entries that a stream reads at once.
const STREAM_PAGE: i64 = 500;

/// How long an idle stream says nothing before it says that there is nothing.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// AuditService.
pub struct Audit {
    store: Arc<dyn Store>,
    mirror: Arc<Mirror>,
    shutdown: CancellationToken,
}

impl Audit {
    /// The service on these parts; streams end when `shutdown` is cancelled.
    pub fn new(store: Arc<dyn Store>, mirror: Arc<Mirror>, shutdown: CancellationToken) -> Self {
        Self { store, mirror, shutdown }
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<pb::StreamAuditLogsResponse, Status>> + Send>>;

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_logs(
        &self,
        request: Request<pb::ListAuditLogsRequest>,
    ) -> Result<Response<pb::ListAuditLogsResponse>, Status> {
        let list = List::parse(request.into_inner()).map_err(status)?;
        list.page(&*self.store).await.map(Response::new)
    }

    async fn get_audit_log(
        &self,
        request: Request<pb::GetAuditLogRequest>,
    ) -> Result<Response<pb::GetAuditLogResponse>, Status> {
        let mut fields = Fields::default();
        let id = fields.uuid("id", &request.get_ref().id);
        let id = fields.finish(id).map_err(status)?;
        let entry = self.store.entry(id).await.map_err(read_failed)?;
        let entry = entry.ok_or_else(|| status(Error::AuditLogNotFound(id)))?;
        Ok(Response::new(pb::GetAuditLogResponse { audit_log: Some((&entry).into()) }))
    }

    type StreamAuditLogsStream = Messages;

    async fn stream_audit_logs(
        &self,
        request: Request<pb::StreamAuditLogsRequest>,
    ) -> Result<Response<Messages>, Status> {
        let request = Tail::parse(request.into_inner()).map_err(status)?;
        let head = self.store.head().await.map_err(read_failed)?;
        let tail = request.start(&*self.store, &head).await?;
        Ok(Response::new(tail.messages(Arc::clone(&self.store), self.mirror.revisions(), self.shutdown.clone())))
    }
}

/// ListAuditLogs, parsed.
struct List {
    filter: Filter,
    period: Period,
    page: i32,
    limit: i32,
    cursor: Option<LogCursor>,
    as_of: Option<Revision>,
    min_revision: Option<Revision>,
    scope: String,
}

impl List {
    fn parse(request: pb::ListAuditLogsRequest) -> Result<Self, Error> {
        let mut fields = Fields::default();
        let (filter, period) = conditions!(fields, request);
        let page = fields.between("page", 1, i32::MAX, request.page.unwrap_or(1));
        let limit = fields.between("limit", 1, LARGEST_LIMIT, request.limit.unwrap_or(DEFAULT_LIMIT));
        let as_of = fields.at_least("as_of_revision", 0, request.as_of_revision);
        let min_revision = fields.at_least("min_revision", 0, request.min_revision);
        let scope = format!("audit {limit:?} {filter:?} {period:?}");
        let token = Some(request.page_token.as_str()).filter(|token| !token.is_empty());
        if token.is_some() && request.page.is_some() {
            fields.violate::<()>("page", "must not be given together with page_token");
        }
        if token.is_some() && request.as_of_revision.is_some() {
            fields.violate::<()>("as_of_revision", "must not be given together with page_token, which carries its own");
        }
        let cursor = token.and_then(|token| {
            let cursor = LogCursor::decode(&scope, token);
            cursor.map_or_else(|rule| fields.violate("page_token", rule.0), Some)
        });
        let list = page.zip(limit).map(|(page, limit)| {
            let page = cursor.map_or(page, |cursor| cursor.page);
            Self { filter, period, page, limit, cursor, as_of, min_revision, scope }
        });
        fields.finish(list)
    }

    async fn page(self, store: &dyn Store) -> Result<pb::ListAuditLogsResponse, Status> {
        let head = store.head().await.map_err(read_failed)?;
        let as_of = self.cursor.map(|cursor| cursor.as_of).or(self.as_of).unwrap_or(head.revision);
        for asked in [Some(as_of), self.min_revision].into_iter().flatten() {
            if asked > head.revision {
                return Err(status(Error::CursorInFuture { asked, head: head.revision }));
            }
        }
        let kept = Range { first: head.floor + 1, last: as_of };
        let range = store.range(self.period, kept).await.map_err(read_failed)?;
        let total = match self.cursor {
            Some(_) => None,
            // Revisions have no gaps: without a filter nothing needs counting.
            None if self.filter.is_empty() => Some(range.len()),
            None => Some(store.count(&self.filter, range).await.map_err(read_failed)?),
        };
        // One more than the page holds tells whether there is a next.
        let mut entries = match self.window(range) {
            Some(query) if !query.range.is_empty() => store.entries(&query).await.map_err(read_failed)?,
            _ => Vec::new(),
        };
        let more = entries.len() > usize::try_from(self.limit).unwrap_or(usize::MAX);
        entries.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        let next = entries.last().filter(|_| more).zip(self.page.checked_add(1));
        let next = next.map(|(last, page)| LogCursor { as_of, before: last.revision, page }.encode(&self.scope));
        Ok(pb::ListAuditLogsResponse {
            items: entries.iter().map(Into::into).collect(),
            total,
            page: self.page,
            limit: self.limit,
            next_page_token: next.unwrap_or_default(),
            as_of_revision: as_of,
        })
    }

    /// The entries of the page and one more. `None` is a page past all that there can be.
    fn window(&self, range: Range) -> Option<EntryQuery> {
        let skipped = i64::from(self.page - 1).checked_mul(i64::from(self.limit))?;
        let (last, offset) = match self.cursor {
            Some(cursor) => (range.last.min(cursor.before - 1), 0),
            // Without a filter page 50,000 begins where arithmetic says, as fast as page 1.
            None if self.filter.is_empty() => (range.last.checked_sub(skipped)?, 0),
            None => (range.last, skipped),
        };
        Some(EntryQuery {
            filter: self.filter.clone(),
            range: Range { first: range.first, last },
            order: Order::NewestFirst,
            offset,
            limit: i64::from(self.limit) + 1,
        })
    }
}

/// StreamAuditLogs, parsed, and then where it has come to.
struct Tail {
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
    fn parse(request: pb::StreamAuditLogsRequest) -> Result<Self, Error> {
        let mut fields = Fields::default();
        let (filter, period) = conditions!(fields, request);
        let after = fields.at_least("after_revision", 0, request.after_revision);
        let log_id = request.log_id.as_deref().and_then(|id| fields.uuid("log_id", id));
        let after_hash = request.after_hash.and_then(|hash| {
            Hash::try_from(hash).map_or_else(|_| fields.violate("after_hash", "must be 32 bytes"), Some)
        });
        if after_hash.is_some() && request.after_revision.is_none() {
            fields.violate::<()>("after_hash", "must be given together with after_revision");
        }
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
    async fn start(mut self, store: &dyn Store, head: &Head) -> Result<Self, Status> {
        if self.log_id.is_some_and(|id| id != head.log_id) {
            return Err(status(Error::LogMismatch("log_id")));
        }
        if let Some(after) = self.after {
            if after > head.revision {
                return Err(status(Error::CursorInFuture { asked: after, head: head.revision }));
            }
            if after < head.floor {
                return Err(status(Error::CursorTooOld { asked: after, oldest: head.floor + 1 }));
            }
        }
        self.log_id = Some(head.log_id);
        self.through = self.after.unwrap_or(head.floor);
        let there = hash_at(store, head, self.through).await?;
        if there.zip(self.after_hash).is_some_and(|(there, given)| there != given) {
            return Err(status(Error::LogMismatch("after_hash")));
        }
        self.hash = there.or(self.after_hash).unwrap_or(GENESIS);
        self.end = head.revision;
        Ok(self)
    }

    /// The stream itself. It reads a part when it is asked for more: a slow client costs no more memory than that, and
    /// loses nothing.
    fn messages(
        mut self,
        store: Arc<dyn Store>,
        mut revisions: watch::Receiver<Revision>,
        shutdown: CancellationToken,
    ) -> Messages {
        Box::pin(async_stream::try_stream! {
            loop {
                let part = self.read(&*store).await?;
                let (head, last) = (part.head, part.last);
                self.left -= part.entries.len() as i64;
                (self.through, self.hash) = (part.through, part.hash);
                for message in part.messages() {
                    yield message;
                }
                let ended = !self.follow && self.through >= self.end;
                if ended || last || self.left == 0 {
                    break;
                }
                if self.through == head.revision {
                    tokio::select! {
                        // The mirror learns of every append, ours and others'.
                        _ = revisions.wait_for(|revision| *revision > head.revision) => {}
                        () = tokio::time::sleep(HEARTBEAT) => {}
                        () = shutdown.cancelled() => {}
                    }
                }
                if shutdown.is_cancelled() {
                    Err(status(Error::Draining))?;
                }
            }
        })
    }

    async fn read(&self, store: &dyn Store) -> Result<Part, Status> {
        let head = store.head().await.map_err(read_failed)?;
        if head.floor > self.through {
            return Err(status(Error::CursorTooOld { asked: self.through, oldest: head.floor + 1 }));
        }
        let until = if self.follow { head.revision } else { self.end };
        // A log that was restored while it was read, and perhaps written on since, is not the same any more.
        let mismatch = || status(Error::LogMismatch("the stream's cursor"));
        if self.log_id != Some(head.log_id) || head.revision < self.through.max(until) {
            return Err(mismatch());
        }
        let there = hash_at(store, &head, self.through).await?;
        if there.is_some_and(|there| there != self.hash) {
            return Err(mismatch());
        }
        let last = self.period.to.is_some_and(|to| head.timestamp > to);
        let rest = Range { first: self.through + 1, last: until };
        let range = store.range(self.period, rest).await.map_err(read_failed)?;
        let limit = self.left.min(STREAM_PAGE);
        let query = EntryQuery { filter: self.filter.clone(), range, order: Order::OldestFirst, offset: 0, limit };
        let entries = if range.is_empty() { Vec::new() } else { store.entries(&query).await.map_err(read_failed)? };
        let full = entries.len() as i64 == limit;
        let (through, hash) = match entries.last().filter(|_| full) {
            Some(entry) => (entry.revision, entry.hash),
            None => {
                let missing = || status(Error::Internal(format!("there is no entry at revision {until}")));
                (until, hash_at(store, &head, until).await?.ok_or_else(missing)?)
            }
        };
        Ok(Part { entries, through, hash, head, last: last && !full })
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

/// The hash at a revision; `None` where no entry is kept to tell: at the floor and below.
async fn hash_at(store: &dyn Store, head: &Head, revision: Revision) -> Result<Option<Hash>, Status> {
    if revision == head.revision {
        return Ok(Some(head.hash));
    }
    if revision == 0 {
        return Ok(Some(GENESIS));
    }
    if revision <= head.floor {
        return Ok(None);
    }
    let there = store.entry_at(revision).await.map_err(read_failed)?;
    let missing = || status(Error::Internal(format!("there is no entry at revision {revision}")));
    there.map(|(_, hash)| Some(hash)).ok_or_else(missing)
}

/// The conditions that both requests have, under the same names.
macro_rules! conditions {
    ($fields:ident, $request:ident) => {{
        let filter = $fields.filter(
            $request.user_id.as_deref(),
            $request.user_email.as_deref(),
            $request.entity_type.as_deref(),
            $request.entity_id.as_deref(),
            $request.action_type.as_deref(),
        );
        let from = $fields.time("from_date", Edge::From, $request.from_date);
        let to = $fields.time("to_date", Edge::To, $request.to_date);
        (filter, Period { from, to })
    }};
}
use conditions;

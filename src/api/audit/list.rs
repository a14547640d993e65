//! ListAuditLogs: pages that do not shift while the log grows.

use tonic::Status;

use super::conditions;
use crate::api::errors::{read_failed, status};
use crate::api::pb;
use crate::api::validate::{Edge, Fields};
use crate::domain::Revision;
use crate::domain::error::Error;
use crate::domain::filter::{Filter, Period, Range};
use crate::domain::page::LogCursor;
use crate::domain::state::Head;
use crate::store::{EntryQuery, Order, Store};

const DEFAULT_LIMIT: i32 = 50;
const LARGEST_LIMIT: i32 = 100;

/// ListAuditLogs, parsed.
pub(super) struct List {
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
    pub fn parse(request: pb::ListAuditLogsRequest) -> Result<Self, Error> {
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

    /// Read anew where the log was trimmed meanwhile: entries may be missing then in what was read.
    pub async fn page(self, store: &dyn Store) -> Result<pb::ListAuditLogsResponse, Status> {
        let mut head = store.head().await.map_err(read_failed)?;
        loop {
            let page = self.read(store, &head).await?;
            let now = store.head().await.map_err(read_failed)?;
            if now.floor == head.floor {
                return Ok(page);
            }
            head = now;
        }
    }

    async fn read(&self, store: &dyn Store, head: &Head) -> Result<pb::ListAuditLogsResponse, Status> {
        let as_of = self.cursor.map(|cursor| cursor.as_of).or(self.as_of).unwrap_or(head.revision);
        for asked in [Some(as_of), self.min_revision].into_iter().flatten() {
            if asked > head.revision {
                return Err(status(Error::CursorInFuture { asked, head: head.revision }));
            }
        }
        if as_of < head.floor {
            // Not an empty page: there were entries.
            return Err(status(Error::CursorTooOld { asked: as_of, oldest: head.floor + 1 }));
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

//! ListAuditLogs: pages that do not shift while the log grows.

use tonic::Status;

use super::conditions;
use crate::api::paging::LogCursor;
use crate::api::pb;
use crate::api::validate::{Edge, RequestValidator};
use crate::domain::Revision;
use crate::domain::error::Error;
use crate::domain::filter::{Filter, Period, Range};
use crate::domain::state::Head;
use crate::domain::time::Timestamp;
use crate::store::{EntryQuery, Order, Store};

const DEFAULT_LIMIT: i32 = 50;
const MAX_LIMIT: i32 = 100;

/// ListAuditLogs, parsed.
pub(super) struct AuditLogList {
    filter: Filter,
    period: Period,
    page: i32,
    limit: i32,
    cursor: Option<LogCursor>,
    as_of: Option<Revision>,
    min_revision: Option<Revision>,
    scope: String,
}

impl AuditLogList {
    pub fn parse(request: pb::ListAuditLogsRequest) -> Result<Self, Error> {
        let mut validator = RequestValidator::default();
        let (filter, period) = conditions!(validator, request);
        let page = validator.between("page", 1, i32::MAX, request.page.unwrap_or(1));
        let limit = validator.between("limit", 1, MAX_LIMIT, request.limit.unwrap_or(DEFAULT_LIMIT));
        let as_of = validator.at_least("as_of_revision", 0, request.as_of_revision);
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let scope = format!("audit {limit:?} {filter:?} {period:?}");
        let token = Some(request.page_token.as_str()).filter(|token| !token.is_empty());
        if token.is_some() && request.page.is_some() {
            validator.reject::<()>("page", "must not be given together with page_token");
        }
        if token.is_some() && request.as_of_revision.is_some() {
            validator
                .reject::<()>("as_of_revision", "must not be given together with page_token, which carries its own");
        }
        let cursor = token.and_then(|token| {
            let cursor = LogCursor::decode(&scope, token);
            cursor.map_or_else(|rule| validator.reject("page_token", rule.0), Some)
        });
        let list = page.zip(limit).map(|(page, limit)| {
            let page = cursor.map_or(page, |cursor| cursor.page);
            Self { filter, period, page, limit, cursor, as_of, min_revision, scope }
        });
        validator.finish(list)
    }

    /// The time up to which the answer is asked for, if an entry that is written later could belong to it. A page that is anchored
    /// at a revision never changes.
    pub fn open_end(&self) -> Option<Timestamp> {
        self.period.to.filter(|_| self.cursor.is_none() && self.as_of.is_none())
    }

    /// The page. It is read again if the log was trimmed meanwhile, since entries may then be missing: each
    /// repetition needs another trim, so the loop ends.
    pub async fn page(self, store: &dyn Store) -> Result<pb::ListAuditLogsResponse, Status> {
        let mut head = store.head().await?;
        loop {
            let page = self.read(store, &head).await?;
            let now = store.head().await?;
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
                return Err(Error::CursorInFuture { asked, head: head.revision }.into());
            }
        }
        if as_of < head.floor {
            // An empty page would claim that there were no entries. At the floor it is right: nothing is kept up to there.
            return Err(Error::CursorTooOld { asked: as_of, oldest: head.floor + 1 }.into());
        }
        let kept = Range { first: head.floor + 1, last: as_of };
        let range = store.range(self.period, kept).await?;
        let total = match self.cursor {
            Some(_) => None,
            // Revisions have no gaps: without a filter there is nothing to count.
            None if self.filter.is_empty() => Some(range.len()),
            None => Some(store.count(&self.filter, range).await?),
        };
        let mut entries = match self.query(range) {
            Some(query) if !query.range.is_empty() => store.entries(&query).await?,
            _ => Vec::new(),
        };
        let has_more = entries.len() > usize::try_from(self.limit).unwrap_or(usize::MAX);
        entries.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        let next = entries.last().filter(|_| has_more).zip(self.page.checked_add(1));
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

    /// The query for the page's entries and one more, which tells whether there is a next page. `None` for a page number beyond any
    /// log.
    fn query(&self, range: Range) -> Option<EntryQuery> {
        let skipped = i64::from(self.page - 1).checked_mul(i64::from(self.limit))?;
        let (last, offset) = match self.cursor {
            Some(cursor) => (range.last.min(cursor.before - 1), 0),
            // Without a filter the page's first revision is computed: page 50,000 is as fast as page 1.
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

//! ListAuditLogs: pages that do not shift while the log grows.

use prost::Message;
use tonic::Status;

use super::conditions;
use crate::api::paging::LogCursor;
use crate::api::pb;
use crate::api::validate::{Edge, FilterFields, RequestValidator};
use crate::domain::Revision;
use crate::domain::error::{Error, Violation};
use crate::domain::filter::{Filter, Period, Range};
use crate::domain::state::{EnvironmentScope, Head};
use crate::domain::text::EnvironmentKey;
use crate::domain::time::Timestamp;
use crate::store::{EntryQuery, Order, Store};

const DEFAULT_LIMIT: i32 = 50;
const MAX_LIMIT: i32 = 100;

/// A page ends before the entry with which its entries would be larger than this: clients accept messages of 4 MiB by default. Only changes of
/// users with thousands of permissions are so long that 100 of them are more.
const MAX_PAGE_BYTES: usize = (4 << 20) - (8 << 10);

/// How many entries of one object or key may be skipped. The log is not counted by these, so they are walked.
const MAX_SKIPPED_OF_OBJECT: i64 = 100_000;

/// ListAuditLogs, parsed.
pub(super) struct AuditLogList {
    /// The environments that the request names, or else the caller's own.
    pub environments: Option<EnvironmentScope>,
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
    pub fn parse(request: pb::ListAuditLogsRequest, own: Option<&EnvironmentKey>) -> Result<Self, Error> {
        let mut validator = RequestValidator::default();
        let (environments, filter, period) = conditions!(validator, request, own);
        let page = validator.between("page", 1, i32::MAX, request.page.unwrap_or(1));
        let limit = validator.between("limit", 1, MAX_LIMIT, request.limit.unwrap_or(DEFAULT_LIMIT));
        let as_of = validator.at_least("as_of_revision", 0, request.as_of_revision);
        let min_revision = validator.at_least("min_revision", 0, request.min_revision);
        let scope = format!("audit {limit:?} {environments:?} {filter:?} {period:?}");
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
            Self { environments, filter, period, page, limit, cursor, as_of, min_revision, scope }
        });
        validator.finish(list)
    }

    /// The list, limited to entries of a scope.
    pub fn in_scope(self, scope: &EnvironmentScope) -> Self {
        Self { filter: self.filter.in_scope(scope), ..self }
    }

    /// The `to_date` that must be closed before the page is read, if a later entry could still belong to the page. A page that is
    /// anchored at a revision never changes.
    pub fn time_to_close(&self) -> Option<Timestamp> {
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
        let mut entries = match self.query(range, total)? {
            Some(query) if !query.range.is_empty() => store.entries(&query).await?,
            _ => Vec::new(),
        };
        let found = entries.len();
        entries.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        let mut items: Vec<pb::AuditLog> = entries.iter().map(Into::into).collect();
        items.truncate(fitting(&items));
        entries.truncate(items.len());
        let has_more = entries.len() < found;
        let next = entries.last().filter(|_| has_more).zip(self.page.checked_add(1));
        let next = next.map(|(last, page)| LogCursor { as_of, before: last.revision, page }.encode(&self.scope));
        Ok(pb::ListAuditLogsResponse {
            items,
            total,
            page: self.page,
            limit: self.limit,
            next_page_token: next.unwrap_or_default(),
            as_of_revision: as_of,
        })
    }

    /// The query for the page's entries and one more, which tells whether there is a next page. `None` for a page number beyond
    /// the last of `total` entries.
    fn query(&self, range: Range, total: Option<i64>) -> Result<Option<EntryQuery>, Error> {
        let skipped = i64::from(self.page - 1) * i64::from(self.limit);
        let (last, offset) = match self.cursor {
            Some(cursor) => (range.last.min(cursor.before - 1), 0),
            None if total.is_some_and(|total| skipped >= total) => return Ok(None),
            // Without a filter the page's first revision is computed: page 50,000 is as fast as page 1.
            None if self.filter.is_empty() => (range.last - skipped, 0),
            None if self.filter.is_about_objects() && skipped > MAX_SKIPPED_OF_OBJECT => {
                let rule = format!(
                    "must not skip more than {MAX_SKIPPED_OF_OBJECT} entries of one object, key or prefix: use page_token, or to_date"
                );
                return Err(Error::Invalid(vec![Violation { field: "page".to_owned(), rule }]));
            }
            None => (range.last, skipped),
        };
        Ok(Some(EntryQuery {
            filter: self.filter.clone(),
            range: Range { first: range.first, last },
            order: Order::NewestFirst,
            offset,
            limit: i64::from(self.limit) + 1,
        }))
    }
}

/// How many entries fit on a page, at least one.
fn fitting(items: &[pb::AuditLog]) -> usize {
    let mut bytes = 0;
    let fitting = items.iter().take_while(|item| {
        bytes += item.encoded_len();
        bytes <= MAX_PAGE_BYTES
    });
    fitting.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(page: i32) -> pb::ListAuditLogsRequest {
        pb::ListAuditLogsRequest { page: Some(page), limit: Some(100), ..Default::default() }
    }

    fn query(request: pb::ListAuditLogsRequest, total: i64) -> Result<Option<(i64, i64)>, Error> {
        let list = AuditLogList::parse(request, None).unwrap();
        let query = list.query(Range { first: 1, last: 1_000_000 }, Some(total))?;
        Ok(query.map(|query| (query.range.last, query.offset)))
    }

    #[test]
    fn page_past_the_end_is_not_looked_for() {
        let flags = |page| pb::ListAuditLogsRequest { entity_type: Some("feature_flag".to_owned()), ..request(page) };
        assert_eq!(query(flags(5), 401).unwrap(), Some((1_000_000, 400)));
        assert_eq!(query(flags(5), 400).unwrap(), None);
        assert_eq!(query(flags(i32::MAX), 1_000_000).unwrap(), None);
        assert_eq!(query(request(10_000), 1_000_000).unwrap(), Some((100, 0)));
        assert_eq!(query(request(i32::MAX), 1_000_000).unwrap(), None);
    }

    #[test]
    fn credentials_environment_counts_as_named() {
        let staging = EnvironmentKey::parse("staging").unwrap();
        let parsed = |named: Option<&str>, own| {
            let request = pb::ListAuditLogsRequest { environment: named.map(str::to_owned), ..request(1) };
            AuditLogList::parse(request, own).unwrap().environments.map(|scope| scope.to_string())
        };
        assert_eq!(parsed(None, None), None);
        assert_eq!(parsed(None, Some(&staging)).as_deref(), Some("staging"));
        assert_eq!(parsed(Some("-"), Some(&staging)).as_deref(), Some("-"));
        assert_eq!(parsed(Some("dev"), Some(&staging)).as_deref(), Some("dev"));
    }

    #[test]
    fn deep_page_of_one_object_is_refused() {
        let id = "0198c0de-0000-7000-8000-000000000000".to_owned();
        let of_object = |page| pb::ListAuditLogsRequest { entity_id: Some(id.clone()), ..request(page) };
        let of_prefix = |page| pb::ListAuditLogsRequest { key_prefix: Some("a".to_owned()), ..request(page) };
        for filtered in [&of_object as &dyn Fn(i32) -> _, &of_prefix] {
            assert_eq!(query(filtered(1_001), 1_000_000).unwrap(), Some((1_000_000, 100_000)));
            assert_eq!(query(filtered(1_002), 100_100).unwrap(), None);
            let Err(Error::Invalid(violations)) = query(filtered(1_002), 1_000_000) else { panic!("not refused") };
            assert_eq!(violations[0].field, "page");
            assert!(violations[0].rule.contains("use page_token"), "{}", violations[0].rule);
        }
    }
}

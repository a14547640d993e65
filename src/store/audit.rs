//! Queries on the log, written once for both databases.
//!
//! There is one text for each set of filters rather than one with `$1 IS NULL OR ...`, which would keep the database
//! from using the index that a filter has. Nothing but constants and bound values goes into a text.

use sqlx::{Database, Encode, QueryBuilder, Type};
use uuid::Uuid;

use super::rows::select;
use super::{EntryQuery, Order};
use crate::domain::audit::{EntityType, Entry};
use crate::domain::filter::{Filter, Range};

/// What is asked of the log.
pub(super) enum Question<'a> {
    /// Entries.
    Entries(&'a EntryQuery),
    /// The plan for those entries; after the words that ask this database for one.
    Plan(&'static str, &'a EntryQuery),
    /// How many there are.
    Count(&'a Filter, Range),
}

/// The question in this database's words.
pub(super) fn sql<'a, DB>(question: &Question<'_>) -> QueryBuilder<DB>
where
    DB: Database,
    Uuid: Encode<'a, DB> + Type<DB> + 'a,
    i64: Encode<'a, DB> + Type<DB> + 'a,
    String: Encode<'a, DB> + Type<DB> + 'a,
    &'static str: Encode<'a, DB> + Type<DB> + 'a,
{
    let (prefix, query, filter, range) = match question {
        Question::Entries(query) => ("", Some(query), &query.filter, query.range),
        Question::Plan(prefix, query) => (*prefix, Some(query), &query.filter, query.range),
        Question::Count(filter, range) => ("", None, *filter, *range),
    };
    let mut sql = QueryBuilder::new(prefix);
    match query {
        Some(_) => sql.push(select::<Entry>()),
        None => sql.push("SELECT count(*) FROM audit_logs"),
    };
    sql.push(" WHERE revision >= ").push_bind(range.first).push(" AND revision <= ").push_bind(range.last);
    if let Some(kind) = filter.entity_type {
        sql.push(entity_type_is(kind, filter.entity_id.is_some())).push_bind(kind.as_str());
    }
    if let Some(id) = filter.entity_id {
        sql.push(" AND entity_id = ").push_bind(id);
        // The index begins with the kind of object. Objects of different kinds never share an id, so any entry of this
        // one tells its kind; with several kinds to look under, its entries would have to be sorted.
        if filter.entity_type.is_none() {
            sql.push(
                " AND entity_type = (SELECT entity_type FROM audit_logs
                    WHERE entity_type IN ('feature_flag', 'user', 'api_token', 'log') AND entity_id = ",
            );
            sql.push_bind(id).push(" LIMIT 1)");
        }
    }
    by_whom_and_what(&mut sql, filter);
    if let Some(query) = query {
        sql.push(match query.order {
            Order::NewestFirst => " ORDER BY revision DESC LIMIT ",
            Order::OldestFirst => " ORDER BY revision LIMIT ",
        });
        sql.push_bind(query.limit);
        if query.offset > 0 {
            sql.push(" OFFSET ").push_bind(query.offset);
        }
    }
    sql
}

/// Who did what, as far as the filter says.
pub(super) fn by_whom_and_what<'a, DB>(sql: &mut QueryBuilder<DB>, filter: &Filter)
where
    DB: Database,
    Uuid: Encode<'a, DB> + Type<DB> + 'a,
    String: Encode<'a, DB> + Type<DB> + 'a,
    &'static str: Encode<'a, DB> + Type<DB> + 'a,
{
    if let Some(user_id) = filter.user_id {
        sql.push(" AND user_id = ").push_bind(user_id);
    }
    if let Some(email) = &filter.user_email {
        sql.push(" AND user_email = ").push_bind(email.to_string());
    }
    if let Some(action) = filter.action {
        sql.push(" AND action_type = ").push_bind(action.as_str());
    }
}

/// Nearly every entry is about a flag: those are found by walking the log, and the call keeps SQLite, which has no
/// statistics to know, from looking for an index. The index for the others leaves flags out, and has to be told.
fn entity_type_is(kind: EntityType, with_id: bool) -> &'static str {
    match (kind, with_id) {
        (_, true) => " AND entity_type = ",
        (EntityType::FeatureFlag, false) => " AND coalesce(entity_type, '') = ",
        (_, false) => " AND entity_type <> 'feature_flag' AND entity_type = ",
    }
}

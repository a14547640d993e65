//! Queries on the log, written once for both databases.
//!
//! There is one text for each set of filters rather than one with `$1 IS NULL OR ...`, which would keep the database
//! from using the index that a filter has. Nothing but constants and bound values goes into a text.

use sqlx::{Database, Encode, QueryBuilder, Type};
use uuid::Uuid;

use super::rows::entry_columns;
use super::{EntryQuery, Order};
use crate::domain::audit::EntityType;
use crate::domain::filter::{Filter, Range};

pub(super) fn entries<'a, DB>(prefix: &str, query: &EntryQuery) -> QueryBuilder<DB>
where
    DB: Database,
    Uuid: Encode<'a, DB> + Type<DB> + 'a,
    i64: Encode<'a, DB> + Type<DB> + 'a,
    String: Encode<'a, DB> + Type<DB> + 'a,
    &'static str: Encode<'a, DB> + Type<DB> + 'a,
{
    let mut sql = QueryBuilder::new(prefix);
    sql.push(concat!("SELECT ", entry_columns!(), " FROM audit_logs"));
    conditions(&mut sql, &query.filter, query.range);
    sql.push(match query.order {
        Order::NewestFirst => " ORDER BY revision DESC",
        Order::OldestFirst => " ORDER BY revision",
    });
    sql.push(" LIMIT ").push_bind(query.limit);
    if query.offset > 0 {
        sql.push(" OFFSET ").push_bind(query.offset);
    }
    sql
}

pub(super) fn count<'a, DB>(filter: &Filter, range: Range) -> QueryBuilder<DB>
where
    DB: Database,
    Uuid: Encode<'a, DB> + Type<DB> + 'a,
    i64: Encode<'a, DB> + Type<DB> + 'a,
    String: Encode<'a, DB> + Type<DB> + 'a,
    &'static str: Encode<'a, DB> + Type<DB> + 'a,
{
    let mut sql = QueryBuilder::new("SELECT count(*) FROM audit_logs");
    conditions(&mut sql, filter, range);
    sql
}

fn conditions<'a, DB>(sql: &mut QueryBuilder<DB>, filter: &Filter, range: Range)
where
    DB: Database,
    Uuid: Encode<'a, DB> + Type<DB> + 'a,
    i64: Encode<'a, DB> + Type<DB> + 'a,
    String: Encode<'a, DB> + Type<DB> + 'a,
    &'static str: Encode<'a, DB> + Type<DB> + 'a,
{
    sql.push(" WHERE revision >= ").push_bind(range.first).push(" AND revision <= ").push_bind(range.last);
    if let Some(user_id) = filter.user_id {
        sql.push(" AND user_id = ").push_bind(user_id);
    }
    if let Some(email) = &filter.user_email {
        sql.push(" AND user_email = ").push_bind(email.to_string());
    }
    if let Some(kind) = filter.entity_type {
        // Nearly every entry is about a flag: those are found by walking the log, and the call keeps SQLite, which has no
        // statistics to know, from looking for an index. The index for the others leaves flags out, and has to be told.
        sql.push(match (kind, filter.entity_id) {
            (_, Some(_)) => " AND entity_type = ",
            (EntityType::FeatureFlag, None) => " AND coalesce(entity_type, '') = ",
            (_, None) => " AND entity_type <> 'feature_flag' AND entity_type = ",
        });
        sql.push_bind(kind.as_str());
    }
    if let Some(id) = filter.entity_id {
        sql.push(" AND entity_id = ").push_bind(id);
        // The index begins with the kind of object.
        if filter.entity_type.is_none() {
            sql.push(" AND entity_type IN ('feature_flag', 'user', 'api_token', 'log')");
        }
    }
    if let Some(action) = filter.action {
        sql.push(" AND action_type = ").push_bind(action.as_str());
    }
}

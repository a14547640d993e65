//! Queries on the log, written once for both databases.
//!
//! The text holds only the filters that are set. One text with `$1 IS NULL OR ...` for all would keep the database from
//! using the index of a filter.

use super::backend::Backend;
use super::counts::BLOCK;
use super::rows::{Time, select};
use super::sql::Sql;
use super::{EntryChunk, EntryQuery, Order, StoreError};
use crate::domain::audit::{EntityType, Entry};
use crate::domain::filter::{Filter, Range};
use crate::domain::text::EnvironmentKey;
use crate::domain::time::Timestamp;
use uuid::Uuid;

/// Selects entries. `prefix` is empty, or asks the database for its plan.
pub(super) fn entries<B: Backend>(prefix: &str, query: &EntryQuery) -> Sql<B> {
    let (direction, edge) = match query.order {
        Order::NewestFirst => ("DESC", " AND revision <= "),
        Order::OldestFirst => ("ASC", " AND revision >= "),
    };
    let block = query.filter.entity_id.and(B::OBJECT_INDEX_BLOCK);
    let order = block.map(|block| format!("{block} {direction}, ")).unwrap_or_default();
    let order = format!(" ORDER BY {order}revision {direction} LIMIT ");
    let mut sql = Sql::new(prefix);
    sql.push(&select::<Entry>());
    push_conditions(&mut sql, &query.filter, query.range);
    if query.offset > 0 {
        // Only revisions are skipped, so that an index which has all the columns of the filter is enough.
        sql.push(edge).push("(SELECT revision FROM audit_logs");
        push_conditions(&mut sql, &query.filter, query.range);
        sql.push(&order).push("1 OFFSET ").push_value(query.offset).push(")");
    }
    sql.push(&order).push_value(query.limit);
    sql
}

/// Whether another entry fits after each of these, in turn: there is room for about `max_bytes`, and for at least two entries.
pub(super) fn has_room(max_bytes: usize) -> impl FnMut(&Entry) -> bool {
    let (mut rows, mut bytes) = (0, 0);
    move |entry| {
        rows += 1;
        bytes += entry.size();
        rows < 2 || bytes < max_bytes
    }
}

/// Reads the first of the entries that match a query with one statement, up to about `max_bytes`.
pub(super) async fn entry_chunk<B: Backend>(
    query: &EntryQuery,
    max_bytes: usize,
    connection: &mut B::Connection,
) -> Result<EntryChunk, StoreError> {
    let (entries, is_cut) = entries::<B>("", query).rows_while(connection, has_room(max_bytes)).await?;
    Ok(EntryChunk { entries, is_cut })
}

/// Counts entries by walking them.
pub(super) fn count<B: Backend>(filter: &Filter, range: Range) -> Sql<B> {
    let mut sql = Sql::new("SELECT count(*) FROM audit_logs");
    push_conditions(&mut sql, filter, range);
    sql
}

/// Counts entries by walking them, up to a limit.
pub(super) fn count_up_to<B: Backend>(filter: &Filter, range: Range, limit: i64) -> Sql<B> {
    let mut sql = Sql::new("SELECT count(*) FROM (SELECT 1 FROM audit_logs");
    push_conditions(&mut sql, filter, range);
    sql.push(" LIMIT ").push_value(limit).push(") AS found");
    sql
}

/// Selects one entry by its id, unless it was trimmed.
pub(super) fn entry<B: Backend>(id: Uuid) -> Sql<B> {
    let kept = "id = $1 AND revision > (SELECT floor FROM log_head)";
    Sql::new(format!("{} WHERE {kept}", select::<Entry>())).bind(id)
}

/// Selects the revision of the first entry at or after a time.
pub(super) fn first_since<B: Backend>(time: Timestamp) -> Sql<B> {
    let sql = "SELECT revision FROM audit_logs WHERE timestamp >= $1 AND revision > (SELECT floor FROM log_head)
        ORDER BY timestamp, revision LIMIT 1";
    Sql::new(sql).bind(Time(time))
}

/// Selects the revision of the last entry at or before a time.
pub(super) fn last_until<B: Backend>(time: Timestamp) -> Sql<B> {
    let sql = "SELECT revision FROM audit_logs WHERE timestamp <= $1 AND revision > (SELECT floor FROM log_head)
        ORDER BY timestamp DESC, revision DESC LIMIT 1";
    Sql::new(sql).bind(Time(time))
}

/// The index that holds the entries of a filter in the order of their revisions, for a database that has to be told. `None`
/// to walk the log itself.
///
/// The list is ordered by how few entries pass a condition, and the first that applies is used. Changes that are not flips, or that
/// concern other objects than flags, are rare. A new filter gets a line here.
fn index(filter: &Filter) -> Option<&'static str> {
    let is_action = |is_flip| filter.action.is_some_and(|action| action.is_flip() == is_flip);
    [
        (filter.entity_id.is_some(), "idx_audit_logs_entity_type_entity_id"),
        (is_action(false), "idx_audit_logs_action_type"),
        (filter.entity_type.is_some_and(|kind| kind != EntityType::FeatureFlag), "idx_audit_logs_entity_type"),
        (filter.user_id.is_some(), "idx_audit_logs_user_id"),
        (filter.user_email.is_some(), "idx_audit_logs_user_email"),
        (filter.environment.as_ref().is_some_and(is_indexed), "idx_audit_logs_environment"),
        (is_action(true), "idx_audit_logs_action_type"),
    ]
    .into_iter()
    .find_map(|(is_given, name)| is_given.then_some(name))
}

/// Whether a filter has an index that holds no entry but those that pass it. All entries of an object are about the same environment.
pub(super) fn has_own_index(filter: &Filter) -> bool {
    let Filter { user_id, user_email, entity_type, entity_id, action, environment } = filter;
    let object = entity_id.is_some() || entity_type.is_some_and(|kind| kind != EntityType::FeatureFlag);
    let flag = entity_id.is_none() && *entity_type == Some(EntityType::FeatureFlag);
    let environment = environment.as_ref().filter(|_| entity_id.is_none());
    let given = [user_id.is_some(), user_email.is_some(), action.is_some(), object, flag, environment.is_some()];
    let is_walked = flag || environment.is_some_and(|key| !is_indexed(key));
    !is_walked && given.into_iter().filter(|is_given| *is_given).count() == 1
}

/// Whether the entries about an environment are in an index. In most logs nearly all are about `default`.
fn is_indexed(environment: &EnvironmentKey) -> bool {
    environment != EnvironmentKey::default_environment()
}

fn push_conditions<B: Backend>(sql: &mut Sql<B>, filter: &Filter, range: Range) {
    sql.push(&B::index_hint(index(filter)));
    sql.push(" WHERE revision >= ").push_value(range.first).push(" AND revision <= ").push_value(range.last);
    if let Some(kind) = filter.entity_type {
        sql.push(entity_type_condition(kind, filter.entity_id.is_some())).push_value(kind.as_str());
    }
    if let Some(id) = filter.entity_id {
        sql.push(" AND entity_id = ").push_value(id);
        push_blocks(sql, range);
        // The index begins with the kind of object. Objects of different kinds never share an id, so any entry of this
        // one shows its kind. With several kinds to look under, its entries would have to be sorted.
        if filter.entity_type.is_none() {
            let kinds: Vec<_> = EntityType::ALL.iter().map(|kind| format!("'{}'", kind.as_str())).collect();
            sql.push(&format!(
                " AND entity_type = (SELECT entity_type FROM audit_logs WHERE entity_type IN ({}) AND entity_id = ",
                kinds.join(", ")
            ));
            sql.push_value(id);
            push_blocks(sql, range);
            sql.push(" LIMIT 1)");
        }
    }
    if let Some(environment) = &filter.environment {
        sql.push(environment_condition(environment)).push_value(environment.as_str());
    }
    push_user_and_action(sql, filter);
}

/// Appends the blocks of a range, where the index of objects has a part for each block of the log. A block without entries of an object costs
/// one search in that index, so only blocks of the present log are named.
fn push_blocks<B: Backend>(sql: &mut Sql<B>, range: Range) {
    let Some(block) = B::OBJECT_INDEX_BLOCK else { return };
    sql.push(&format!(" AND {block} IN (WITH RECURSIVE blocks (block) AS (SELECT (max(floor, "));
    sql.push_value(range.first.saturating_sub(1)).push(&format!(")) / {BLOCK} FROM log_head"));
    sql.push(" UNION ALL SELECT block + 1 FROM blocks WHERE block < (SELECT (min(revision, ").push_value(range.last);
    sql.push(&format!(") - 1) / {BLOCK} FROM log_head)) SELECT block FROM blocks)"));
}

/// Appends the conditions on the user and the action.
pub(super) fn push_user_and_action<B: Backend>(sql: &mut Sql<B>, filter: &Filter) {
    if let Some(user_id) = filter.user_id {
        sql.push(" AND user_id = ").push_value(user_id);
    }
    if let Some(email) = &filter.user_email {
        sql.push(" AND user_email = ").push_value(&**email);
    }
    if let Some(action) = filter.action {
        sql.push(" AND action_type = ").push_value(action.as_str());
    }
}

/// Nearly all entries are about flags, so those are found by walking the log. `coalesce` keeps PostgreSQL from using an
/// index. The index of the other kinds leaves flags out, and the condition must repeat that.
fn entity_type_condition(kind: EntityType, has_id: bool) -> &'static str {
    match (kind, has_id) {
        (_, true) => " AND entity_type = ",
        (EntityType::FeatureFlag, false) => " AND coalesce(entity_type, '') = ",
        (_, false) => " AND entity_type <> 'feature_flag' AND entity_type = ",
    }
}

/// The index leaves `default` out, and the condition on another environment must repeat that.
fn environment_condition(environment: &EnvironmentKey) -> &'static str {
    if is_indexed(environment) { " AND environment <> 'default' AND environment = " } else { " AND environment = " }
}

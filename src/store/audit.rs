//! Queries on the log, written once for both databases.
//!
//! The text holds only the filters that are set. One text with `$1 IS NULL OR ...` for all would keep the database from
//! using the index of a filter.

use super::backend::{Backend, BlockWords};
use super::counts::BLOCK;
use super::rows::{Time, select};
use super::sql::Sql;
use super::{EntryChunk, EntryQuery, Order, StoreError};
use crate::domain::audit::{EntityType, Entry};
use crate::domain::filter::{Filter, KeyFilter, Range};
use crate::domain::text::EnvironmentKey;
use crate::domain::time::Timestamp;
use uuid::Uuid;

/// Selects entries. `prefix` is empty, or asks the database for its plan.
pub(super) fn entries<B: Backend>(prefix: &str, query: &EntryQuery) -> Sql<B> {
    let (direction, edge) = match query.order {
        Order::NewestFirst => ("DESC", " AND revision <= "),
        Order::OldestFirst => ("ASC", " AND revision >= "),
    };
    let order = format!(" ORDER BY {} LIMIT ", order::<B>(&query.filter, direction));
    let mut sql = Sql::new(prefix);
    push_parts(&mut sql, &query.filter, (&order, query.limit), |sql, part| {
        sql.push(&select::<Entry>());
        push_conditions(sql, part, query.range);
        if query.offset > 0 {
            // Only revisions are skipped, so that an index which has all the columns of the filter is enough.
            sql.push(edge).push("(");
            push_parts(sql, &query.filter, (&order, query.offset + 1), |sql, part| {
                sql.push("SELECT revision FROM audit_logs");
                push_conditions(sql, part, query.range);
            });
            sql.push(&order).push("1 OFFSET ").push_value(query.offset).push(")");
        }
    });
    sql.push(&order).push_value(query.limit);
    sql
}

/// Appends the lists that together are the list of a filter. PostgreSQL merges lists only if each has an order and a limit of its own.
fn push_parts<B: Backend>(
    sql: &mut Sql<B>,
    filter: &Filter,
    (order, limit): (&str, i64),
    push_part: impl Fn(&mut Sql<B>, &Filter),
) {
    let parts = parts(filter);
    let is_enclosed = parts.len() > 1 && B::ENCLOSES_PARTS;
    for (number, part) in parts.iter().enumerate() {
        sql.push(if number == 0 { "" } else { " UNION ALL " }).push(if is_enclosed { "(" } else { "" });
        push_part(sql, part);
        if is_enclosed {
            sql.push(order).push_value(limit).push(")");
        }
    }
}

/// The order of a list. SQLite sorts the entries of one block after the other, where an index begins with the block. PostgreSQL sorts
/// those of all asked blocks, by an expression that the index of revisions does not fit: it would walk the log for a key that is seldom used.
fn order<B: Backend>(filter: &Filter, direction: &str) -> String {
    match B::OBJECT_INDEX_BLOCK.filter(|_| filter.entity_id.is_some() || is_by_key(filter)) {
        Some(block) => format!("{block} {direction}, revision {direction}"),
        None if is_by_key(filter) => format!("revision + 0 {direction}"),
        None => format!("revision {direction}"),
    }
}

/// The filters of lists which together are the list of a filter, and are merged in its order. An index of actions has the entries of each in
/// order, but not those of several.
fn parts(filter: &Filter) -> Vec<Filter> {
    if filter.actions.len() < 2 || index(filter) != Some(ACTION_INDEX) {
        return vec![filter.clone()];
    }
    filter.actions.iter().map(|action| Filter { actions: vec![*action], ..filter.clone() }).collect()
}

const ACTION_INDEX: &str = "idx_audit_logs_action_type";

/// Whether the index of keys has the entries of a filter without an object.
fn is_by_key(filter: &Filter) -> bool {
    filter.entity_id.is_none() && index(filter) == Some(KEY_INDEX)
}

/// SQLite finds objects in it as well.
const KEY_INDEX: &str = "idx_audit_logs_entity_key";

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
    let has_flips = filter.actions.iter().any(|action| action.is_flip());
    let is_key = |is_exact| filter.key.as_ref().is_some_and(|key| matches!(key, KeyFilter::Exact(_)) == is_exact);
    [
        (filter.entity_id.is_some() || is_key(true), KEY_INDEX),
        (!filter.actions.is_empty() && !has_flips, ACTION_INDEX),
        (filter.entity_type.is_some_and(|kind| kind != EntityType::FeatureFlag), "idx_audit_logs_entity_type"),
        (filter.user_id.is_some(), "idx_audit_logs_user_id"),
        (filter.user_email.is_some(), "idx_audit_logs_user_email"),
        (is_key(false), KEY_INDEX),
        (filter.without_reason, "idx_audit_logs_without_reason"),
        (filter.environment.as_ref().is_some_and(is_indexed), "idx_audit_logs_environment"),
        (has_flips, ACTION_INDEX),
    ]
    .into_iter()
    .find_map(|(is_given, name)| is_given.then_some(name))
}

/// Whether a filter has an index that holds no entry but those that pass it, in their order. All entries of an object are about the same
/// environment. The entries of several keys are not in order, so they are read block by block.
pub(super) fn has_own_index(filter: &Filter) -> bool {
    let Filter { user_id, user_email, entity_type, entity_id, key, actions, without_reason, environment } = filter;
    let object = entity_id.is_some() || entity_type.is_some_and(|kind| kind != EntityType::FeatureFlag);
    let flag = entity_id.is_none() && *entity_type == Some(EntityType::FeatureFlag);
    let environment = environment.as_ref().filter(|_| entity_id.is_none());
    let (user, action) = ([user_id.is_some(), user_email.is_some()], !actions.is_empty());
    let given = [user[0], user[1], action, object, flag, *without_reason, environment.is_some()];
    let is_walked = flag || key.is_some() || environment.is_some_and(|key| !is_indexed(key));
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
        match B::OBJECT_INDEX_BLOCK {
            Some(block) => {
                push_key_of(sql, id);
                push_blocks(sql, block, range);
            }
            None if filter.entity_type.is_none() => push_kind_of(sql, id),
            None => {}
        }
    }
    if let Some(key) = &filter.key {
        push_key(sql, key);
        if is_by_key(filter) {
            push_blocks(sql, KEY_INDEX_BLOCK, range);
        }
    }
    if filter.without_reason {
        sql.push(" AND ").push(WITHOUT_REASON);
    }
    if let Some(environment) = &filter.environment {
        sql.push(environment_condition(environment)).push_value(environment.as_str());
    }
    push_user_and_action(sql, filter);
}

/// A condition that the index of flips without a reason repeats.
pub(super) const WITHOUT_REASON: &str = "reason IS NULL AND action_type IN ('toggle_enabled', 'toggle_disabled')";

/// The block of an entry, as the index of keys begins with it in both databases.
const KEY_INDEX_BLOCK: &str = "(revision - 1) / 16384";

/// Appends the condition on the key: a range of texts, in the order of bytes.
fn push_key<B: Backend>(sql: &mut Sql<B>, key: &KeyFilter) {
    match key {
        KeyFilter::Exact(text) => sql.push(" AND entity_key = ").push_value(&**text),
        KeyFilter::Prefix(text) => sql.push(" AND entity_key >= ").push_value(&**text),
    };
    if let Some(end) = key.end() {
        sql.push(" AND entity_key < ").push_value(end);
    }
}

/// Appends the kind of an object, with which its index begins. Objects of different kinds never share an id, so any entry of this one shows
/// its kind. With several kinds to look under, its entries would have to be sorted.
fn push_kind_of<B: Backend>(sql: &mut Sql<B>, id: Uuid) {
    let kinds: Vec<_> = EntityType::ALL.iter().map(|kind| format!("'{}'", kind.as_str())).collect();
    let kinds = kinds.join(", ");
    sql.push(&format!(
        " AND entity_type = (SELECT entity_type FROM audit_logs WHERE entity_type IN ({kinds}) AND entity_id = "
    ));
    sql.push_value(id).push(" LIMIT 1)");
}

/// Appends the key of an object, where it is found by that. Objects are never deleted and keep their keys. That of a token, and of the log, is
/// its id.
fn push_key_of<B: Backend>(sql: &mut Sql<B>, id: Uuid) {
    sql.push(" AND entity_key = coalesce(");
    for (table, key) in [("feature_flags", "key"), ("environments", "key"), ("users", "email")] {
        sql.push(&format!("(SELECT {key} FROM {table} WHERE id = ")).push_value(id).push("), ");
    }
    sql.push_value(id.to_string()).push(")");
}

/// Appends the blocks of a range. A block without entries of an object costs one search in the index, so only blocks of the present log are
/// named.
fn push_blocks<B: Backend>(sql: &mut Sql<B>, block: &str, range: Range) {
    let BlockWords { greatest, least, is_one_of: (before, after) } = B::BLOCK_WORDS;
    sql.push(&format!(" AND {block} {before}WITH RECURSIVE blocks (block) AS (SELECT ({greatest}(floor, "));
    sql.push_value(range.first.saturating_sub(1)).push(&format!(")) / {BLOCK} FROM log_head"));
    sql.push(&format!(" UNION ALL SELECT block + 1 FROM blocks WHERE block < (SELECT ({least}(revision, "));
    sql.push_value(range.last).push(&format!(") - 1) / {BLOCK} FROM log_head)) SELECT block FROM blocks{after}"));
}

/// Appends the conditions on the user and the actions.
pub(super) fn push_user_and_action<B: Backend>(sql: &mut Sql<B>, filter: &Filter) {
    if let Some(user_id) = filter.user_id {
        sql.push(" AND user_id = ").push_value(user_id);
    }
    if let Some(email) = &filter.user_email {
        sql.push(" AND user_email = ").push_value(&**email);
    }
    match filter.actions.as_slice() {
        [] => {}
        [action] => drop(sql.push(" AND action_type = ").push_value(action.as_str())),
        actions => {
            for (number, action) in actions.iter().enumerate() {
                sql.push(if number == 0 { " AND action_type IN (" } else { ", " }).push_value(action.as_str());
            }
            sql.push(")");
        }
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

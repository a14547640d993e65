//! Reading the state and following the log, on a connection of its own: callers cannot keep it waiting, and it is not one
//! of a pool. Whoever follows gives up after a while, perhaps in the middle of something. A connection that was given up is
//! closed; a pool would hand it out again, with the old snapshot perhaps still open in it, which never shows anything new.

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::error::read;
use super::{connect, entry_at, head};
use crate::domain::Revision;
use crate::domain::audit::EntityType;
use crate::domain::state::{Delta, Head, State};
use crate::store::rows::{self, FlagRow, TokenRow, UserRow, convert};
use crate::store::{Followed, Relation, StoreError};

/// One moment for several reads.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Reads the state, and what has become of it since.
pub(super) struct Follower {
    options: PgConnectOptions,
    /// The connection, while nobody uses it. It is put back only by who finds it sound.
    idle: Mutex<Option<PgConnection>>,
}

impl Follower {
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, idle: Mutex::new(None) }
    }

    pub async fn load(&self) -> Result<State, StoreError> {
        let mut idle = self.idle.lock().await;
        let mut connection = connect(&self.options).await?;
        let state = load(&mut connection).await?;
        *idle = Some(connection);
        Ok(state)
    }

    pub async fn follow(&self, known: &Head) -> Result<Followed, StoreError> {
        let mut idle = self.idle.lock().await;
        if let Some(mut connection) = idle.take()
            && let Ok(followed) = follow(&mut connection, known).await
        {
            *idle = Some(connection);
            return Ok(followed);
        }
        // The one that was there may have ended while nobody used it.
        let mut connection = connect(&self.options).await?;
        let followed = follow(&mut connection, known).await?;
        *idle = Some(connection);
        Ok(followed)
    }
}

async fn load(connection: &mut PgConnection) -> Result<State, StoreError> {
    let mut snapshot = connection.begin_with(SNAPSHOT).await.map_err(read)?;
    let head = head(&mut snapshot).await?;
    let flags: Vec<FlagRow> = sqlx::query_as(concat!("SELECT ", rows::flag_columns!(), " FROM feature_flags"))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(read)?;
    let users: Vec<UserRow> = sqlx::query_as(concat!("SELECT ", rows::user_columns!(), " FROM users"))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(read)?;
    let tokens: Vec<TokenRow> = sqlx::query_as(concat!("SELECT ", rows::token_columns!(), " FROM api_tokens"))
        .fetch_all(&mut *snapshot)
        .await
        .map_err(read)?;
    snapshot.commit().await.map_err(read)?;
    let mut state = State::new(head);
    state.apply(head, &Delta { flags: convert(flags)?, users: convert(users)?, tokens: convert(tokens)? });
    Ok(state)
}

async fn follow(connection: &mut PgConnection, known: &Head) -> Result<Followed, StoreError> {
    // The usual answer, by one small read.
    if head(connection).await? == *known {
        return Ok(Followed::Current);
    }
    let mut snapshot = connection.begin_with(SNAPSHOT).await.map_err(read)?;
    let head = head(&mut snapshot).await?;
    match Relation::of(&head, known) {
        Relation::Same => return Ok(Followed::Current),
        Relation::Foreign => return Ok(Followed::Diverged),
        Relation::Continues => {}
        Relation::ContinuesFrom(hash) => {
            let there = entry_at(&mut snapshot, known.revision).await?;
            if there.is_none_or(|(_, found)| found != hash) {
                return Ok(Followed::Diverged);
            }
        }
    }
    let delta = changed_since(&mut snapshot, known.revision).await?;
    snapshot.commit().await.map_err(read)?;
    Ok(Followed::Changed(head, delta))
}

/// The objects that entries after `revision` name, by their primary keys: what changed is found in the log, so that
/// no table needs an index on its revision, which would cost every flip an index entry.
async fn changed_since(connection: &mut PgConnection, revision: Revision) -> Result<Delta, StoreError> {
    let changed: Vec<(String, Uuid)> = sqlx::query_as(
        "SELECT DISTINCT entity_type, entity_id FROM audit_logs WHERE revision > $1 AND entity_id IS NOT NULL",
    )
    .bind(revision)
    .fetch_all(&mut *connection)
    .await
    .map_err(read)?;
    let of = |kind: EntityType| -> Vec<Uuid> {
        changed.iter().filter(|(name, _)| name == kind.as_str()).map(|(_, id)| *id).collect()
    };
    let mut delta = Delta::default();
    let (flags, users, tokens) = (of(EntityType::FeatureFlag), of(EntityType::User), of(EntityType::ApiToken));
    if !flags.is_empty() {
        let sql = concat!("SELECT ", rows::flag_columns!(), " FROM feature_flags WHERE id = ANY($1)");
        let rows: Vec<FlagRow> = sqlx::query_as(sql).bind(flags).fetch_all(&mut *connection).await.map_err(read)?;
        delta.flags = convert(rows)?;
    }
    if !users.is_empty() {
        let sql = concat!("SELECT ", rows::user_columns!(), " FROM users WHERE id = ANY($1)");
        let rows: Vec<UserRow> = sqlx::query_as(sql).bind(users).fetch_all(&mut *connection).await.map_err(read)?;
        delta.users = convert(rows)?;
    }
    if !tokens.is_empty() {
        let sql = concat!("SELECT ", rows::token_columns!(), " FROM api_tokens WHERE id = ANY($1)");
        let rows: Vec<TokenRow> = sqlx::query_as(sql).bind(tokens).fetch_all(&mut *connection).await.map_err(read)?;
        delta.tokens = convert(rows)?;
    }
    Ok(delta)
}

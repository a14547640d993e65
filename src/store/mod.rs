//! Storage: the traits that a database must implement, and the two databases that do. All SQL is here.
//!
//! * `rows` describes each table once.
//! * `sql`, `audit`, `counts`, `pages`, `checkpoints`, `server_keys` and `follow` are written once for both databases.
//! * `log_query` and `query_throttle` keep queries of the log from slowing changes.
//! * `postgres` and `sqlite` hold what differs: connections, the append, and some statements.
//!
//! To add a backend, implement [`Store`] and [`Writer`], and give it migrations with the same tables and columns. Add it to the
//! conformance suite in `tests/it/store`, which runs every method against every backend.

mod audit;
mod backend;
mod checkpoints;
mod counts;
mod error;
mod follow;
mod log_query;
mod migrate;
mod pages;
mod postgres;
mod query_throttle;
mod rows;
mod server_keys;
mod sql;
mod sqlite;
mod usability;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use uuid::Uuid;

use crate::domain::Hash;
use crate::domain::Revision;
use crate::domain::advance::{Step, StoredRequest};
use crate::domain::audit::Entry;
use crate::domain::filter::{Filter, Period, Range};
use crate::domain::history::NextChange;
use crate::domain::state::{Head, State};
use crate::domain::text::RequestId;
use crate::domain::time::{Clock, Timestamp};
use follow::Relation;

pub use error::{Cause, StoreError, with_timeout};
pub use follow::{FollowOutcome, Followed};
pub use migrate::Migration;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
pub use usability::Usability;

/// The outcome of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendOutcome {
    /// The step is in the log, durably.
    Appended,
    /// The log has another head than the one that the step was decided at. Or the time of the step's first entry was closed
    /// meanwhile. Nothing was written. Following the log brings both up to date.
    HeadMoved,
    /// A request of the step is stored already: it is a retry, or its id was used for another request. Nothing was written.
    RequestExists,
    /// The database refuses the data. It may accept a smaller step. Nothing was written.
    Refused(String),
}

/// The order in which entries are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By descending revision.
    NewestFirst,
    /// By ascending revision.
    OldestFirst,
}

/// Which entries to read.
#[derive(Debug, Clone)]
pub struct EntryQuery {
    /// Only entries that pass this filter.
    pub filter: Filter,
    /// Only entries in this range of revisions.
    pub range: Range,
    /// The order of the result.
    pub order: Order,
    /// How many entries to skip.
    pub offset: i64,
    /// How many entries to return at most.
    pub limit: i64,
}

/// The first entries that match a query, up to a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryChunk {
    /// The entries, in the order of the query.
    pub entries: Vec<Entry>,
    /// Whether the chunk ended at its size, so that other entries may follow.
    pub is_cut: bool,
}

/// The size of a secret that servers share, in bytes.
pub const SERVER_KEY_BYTES: usize = 32;

/// A secret that all servers on a database share.
pub type ServerKey = [u8; SERVER_KEY_BYTES];

/// A checkpoint that is stored with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The revision that it signs.
    pub revision: Revision,
    /// The signed text, with the signature.
    pub note: String,
}

/// The trimmed entries that one call removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemovedEntries {
    /// How many entries; 0 when none were left.
    pub entries: u64,
    /// The revision of the last of them; if there were none, the revision after which they were to be removed.
    pub through: Revision,
}

impl RemovedEntries {
    fn new(revisions: &[Revision], after: Revision) -> Self {
        Self { entries: revisions.len() as u64, through: revisions.iter().copied().max().unwrap_or(after) }
    }
}

/// The database connections for requests to the API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Open connections that are not in use.
    pub idle: u32,
    /// Connections in use.
    pub used: u32,
    /// The most that can be open.
    pub max: u32,
}

impl Connections {
    fn of<D: sqlx::Database>(pools: [&sqlx::Pool<D>; 2]) -> Self {
        pools.into_iter().fold(Self::default(), |sum, pool| {
            let all = pool.size();
            let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX).min(all);
            Self {
                idle: sum.idle + idle,
                used: sum.used + all - idle,
                max: sum.max + pool.options().get_max_connections(),
            }
        })
    }
}

/// A database: everything except appends to the log, which go through a [`Writer`].
#[async_trait]
pub trait Store: Send + Sync {
    /// The URL of the database without its password, for logs and operators.
    fn describe(&self) -> String;

    /// The folder of the database, if it is a file.
    fn folder(&self) -> Option<PathBuf>;

    /// Whether the database can be written, as far as appends and probes have shown.
    fn usability(&self) -> &Usability;

    /// If the database is a file, opens its files. Creates them if they are missing and may be created.
    async fn open_files(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// A cheap check between writes that the database is still usable. SQLite's file must be the one that was opened; PostgreSQL's
    /// sessions must be able to write.
    async fn check(&self) -> Result<(), StoreError>;

    /// Writes something that changes nothing. Fails as an append would while the database is read-only or full.
    async fn probe(&self) -> Result<(), StoreError>;

    /// Closes all connections, except those of writers. SQLite's database is one file afterwards, unless another program has
    /// it open. Do not use the store afterwards.
    async fn close(&self);

    /// The clock that all servers on this database share, so that servers whose own clocks are wrong agree on the present:
    /// PostgreSQL's, or the machine's for a file. Until the database was read for the first time, the machine's.
    fn clock(&self) -> Arc<dyn Clock>;

    /// The state of the connections for requests to the API. The server's own tasks mostly use others, which are not counted.
    fn connections(&self) -> Connections;

    /// Applies all pending migrations. Safe to call from several servers at once.
    async fn migrate_up(&self) -> Result<(), StoreError>;

    /// Reverts the newest migration. Without `drop_log`, it refuses to drop a log that has entries.
    async fn migrate_down(&self, drop_log: bool) -> Result<(), StoreError>;

    /// All migrations, and which of them are applied.
    async fn migrations(&self) -> Result<Vec<Migration>, StoreError>;

    /// Settings of the database that endanger the log without keeping the server from using it: one line each, for an operator.
    async fn warnings(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// A connection that appends to the log. A process has only one at a time, owned by its committer.
    fn writer(&self) -> Box<dyn Writer>;

    /// The whole state, at one revision.
    async fn load(&self) -> Result<State, StoreError>;

    /// The end of the log.
    async fn head(&self) -> Result<Head, StoreError>;

    /// What happened since `known`. The new head, the changed objects and the closed time are read at one moment.
    async fn follow(&self, known: &Head) -> Result<Followed, StoreError>;

    /// An endless stream with an item for each append by another server. Items may be late, lost, or without a change, so
    /// callers must poll as well. SQLite sends none.
    fn notifications(&self) -> BoxStream<'static, ()>;

    /// The stored requests among these.
    async fn requests(&self, keys: &[(Uuid, RequestId)]) -> Result<Vec<StoredRequest>, StoreError>;

    /// Deletes stored requests that expired before `now`, and returns how many. At most 1,000 per call, so that writers do not
    /// wait long.
    async fn delete_expired_requests(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Deletes trimmed entries after a revision and up to the floor, oldest first. A call removes few, so that writers do not
    /// wait long, and skips entries that another server is removing. Pass the last removed revision to the next call,
    /// so that the database does not scan the dead rows of removed entries again.
    async fn delete_trimmed(&self, after: Revision) -> Result<RemovedEntries, StoreError>;

    /// When each of a user's tokens was last used, as far as it was stored.
    async fn last_used(&self, user_id: Uuid) -> Result<Vec<(Uuid, Timestamp)>, StoreError>;

    /// Stores when tokens were last used, unless a later time is stored. Not part of the log.
    async fn write_last_used(&self, uses: &[(Uuid, Timestamp)]) -> Result<(), StoreError>;

    /// One entry by its id. `None` for a trimmed entry, whether it was removed yet or not.
    async fn entry(&self, id: Uuid) -> Result<Option<Entry>, StoreError>;

    /// The id and hash of the entry at a revision. `None` for a trimmed entry, whether it was removed yet or not.
    async fn entry_at(&self, revision: Revision) -> Result<Option<(Uuid, Hash)>, StoreError>;

    /// Waits until everything that can be read is as durable as our own commits. A commit can be visible although a synchronous
    /// standby lacks it, if the primary restarted, or the session ended, while it waited for the standby. Call this before a
    /// change is reported as made because it was read.
    async fn confirm_durable(&self) -> Result<(), StoreError>;

    /// Entries that match a query. Skips blocks that have no such entries according to their stored counts, see [`Store::count_ahead`].
    ///
    /// Like [`Store::count`] and [`Store::next_changes`], it takes a turn of the `query_throttle`, which rests between queries while
    /// changes are written. When its future is dropped, the database cancels the query too.
    async fn entries(&self, query: &EntryQuery) -> Result<Vec<Entry>, StoreError>;

    /// The first of these entries, up to about `max_bytes` by [`Entry::size`], but at least two if there are so many.
    async fn entry_chunk(&self, query: &EntryQuery, max_bytes: usize) -> Result<EntryChunk, StoreError>;

    /// How many entries pass a filter in a range of revisions. Adds up the stored counts of blocks, see [`Store::count_ahead`], and
    /// scans the rest.
    async fn count(&self, filter: &Filter, range: Range) -> Result<i64, StoreError>;

    /// Counts the entries in the next block of the log and stores the counts, so that later queries need not scan the block. A block
    /// is a fixed number of revisions. `false` if the next block is not full yet, or another server has just counted it. On SQLite,
    /// writers wait some milliseconds for it.
    async fn count_ahead(&self) -> Result<bool, StoreError>;

    /// The revision of the first entry at or after a time.
    async fn first_since(&self, time: Timestamp) -> Result<Option<Revision>, StoreError>;

    /// The revision of the last entry at or before a time.
    async fn last_until(&self, time: Timestamp) -> Result<Option<Revision>, StoreError>;

    /// The first change of each of these flags after a revision, if it has one, with the data to reconstruct the flag before
    /// it. Each is found by an index. Denied changes do not count.
    async fn next_changes(&self, flags: &[Uuid], revision: Revision) -> Result<Vec<NextChange>, StoreError>;

    /// Whether the log, which ends at `now`, continues from `known`, so that no backup was restored in between. `false` if the
    /// entry after `known` was trimmed, because then this cannot be determined. If `known` is exactly at the floor, its entry was
    /// trimmed too, but the head holds its hash.
    async fn continues_from(&self, now: &Head, known: &Head) -> Result<bool, StoreError> {
        Ok(match Relation::of(now, known) {
            Relation::Same | Relation::Continues => true,
            Relation::Diverged => false,
            Relation::ContinuesIfHash(hash) => {
                self.entry_at(known.revision).await?.is_some_and(|(_, found)| found == hash)
            }
        })
    }

    /// The part of `within` that lies in `period`.
    async fn range(&self, period: Period, within: Range) -> Result<Range, StoreError> {
        let mut range = within;
        if let Some(from) = period.from {
            let first = self.first_since(from).await?;
            range.first = range.first.max(first.unwrap_or(within.last + 1));
        }
        if let Some(to) = period.to {
            let last = self.last_until(to).await?;
            range.last = range.last.min(last.unwrap_or(within.first - 1));
        }
        Ok(range)
    }

    /// Stores a checkpoint, unless there is one at this revision.
    async fn add_checkpoint(&self, revision: Revision, note: &str) -> Result<(), StoreError>;

    /// The checkpoints in a range of revisions, by ascending revision, at most `limit`.
    async fn checkpoints(&self, range: Range, limit: i64) -> Result<Vec<StoredCheckpoint>, StoreError>;

    /// The last checkpoint.
    async fn last_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError>;

    /// Stores the verifier key of a key that signs checkpoints, unless it is stored already.
    async fn add_checkpoint_key(&self, key: &str, at: Timestamp) -> Result<(), StoreError>;

    /// The verifier keys of all keys that signed checkpoints, and when each was added, the oldest first.
    async fn checkpoint_keys(&self) -> Result<Vec<(String, Timestamp)>, StoreError>;

    /// The secret with this name that all servers on the database share; `None` if none of them has made it yet.
    async fn server_key(&self, name: &str) -> Result<Option<ServerKey>, StoreError>;

    /// Stores a secret under a name, unless there is one. Returns the stored one.
    async fn add_server_key(&self, name: &str, secret: ServerKey) -> Result<ServerKey, StoreError>;

    /// Runs [`Store::entries`], and returns the database's plan for each of its statements.
    async fn explain(&self, query: &EntryQuery) -> Result<Vec<String>, StoreError>;
}

/// The one connection that appends to the log.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Appends a step if the log is at `step.base` and the time of its first entry is not closed: all of it or nothing. An
    /// empty step writes nothing, and checks only whether the log is at `step.base`.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] if the step may have been appended or not. The caller may append it again: if it was
    /// appended, the outcome is [`AppendOutcome::HeadMoved`], or [`AppendOutcome::RequestExists`] for a step without entries.
    async fn append(&mut self, step: &Step) -> Result<AppendOutcome, StoreError>;

    /// Closes a time, as durably as an append: from then on, no entry is dated at or before it. Returns the head at that
    /// moment. `None` if nothing was written, because the time is closed already or the log is another one.
    async fn close_time(&mut self, log_id: Uuid, through: Timestamp) -> Result<Option<Head>, StoreError>;

    /// Locks the head until our next `append` ends, so that no other server can append. `close_time` gives the lock up. For a writer that keeps losing the
    /// race. The caller must be quick.
    async fn lock_head(&mut self) -> Result<(), StoreError>;

    /// Closes the connection. The next append opens another one.
    async fn close(&mut self);
}

/// Opens the database at `url`: `sqlite://path` or `postgres://user:password@host:port/database`. Connects at the first
/// use, and creates a missing SQLite file then.
///
/// # Errors
/// A line for the operator, if the URL is invalid.
pub fn open(url: &str) -> Result<Arc<dyn Store>, String> {
    open_or_create(url, true)
}

/// As [`open`], but does not create a missing SQLite file.
///
/// # Errors
/// A line for the operator, if the URL is invalid.
pub fn open_existing(url: &str) -> Result<Arc<dyn Store>, String> {
    open_or_create(url, false)
}

fn open_or_create(url: &str, create: bool) -> Result<Arc<dyn Store>, String> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => Ok(Arc::new(SqliteStore::open(url, create)?)),
        Some("postgres" | "postgresql") => Ok(Arc::new(PostgresStore::open(url)?)),
        _ => Err("must begin with sqlite:// or postgres://".to_owned()),
    }
}

//! What is kept: the traits that a database has to meet, and the two that do. SQL and nothing else lives below here.
//!
//! To add a backend, implement [`Store`] and [`Writer`], give it migrations with the same tables and columns, and add it
//! to the conformance suite in `tests/`, which runs every method against every backend.

mod audit;
mod backend;
mod checkpoints;
mod counts;
mod error;
mod follow;
mod migrate;
mod postgres;
mod rows;
mod sql;
mod sqlite;

use std::path::PathBuf;

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
use crate::domain::time::Timestamp;
use follow::Relation;

pub use error::{Cause, StoreError, with_timeout};
pub use follow::FollowOutcome;
pub use migrate::Migration;
pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;

/// What came of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppendOutcome {
    /// It is there, durably.
    Appended,
    /// The log is not at the revision that the step was decided at. Nothing was written.
    HeadMoved,
    /// A request of the step is stored already. Nothing was written.
    RequestExists,
    /// The database does not take the data; one step smaller may be taken. Nothing was written.
    Refused(String),
}

/// In which order entries are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By falling revision.
    NewestFirst,
    /// By rising revision.
    OldestFirst,
}

/// Which entries to read.
#[derive(Debug, Clone)]
pub struct EntryQuery {
    /// Those that pass this.
    pub filter: Filter,
    /// Between these revisions.
    pub range: Range,
    /// In this order.
    pub order: Order,
    /// Not the first so many.
    pub offset: i64,
    /// At most so many.
    pub limit: i64,
}

/// A checkpoint that is kept with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Of which revision it speaks.
    pub revision: Revision,
    /// What was signed, and the signature.
    pub note: String,
}

/// A portion of what was trimmed, removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemovedEntries {
    /// How many entries; 0 when none are left.
    pub entries: u64,
    /// The revision of the last of them, or the one that they were to come after.
    pub through: Revision,
}

impl RemovedEntries {
    fn of(revisions: &[Revision], after: Revision) -> Self {
        Self { entries: revisions.len() as u64, through: revisions.iter().copied().max().unwrap_or(after) }
    }
}

/// The connections to the database that callers share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Open, and free for the next who asks.
    pub idle: u32,
    /// In use.
    pub used: u32,
    /// As many as there may be.
    pub max: u32,
}

impl Connections {
    fn of<D: sqlx::Database>(pool: &sqlx::Pool<D>) -> Self {
        let (all, max) = (pool.size(), pool.options().get_max_connections());
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX).min(all);
        Self { idle, used: all - idle, max }
    }
}

/// A database, as everyone but the committer uses it.
#[async_trait]
pub trait Store: Send + Sync {
    /// Which database this is, without any password: for the log and for people.
    fn describe(&self) -> String;

    /// The folder that the database lies in, if it is a file.
    fn folder(&self) -> Option<PathBuf>;

    /// How many connections there are now for callers: the server itself has others.
    fn connections(&self) -> Connections;

    /// Brings the schema up to date. Safe to call from several servers at once.
    async fn migrate_up(&self) -> Result<(), StoreError>;

    /// Takes back the newest migration. One that would drop a log with entries in it is refused unless `drop_log`.
    async fn migrate_down(&self, drop_log: bool) -> Result<(), StoreError>;

    /// All migrations, and which of them are applied.
    async fn migrations(&self) -> Result<Vec<Migration>, StoreError>;

    /// The connection for writing; there is one committer a process, and it has the only one.
    fn writer(&self) -> Box<dyn Writer>;

    /// Everything, at one revision.
    async fn load(&self) -> Result<State, StoreError>;

    /// The end of the log.
    async fn head(&self) -> Result<Head, StoreError>;

    /// What happened since `known`. Reads the new head and the changed objects as of one moment.
    async fn follow(&self, known: &Head) -> Result<FollowOutcome, StoreError>;

    /// Hints that somebody else has appended, without end. They may be late, lost, or about nothing: whoever must know looks
    /// now and then as well. SQLite gives none.
    fn notifications(&self) -> BoxStream<'static, ()>;

    /// Those of the named requests that are stored.
    async fn requests(&self, keys: &[(Uuid, RequestId)]) -> Result<Vec<StoredRequest>, StoreError>;

    /// Forgets stored requests that expired before `now`, at most 1,000 at once, so that no writer waits long; how many.
    async fn forget_requests(&self, now: Timestamp) -> Result<u64, StoreError>;

    /// Removes entries that were trimmed, after a revision and up to the floor: the oldest, and not many at once, so that no
    /// writer waits long. Those that somebody else is removing just now are left to them. Whoever goes on after the last
    /// that was removed spares the database a walk through what is left of those before.
    async fn remove_trimmed(&self, after: Revision) -> Result<RemovedEntries, StoreError>;

    /// When each of a user's tokens was last used, as far as it was written down.
    async fn last_used(&self, user_id: Uuid) -> Result<Vec<(Uuid, Timestamp)>, StoreError>;

    /// Writes down when tokens were last used, where that is later than what stands. No part of the log.
    async fn write_last_used(&self, uses: &[(Uuid, Timestamp)]) -> Result<(), StoreError>;

    /// One entry by its id. One that was trimmed is none, removed yet or not.
    async fn entry(&self, id: Uuid) -> Result<Option<Entry>, StoreError>;

    /// The id and hash of the entry at a revision. One that was trimmed is none, removed yet or not.
    async fn entry_at(&self, revision: Revision) -> Result<Option<(Uuid, Hash)>, StoreError>;

    /// Waits until what others have committed is as safe as what we have: a commit can be read while a synchronous standby
    /// still lacks it, if the primary was started again, or the session ended, while it waited for the standby. Before
    /// somebody is told, on the strength of what was read, that their change was made.
    async fn confirm_durable(&self) -> Result<(), StoreError>;

    /// Entries.
    async fn entries(&self, query: &EntryQuery) -> Result<Vec<Entry>, StoreError>;

    /// How many entries pass a filter between two revisions. Blocks of the log that were counted ahead are added up, the rest
    /// is walked.
    async fn count(&self, filter: &Filter, range: Range) -> Result<i64, StoreError>;

    /// Counts the next block of the log ahead, for [`Store::count`]; `false` when there is none that is full, or somebody else has
    /// just counted it. On SQLite writers wait for it to end: some milliseconds.
    async fn count_ahead(&self) -> Result<bool, StoreError>;

    /// The first entry at or after a time.
    async fn first_since(&self, time: Timestamp) -> Result<Option<Revision>, StoreError>;

    /// The last entry at or before a time.
    async fn last_until(&self, time: Timestamp) -> Result<Option<Revision>, StoreError>;

    /// The first change of each of these flags after a revision, of those that have one, with what tells what the flag was
    /// before it. Each is found by an index; attempts that were refused are no changes.
    async fn next_changes(&self, flags: &[Uuid], revision: Revision) -> Result<Vec<NextChange>, StoreError>;

    /// Whether the log, which ends at `now`, goes on from `known`: no backup was restored in between. One that was trimmed
    /// beyond cannot tell, and is said not to.
    async fn continues_from(&self, now: &Head, known: &Head) -> Result<bool, StoreError> {
        Ok(match Relation::of(now, known) {
            Relation::Same | Relation::Continues => true,
            Relation::Diverged => false,
            Relation::ContinuesFrom(hash) => {
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

    /// Keeps a checkpoint, as its note, unless there is one at this revision.
    async fn add_checkpoint(&self, revision: Revision, note: &str) -> Result<(), StoreError>;

    /// The checkpoints between two revisions, by rising revision, at most `limit`.
    async fn checkpoints(&self, range: Range, limit: i64) -> Result<Vec<StoredCheckpoint>, StoreError>;

    /// The last checkpoint.
    async fn last_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError>;

    /// Keeps a key that checkpoints are signed with, unless it is kept already.
    async fn add_checkpoint_key(&self, key: &str, at: Timestamp) -> Result<(), StoreError>;

    /// The keys that checkpoints were signed with, and since when, the oldest first.
    async fn checkpoint_keys(&self) -> Result<Vec<(String, Timestamp)>, StoreError>;

    /// How the database would go about [`Store::entries`], in its own words.
    async fn explain(&self, query: &EntryQuery) -> Result<String, StoreError>;
}

/// The one connection that writes.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Appends a step, on condition that the log is at `step.base`: all of it or nothing. An empty step writes nothing
    /// and tells whether the log is still there.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] when it cannot be told whether it was appended. The same step may be appended
    /// again: if it was, the answer is [`AppendOutcome::HeadMoved`].
    async fn append(&mut self, step: &Step) -> Result<AppendOutcome, StoreError>;

    /// Waits for our turn, and keeps others from appending until our next `append` has ended, one way or another. For
    /// a writer that keeps losing the race; the one who holds the head must be quick.
    async fn lock_head(&mut self) -> Result<(), StoreError>;
}

/// Opens the database at `url`: `sqlite://path` or `postgres://user:password@host:port/database`. Connects at the first
/// use, not before; a SQLite file that is not there is made then.
///
/// # Errors
/// A line for a person, when the URL cannot be used.
pub fn open(url: &str) -> Result<std::sync::Arc<dyn Store>, String> {
    open_or_create(url, true)
}

/// As [`open`], for who expects a database there: a file that is not there is not made.
///
/// # Errors
/// A line for a person, when the URL cannot be used.
pub fn open_existing(url: &str) -> Result<std::sync::Arc<dyn Store>, String> {
    open_or_create(url, false)
}

fn open_or_create(url: &str, create: bool) -> Result<std::sync::Arc<dyn Store>, String> {
    match url.split_once(':').map(|(scheme, _)| scheme) {
        Some("sqlite") => Ok(std::sync::Arc::new(SqliteStore::open(url, create)?)),
        Some("postgres" | "postgresql") => Ok(std::sync::Arc::new(PostgresStore::open(url)?)),
        _ => Err("must begin with sqlite:// or postgres://".to_owned()),
    }
}

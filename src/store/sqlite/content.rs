//! Notices that the database was overwritten while it was open, by a program other than SQLite, such as `cp`.
//!
//! The file is then still the same one, and SQLite lays its write-ahead log over the other content. Only checkpoints of the
//! write-ahead log write to the file itself, and they move the head of the log in it forward. So whenever the file was
//! written, its own head is read, without the write-ahead log. If it is missing or went back, although the database as SQLite
//! shows it did not, the file was overwritten. An older state that was restored through SQLite shows in both.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{ConnectOptions, Connection, Error};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::error::{self, read};
use super::file::{FileProblem, OpenedFiles, WriteMark};
use crate::domain::Revision;
use crate::store::StoreError;

/// The content of the file as far as it was seen.
#[derive(Default)]
pub(super) struct Content {
    seen: Mutex<Seen>,
    is_overwritten: AtomicBool,
}

#[derive(Default)]
struct Seen {
    /// When the file was last written.
    mark: WriteMark,
    /// The head in the file at that time; `None` before the first checkpoint of a new log.
    head: Option<FileHead>,
}

/// The log and its last revision.
type FileHead = (Uuid, Revision);

const HEAD: &str = "SELECT log_id, revision FROM log_head";

impl Content {
    /// Checks the content, if the file was written since the last check. `mark` is when it was last written; `pool` shows the
    /// database through SQLite.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the file was overwritten.
    pub async fn check(&self, files: &OpenedFiles, mark: WriteMark, pool: &SqlitePool) -> Result<(), StoreError> {
        let mut seen = self.seen.lock().await;
        if self.is_overwritten() {
            return Err(FileProblem::Overwritten(files.path().to_owned()).into());
        }
        if seen.mark == mark {
            return Ok(());
        }
        let head = file_head(files).await?;
        if let Some(before) = seen.head
            && !continues(head, before)
            && continues(shown_head(pool).await?, before)
        {
            self.is_overwritten.store(true, Ordering::Relaxed);
            return Err(FileProblem::Overwritten(files.path().to_owned()).into());
        }
        *seen = Seen { mark, head };
        Ok(())
    }

    /// Whether the file was ever found overwritten.
    pub fn is_overwritten(&self) -> bool {
        self.is_overwritten.load(Ordering::Relaxed)
    }
}

/// Whether the log with this head can be a later state of the one that had the head `before`.
fn continues(head: Option<FileHead>, before: FileHead) -> bool {
    head.is_some_and(|(log_id, revision)| log_id == before.0 && revision >= before.1)
}

/// The head in the file itself. `None` if it holds no log, or nothing that can be read.
async fn file_head(files: &OpenedFiles) -> Result<Option<FileHead>, StoreError> {
    // An immutable database is read without locks and without its write-ahead log. The row lies in one page, which a
    // checkpoint writes at once. SQLite also keeps our other connections' locks when this one closes the file.
    let options = SqliteConnectOptions::new().filename(files.path()).immutable(true).read_only(true);
    let mut connection = options.disable_statement_logging().connect().await.map_err(read)?;
    let head = sqlx::query_as(HEAD).fetch_optional(&mut connection).await;
    let _ = connection.close().await;
    match head {
        Err(error) if error::is_content(&error) => Ok(None),
        head => head.map_err(read),
    }
}

/// The head that SQLite shows. `None` if the schema was taken back.
async fn shown_head(pool: &SqlitePool) -> Result<Option<FileHead>, StoreError> {
    match sqlx::query_as(HEAD).fetch_optional(pool).await {
        Err(Error::Database(database)) if database.message().contains("no such table") => Ok(None),
        head => head.map_err(read),
    }
}

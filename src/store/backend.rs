//! What code that serves both databases needs from each of them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;
use sqlx::query::Query;
use sqlx::sqlite::Sqlite;
use sqlx::{Arguments, Database, Executor, IntoArguments, Row};

use super::StoreError;
use super::follow::LogEnd;
use super::rows::{BoxError, Value};
use super::{postgres, sqlite};
use crate::domain::Revision;
use crate::domain::state::Delta;

/// A database that holds the log.
pub(super) trait Backend: Database<Arguments: IntoArguments<Self>> {
    /// The block of an entry, as the index of objects begins with it. `None` where that index begins with the object.
    const OBJECT_INDEX_BLOCK: Option<&str>;

    /// Whether each list of a union is ordered and limited by itself. SQLite knows no such union, and merges the lists without it.
    const ENCLOSES_PARTS: bool;

    /// Words that the databases spell differently.
    const BLOCK_WORDS: BlockWords;

    /// Decodes one column of a row.
    fn get<'r, V: Value<'r>>(row: &'r Self::Row, position: usize) -> Result<V, sqlx::Error>;

    /// Adds one value to the arguments of a statement.
    fn add<'q, V: Value<'q>>(arguments: &mut Self::Arguments, value: V) -> Result<(), BoxError>;

    /// Classifies an error of any statement but an append.
    fn classify(error: sqlx::Error) -> StoreError;

    /// Runs a query on one connection.
    fn fetch<'c>(
        connection: &'c mut Self::Connection,
        query: Query<'c, Self, Self::Arguments>,
    ) -> BoxStream<'c, Result<Self::Row, sqlx::Error>>;

    /// Makes the database stop a statement of this connection soon after `is_abandoned`, where it can be told so.
    fn stop_when(
        connection: &mut Self::Connection,
        is_abandoned: Arc<AtomicBool>,
    ) -> BoxFuture<'_, Result<(), sqlx::Error>>;

    /// Gives up a connection in the middle of a statement.
    fn abandon(connection: &mut PoolConnection<Self>);

    /// The part of a statement that makes the database use this index of the log, or none. Empty where it decides itself.
    fn index_hint(index: Option<&str>) -> String;

    /// One line of a plan.
    fn plan_line(row: &Self::Row) -> Result<String, sqlx::Error>;

    /// The end of the log.
    fn end(connection: &mut Self::Connection) -> BoxFuture<'_, Result<LogEnd, StoreError>>;

    /// The objects that entries after `revision` name. They are found by primary key through the log: no table needs an
    /// index on its revision, which would cost every flip an index entry.
    fn changed_since(connection: &mut Self::Connection, revision: Revision)
    -> BoxFuture<'_, Result<Delta, StoreError>>;
}

/// How a database says in which blocks of the log to look.
pub(super) struct BlockWords {
    /// The function that returns its greatest argument.
    pub greatest: &'static str,
    /// The function that returns its least argument.
    pub least: &'static str,
    /// What is written around a query, so that an index is searched for each of its values.
    pub is_one_of: (&'static str, &'static str),
}

macro_rules! backend {
    ($database:ty, $module:ident, $get:ident) => {
        impl Backend for $database {
            const OBJECT_INDEX_BLOCK: Option<&str> = $module::OBJECT_INDEX_BLOCK;

            const ENCLOSES_PARTS: bool = $module::ENCLOSES_PARTS;

            const BLOCK_WORDS: BlockWords = $module::BLOCK_WORDS;

            fn get<'r, V: Value<'r>>(row: &'r Self::Row, position: usize) -> Result<V, sqlx::Error> {
                row.$get(position)
            }

            fn add<'q, V: Value<'q>>(arguments: &mut Self::Arguments, value: V) -> Result<(), BoxError> {
                arguments.add(value)
            }

            fn classify(error: sqlx::Error) -> StoreError {
                $module::classify(error)
            }

            fn fetch<'c>(
                connection: &'c mut Self::Connection,
                query: Query<'c, Self, Self::Arguments>,
            ) -> BoxStream<'c, Result<Self::Row, sqlx::Error>> {
                connection.fetch(query)
            }

            fn stop_when(
                connection: &mut Self::Connection,
                is_abandoned: Arc<AtomicBool>,
            ) -> BoxFuture<'_, Result<(), sqlx::Error>> {
                Box::pin($module::stop_when(connection, is_abandoned))
            }

            fn abandon(connection: &mut PoolConnection<Self>) {
                $module::abandon(connection);
            }

            fn index_hint(index: Option<&str>) -> String {
                $module::index_hint(index)
            }

            fn plan_line(row: &Self::Row) -> Result<String, sqlx::Error> {
                $module::plan_line(row)
            }

            fn end(connection: &mut Self::Connection) -> BoxFuture<'_, Result<LogEnd, StoreError>> {
                Box::pin($module::end(connection))
            }

            fn changed_since(
                connection: &mut Self::Connection,
                revision: Revision,
            ) -> BoxFuture<'_, Result<Delta, StoreError>> {
                Box::pin($module::changed_since(connection, revision))
            }
        }
    };
}

// PostgreSQL's columns have the types of our own migrations, and comparing them for each value took an eighth of the time of reading the
// log. Values of SQLite's columns may have any type.
backend!(Postgres, postgres, try_get_unchecked);
backend!(Sqlite, sqlite, try_get);

//! The rows of each table, described once.
//!
//! [`tables`] lists the columns of each table. Column lists, statements, bound values and the decoding of rows are all
//! made from it, for both databases. A new column takes three places: the field of the domain type, its line in
//! [`tables`], and the migration of each database.

mod field;
mod sql;
mod table;
mod tables;
mod value;

use std::borrow::Borrow;

use futures::{Stream, StreamExt, TryStreamExt};
use sqlx::postgres::PgArguments;
use sqlx::{Column as _, Row};
use uuid::Uuid;

use super::StoreError;
use super::backend::Backend;
use field::Field;

pub(super) use sql::{assignments, column_list, columns, conflict_update, select};
pub(super) use tables::EntryHash;
pub(super) use value::{Time, Value};

/// An error of sqlx's encoding and decoding.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One column of a table.
pub(super) struct Column {
    /// Its name in both databases.
    pub name: &'static str,
    /// What an update does with it.
    pub role: Role,
    /// How PostgreSQL receives it.
    pub kind: Kind,
}

/// What an update does with a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Finds the row, and names it in errors.
    Key,
    /// Never changes once inserted.
    Fixed,
    /// Is set by every update.
    Updated,
}

/// The type of a column, as far as the append to PostgreSQL must name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `UUID`.
    Uuid,
    /// `BIGINT`.
    Integer,
    /// `SMALLINT`.
    SmallInteger,
    /// `BOOLEAN`; an integer on SQLite.
    Boolean,
    /// `TEXT`.
    Text,
    /// `TEXT[]`, sent as one text, because `unnest` flattens an array of arrays.
    TextList,
    /// `BYTEA`.
    Bytes,
    /// `TIMESTAMPTZ`.
    Time,
}

/// Which columns a statement writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All columns: for an insert.
    All,
    /// The key and the updated columns: for an update.
    Update,
}

impl Part {
    /// Whether columns of this role are part of it.
    pub fn includes(self, role: Role) -> bool {
        self == Self::All || role != Role::Fixed
    }
}

/// A value that is one row of a table. Implemented by [`table`](table::table).
pub(super) trait Table: Sized {
    /// The table's name.
    const NAME: &'static str;

    /// All columns, in the order in which they are selected, bound and decoded.
    const COLUMNS: &'static [Column];

    /// Adds the row's values to the arguments.
    fn bind<B: Backend>(&self, part: Part, arguments: &mut B::Arguments) -> Result<(), BoxError>;

    /// Adds one array per column, with the values of all rows.
    fn bind_arrays<R: Borrow<Self>>(rows: &[R], part: Part, arguments: &mut PgArguments) -> Result<(), BoxError>;

    /// Decodes a row. Columns are read by position: with lookups by name, these took a tenth of the time of reading a
    /// million entries.
    fn decode<B: Backend>(columns: &mut Columns<'_, B>) -> Result<Self, String>;
}

/// The columns that name a row.
fn key<T: Table>() -> impl Iterator<Item = &'static Column> {
    T::COLUMNS.iter().filter(|column| column.role == Role::Key)
}

/// Reads the columns of a row from left to right.
pub(super) struct Columns<'r, B: Backend> {
    row: &'r B::Row,
    position: usize,
}

impl<B: Backend> Columns<'_, B> {
    /// The next column. After an error the position is still that of the faulty column.
    fn next<F: Field>(&mut self) -> Result<F, String> {
        let value = B::get(self.row, self.position).map_err(|error| match error {
            sqlx::Error::ColumnDecode { source, .. } => source.to_string(),
            other => other.to_string(),
        })?;
        let field = F::from_column(value)?;
        self.position += 1;
        Ok(field)
    }
}

/// Decodes each row as it arrives, while the database reads on.
pub(super) async fn read_all<B: Backend, T: Table, R: From<T>>(
    rows: impl Stream<Item = Result<B::Row, sqlx::Error>>,
) -> Result<Vec<R>, StoreError> {
    rows.map(|row| read::<B, T>(&row.map_err(B::classify)?).map(R::from)).try_collect().await
}

/// Decodes one row. Columns after those of the table are left to the caller.
pub(super) fn read<B: Backend, T: Table>(row: &B::Row) -> Result<T, StoreError> {
    let mut columns = Columns { row, position: 0 };
    T::decode::<B>(&mut columns).map_err(|problem| StoreError::Corrupt {
        table: T::NAME,
        column: T::COLUMNS.get(columns.position).map_or("", |column| column.name),
        row: row_name::<B, T>(row),
        problem,
    })
}

/// The key of a row as text, for errors.
fn row_name<B: Backend, T: Table>(row: &B::Row) -> String {
    let value = |key: &Column| {
        let position = row.columns().iter().position(|column| column.name() == key.name)?;
        let value = match key.kind {
            Kind::Uuid => B::get::<Uuid>(row, position).map(|id| id.to_string()),
            Kind::Integer => B::get::<i64>(row, position).map(|number| number.to_string()),
            _ => B::get::<&str>(row, position).map(str::to_owned),
        };
        value.ok()
    };
    let values: Vec<_> = key::<T>().map(|key| value(key).unwrap_or_else(|| "(unreadable)".to_owned())).collect();
    values.join(" ")
}

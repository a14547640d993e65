//! A statement that is written once for both databases.

use futures::TryStreamExt;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Pool};

use super::StoreError;
use super::backend::Backend;
use super::rows::{BoxError, Table, Value, read, read_all};

/// The text of a statement, with `$1`, `$2` and so on for its values. Only constants and values go in: a text never holds
/// data.
pub(super) struct Sql<B: Backend> {
    text: String,
    arguments: B::Arguments,
    parameters: usize,
    error: Option<BoxError>,
}

impl<B: Backend> Sql<B> {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), arguments: B::Arguments::default(), parameters: 0, error: None }
    }

    /// Appends to the text.
    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a parameter to the text, and its value.
    pub fn push_value<'v>(&mut self, value: impl Value<'v>) -> &mut Self {
        self.add(value);
        self.text += &format!("${}", self.parameters);
        self
    }

    /// Adds the value of the next parameter, which is in the text already.
    pub fn bind<'v>(mut self, value: impl Value<'v>) -> Self {
        self.add(value);
        self
    }

    fn add<'v>(&mut self, value: impl Value<'v>) {
        self.parameters += 1;
        if let Err(error) = B::add(&mut self.arguments, value) {
            self.error.get_or_insert(error);
        }
    }

    /// The query, for a caller who reads rows as they arrive.
    pub fn query<'q>(self) -> Result<Query<'q, B, B::Arguments>, StoreError> {
        match self.error {
            Some(error) => Err(B::classify(sqlx::Error::Encode(error))),
            None => Ok(sqlx::query_with(AssertSqlSafe(self.text), self.arguments)),
        }
    }

    /// The rows of a table, decoded as they arrive.
    pub async fn rows<T: Table>(self, pool: &Pool<B>) -> Result<Vec<T>, StoreError> {
        let mut connection = pool.acquire().await.map_err(B::classify)?;
        self.rows_on::<T, T>(&mut connection).await
    }

    /// The rows of a table up to the first after which `has_room` is false, and whether there was such a row. The database may have
    /// sent others already: the connection skips them.
    pub async fn rows_while<T: Table>(
        self,
        connection: &mut B::Connection,
        mut has_room: impl FnMut(&T) -> bool,
    ) -> Result<(Vec<T>, bool), StoreError> {
        let mut rows = B::fetch(connection, self.query()?);
        let mut read_rows = Vec::new();
        while let Some(row) = rows.try_next().await.map_err(B::classify)? {
            let row = read::<B, T>(&row)?;
            let is_last = !has_room(&row);
            read_rows.push(row);
            if is_last {
                return Ok((read_rows, true));
            }
        }
        Ok((read_rows, false))
    }

    /// As [`rows`](Self::rows), on one connection.
    pub async fn rows_on<T: Table, R: From<T>>(self, connection: &mut B::Connection) -> Result<Vec<R>, StoreError> {
        read_all::<B, T, R>(B::fetch(connection, self.query()?)).await
    }

    /// The first row, if any.
    pub async fn row<T: Table>(self, pool: &Pool<B>) -> Result<Option<T>, StoreError> {
        Ok(self.rows(pool).await?.into_iter().next())
    }

    /// One value of each row, made by `decode`.
    pub async fn values<V>(
        self,
        pool: &Pool<B>,
        decode: impl Fn(&B::Row) -> Result<V, sqlx::Error>,
    ) -> Result<Vec<V>, StoreError> {
        let mut connection = pool.acquire().await.map_err(B::classify)?;
        self.values_on(&mut connection, decode).await
    }

    /// As [`values`](Self::values), on one connection.
    pub async fn values_on<V>(
        self,
        connection: &mut B::Connection,
        decode: impl Fn(&B::Row) -> Result<V, sqlx::Error>,
    ) -> Result<Vec<V>, StoreError> {
        let rows = B::fetch(connection, self.query()?).try_collect::<Vec<_>>().await.map_err(B::classify)?;
        rows.iter().map(decode).collect::<Result<_, _>>().map_err(B::classify)
    }

    /// The first value of the first row.
    pub async fn first_value<V: for<'r> Value<'r>>(self, pool: &Pool<B>) -> Result<Option<V>, StoreError> {
        let mut connection = pool.acquire().await.map_err(B::classify)?;
        self.first_value_on(&mut connection).await
    }

    /// As [`first_value`](Self::first_value), on one connection.
    pub async fn first_value_on<V: for<'r> Value<'r>>(
        self,
        connection: &mut B::Connection,
    ) -> Result<Option<V>, StoreError> {
        Ok(self.values_on(connection, |row| B::get(row, 0)).await?.into_iter().next())
    }

    /// The only value, a number.
    pub async fn number_on(self, connection: &mut B::Connection) -> Result<i64, StoreError> {
        self.first_value_on(connection).await?.ok_or_else(|| B::classify(sqlx::Error::RowNotFound))
    }

    /// Runs a statement that returns nothing of interest.
    pub async fn execute(self, pool: &Pool<B>) -> Result<(), StoreError> {
        self.values(pool, |_| Ok(())).await.map(drop)
    }
}

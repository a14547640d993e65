//! Secrets that all servers on a database share, written once for both databases.

use sqlx::Pool;

use super::backend::Backend;
use super::sql::Sql;
use super::{SERVER_KEY_BYTES, ServerKey, StoreError};

/// The secrets of a database.
pub(super) struct ServerKeys<'p, B: Backend>(pub &'p Pool<B>);

impl<B: Backend> ServerKeys<'_, B> {
    /// See [`super::Store::server_key`].
    pub async fn get(&self, name: &str) -> Result<Option<ServerKey>, StoreError> {
        let sql = Sql::new("SELECT secret FROM server_keys WHERE name = $1").bind(name);
        let stored = sql.first_value::<Vec<u8>>(self.0).await?;
        let secret = stored.map(|secret| {
            secret.try_into().map_err(|_| StoreError::Corrupt {
                table: "server_keys",
                column: "secret",
                row: name.to_owned(),
                problem: format!("it does not have {SERVER_KEY_BYTES} bytes"),
            })
        });
        secret.transpose()
    }

    /// See [`super::Store::add_server_key`].
    pub async fn add(&self, name: &str, secret: ServerKey) -> Result<ServerKey, StoreError> {
        let sql = "INSERT INTO server_keys (name, secret) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        Sql::new(sql).bind(name).bind(secret.to_vec()).execute(self.0).await?;
        self.get(name).await?.ok_or_else(|| B::classify(sqlx::Error::RowNotFound))
    }
}

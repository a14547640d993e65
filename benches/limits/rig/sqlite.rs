//! The limit of flips on SQLite: the C library with prepared statements and one durable commit per flip.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior, params};
use toggled::domain::Hash;
use toggled::domain::audit::{Action, EntityType, Entry};
use toggled::domain::hash::{self, entry_hash};
use toggled::domain::time::{Clock, SystemClock};
use uuid::Uuid;

use crate::Result;
use crate::scale::FLAGS;

/// A connection to a database that the service created.
pub struct Sqlite {
    connection: Connection,
    log_id: Uuid,
    user_id: Uuid,
    flips: u64,
}

impl Sqlite {
    pub fn open(file: &Path) -> Result<Self> {
        let connection = Connection::open(file)?;
        // Same durability as the service: a commit is on disk when it returns.
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")?;
        let durable: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
        if durable != 2 {
            return Err("SQLite did not accept synchronous = FULL".into());
        }
        let log_id = Uuid::from_bytes(connection.query_row("SELECT log_id FROM log_head", [], |row| row.get(0))?);
        let user_id = Uuid::from_bytes(connection.query_row("SELECT id FROM users", [], |row| row.get(0))?);
        Ok(Self { connection, log_id, user_id, flips: 0 })
    }

    /// Runs one turn. Returns flips per second.
    pub fn flip_for(&mut self, length: Duration) -> Result<f64> {
        let (began, before) = (Instant::now(), self.flips);
        while began.elapsed() < length {
            self.flip()?;
        }
        Ok((self.flips - before) as f64 / began.elapsed().as_secs_f64())
    }

    fn flip(&mut self) -> Result<()> {
        self.flips += 1;
        let key = format!("flag-{}", self.flips * 617 % FLAGS as u64 + 1);
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (revision, hash): (i64, Hash) = transaction
            .prepare_cached("SELECT revision, hash FROM log_head")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (id, name, status, before): ([u8; 16], String, String, i64) = transaction
            .prepare_cached(
                "SELECT id, name, status, revision FROM feature_flags WHERE environment = 'default' AND key = ?",
            )?
            .query_row([&key], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        let now = SystemClock.now();
        let (action, new) = match status.as_str() {
            "enabled" => (Action::ToggleDisabled, "disabled"),
            _ => (Action::ToggleEnabled, "enabled"),
        };
        let mut entry = Entry {
            id: Uuid::now_v7(),
            revision: revision + 1,
            timestamp: now,
            user_id: Some(self.user_id),
            user_email: "admin@localhost".into(),
            token_id: Some(self.user_id),
            action,
            entity_type: EntityType::FeatureFlag,
            entity_id: Some(Uuid::from_bytes(id)),
            entity_key: key.into(),
            entity_name: name.into(),
            old_value: Some(status.into()),
            new_value: Some(new.into()),
            reason: Some("quick benchmark".into()),
            request_id: None,
            method: "toggled.v1.ToggleService/ToggleFeatureFlag".into(),
            peer: Some("127.0.0.1:12345".into()),
            user_agent: Some("quick tonic/0.14.9".into()),
            previous_entity_revision: Some(before),
            reverts: None,
            environment: Some("default".into()),
            hash_version: hash::version(None),
            hash,
            created_at: now,
        };
        entry.hash = entry_hash(&hash, self.log_id, &entry);
        transaction
            .prepare_cached(
                "INSERT INTO audit_logs (id, revision, timestamp, user_id, user_email, token_id, action_type, entity_type,
                     entity_id, entity_key, entity_name, old_value, new_value, reason, method, peer, user_agent,
                     previous_entity_revision, environment, hash_version, hash, created_at)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                entry.id.as_bytes(),
                entry.revision,
                now.micros(),
                self.user_id.as_bytes(),
                &*entry.user_email,
                self.user_id.as_bytes(),
                entry.action.as_str(),
                entry.entity_type.as_str(),
                id,
                &*entry.entity_key,
                &*entry.entity_name,
                entry.old_value.as_deref(),
                new,
                entry.reason.as_deref(),
                &*entry.method,
                entry.peer.as_deref(),
                entry.user_agent.as_deref(),
                before,
                entry.environment.as_deref(),
                entry.hash_version,
                entry.hash,
                now.micros(),
            ])?;
        transaction
            .prepare_cached(
                "UPDATE feature_flags SET status = ?, revision = ?, updated_at = ?, updated_by = ? WHERE id = ?",
            )?
            .execute(params![new, entry.revision, now.micros(), &*entry.user_email, id])?;
        transaction.prepare_cached("UPDATE log_head SET revision = ?, hash = ?, timestamp = ?")?.execute(params![
            entry.revision,
            entry.hash,
            now.micros()
        ])?;
        Ok(transaction.commit()?)
    }
}

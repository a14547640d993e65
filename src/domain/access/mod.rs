//! Who may do what: users, their tokens and permissions, and what callers show for themselves.

mod credential;
mod permission;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::Revision;
use super::flag::json;
use super::text::{Email, Name};
use super::time::Timestamp;

pub use credential::{Credential, Directory, Grant, Identity, admit};
pub use permission::{Permission, Permissions};

/// Somebody, or some service, who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Given by the server, never changed.
    pub id: Uuid,
    /// Unique, never changed.
    pub email: Email,
    /// Who they are to the single sign-on, for those who come by it. Never concluded from the address.
    pub account: Option<Account>,
    /// What the user may do. Somebody who comes by single sign-on may do then what that says.
    pub permissions: Permissions,
    /// The revision that last changed the user.
    pub revision: Revision,
    /// When the user was created.
    pub created_at: Timestamp,
    /// When the user was last changed.
    pub updated_at: Timestamp,
    /// When the user was shut out.
    pub deactivated_at: Option<Timestamp>,
}

/// Somebody, as an issuer of single sign-on knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// The issuer.
    pub issuer: Arc<str>,
    /// Its name for them: unique there, and never given to anybody else.
    pub subject: Arc<str>,
}

/// SHA-256 of a token's secret: the only thing of it that is kept.
pub type SecretHash = [u8; 32];

/// A user's key to the service.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Given by the server, never changed.
    pub id: Uuid,
    /// Whom it speaks for.
    pub user_id: Uuid,
    /// What people call it.
    pub name: Name,
    /// What a presented secret must hash to.
    pub secret_hash: SecretHash,
    /// Where present, the token allows only what is in here as well.
    pub permissions: Option<Permissions>,
    /// The revision that last changed it.
    pub revision: Revision,
    /// When it was created.
    pub created_at: Timestamp,
    /// From when on it does not work.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A secret's hash does not belong in a log line either.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

impl User {
    /// Whether the user has not been shut out.
    pub fn is_active(&self) -> bool {
        self.deactivated_at.is_none()
    }

    /// The whole user as the log keeps it: JSON with sorted keys.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Fields<'a> {
            created_at: String,
            deactivated_at: Option<String>,
            email: &'a str,
            id: Uuid,
            issuer: Option<&'a str>,
            permissions: Vec<&'static str>,
            revision: Revision,
            subject: Option<&'a str>,
            updated_at: String,
        }
        json(&Fields {
            created_at: self.created_at.to_string(),
            deactivated_at: self.deactivated_at.map(|t| t.to_string()),
            email: self.email.as_str(),
            id: self.id,
            issuer: self.account.as_ref().map(|account| &*account.issuer),
            permissions: self.permissions.names(),
            revision: self.revision,
            subject: self.account.as_ref().map(|account| &*account.subject),
            updated_at: self.updated_at.to_string(),
        })
    }
}

impl Token {
    /// What the token allows when it speaks for `user`.
    pub fn allowed(&self, user: &User) -> Permissions {
        self.permissions.map_or(user.permissions, |narrowed| user.permissions.intersection(narrowed))
    }

    /// Whether the token works at `now`: neither revoked nor expired.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// The token as the log keeps it: JSON with sorted keys, without the secret's hash.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Fields<'a> {
            created_at: String,
            expires_at: Option<String>,
            id: Uuid,
            name: &'a str,
            permissions: Option<Vec<&'static str>>,
            revision: Revision,
            revoked_at: Option<String>,
            user_id: Uuid,
        }
        json(&Fields {
            created_at: self.created_at.to_string(),
            expires_at: self.expires_at.map(|t| t.to_string()),
            id: self.id,
            name: self.name.as_str(),
            permissions: self.permissions.map(Permissions::names),
            revision: self.revision,
            revoked_at: self.revoked_at.map(|t| t.to_string()),
            user_id: self.user_id,
        })
    }
}

//! Users, tokens, permissions and credentials.

mod credential;
mod permission;
mod permissions;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::Revision;
use super::flag::json;
use super::text::{Email, EnvironmentKey, Name};
use super::time::Timestamp;

pub use credential::{Credential, Directory, Grant, Identity, authenticate};
pub use permission::{MalformedPermission, Permission, Scope, ScopedPermission};
pub use permissions::Permissions;

/// A person or service that may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Set at creation, never changed.
    pub id: Uuid,
    /// Unique, never changed.
    pub email: Email,
    /// The linked single sign-on account. Never derived from the e-mail address.
    pub account: Option<Account>,
    /// The user's permissions. For calls by single sign-on, the claims of the token count instead.
    pub permissions: Permissions,
    /// The revision that last changed the user.
    pub revision: Revision,
    /// When the user was created.
    pub created_at: Timestamp,
    /// When the user was last changed.
    pub updated_at: Timestamp,
    /// When the user was deactivated.
    pub deactivated_at: Option<Timestamp>,
}

/// An account at a single sign-on issuer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Account {
    /// The issuer.
    pub issuer: Arc<str>,
    /// The issuer's identifier of the account, unique there and never reused.
    pub subject: Arc<str>,
}

/// SHA-256 of a token's secret. The secret itself is not stored.
pub type SecretHash = [u8; 32];

/// An API token of a user. The fields are declared in alphabetical order, since serde keeps it: the JSON of a token has sorted keys.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Token {
    /// When the token was created.
    pub created_at: Timestamp,
    /// The token's own environment: what its calls are about where they name none. It grants nothing.
    pub environment: Option<EnvironmentKey>,
    /// When the token expires.
    pub expires_at: Option<Timestamp>,
    /// Set at creation, never changed.
    pub id: Uuid,
    /// A name for people.
    pub name: Name,
    /// If present, the token permits only what is in this set and in the user's permissions.
    pub permissions: Option<Permissions>,
    /// The revision that last changed the token.
    pub revision: Revision,
    /// When the token was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The hash of the token's secret.
    #[serde(skip)]
    pub secret_hash: SecretHash,
    /// The user that the token acts as.
    pub user_id: Uuid,
}

/// Leaves out the secret's hash: it does not belong in a log line.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

impl User {
    /// Whether the user is not deactivated.
    pub fn is_active(&self) -> bool {
        self.deactivated_at.is_none()
    }

    /// The user as the audit log stores it: JSON with sorted keys.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Fields<'a> {
            created_at: String,
            deactivated_at: Option<String>,
            email: &'a str,
            id: Uuid,
            issuer: Option<&'a str>,
            permissions: &'a Permissions,
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
            permissions: &self.permissions,
            revision: self.revision,
            subject: self.account.as_ref().map(|account| &*account.subject),
            updated_at: self.updated_at.to_string(),
        })
    }
}

impl Token {
    /// What the token permits when it acts as `user`.
    pub fn allowed(&self, user: &User) -> Permissions {
        match &self.permissions {
            Some(narrowed) => user.permissions.intersection(narrowed),
            None => user.permissions.clone(),
        }
    }

    /// Whether the token is neither revoked nor expired at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }

    /// The token as the audit log stores it: JSON with sorted keys, without the secret's hash.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_json_has_sorted_fields_and_no_secret() {
        let token = Token {
            created_at: Timestamp::from_micros(1),
            environment: Some(EnvironmentKey::parse("staging").unwrap()),
            expires_at: Some(Timestamp::from_micros(2_000_000)),
            id: Uuid::nil(),
            name: Name::parse("ci").unwrap(),
            permissions: Some([Permission::ViewFeatureFlags, Permission::ManageAccess].into_iter().collect()),
            revision: 7,
            revoked_at: None,
            secret_hash: [9; 32],
            user_id: Uuid::max(),
        };
        assert_eq!(
            token.to_json(),
            r#"{"created_at":"1970-01-01T00:00:00.000001Z","environment":"staging","#.to_owned()
                + r#""expires_at":"1970-01-01T00:00:02Z","#
                + r#""id":"00000000-0000-0000-0000-000000000000","name":"ci","#
                + r#""permissions":["manage_access","view_feature_flags"],"revision":7,"revoked_at":null,"#
                + r#""user_id":"ffffffff-ffff-ffff-ffff-ffffffffffff"}"#
        );
    }
}

//! Who may do what: users, their tokens and permissions.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::Revision;
use super::flag::json;
use super::text::{Email, Name};
use super::time::Timestamp;

/// What a caller can be allowed. Declared in the order of their names, which is the order that lists of them have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// Users and tokens.
    ManageAccess,
    /// Removing the oldest part of the log.
    ManageAuditRetention,
    /// Creating, editing and archiving flags.
    ManageFeatureFlags,
    /// Flipping flags.
    ToggleFeatureFlags,
    /// Reading the log.
    ViewAuditLogs,
    /// Reading flags.
    ViewFeatureFlags,
}

impl Permission {
    /// All there are, in order.
    pub const ALL: [Self; 6] = [
        Self::ManageAccess,
        Self::ManageAuditRetention,
        Self::ManageFeatureFlags,
        Self::ToggleFeatureFlags,
        Self::ViewAuditLogs,
        Self::ViewFeatureFlags,
    ];

    /// The name on the wire, in the database and in the .proto files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ManageAccess => "manage_access",
            Self::ManageAuditRetention => "manage_audit_retention",
            Self::ManageFeatureFlags => "manage_feature_flags",
            Self::ToggleFeatureFlags => "toggle_feature_flags",
            Self::ViewAuditLogs => "view_audit_logs",
            Self::ViewFeatureFlags => "view_feature_flags",
        }
    }

    /// The inverse of [`Permission::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u8);

impl Permissions {
    /// Every permission there is.
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// Whether it holds `permission`.
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    /// What both hold.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What this one holds and `other` does not.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Its members, sorted by name.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |p| self.contains(*p))
    }

    /// The names of its members, sorted.
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(Permission::as_str).collect()
    }
}

/// What any of several sets holds.
impl FromIterator<Permissions> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permissions>>(sets: I) -> Self {
        Self(sets.into_iter().fold(0, |all, set| all | set.0))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |set, p| set | 1 << p as u8))
    }
}

/// Somebody, or some service, who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Given by the server, never changed.
    pub id: Uuid,
    /// Unique, never changed.
    pub email: Email,
    /// What the user may do.
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
    /// The whole user as the log keeps it: JSON with sorted keys.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Fields<'a> {
            created_at: String,
            deactivated_at: Option<String>,
            email: &'a str,
            id: Uuid,
            permissions: Vec<&'static str>,
            revision: Revision,
            updated_at: String,
        }
        json(&Fields {
            created_at: self.created_at.to_string(),
            deactivated_at: self.deactivated_at.map(|t| t.to_string()),
            email: self.email.as_str(),
            id: self.id,
            permissions: self.permissions.names(),
            revision: self.revision,
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

/// Somebody whom the single sign-on vouches for, for as long as their token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who vouches.
    pub issuer: Arc<str>,
    /// What the issuer calls them: unique there, and never given to somebody else.
    pub subject: Arc<str>,
    /// The address under which the log knows them.
    pub email: Email,
    /// What they may do.
    pub permissions: Permissions,
    /// From when on their token does not work.
    pub expires_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_listed_in_the_order_of_their_names() {
        let names = Permissions::all().names();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        assert_eq!(names.len(), 6);
        for name in names {
            assert_eq!(Permission::parse(name).map(Permission::as_str), Some(name));
        }
    }

    #[test]
    fn sets_do_as_sets_do() {
        let view: Permissions = [Permission::ViewFeatureFlags].into_iter().collect();
        let both: Permissions = [Permission::ViewFeatureFlags, Permission::ManageAccess].into_iter().collect();
        assert_eq!(both.minus(view).names(), ["manage_access"]);
        assert_eq!(both.intersection(view), view);
        assert_eq!([both.minus(view), view].into_iter().collect::<Permissions>(), both);
        assert!(!view.contains(Permission::ManageAccess));
    }
}

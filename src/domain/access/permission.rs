//! Permissions.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::domain::audit::EntityType;

/// A permission. Declared in alphabetical order, which is the order of permissions in lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// Manage users and tokens.
    ManageAccess,
    /// Trim the audit log.
    ManageAuditRetention,
    /// Create, edit and archive flags.
    ManageFeatureFlags,
    /// Flip flags.
    ToggleFeatureFlags,
    /// Read the audit log.
    ViewAuditLogs,
    /// Read flags.
    ViewFeatureFlags,
}

impl Permission {
    /// All permissions, in order.
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

    /// The type of object that the permission is about.
    pub fn governs(self) -> EntityType {
        match self {
            Self::ManageFeatureFlags | Self::ToggleFeatureFlags | Self::ViewFeatureFlags => EntityType::FeatureFlag,
            Self::ManageAuditRetention | Self::ViewAuditLogs => EntityType::Log,
            Self::ManageAccess => EntityType::User,
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
    /// The set of all permissions.
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// Whether the set contains `permission`.
    pub fn contains(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    /// The permissions in both sets.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The permissions in this set that are not in `other`.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The permissions, sorted by name.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |p| self.contains(*p))
    }

    /// The names of the permissions, sorted.
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(Permission::as_str).collect()
    }
}

/// The names of the permissions, sorted.
impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Permission::as_str))
    }
}

/// The union of several sets.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_sorted_by_name() {
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
    fn permission_sets_combine() {
        let view: Permissions = [Permission::ViewFeatureFlags].into_iter().collect();
        let both: Permissions = [Permission::ViewFeatureFlags, Permission::ManageAccess].into_iter().collect();
        assert_eq!(both.minus(view).names(), ["manage_access"]);
        assert_eq!(both.intersection(view), view);
        assert_eq!([both.minus(view), view].into_iter().collect::<Permissions>(), both);
        assert!(!view.contains(Permission::ManageAccess));
    }
}

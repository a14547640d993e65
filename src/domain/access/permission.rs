//! A permission, and where it is held.

use std::fmt;

use serde::{Serialize, Serializer};

use super::Permissions;
use crate::domain::audit::EntityType;
use crate::domain::text::{EnvironmentKey, Malformed};

/// A permission. Declared in alphabetical order, which is the order of permissions in lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Permission {
    /// Manage users and tokens.
    ManageAccess,
    /// Trim the audit log.
    ManageAuditRetention,
    /// Create, edit and archive environments.
    ManageEnvironments,
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
    pub const ALL: [Self; 7] = [
        Self::ManageAccess,
        Self::ManageAuditRetention,
        Self::ManageEnvironments,
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
            Self::ManageEnvironments => "manage_environments",
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
            Self::ManageEnvironments => EntityType::Environment,
        }
    }

    /// Whether the permission can be held in one environment. Any other is held everywhere or not at all, since what it is
    /// about belongs to no environment.
    pub fn can_be_scoped(self) -> bool {
        match self {
            Self::ManageFeatureFlags | Self::ToggleFeatureFlags | Self::ViewAuditLogs | Self::ViewFeatureFlags => true,
            Self::ManageAccess | Self::ManageAuditRetention | Self::ManageEnvironments => false,
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

/// Where a permission is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// In every environment, and for what belongs to none.
    Everywhere,
    /// In this environment.
    Environment(&'a EnvironmentKey),
}

/// A permission that is held everywhere (`toggle_feature_flags`) or in one environment (`toggle_feature_flags@staging`). The order is
/// that of the texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScopedPermission {
    permission: Permission,
    /// `None`: everywhere.
    environment: Option<EnvironmentKey>,
}

/// Why a text is no permission: "must ...".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedPermission {
    /// There is no such permission.
    #[error("must be one of {}", Permissions::all().names().join(", "))]
    Unknown,
    /// The permission cannot be held in one environment.
    #[error("must not name an environment, since {0} is held everywhere or not at all")]
    OnlyEverywhere(Permission),
    /// No environment can have this key.
    #[error("must have the key of an environment after the '@', which {0}")]
    EnvironmentKey(Malformed),
}

impl ScopedPermission {
    /// A permission in one environment.
    ///
    /// # Errors
    /// If it exists only everywhere.
    pub fn in_environment(permission: Permission, environment: EnvironmentKey) -> Result<Self, MalformedPermission> {
        if permission.can_be_scoped() {
            Ok(Self { permission, environment: Some(environment) })
        } else {
            Err(MalformedPermission::OnlyEverywhere(permission))
        }
    }

    /// Parses `toggle_feature_flags` or `toggle_feature_flags@staging`.
    ///
    /// # Errors
    /// [`MalformedPermission`], with the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, MalformedPermission> {
        let (name, environment) = text.split_once('@').map_or((text, None), |(name, key)| (name, Some(key)));
        let permission = Permission::parse(name).ok_or(MalformedPermission::Unknown)?;
        match environment {
            None => Ok(permission.into()),
            Some(key) => {
                let key = EnvironmentKey::parse(key).map_err(MalformedPermission::EnvironmentKey)?;
                Self::in_environment(permission, key)
            }
        }
    }

    /// The permission.
    pub fn permission(&self) -> Permission {
        self.permission
    }

    /// Where it is held.
    pub fn scope(&self) -> Scope<'_> {
        self.environment.as_ref().map_or(Scope::Everywhere, Scope::Environment)
    }
}

/// The permission everywhere.
impl From<Permission> for ScopedPermission {
    fn from(permission: Permission) -> Self {
        Self { permission, environment: None }
    }
}

impl fmt::Display for ScopedPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.environment {
            None => self.permission.fmt(f),
            Some(environment) => write!(f, "{}@{environment}", self.permission),
        }
    }
}

impl Serialize for ScopedPermission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_permission_names_the_broken_rule() {
        for (text, rule) in [
            ("fly", "must be one of manage_access, "),
            ("", "must be one of "),
            ("@staging", "must be one of "),
            ("Toggle_feature_flags", "must be one of "),
            ("manage_access@staging", "must not name an environment, since manage_access is held everywhere"),
            ("manage_environments@a", "must not name an environment, since manage_environments is"),
            ("manage_audit_retention@a", "must not name an environment, since manage_audit_retention is"),
            ("toggle_feature_flags@", "must have the key of an environment after the '@', which must be 1 to 64"),
            ("toggle_feature_flags@-", "must have the key of an environment"),
            ("toggle_feature_flags@Staging", "must have the key of an environment"),
            ("toggle_feature_flags@a@b", "must have the key of an environment"),
        ] {
            let error = ScopedPermission::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(rule), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn parse_is_the_inverse_of_print(permission in 0..Permission::ALL.len(), key in "[a-z0-9][a-z0-9-]{0,63}") {
            let permission = Permission::ALL[permission];
            prop_assert_eq!(ScopedPermission::parse(permission.as_str()), Ok(permission.into()));
            let text = format!("{permission}@{key}");
            match ScopedPermission::parse(&text) {
                Ok(parsed) => {
                    prop_assert!(permission.can_be_scoped());
                    prop_assert_eq!(parsed.to_string(), text);
                }
                Err(error) => prop_assert_eq!(error, MalformedPermission::OnlyEverywhere(permission)),
            }
        }
    }
}

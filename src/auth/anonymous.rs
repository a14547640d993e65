//! Reads by callers without credentials.

use crate::domain::access::{Permission, Permissions, ScopedPermission};
use crate::domain::text::EnvironmentKey;

/// What callers without credentials may read, where the settings allow that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnonymousReads {
    /// The permission to view flags, in each environment that is open.
    pub permissions: Permissions,
    /// What a request is about that names no environment.
    pub environment: EnvironmentKey,
}

impl AnonymousReads {
    /// Opens these environments; the first is what a request is about that names none. `None` without environments.
    pub fn of(environments: &[EnvironmentKey]) -> Option<Self> {
        let view =
            |key: &EnvironmentKey| ScopedPermission::in_environment(Permission::ViewFeatureFlags, key.clone()).ok();
        let permissions = environments.iter().filter_map(view).collect();
        environments.first().map(|first| Self { permissions, environment: first.clone() })
    }
}

//! Filters for audit entries.

use std::sync::Arc;

use uuid::Uuid;

use super::Revision;
use super::audit::{Action, EntityType};
use super::state::EnvironmentScope;
use super::text::EnvironmentKey;
use super::time::Timestamp;

/// Conditions on an entry. An entry matches if it meets all that are present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Made by this user.
    pub user_id: Option<Uuid>,
    /// Made under this e-mail address, in lower case.
    pub user_email: Option<Arc<str>>,
    /// About this type of object.
    pub entity_type: Option<EntityType>,
    /// About this object.
    pub entity_id: Option<Uuid>,
    /// With this action.
    pub action: Option<Action>,
    /// About this environment.
    pub environment: Option<EnvironmentKey>,
}

impl Filter {
    /// Whether every entry matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This filter, limited to entries of a scope.
    #[must_use]
    pub fn in_scope(self, scope: &EnvironmentScope) -> Self {
        Self { environment: scope.only().cloned(), ..self }
    }
}

/// A period of time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Period {
    /// The earliest time.
    pub from: Option<Timestamp>,
    /// The latest time.
    pub to: Option<Timestamp>,
}

/// A range of revisions, both ends included; empty if `first > last`.
///
/// Timestamps never decrease along revisions, so the entries of a [`Period`] are a `Range`. Its ends are looked up first, and
/// lists and counts filter only by revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first revision.
    pub first: Revision,
    /// The last revision.
    pub last: Revision,
}

impl Range {
    /// The number of revisions in the range.
    pub fn len(self) -> i64 {
        (self.last - self.first + 1).max(0)
    }

    /// Whether the range is empty.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

//! Which audit entries a reader asks for.

use std::sync::Arc;

use uuid::Uuid;

use super::Revision;
use super::audit::{Action, EntityType};
use super::time::Timestamp;

/// Conditions on an entry; all that are present apply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// By this user.
    pub user_id: Option<Uuid>,
    /// By whoever had this address, lower-cased.
    pub user_email: Option<Arc<str>>,
    /// About this kind of object.
    pub entity_type: Option<EntityType>,
    /// About this object.
    pub entity_id: Option<Uuid>,
    /// Of this action.
    pub action: Option<Action>,
}

impl Filter {
    /// Whether every entry passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// From when to when, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Period {
    /// The earliest time.
    pub from: Option<Timestamp>,
    /// The latest time.
    pub to: Option<Timestamp>,
}

/// From which revision to which, both ends included; empty when `first > last`.
///
/// Time never runs backwards along revisions, so a [`Period`] is a `Range`: no query filters by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first revision.
    pub first: Revision,
    /// The last revision.
    pub last: Revision,
}

impl Range {
    /// How many revisions it holds.
    pub fn len(self) -> i64 {
        (self.last - self.first + 1).max(0)
    }

    /// Whether it holds none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

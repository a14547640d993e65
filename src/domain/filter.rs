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
    /// About objects with these keys, of any kind.
    pub key: Option<KeyFilter>,
    /// With one of these actions, each listed once; empty for all.
    pub actions: Vec<Action>,
    /// Flips for which no reason was given.
    pub without_reason: bool,
    /// About this environment.
    pub environment: Option<EnvironmentKey>,
}

/// The keys that pass a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFilter {
    /// This key.
    Exact(Arc<str>),
    /// All keys that begin with this text.
    Prefix(Arc<str>),
}

impl KeyFilter {
    /// The first text after all that begin with the prefix, in the order of bytes. `None` if there is none, and for an exact key.
    pub fn end(&self) -> Option<String> {
        let Self::Prefix(prefix) = self else { return None };
        let mut end = prefix.to_string();
        while let Some(last) = end.pop() {
            if let Some(next) = (last..=char::MAX).nth(1) {
                end.push(next);
                return Some(end);
            }
        }
        None
    }
}

impl Filter {
    /// Whether every entry matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is about one object, or about objects with certain keys. The log is not counted by those.
    pub fn is_about_objects(&self) -> bool {
        self.entity_id.is_some() || self.key.is_some()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn end_of_a_prefix_is_the_next_text() {
        let end = |prefix: &str| KeyFilter::Prefix(prefix.into()).end();
        for (prefix, next) in [("a", "b"), ("a-", "a."), ("az", "a{"), ("\u{d7ff}", "\u{e000}"), ("a\u{10ffff}", "b")] {
            assert_eq!(end(prefix).as_deref(), Some(next));
        }
        assert_eq!([end("\u{10ffff}"), end(""), KeyFilter::Exact("a".into()).end()], [None, None, None]);
    }

    proptest! {
        #[test]
        fn text_is_before_the_end_exactly_if_it_has_the_prefix(prefix in ".{1,4}", text in ".{0,6}") {
            let has_prefix = text.starts_with(&prefix);
            let end = KeyFilter::Prefix(prefix.as_str().into()).end();
            prop_assert_eq!(text >= prefix && end.is_none_or(|end| text < end), has_prefix);
        }
    }
}

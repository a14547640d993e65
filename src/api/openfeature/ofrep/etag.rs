//! Entity tags of bulk answers, so that unchanged flags are not sent again.

use std::fmt;

use http::HeaderValue;
use uuid::Uuid;

use crate::domain::Revision;
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::text::EnvironmentKey;

/// Changes exactly when a flag of the environment changes; equal on all replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ETag {
    environment: EnvironmentKey,
    log_id: Uuid,
    revision: Revision,
    /// The time of the last change. After a restore, the same revisions are used again.
    changed_at: i64,
}

impl ETag {
    /// The tag of an environment's flags in `state`.
    pub fn of(state: &State, environment: EnvironmentKey) -> Self {
        let newest = state.last_changed_flag(&EnvironmentScope::One(environment.clone()));
        Self {
            environment,
            log_id: state.head().log_id,
            revision: newest.map_or(0, |flag| flag.revision),
            changed_at: newest.map_or(0, |flag| flag.updated_at.micros()),
        }
    }

    /// Whether `If-None-Match` names this tag: `*` names any, and a list may be split over several headers. Weak tags (`W/`), which
    /// proxies make when they compress, match too (RFC 9110, 13.1.2).
    pub fn matches<'a>(&self, headers: impl IntoIterator<Item = &'a HeaderValue>) -> bool {
        let tag = self.to_string();
        headers.into_iter().filter_map(|header| header.to_str().ok()).any(|header| {
            // A tag contains no quotes: split at the quotes, every second part is a tag.
            header.trim() == "*" || header.split('"').skip(1).step_by(2).any(|named| named == tag)
        })
    }
}

/// Without the quotes of the header.
impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{}", self.environment, self.log_id.simple(), self.revision, self.changed_at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::domain::flag::Flag;
    use crate::domain::state::Delta;
    use crate::domain::time::Timestamp;

    fn tag(revision: Revision, changed_at: i64) -> ETag {
        ETag {
            environment: EnvironmentKey::default_environment().clone(),
            log_id: Uuid::from_u128(1),
            revision,
            changed_at,
        }
    }

    #[test]
    fn tag_matches_wherever_it_is_listed() {
        let tag = tag(7, 5);
        let text = format!("\"{tag}\"");
        let matches = |headers: &[String]| {
            let headers: Vec<_> = headers.iter().map(|header| HeaderValue::try_from(header).unwrap()).collect();
            tag.matches(&headers)
        };
        let named = [
            vec![text.clone()],
            vec![format!("W/{text}")],
            vec![format!("\"other, one\", {text},")],
            vec![format!("{text}, W/\"other\"")],
            vec!["\"other\"".to_owned(), text.clone()],
            vec!["*".to_owned()],
        ];
        for headers in named {
            assert!(matches(&headers), "{headers:?}");
        }
        let bare = tag.to_string();
        let others =
            ["", "\"\"", "\"other\"", "\"*\"", "*, *", &bare, &format!("\"{bare}x\""), &format!("\"x\"{bare}\"y\"")];
        for other in others {
            assert!(!matches(&[other.to_owned()]), "{other}");
        }
        assert!(!matches(&[]));
    }

    #[test]
    fn restored_log_has_another_tag_at_same_revision() {
        let of = |log_id, revision, micros| {
            let mut state = State::empty(Uuid::from_u128(log_id));
            let flag = Flag { updated_at: Timestamp::from_micros(micros), ..Flag::sample("a", revision) };
            state.apply(*state.head(), &Delta { flags: vec![Arc::new(flag)], ..Delta::default() });
            ETag::of(&state, EnvironmentKey::default_environment().clone())
        };
        assert_eq!(of(1, 7, 5), tag(7, 5));
        let tags = [of(1, 7, 5), of(1, 7, 6), of(1, 8, 5), of(2, 7, 5)].map(|tag| tag.to_string());
        assert_eq!(tags.iter().collect::<HashSet<_>>().len(), tags.len(), "{tags:?}");
    }
}

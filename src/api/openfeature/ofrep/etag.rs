//! Tags of the flags of an environment, so that unchanged flags are not sent again.

use std::fmt;

use http::HeaderValue;
use uuid::Uuid;

use crate::auth::hash_secret;
use crate::domain::Revision;
use crate::domain::state::{EnvironmentScope, State};
use crate::domain::text::EnvironmentKey;

/// A tag of flags is shorter, in bytes. What is longer is none.
pub(super) const MAX_TAG_BYTES: usize = 200;

/// How much of a ticket's hash an entity tag has, in bytes.
const TICKET_BYTES: usize = 6;

/// Changes exactly when a flag of the environment changes; equal on all replicas. Streams of events announce it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FlagsTag {
    environment: EnvironmentKey,
    log_id: Uuid,
    revision: Revision,
    /// The time of the last change. After a restore, the same revisions are used again.
    changed_at: i64,
}

impl FlagsTag {
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

    /// The time of the last change, in seconds; 0 without flags.
    pub fn changed_at_seconds(&self) -> i64 {
        self.changed_at.div_euclid(1_000_000).max(0)
    }

    /// The revision in `announced`, if that is a tag of the same environment and log.
    pub fn announced_revision(&self, announced: &str) -> Option<Revision> {
        let rest = announced.trim_matches('"').strip_prefix(&self.prefix())?;
        rest.split_once('-')?.0.parse().ok()
    }

    fn prefix(&self) -> String {
        format!("{}-{}-", self.environment, self.log_id.simple())
    }
}

/// The entity tag of an answer with all flags. It is about the address of the stream of events too: a client that keeps an answer because it
/// has not changed also keeps that address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ETag {
    pub flags: FlagsTag,
    /// The caller's ticket, if the answer has one.
    ticket: Option<String>,
}

impl ETag {
    pub fn new(flags: FlagsTag, ticket: Option<&str>) -> Self {
        // Tags are logged, tickets must not be.
        let ticket = ticket.map(|ticket| hex::encode(&hash_secret(ticket.as_bytes())[..TICKET_BYTES]));
        Self { flags, ticket }
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

impl fmt::Display for FlagsTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}-{}", self.prefix(), self.revision, self.changed_at)
    }
}

/// Without the quotes of the header.
impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.flags)?;
        self.ticket.as_ref().map_or(Ok(()), |ticket| write!(f, "-{ticket}"))
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

    fn tag(revision: Revision, changed_at: i64) -> FlagsTag {
        FlagsTag {
            environment: EnvironmentKey::default_environment().clone(),
            log_id: Uuid::from_u128(1),
            revision,
            changed_at,
        }
    }

    #[test]
    fn announced_revision_is_that_of_the_same_flags() {
        let tag = tag(7, 5);
        let announced = |text: &str| tag.announced_revision(text);
        for text in [tag.to_string(), format!("\"{tag}\""), ETag::new(tag.clone(), Some("ticket")).to_string()] {
            assert_eq!(announced(&text), Some(7), "{text}");
        }
        let other_log = FlagsTag { log_id: Uuid::from_u128(2), ..tag.clone() }.to_string();
        let other_environment = FlagsTag { environment: EnvironmentKey::parse("default-2").unwrap(), ..tag.clone() };
        for text in [
            "",
            "7",
            "default-",
            &other_log,
            &other_environment.to_string(),
            &tag.prefix(),
            &format!("{}x-5", tag.prefix()),
        ] {
            assert_eq!(announced(text), None, "{text}");
        }
    }

    #[test]
    fn entity_tag_changes_with_the_ticket() {
        let of = |ticket| ETag::new(tag(7, 5), ticket).to_string();
        let tags = [of(None), of(Some("one")), of(Some("other"))];
        assert_eq!(tags.iter().collect::<HashSet<_>>().len(), tags.len(), "{tags:?}");
        assert_eq!(of(Some("one")), tags[1]);
    }

    #[test]
    fn tag_matches_wherever_it_is_listed() {
        let tag = ETag::new(tag(7, 5), Some("ticket"));
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
            FlagsTag::of(&state, EnvironmentKey::default_environment().clone())
        };
        assert_eq!(of(1, 7, 5), tag(7, 5));
        let tags = [of(1, 7, 5), of(1, 7, 6), of(1, 8, 5), of(2, 7, 5)].map(|tag| tag.to_string());
        assert_eq!(tags.iter().collect::<HashSet<_>>().len(), tags.len(), "{tags:?}");
    }
}

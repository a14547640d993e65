//! Reconstructs a flag as of an earlier revision from the log, without replaying it.
//!
//! * A flag that has not changed since that revision was the same.
//! * For any other flag, its first entry after that revision holds the earlier value: an edit (an update, archiving or
//!   unarchiving) holds the whole flag, a flip only the status.
//! * If that entry is a flip, the other fields come from the first later edit or, without one, from the present flag. When and by
//!   whom the flag was changed before the flip, and its last flip until then, come from its previous entry, unless that is trimmed.

use std::sync::Arc;

use uuid::Uuid;

use super::Revision;
use super::audit::Action;
use super::flag::{Flag, LastFlip, Status};
use super::time::Timestamp;

/// A flag's first change after a revision, and what the log says about the flag before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextChange {
    /// The flag.
    pub flag_id: Uuid,
    /// The revision of the change.
    pub revision: Revision,
    /// The action.
    pub action: Action,
    /// The value before: a status for a flip, the flag as JSON for an edit, `None` for a creation.
    pub old_value: Option<String>,
    /// The flag's revision before the change.
    pub previous_revision: Option<Revision>,
    /// The flag as JSON before its first edit after the asked revision; `None` if there was no edit.
    pub before_edit: Option<String>,
    /// The change at `previous_revision`, the last one before this change; `None` if its entry was trimmed.
    pub previous: Option<PreviousChange>,
}

/// A change of a flag, as far as the flag records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousChange {
    /// Its entry.
    pub id: Uuid,
    /// The action.
    pub action: Action,
    /// When it was made.
    pub timestamp: Timestamp,
    /// The user who made it.
    pub user_email: Arc<str>,
    /// The value after it: the status for a flip, the flag as JSON for any other change.
    pub new_value: Option<String>,
    /// The reason that the caller gave.
    pub reason: Option<Arc<str>>,
}

impl PreviousChange {
    /// The last flip of the flag, as of this change at `revision`; `None` if the entry is invalid.
    fn last_flip(&self, revision: Revision) -> Option<Option<Arc<LastFlip>>> {
        if self.action.is_flip() {
            let Self { id: audit_log_id, timestamp: time, .. } = *self;
            let (by, reason) = (Arc::clone(&self.user_email), self.reason.clone());
            return Some(Some(Arc::new(LastFlip { audit_log_id, by, reason, revision, time })));
        }
        self.new_value.as_deref().and_then(Flag::from_json).map(|flag| flag.last_flip)
    }
}

/// A flag as of an earlier revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastFlag {
    /// The flag.
    pub flag: Arc<Flag>,
    /// Whether `updated_at`, `updated_by` and `last_flip` are known: the entry that holds them may be trimmed.
    pub has_update_metadata: bool,
}

/// The flag as of `revision`, from the flag at any later revision and its first change after `revision`; `None` if it
/// did not exist yet.
///
/// # Errors
/// The revision of an entry that is missing or invalid.
pub fn flag_as_of(
    flag: &Arc<Flag>,
    revision: Revision,
    next: Option<&NextChange>,
) -> Result<Option<PastFlag>, Revision> {
    if flag.revision <= revision {
        return Ok(Some(PastFlag { flag: Arc::clone(flag), has_update_metadata: true }));
    }
    let next = next.ok_or(flag.revision)?;
    if next.action == Action::FlagCreated {
        return Ok(None);
    }
    let before = match next.action {
        Action::ToggleEnabled | Action::ToggleDisabled => before_flip(flag, next),
        _ => before_edit(flag, next.old_value.as_deref()).map(|flag| (flag, true)),
    };
    let (before, has_update_metadata) = before.ok_or(next.revision)?;
    if before.revision > revision {
        return Err(before.revision);
    }
    Ok(Some(PastFlag { flag: Arc::new(before), has_update_metadata }))
}

fn before_flip(now: &Flag, next: &NextChange) -> Option<(Flag, bool)> {
    let described = match &next.before_edit {
        Some(json) => before_edit(now, Some(json))?,
        None => now.clone(),
    };
    let status = next.old_value.as_deref().and_then(Status::parse)?;
    let revision = next.previous_revision?;
    let (updated_at, updated_by, last_flip) = match &next.previous {
        Some(previous) => (previous.timestamp, Arc::clone(&previous.user_email), previous.last_flip(revision)?),
        None => (described.updated_at, Arc::clone(&described.updated_by), None),
    };
    let flag = Flag { status, revision, updated_at, updated_by, last_flip, ..described };
    Some((flag, next.previous.is_some()))
}

fn before_edit(now: &Flag, json: Option<&str>) -> Option<Flag> {
    let is_same = |before: &Flag| (before.id, &before.environment, &before.key) == (now.id, &now.environment, &now.key);
    // The flags of an environment share its key.
    json.and_then(Flag::from_json).filter(is_same).map(|before| Flag { environment: now.environment.clone(), ..before })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::text::Name;

    /// A flag that was on at revision 10, called `Then`.
    fn then() -> Flag {
        Flag {
            status: Status::Enabled,
            name: Name::parse("Then").unwrap(),
            updated_at: Timestamp::from_micros(10),
            archived_at: Some(Timestamp::from_micros(9)),
            last_flip: Some(LastFlip::sample(10)),
            ..Flag::sample("a", 10)
        }
    }

    /// The same flag since then.
    fn now() -> Arc<Flag> {
        Arc::new(Flag { name: Name::parse("Now").unwrap(), archived_at: None, ..Flag::sample("a", 30) })
    }

    fn change(action: Action, old_value: &str) -> NextChange {
        NextChange {
            flag_id: then().id,
            revision: 20,
            action,
            old_value: Some(old_value.to_owned()),
            previous_revision: Some(10),
            before_edit: None,
            previous: Some(PreviousChange {
                id: Uuid::from_u128(10),
                action: Action::ToggleEnabled,
                timestamp: Timestamp::from_micros(10),
                user_email: "bob@example.com".into(),
                new_value: Some("enabled".to_owned()),
                reason: None,
            }),
        }
    }

    fn was(next: &NextChange) -> Result<Option<PastFlag>, Revision> {
        flag_as_of(&now(), 15, Some(next))
    }

    #[test]
    fn unchanged_flag_is_returned_as_it_is() {
        let flag = now();
        for revision in [30, 31] {
            assert_eq!(
                flag_as_of(&flag, revision, None),
                Ok(Some(PastFlag { flag: Arc::clone(&flag), has_update_metadata: true }))
            );
        }
        assert_eq!(flag_as_of(&flag, 29, None), Err(30), "an entry has to be there");
    }

    #[test]
    fn flag_is_absent_before_its_creation() {
        assert_eq!(was(&NextChange { old_value: None, ..change(Action::FlagCreated, "") }), Ok(None));
    }

    #[test]
    fn edit_restores_the_whole_flag() {
        for action in [Action::FlagUpdated, Action::FlagArchived, Action::FlagUnarchived] {
            let was = was(&NextChange { previous: None, ..change(action, &then().to_json()) }).unwrap().unwrap();
            assert_eq!((&*was.flag, was.has_update_metadata), (&then(), true));
        }
    }

    #[test]
    fn flip_restores_status_and_edit_the_rest() {
        let flip = change(Action::ToggleDisabled, "enabled");
        let flag = was(&flip).unwrap().unwrap().flag;
        let expected = Flag {
            status: Status::Enabled,
            revision: 10,
            updated_at: Timestamp::from_micros(10),
            updated_by: "bob@example.com".into(),
            last_flip: Some(Arc::new(LastFlip {
                by: "bob@example.com".into(),
                reason: None,
                ..LastFlip::clone(&LastFlip::sample(10))
            })),
            ..Flag::clone(&now())
        };
        assert_eq!(*flag, expected);

        let flipped = Flag { status: Status::Disabled, revision: 20, ..then() };
        let edited = NextChange { before_edit: Some(flipped.to_json()), ..flip.clone() };
        let flag = was(&edited).unwrap().unwrap().flag;
        assert_eq!(*flag, Flag { updated_by: "bob@example.com".into(), last_flip: expected.last_flip, ..then() });

        for json in [then().to_json(), Flag { last_flip: None, ..then() }.to_json()] {
            let last_flip = Flag::from_json(&json).unwrap().last_flip;
            let edit =
                |previous| PreviousChange { action: Action::FlagUpdated, new_value: Some(json.clone()), ..previous };
            let after_edit = was(&NextChange { previous: flip.previous.clone().map(edit), ..flip.clone() });
            assert_eq!(after_edit.unwrap().unwrap().flag.last_flip, last_flip, "an edit leaves the last flip");
        }

        let undated = was(&NextChange { previous: None, ..edited }).unwrap().unwrap();
        assert_eq!((undated.flag.revision, undated.has_update_metadata), (10, false));
        assert_eq!(undated.flag.last_flip, None);
    }

    #[test]
    fn invalid_entry_is_an_error() {
        let flip = change(Action::ToggleDisabled, "enabled");
        let other = Flag::sample("b", 10).to_json();
        let unreadable =
            |previous| PreviousChange { action: Action::FlagUpdated, new_value: Some("{}".to_owned()), ..previous };
        for (bad, at) in [
            (change(Action::ToggleDisabled, "on"), 20),
            (NextChange { old_value: None, ..flip.clone() }, 20),
            (NextChange { previous_revision: None, ..flip.clone() }, 20),
            (NextChange { previous_revision: Some(16), ..flip.clone() }, 16),
            (NextChange { before_edit: Some("{}".to_owned()), ..flip.clone() }, 20),
            (NextChange { previous: flip.previous.clone().map(unreadable), ..flip }, 20),
            (change(Action::FlagUpdated, &other), 20),
            (change(Action::FlagUpdated, "enabled"), 20),
            (change(Action::LogTrimmed, "enabled"), 20),
        ] {
            assert_eq!(was(&bad), Err(at), "{bad:?}");
        }
    }
}

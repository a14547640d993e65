//! What a flag was at an earlier revision, as the log tells it.
//!
//! A flag that has not changed since is as it was. Of any other the first entry after that revision says what was before
//! it: an edit all of it, a flip the status alone; the rest of it then is what its first edit found, or, if there was
//! none, what it has still. So only what came after the revision is read, and nothing is played back.

use std::sync::Arc;

use uuid::Uuid;

use super::Revision;
use super::audit::Action;
use super::flag::{Flag, Status};
use super::time::Timestamp;

/// A flag's first change after a revision, and what else the log says of it as it was then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextChange {
    /// The flag.
    pub flag_id: Uuid,
    /// The revision of that change.
    pub revision: Revision,
    /// What was done.
    pub action: Action,
    /// What was before it: a status for a flip, else the flag as JSON, and nothing before its creation.
    pub old_value: Option<String>,
    /// The revision that the flag had before it.
    pub previous_revision: Option<Revision>,
    /// What was before the first change after the revision that was no flip, as JSON; `None` if there was none.
    pub before_edit: Option<String>,
    /// When and by whom the flag was last changed before; `None` where that entry is no longer kept.
    pub previous: Option<(Timestamp, Arc<str>)>,
}

/// A flag as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastFlag {
    /// All of it.
    pub flag: Arc<Flag>,
    /// Whether its `updated_at` and `updated_by` are true: the entry that tells of them may be gone.
    pub has_update_metadata: bool,
}

/// What `flag`, as it is now or was at any time later, was at `revision`; `None` if it was not there yet. `next` is its
/// first change after that, if any was found.
///
/// # Errors
/// The revision of an entry that is not there, or does not say what it should.
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
    let (updated_at, updated_by) =
        next.previous.clone().unwrap_or_else(|| (described.updated_at, Arc::clone(&described.updated_by)));
    let flag = Flag { status, revision: next.previous_revision?, updated_at, updated_by, ..described };
    Some((flag, next.previous.is_some()))
}

fn before_edit(now: &Flag, json: Option<&str>) -> Option<Flag> {
    json.and_then(Flag::from_json).filter(|before| before.id == now.id && before.key == now.key)
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
            previous: Some((Timestamp::from_micros(10), "bob@example.com".into())),
        }
    }

    fn was(next: &NextChange) -> Result<Option<PastFlag>, Revision> {
        flag_as_of(&now(), 15, Some(next))
    }

    #[test]
    fn what_has_not_changed_since_is_as_it_was() {
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
    fn before_its_creation_it_was_not_there() {
        assert_eq!(was(&NextChange { old_value: None, ..change(Action::FlagCreated, "") }), Ok(None));
    }

    #[test]
    fn an_edit_says_all_of_what_was_before_it() {
        for action in [Action::FlagUpdated, Action::FlagArchived, Action::FlagUnarchived] {
            let was = was(&NextChange { previous: None, ..change(action, &then().to_json()) }).unwrap().unwrap();
            assert_eq!((&*was.flag, was.has_update_metadata), (&then(), true));
        }
    }

    #[test]
    fn a_flip_says_the_status_and_the_first_edit_or_the_present_the_rest() {
        let flip = change(Action::ToggleDisabled, "enabled");
        let flag = was(&flip).unwrap().unwrap().flag;
        let expected = Flag {
            status: Status::Enabled,
            revision: 10,
            updated_at: Timestamp::from_micros(10),
            updated_by: "bob@example.com".into(),
            ..Flag::clone(&now())
        };
        assert_eq!(*flag, expected);

        let flipped = Flag { status: Status::Disabled, revision: 20, ..then() };
        let edited = NextChange { before_edit: Some(flipped.to_json()), ..flip.clone() };
        let flag = was(&edited).unwrap().unwrap().flag;
        assert_eq!(*flag, Flag { updated_by: "bob@example.com".into(), ..then() });

        let undated = was(&NextChange { previous: None, ..edited }).unwrap().unwrap();
        assert_eq!((undated.flag.revision, undated.has_update_metadata), (10, false));
    }

    #[test]
    fn what_does_not_fit_is_no_answer() {
        let flip = change(Action::ToggleDisabled, "enabled");
        let other = Flag::sample("b", 10).to_json();
        for (bad, at) in [
            (change(Action::ToggleDisabled, "on"), 20),
            (NextChange { old_value: None, ..flip.clone() }, 20),
            (NextChange { previous_revision: None, ..flip.clone() }, 20),
            (NextChange { previous_revision: Some(16), ..flip.clone() }, 16),
            (NextChange { before_edit: Some("{}".to_owned()), ..flip }, 20),
            (change(Action::FlagUpdated, &other), 20),
            (change(Action::FlagUpdated, "enabled"), 20),
            (change(Action::LogTrimmed, "enabled"), 20),
        ] {
            assert_eq!(was(&bad), Err(at), "{bad:?}");
        }
    }
}

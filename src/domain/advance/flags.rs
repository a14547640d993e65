//! The rules of changes to flags.

use std::collections::HashSet;
use std::sync::Arc;

use super::draft::Draft;
use super::{BatchResult, NewFlag, Object, Outcome, Proposal, Revert, SetStatus, check_revision, logged};
use crate::domain::Revision;
use crate::domain::access::Scope;
use crate::domain::audit::{Action, Entry};
use crate::domain::environment::Environment;
use crate::domain::error::{Error, Violation};
use crate::domain::flag::{Flag, LastFlip, Status};
use crate::domain::flag_access::FlagAccess;
use crate::domain::state::{EnvironmentRef, FlagRef};
use crate::domain::text::{Description, EnvironmentKey, Name};
use crate::visible::is_blank;

pub(super) fn toggle(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    flag: &FlagRef,
    expected: Option<Revision>,
) -> Result<Outcome, Error> {
    let before = flippable(draft, proposal, access, flag, expected)?;
    let status = before.status.flipped();
    let (flag, entry) = flip(draft, proposal, &before, status);
    Ok((Object::Flag(flag), Some(entry)))
}

pub(super) fn set_status(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    item: &SetStatus,
) -> Result<Outcome, Error> {
    let before = flippable(draft, proposal, access, &item.flag, item.expected_revision)?;
    if before.status == item.status {
        return Ok((Object::Flag(before), None));
    }
    let (flag, entry) = flip(draft, proposal, &before, item.status);
    Ok((Object::Flag(flag), Some(entry)))
}

/// Sets the status that the flag had before the entry, whatever has happened to the flag since.
pub(super) fn revert(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    revert: &Revert,
) -> Result<Outcome, Error> {
    draft.check_generation(revert.generation)?;
    // The entry may have been trimmed since it was looked up.
    if !revert.entry.as_ref().is_some_and(|entry| entry.revision > draft.head().floor && sees(access, entry)) {
        return Err(Error::AuditLogNotFound(revert.id));
    }
    let (flag, status) = revert.flag().zip(revert.status()).ok_or(Error::NotRevertible(revert.id))?;
    let item = SetStatus { flag, status, expected_revision: revert.expected_revision };
    set_status(draft, proposal, access, &item)
}

/// All or none: every item is checked before the first one is written. The request parser has rejected duplicate ids
/// and keys; a flag named once by id and once by key is found here.
pub(super) fn batch_set(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    items: &[SetStatus],
) -> Result<Outcome, Error> {
    let flippable = |item: &SetStatus| flippable(draft, proposal, access, &item.flag, item.expected_revision);
    let before: Vec<Arc<Flag>> = items.iter().map(flippable).collect::<Result<_, _>>()?;
    let mut seen = HashSet::new();
    if let Some(twice) = before.iter().position(|flag| !seen.insert(flag.id)) {
        return Err(Error::Invalid(vec![Violation {
            field: format!("items[{twice}]"),
            rule: "must not name a flag that another item names".to_owned(),
        }]));
    }
    let results = before.into_iter().zip(items).map(|(before, item)| {
        if before.status == item.status {
            return BatchResult { flag: before, entry_id: None, changed: false };
        }
        let (flag, entry) = flip(draft, proposal, &before, item.status);
        BatchResult { flag, entry_id: Some(entry.id), changed: true }
    });
    Ok((Object::Batch(results.collect()), None))
}

pub(super) fn create(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    new: &NewFlag,
) -> Result<Outcome, Error> {
    let environment = match &new.environment {
        Some(named) => named,
        None => &access.only_environment(draft)?,
    };
    let environment = Arc::clone(access.environment(draft, environment)?);
    check_active(&environment)?;
    if new.status == Status::Enabled {
        check_reason(proposal, &environment)?;
    }
    if draft.flag_in(&environment.key, &new.key).is_some() {
        return Err(Error::KeyTaken(new.key.clone()));
    }
    let stamp = draft.next_stamp(&proposal.actor);
    let flag = Flag {
        id: draft.new_id(),
        environment: environment.key.clone(),
        key: new.key.clone(),
        name: new.name.clone(),
        description: new.description.clone(),
        status: new.status,
        revision: stamp.revision,
        created_at: stamp.timestamp,
        updated_at: stamp.timestamp,
        updated_by: Arc::clone(&stamp.changed_by),
        archived_at: None,
        last_flip: None,
    };
    let (flag, entry) = logged::create(draft, proposal, stamp, Action::FlagCreated, flag);
    Ok((Object::Flag(flag), Some(entry)))
}

/// All or none: `advance` discards the flags before one that cannot be created.
pub(super) fn batch_create(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    items: &[NewFlag],
) -> Result<Outcome, Error> {
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        if let (Object::Flag(flag), entry) = create(draft, proposal, access, item)? {
            results.push(BatchResult { flag, entry_id: entry.map(|entry| entry.id), changed: true });
        }
    }
    Ok((Object::Batch(results), None))
}

/// The new texts of a flag. `None` leaves one unchanged.
pub(super) struct FlagEdit<'a> {
    pub name: Option<&'a Name>,
    pub description: Option<&'a Description>,
}

pub(super) fn update(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    flag: &FlagRef,
    edit: FlagEdit<'_>,
    expected: Option<Revision>,
) -> Result<Outcome, Error> {
    let (before, _) = changeable(draft, access, flag)?;
    check_revision(before.revision, expected)?;
    let mut after = Flag::clone(&before);
    if let Some(name) = edit.name {
        after.name = name.clone();
    }
    if let Some(description) = edit.description {
        after.description = description.clone();
    }
    if after == *before {
        return Ok((Object::Flag(before), None));
    }
    let stamp = draft.next_stamp(&proposal.actor);
    let (flag, entry) = logged::edit(draft, proposal, stamp, Action::FlagUpdated, &*before, after);
    Ok((Object::Flag(flag), Some(entry)))
}

pub(super) fn set_archived(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    flag: &FlagRef,
    archived: bool,
    expected: Option<Revision>,
) -> Result<Outcome, Error> {
    let (before, environment) = changeable(draft, access, flag)?;
    // For its readers, an archived flag is off.
    if before.status == Status::Enabled {
        check_reason(proposal, &environment)?;
    }
    check_revision(before.revision, expected)?;
    if before.archived_at.is_some() == archived {
        return Ok((Object::Flag(before), None));
    }
    let stamp = draft.next_stamp(&proposal.actor);
    let after = Flag { archived_at: archived.then_some(stamp.timestamp), ..Flag::clone(&before) };
    let action = if archived { Action::FlagArchived } else { Action::FlagUnarchived };
    let (flag, entry) = logged::edit(draft, proposal, stamp, action, &*before, after);
    Ok((Object::Flag(flag), Some(entry)))
}

/// The flag that a request changes, and its environment, which is not archived.
fn changeable(
    draft: &Draft<'_>,
    access: &FlagAccess<'_>,
    flag: &FlagRef,
) -> Result<(Arc<Flag>, Arc<Environment>), Error> {
    let flag = match flag {
        FlagRef::Key(None, key) => &FlagRef::Key(Some(access.only_environment(draft)?), key.clone()),
        named => named,
    };
    let flag = Arc::clone(access.find(draft, flag)?);
    let environment = draft.find_environment(&EnvironmentRef::Key(flag.environment.clone()))?;
    check_active(&environment)?;
    Ok((flag, environment))
}

fn check_active(environment: &Environment) -> Result<(), Error> {
    match environment.archived_at {
        Some(_) => Err(Error::EnvironmentArchived(environment.key.clone())),
        None => Ok(()),
    }
}

/// Whether the caller may know of an entry that a request names.
fn sees(access: &FlagAccess<'_>, entry: &Entry) -> bool {
    match entry.environment.as_deref().map(EnvironmentKey::parse) {
        Some(key) => key.is_ok_and(|key| access.sees_flags_in(&key)),
        None => access.is_held(Scope::Everywhere),
    }
}

/// The flag, if it may be flipped: it is not archived and is at the expected revision, and the request has a reason if the environment
/// requires one. The reason is required even if the flag has the status already, so that the answer does not depend on that.
fn flippable(
    draft: &Draft<'_>,
    proposal: &Proposal,
    access: &FlagAccess<'_>,
    flag: &FlagRef,
    expected: Option<Revision>,
) -> Result<Arc<Flag>, Error> {
    let (flag, environment) = changeable(draft, access, flag)?;
    check_reason(proposal, &environment)?;
    check_revision(flag.revision, expected)?;
    if flag.archived_at.is_some() { Err(Error::FlagArchived(flag.key.clone())) } else { Ok(flag) }
}

/// Checks that a change has a reason, if the environment requires one.
pub(super) fn check_reason(proposal: &Proposal, environment: &Environment) -> Result<(), Error> {
    let has_reason = proposal.reason.as_ref().is_some_and(|reason| !is_blank(reason.as_str()));
    if !environment.require_reason || has_reason {
        return Ok(());
    }
    let rule = format!("must be given, since the environment {} requires it", environment.key);
    Err(Error::Invalid(vec![Violation { field: "reason".to_owned(), rule }]))
}

fn flip(draft: &mut Draft<'_>, proposal: &Proposal, before: &Arc<Flag>, status: Status) -> (Arc<Flag>, Arc<Entry>) {
    let stamp = draft.next_stamp(&proposal.actor);
    let last_flip = LastFlip {
        audit_log_id: stamp.entry_id,
        by: Arc::clone(&stamp.changed_by),
        reason: proposal.reason.as_ref().map(|reason| reason.shared()),
        revision: stamp.revision,
        time: stamp.timestamp,
    };
    let after = Flag { status, last_flip: Some(Arc::new(last_flip)), ..Flag::clone(before) };
    let action = match status {
        Status::Enabled => Action::ToggleEnabled,
        Status::Disabled => Action::ToggleDisabled,
    };
    logged::edit(draft, proposal, stamp, action, &**before, after)
}

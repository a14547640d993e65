//! The rules of changes to environments.

use std::sync::Arc;

use super::draft::Draft;
use super::flags::check_reason;
use super::{EnvironmentUpdate, NewEnvironment, Object, Outcome, Proposal, check_revision, logged};
use crate::domain::Revision;
use crate::domain::access::Directory;
use crate::domain::audit::Action;
use crate::domain::environment::{Environment, MAX_ENVIRONMENTS};
use crate::domain::error::Error;
use crate::domain::state::EnvironmentRef;

pub(super) fn create(draft: &mut Draft<'_>, proposal: &Proposal, new: &NewEnvironment) -> Result<Outcome, Error> {
    if draft.has_environment(&new.key) {
        return Err(Error::EnvironmentKeyTaken(new.key.clone()));
    }
    if draft.environment_count() >= MAX_ENVIRONMENTS {
        return Err(Error::EnvironmentLimit);
    }
    let stamp = draft.next_stamp(&proposal.actor);
    let environment = Environment {
        id: draft.new_id(),
        key: new.key.clone(),
        name: new.name.clone(),
        description: new.description.clone(),
        require_reason: new.require_reason,
        revision: stamp.revision,
        created_at: stamp.timestamp,
        updated_at: stamp.timestamp,
        updated_by: Arc::clone(&stamp.changed_by),
        archived_at: None,
    };
    let (environment, entry) = logged::create(draft, proposal, stamp, Action::EnvironmentCreated, environment);
    Ok((Object::Environment(environment), Some(entry)))
}

pub(super) fn update(draft: &mut Draft<'_>, proposal: &Proposal, update: &EnvironmentUpdate) -> Result<Outcome, Error> {
    let before = at_expected_revision(draft, &update.environment, update.expected_revision)?;
    if before.archived_at.is_some() {
        return Err(Error::EnvironmentArchived(before.key.clone()));
    }
    let mut after = Environment::clone(&before);
    if let Some(name) = &update.name {
        after.name = name.clone();
    }
    if let Some(description) = &update.description {
        after.description = description.clone();
    }
    if let Some(require_reason) = update.require_reason {
        if !require_reason {
            check_reason(proposal, &before)?;
        }
        after.require_reason = require_reason;
    }
    if after == *before {
        return Ok((Object::Environment(before), None));
    }
    let stamp = draft.next_stamp(&proposal.actor);
    let (environment, entry) = logged::edit(draft, proposal, stamp, Action::EnvironmentUpdated, &*before, after);
    Ok((Object::Environment(environment), Some(entry)))
}

pub(super) fn set_archived(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    environment: &EnvironmentRef,
    archived: bool,
    expected: Option<Revision>,
) -> Result<Outcome, Error> {
    let before = at_expected_revision(draft, environment, expected)?;
    if before.archived_at.is_some() == archived {
        return Ok((Object::Environment(before), None));
    }
    let stamp = draft.next_stamp(&proposal.actor);
    let archived_at = archived.then_some(stamp.timestamp);
    let after = Environment { archived_at, ..Environment::clone(&before) };
    let action = if archived { Action::EnvironmentArchived } else { Action::EnvironmentUnarchived };
    let (environment, entry) = logged::edit(draft, proposal, stamp, action, &*before, after);
    Ok((Object::Environment(environment), Some(entry)))
}

fn at_expected_revision(
    draft: &Draft<'_>,
    environment: &EnvironmentRef,
    expected: Option<Revision>,
) -> Result<Arc<Environment>, Error> {
    let environment = draft.find_environment(environment)?;
    check_revision(environment.revision, expected)?;
    Ok(environment)
}

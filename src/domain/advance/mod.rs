//! The rules of every change: one function decides all changes to flags, environments, users and tokens.
//!
//! [`advance`] is pure. It takes the state at revision R and a batch of proposals, decides them in order, and returns
//! what to append on condition that the log is still at R. A proposal sees the effects of earlier ones in its batch. A
//! rejected proposal has no effect on the others.

mod denials;
mod draft;
mod environments;
mod flags;
mod log;
mod logged;
mod proposal;
mod step;
mod tokens;
mod users;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::access::{Directory, Permissions};
use super::audit::Entry;
use super::error::{Error, Violation};
use super::flag_access::FlagAccess;
use super::state::State;
use super::text::RequestId;
use super::time::Timestamp;
use draft::Draft;

pub use proposal::*;
pub use step::*;

/// How long a stored answer is kept at least: 24 hours.
pub const REQUEST_LIFETIME_SECONDS: i64 = 24 * 60 * 60;

/// Decides `proposals`, in order, on `state`. `now` is the present and `new_id` makes ids.
pub fn advance<'a>(
    state: &State,
    proposals: impl IntoIterator<Item = &'a Proposal>,
    now: Timestamp,
    new_id: &mut dyn FnMut() -> Uuid,
) -> Step {
    let mut draft = Draft::new(state, now, new_id);
    let mut requests: Vec<StoredRequest> = Vec::new();
    // Where each stands in `requests`.
    let mut positions: HashMap<(Uuid, RequestId), usize> = HashMap::new();
    let (mut owners, mut decisions) = (Vec::new(), Vec::new());
    for proposal in proposals {
        let owner = request_owner(&draft, proposal);
        if let Some((request, owner)) = proposal.request.as_ref().zip(owner)
            && let Some(&earlier) = positions.get(&(owner.user_id, request.id.clone()))
        {
            decisions.push(replay(&draft, proposal, request, &requests[earlier]));
            owners.push(Some(owner));
            continue;
        }
        let decision = decide(&mut draft, proposal);
        // A first-time caller by single sign-on had no user above: `decide` may have created it. Any other caller keeps the owner found
        // there, even if the change gives their account to another user.
        let owner = owner.or_else(|| request_owner(&draft, proposal));
        owners.push(owner);
        if let (Ok(answer), Some((request, RequestOwner { user_id, .. })), false) =
            (&decision, proposal.request.as_ref().zip(owner), proposal.validate_only)
        {
            positions.insert((user_id, request.id.clone()), requests.len());
            requests.push(StoredRequest {
                user_id,
                request_id: request.id.clone(),
                digest: request.digest,
                response: (proposal.encode)(answer),
                expires_at: now.plus_seconds(REQUEST_LIFETIME_SECONDS),
            });
        }
        decisions.push(decision.map_or_else(Decision::Rejected, Decision::Accepted));
    }
    draft.finish(requests, owners, decisions)
}

/// The user who makes a proposal's request, as of the proposal's position in the batch.
fn request_owner(draft: &Draft<'_>, proposal: &Proposal) -> Option<RequestOwner> {
    let user_id = draft.user_id(&proposal.actor)?;
    Some(RequestOwner { user_id, is_known_at_base: draft.user_id_at_base(&proposal.actor) == Some(user_id) })
}

/// A retry: its caller must still authenticate, and the digest must match.
fn replay(draft: &Draft<'_>, proposal: &Proposal, request: &RequestKey, stored: &StoredRequest) -> Decision {
    match draft.authenticate(&proposal.actor) {
        Err(error) => Decision::Rejected(error),
        Ok(_) if stored.digest != request.digest => Decision::Rejected(Error::RequestIdReused),
        Ok(_) => Decision::Replayed(stored.response.clone()),
    }
}

/// Decides one proposal; what it does is in the draft afterwards, unless it is `validate_only`.
fn decide(draft: &mut Draft<'_>, proposal: &Proposal) -> Result<Answer, Error> {
    if let Command::RecordDenial(denial) = &proposal.command {
        draft.authenticate(&proposal.actor)?;
        let (object, entry) = denials::record(draft, proposal, denial);
        return Ok(Answer { object, entry, revision: draft.head().revision });
    }
    // Also fails if the caller lacks the permission that the method requires, which `Actor::Caller` names.
    let caller_permissions = draft.authorize(&proposal.actor, &proposal.command)?;
    let (object, entry) = if proposal.validate_only {
        let keeps_nothing = |_: &Result<Outcome, Error>| false;
        let (object, _) =
            draft.attempt(|draft| provision_and_execute(draft, proposal, &caller_permissions), keeps_nothing)?;
        (without_entry_ids(object), None)
    } else if draft.unprovisioned_identity(&proposal.actor).is_some() {
        // The user is created first, but only if the command changes something (a BatchSet has no entry of its own) or its answer is
        // stored.
        let keeps = |outcome: &Result<Outcome, Error>| {
            outcome
                .as_ref()
                .is_ok_and(|(object, entry)| entry.is_some() || object.changed_any_flag() || proposal.request.is_some())
        };
        draft.attempt(|draft| provision_and_execute(draft, proposal, &caller_permissions), keeps)?
    } else {
        execute(draft, proposal, &caller_permissions)?
    };
    Ok(Answer { object, entry, revision: draft.head().revision })
}

fn provision_and_execute(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    caller_permissions: &Permissions,
) -> Result<Outcome, Error> {
    if let Some(identity) = draft.unprovisioned_identity(&proposal.actor) {
        users::provision(draft, proposal, &identity)?;
    }
    execute(draft, proposal, caller_permissions)
}

/// Removes the ids of entries, which were not written with `validate_only`.
fn without_entry_ids(object: Object) -> Object {
    match object {
        Object::Batch(results) => {
            Object::Batch(results.into_iter().map(|r| BatchResult { entry_id: None, ..r }).collect())
        }
        object => object,
    }
}

fn execute(draft: &mut Draft<'_>, proposal: &Proposal, caller_permissions: &Permissions) -> Result<Outcome, Error> {
    let required = match &proposal.actor {
        Actor::Caller { permission, .. } => Some(*permission),
        Actor::Service { .. } => None,
    };
    let access = &FlagAccess::new(caller_permissions, required);
    match &proposal.command {
        Command::Toggle { flag, expected_revision } => flags::toggle(draft, proposal, access, flag, *expected_revision),
        Command::SetStatus(item) => flags::set_status(draft, proposal, access, item),
        Command::BatchSet(items) => flags::batch_set(draft, proposal, access, items),
        Command::Revert(revert) => flags::revert(draft, proposal, access, revert),
        Command::CreateFlag(new) => flags::create(draft, proposal, access, new),
        Command::BatchCreate(items) => {
            draft.attempt(|draft| flags::batch_create(draft, proposal, access, items), Result::is_ok)
        }
        Command::UpdateFlag { flag, name, description, expected_revision } => {
            let edit = flags::FlagEdit { name: name.as_ref(), description: description.as_ref() };
            flags::update(draft, proposal, access, flag, edit, *expected_revision)
        }
        Command::SetArchived { flag, archived, expected_revision } => {
            flags::set_archived(draft, proposal, access, flag, *archived, *expected_revision)
        }
        Command::CreateEnvironment(new) => environments::create(draft, proposal, new),
        Command::UpdateEnvironment(update) => environments::update(draft, proposal, update),
        Command::SetEnvironmentArchived { environment, archived, expected_revision } => {
            environments::set_archived(draft, proposal, environment, *archived, *expected_revision)
        }
        Command::CreateUser { email, account, permissions } => {
            users::create(draft, proposal, caller_permissions, email, account.as_ref(), permissions)
        }
        Command::UpdateUser { id, account, permissions, reactivate, expected_revision } => {
            let update = users::UserUpdate { account: account.as_ref(), permissions, reactivate: *reactivate };
            users::update(draft, proposal, caller_permissions, *id, update, *expected_revision)
        }
        Command::DeactivateUser { id, expected_revision } => {
            users::deactivate(draft, proposal, *id, *expected_revision)
        }
        Command::CreateToken(new) => tokens::create(draft, proposal, caller_permissions, new),
        Command::RevokeToken { id, expected_revision } => tokens::revoke(draft, proposal, *id, *expected_revision),
        Command::CreateAdministrator { email, token_name, secret_hash } => {
            tokens::create_administrator(draft, proposal, caller_permissions, email, token_name, *secret_hash)
        }
        Command::TrimLog(trim) => log::trim(draft, proposal, trim),
        // Not reached: `decide` records a denial itself, since its caller lacks the permission.
        Command::RecordDenial(denial) => Ok(denials::record(draft, proposal, denial)),
    }
}

/// What a command changed, and the entry it wrote.
type Outcome = (Object, Option<Arc<Entry>>);

/// A caller may grant only permissions that they hold.
fn check_may_grant(wanted: &Permissions, caller_permissions: &Permissions) -> Result<(), Error> {
    wanted.minus(caller_permissions).iter().next().map_or(Ok(()), |missing| Err(Error::PermissionDenied(missing)))
}

/// Permissions are granted only in environments that exist. Comes after [`check_may_grant`]: only a caller who holds something in an
/// environment may see whether it exists.
fn check_environments_exist(draft: &Draft<'_>, granted: &Permissions) -> Result<(), Error> {
    let unknown = granted.environments().filter(|key| !draft.has_environment(key));
    let violations: Vec<_> = unknown
        .map(|key| Violation {
            field: "permissions".to_owned(),
            rule: format!("must not name the unknown environment {key}"),
        })
        .collect();
    if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
}

/// An object is changed only at the revision that the caller expects, if they expect one.
fn check_revision(current: super::Revision, expected: Option<super::Revision>) -> Result<(), Error> {
    match expected {
        Some(expected) if expected != current => Err(Error::RevisionMismatch { expected, current }),
        _ => Ok(()),
    }
}

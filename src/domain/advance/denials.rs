//! Records of refused changes.

use std::sync::Arc;

use serde::Serialize;

use super::draft::{Draft, Entity, Values};
use super::logged::Logged;
use super::{Denial, Object, ObjectRef, Outcome, Proposal};
use crate::domain::access::{Directory, Scope, ScopedPermission};
use crate::domain::audit::Action;
use crate::domain::flag::json;
use crate::domain::state::EnvironmentRef;
use crate::domain::text::EnvironmentKey;

pub(super) fn record(draft: &mut Draft<'_>, proposal: &Proposal, denial: &Denial) -> Outcome {
    #[derive(Serialize)]
    struct Fields<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        issuer: Option<&'a str>,
        permission: &'a ScopedPermission,
        #[serde(skip_serializing_if = "Option::is_none")]
        subject: Option<&'a str>,
        suppressed: u64,
    }
    // A caller who is not a user yet is identified by their account: they could choose another person's address.
    let newcomer = draft.unprovisioned_identity(&proposal.actor);
    let new = json(&Fields {
        issuer: newcomer.as_ref().map(|identity| &*identity.issuer),
        permission: &denial.permission,
        subject: newcomer.as_ref().map(|identity| &*identity.subject),
        suppressed: denial.suppressed,
    });
    let entity = entity(draft, denial);
    let stamp = draft.next_stamp(&proposal.actor);
    let values = Values { old: None, new: Some(new.into()) };
    let entry = draft.write_entry(proposal, stamp, Action::AccessDenied, entity, values);
    (Object::Nothing, Some(entry))
}

/// The object that the request named, if it exists: an entry never pairs an id with the wrong type of object. Otherwise
/// the name alone, under the type that the permission is about.
fn entity(draft: &Draft<'_>, denial: &Denial) -> Entity {
    let found = denial.object.as_ref().and_then(|named| {
        let flag = match named {
            ObjectRef::Key(_, key) => denied_in(denial).and_then(|environment| draft.flag_in(environment, key)),
            ObjectRef::Id(id) => draft.flag_by_id(*id),
            ObjectRef::Environment(_) | ObjectRef::Email(_) => None,
        };
        if let Some(flag) = flag {
            return Some(flag.entity());
        }
        let environment = match named {
            ObjectRef::Environment(key) => Some(EnvironmentRef::Key(key.clone())),
            ObjectRef::Id(id) => Some(EnvironmentRef::Id(*id)),
            ObjectRef::Key(..) | ObjectRef::Email(_) => None,
        };
        if let Some(found) = environment.and_then(|environment| draft.find_environment(&environment).ok()) {
            return Some(found.entity());
        }
        let user = match named {
            ObjectRef::Email(email) => draft.user_by_email(email),
            ObjectRef::Id(id) => draft.user(*id),
            ObjectRef::Key(..) | ObjectRef::Environment(_) => None,
        };
        if let Some(user) = user {
            return Some(user.entity());
        }
        let ObjectRef::Id(id) = named else { return None };
        draft.token(*id).map(|token| token.entity())
    });
    found.unwrap_or_else(|| {
        let name: Arc<str> = match &denial.object {
            Some(ObjectRef::Key(_, key)) => key.shared(),
            Some(ObjectRef::Environment(key)) => key.shared(),
            Some(ObjectRef::Email(email)) => email.shared(),
            Some(ObjectRef::Id(id)) => id.to_string().into(),
            None => "".into(),
        };
        let environment = denied_in(denial).filter(|key| draft.has_environment(key)).map(EnvironmentKey::shared);
        let entity_type = denial.permission.permission().governs();
        Entity { entity_type, id: None, key: Arc::clone(&name), name, environment, previous_revision: None }
    })
}

/// The environment in which a change of flags was refused: where the permission is missing, or else the one of the key that the request
/// named. It may not exist.
fn denied_in(denial: &Denial) -> Option<&EnvironmentKey> {
    let choice = match &denial.object {
        Some(ObjectRef::Key(named, _)) => Some(named.as_ref().unwrap_or(EnvironmentKey::default_environment())),
        None => denial.environment.as_ref(),
        // What is missing may be a permission that the caller granted.
        Some(ObjectRef::Environment(_) | ObjectRef::Email(_) | ObjectRef::Id(_)) => return None,
    };
    match denial.permission.scope() {
        Scope::Environment(key) => Some(key),
        Scope::Everywhere => choice,
    }
}

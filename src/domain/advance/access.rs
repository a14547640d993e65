//! The rules of changes to users and tokens.

use super::draft::{Draft, Subject, Values};
use super::{NewToken, Object, Outcome, Proposal};
use crate::domain::access::{Permissions, SecretHash, Token, User};
use crate::domain::audit::{Action, EntityType};
use crate::domain::error::{Error, Violation};
use crate::domain::text::{Email, Name};

pub(super) fn create_user(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    granted: Permissions,
    email: &Email,
    permissions: Permissions,
) -> Result<Outcome, Error> {
    within(permissions, granted)?;
    if draft.email_is_taken(email) {
        return Err(Error::EmailTaken(email.clone()));
    }
    let place = draft.place(&proposal.actor);
    let user = User {
        id: draft.new_id(),
        email: email.clone(),
        permissions,
        revision: place.revision,
        created_at: place.timestamp,
        updated_at: place.timestamp,
        deactivated_at: None,
    };
    let subject = Subject {
        entity_type: EntityType::User,
        id: user.id,
        key: email.shared(),
        name: email.shared(),
        previous_revision: None,
    };
    let values = Values { old: None, new: Some(user.to_json().into()) };
    let user = draft.put_user(user);
    let entry = draft.log(proposal, place, Action::UserCreated, subject, values);
    Ok((Object::User(user), Some(entry)))
}

pub(super) fn create_token(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    granted: Permissions,
    new: &NewToken,
) -> Result<Outcome, Error> {
    let user = draft.user(new.user_id).ok_or(Error::UserNotFound(new.user_id))?;
    let place = draft.place(&proposal.actor);
    let token = Token {
        id: draft.new_id(),
        user_id: user.id,
        name: new.name.clone(),
        secret_hash: new.secret_hash,
        permissions: new.permissions,
        revision: place.revision,
        created_at: place.timestamp,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    // The list itself, not only what it allows today: the user may be given more later.
    within(new.permissions.unwrap_or(user.permissions), granted)?;
    if !token.is_live(draft.now()) {
        let rule = "must be in the future".to_owned();
        return Err(Error::Invalid(vec![Violation { field: "expires_at".to_owned(), rule }]));
    }
    let subject = Subject {
        entity_type: EntityType::ApiToken,
        id: token.id,
        key: token.id.to_string().into(),
        name: token.name.shared(),
        previous_revision: None,
    };
    let values = Values { old: None, new: Some(token.to_json().into()) };
    let token = draft.put_token(token);
    let entry = draft.log(proposal, place, Action::TokenCreated, subject, values);
    Ok((Object::Token(token), Some(entry)))
}

pub(super) fn create_administrator(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    granted: Permissions,
    email: &Email,
    token_name: &Name,
    secret_hash: SecretHash,
) -> Result<Outcome, Error> {
    let (object, entry) = create_user(draft, proposal, granted, email, Permissions::all())?;
    let Object::User(user) = &object else { return Ok((object, entry)) };
    let token =
        NewToken { user_id: user.id, name: token_name.clone(), permissions: None, expires_at: None, secret_hash };
    create_token(draft, proposal, granted, &token)
}

/// Nobody hands out what they do not hold.
fn within(wanted: Permissions, granted: Permissions) -> Result<(), Error> {
    wanted.minus(granted).iter().next().map_or(Ok(()), |missing| Err(Error::PermissionDenied(missing)))
}

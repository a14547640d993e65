//! The rules of changes to tokens.

use std::sync::Arc;

use uuid::Uuid;

use super::draft::Draft;
use super::{
    Actor, NewToken, Object, Outcome, Proposal, check_environments_exist, check_may_grant, check_revision, logged,
    users,
};
use crate::domain::Revision;
use crate::domain::access::{Credential, Directory, Permissions, SecretHash, Token, User};
use crate::domain::audit::Action;
use crate::domain::error::{Error, Violation};
use crate::domain::text::{Email, EnvironmentKey, Name};

pub(super) fn create(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    caller_permissions: &Permissions,
    new: &NewToken,
) -> Result<Outcome, Error> {
    let user = draft.find_user(new.user_id)?;
    if !user.is_active() {
        return Err(Error::UserDeactivated(user.email.clone()));
    }
    let own = draft.user_id(&proposal.actor) == Some(user.id);
    if !own {
        users::check_may_act_as(&user, caller_permissions)?;
    }
    // The requested list counts, not only its present effect: the user may get more permissions later.
    let granted = new.permissions.as_ref().unwrap_or(&user.permissions);
    check_may_grant(granted, caller_permissions)?;
    check_environments_exist(draft, granted)?;
    // A token without a list gains each permission that its user gets. Its creator, who may know the secret, must not
    // gain more by that than they do anyway.
    let outgrows = new.permissions.is_none() && !(own && grows_with_user(draft, &proposal.actor));
    let permissions = if outgrows && *caller_permissions != Permissions::all() {
        Some(caller_permissions)
    } else {
        new.permissions.as_ref()
    };
    let stamp = draft.next_stamp(&proposal.actor);
    let token = Token {
        id: draft.new_id(),
        user_id: user.id,
        name: new.name.clone(),
        secret_hash: new.secret_hash,
        permissions: permissions.cloned(),
        environment: new.environment.clone(),
        revision: stamp.revision,
        created_at: stamp.timestamp,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    if !token.is_live(draft.now()) {
        let rule = "must be in the future".to_owned();
        return Err(Error::Invalid(vec![Violation { field: "expires_at".to_owned(), rule }]));
    }
    check_own_environment(draft, &token, &user)?;
    let (token, entry) = logged::create(draft, proposal, stamp, Action::TokenCreated, token);
    Ok((Object::Token(token), Some(entry)))
}

/// A token's own environment is one in which the token holds a permission, and so one that its creator may see. An unknown one has the
/// same answer as a hidden one.
fn check_own_environment(draft: &Draft<'_>, token: &Token, user: &User) -> Result<(), Error> {
    let is_held = |key: &EnvironmentKey| draft.has_environment(key) && token.allowed(user).holds_any_in(key);
    if token.environment.as_ref().is_none_or(is_held) {
        return Ok(());
    }
    let rule = "must be one in which the token holds a permission".to_owned();
    Err(Error::Invalid(vec![Violation { field: "environment".to_owned(), rule }]))
}

/// Whether the actor's credential gains each permission that its user gets. A token with a list does not, nor does a single
/// sign-on account, whose permissions are in its claims.
fn grows_with_user(draft: &Draft<'_>, actor: &Actor) -> bool {
    match actor {
        Actor::Caller { credential: Credential::Token(id), .. } => {
            draft.token(*id).is_some_and(|token| token.permissions.is_none())
        }
        Actor::Caller { credential: Credential::Certificate { .. }, .. } => true,
        Actor::Caller { credential: Credential::SignOn(_), .. } | Actor::Service { .. } => false,
    }
}

pub(super) fn revoke(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    id: Uuid,
    expected: Option<Revision>,
) -> Result<Outcome, Error> {
    let before = draft.find_token(id)?;
    check_revision(before.revision, expected)?;
    if before.revoked_at.is_some() {
        return Ok((Object::Token(before), None));
    }
    check_not_last_token(draft, proposal, &before)?;
    let stamp = draft.next_stamp(&proposal.actor);
    let after = Token { revoked_at: Some(stamp.timestamp), ..Token::clone(&before) };
    let (token, entry) = logged::edit(draft, proposal, stamp, Action::TokenRevoked, &*before, after);
    Ok((Object::Token(token), Some(entry)))
}

/// A caller cannot revoke their own last valid token. A caller by single sign-on or client certificate has another
/// credential; whether a caller by token has one too is not known here.
fn check_not_last_token(draft: &Draft<'_>, proposal: &Proposal, token: &Arc<Token>) -> Result<(), Error> {
    let own = draft.user_id(&proposal.actor) == Some(token.user_id);
    let by_token = matches!(proposal.actor, Actor::Caller { credential: Credential::Token(_), .. });
    if own && by_token && token.is_live(draft.now()) && !draft.has_other_token(token.user_id, token.id) {
        return Err(Error::RemovesOwnAccess);
    }
    Ok(())
}

pub(super) fn create_administrator(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    caller_permissions: &Permissions,
    email: &Email,
    token_name: &Name,
    secret_hash: SecretHash,
) -> Result<Outcome, Error> {
    let (object, entry) = users::create(draft, proposal, caller_permissions, email, None, &Permissions::all())?;
    let Object::User(user) = &object else { return Ok((object, entry)) };
    let token = NewToken {
        user_id: user.id,
        name: token_name.clone(),
        permissions: None,
        environment: None,
        expires_at: None,
        secret_hash,
    };
    create(draft, proposal, caller_permissions, &token)
}

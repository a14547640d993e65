//! The rules of changes to users.

use uuid::Uuid;

use super::draft::Draft;
use super::{Object, Outcome, Proposal, check_environments_exist, check_may_grant, check_revision, logged};
use crate::domain::Revision;
use crate::domain::access::{Account, Directory, Identity, Permission, Permissions, Scope, User};
use crate::domain::audit::Action;
use crate::domain::error::{Error, Violation, list_of};
use crate::domain::text::Email;

pub(super) fn create(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    caller_permissions: &Permissions,
    email: &Email,
    account: Option<&Account>,
    permissions: &Permissions,
) -> Result<Outcome, Error> {
    check_may_grant(permissions, caller_permissions)?;
    check_environments_exist(draft, permissions)?;
    if draft.user_by_email(email).is_some() {
        return Err(Error::EmailTaken(email.clone()));
    }
    check_account_free(draft, account, None)?;
    Ok(write_new(draft, proposal, email, account.cloned(), permissions.clone()))
}

fn check_account_free(draft: &Draft<'_>, account: Option<&Account>, id: Option<Uuid>) -> Result<(), Error> {
    match account.filter(|account| draft.user_by_account(account).is_some_and(|user| Some(user.id) != id)) {
        Some(account) => Err(Error::AccountTaken(account.clone())),
        None => Ok(()),
    }
}

/// Creates the user for a single sign-on caller who is not a user yet. The stored user has no permissions: the caller's come from
/// the claims of the JWT. An API token of the user has none until some are granted to the user.
pub(super) fn provision(draft: &mut Draft<'_>, proposal: &Proposal, identity: &Identity) -> Result<(), Error> {
    // A user with this address may be another person: anyone who can choose an address at the issuer must not become
    // that user.
    if draft.user_by_email(&identity.email).is_some() {
        return Err(Error::SignOnEmailTaken(identity.email.clone()));
    }
    write_new(draft, proposal, &identity.email, Some(identity.account()), Permissions::default());
    Ok(())
}

fn write_new(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    email: &Email,
    account: Option<Account>,
    permissions: Permissions,
) -> Outcome {
    let stamp = draft.next_stamp(&proposal.actor);
    let user = User {
        id: draft.new_id(),
        email: email.clone(),
        account,
        permissions,
        revision: stamp.revision,
        created_at: stamp.timestamp,
        updated_at: stamp.timestamp,
        deactivated_at: None,
    };
    let (user, entry) = logged::create(draft, proposal, stamp, Action::UserCreated, user);
    (Object::User(user), Some(entry))
}

/// The requested change of a user.
pub(super) struct UserUpdate<'a> {
    pub account: Option<&'a Account>,
    pub permissions: &'a Permissions,
    pub reactivate: bool,
}

pub(super) fn update(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    caller_permissions: &Permissions,
    id: Uuid,
    update: UserUpdate<'_>,
    expected: Option<Revision>,
) -> Result<Outcome, Error> {
    let before = draft.find_user(id)?;
    check_revision(before.revision, expected)?;
    if !before.is_active() && !update.reactivate {
        return Err(Error::UserDeactivated(before.email.clone()));
    }
    check_may_change(&before.permissions, update.permissions, caller_permissions)?;
    check_environments_exist(draft, update.permissions)?;
    let account = update.account.or(before.account.as_ref()).cloned();
    // Reactivating the user and linking another account both let someone act as the user.
    if !before.is_active() || account != before.account {
        check_may_act_as(&before, caller_permissions)?;
    }
    check_permissions_given(&before, &update)?;
    check_account_free(draft, update.account, Some(id))?;
    if !update.permissions.covers(Permission::ManageAccess, Scope::Everywhere) {
        check_not_last_access_manager(draft, &before)?;
    }
    let permissions = update.permissions.clone();
    let after = User { account, permissions, deactivated_at: None, ..User::clone(&before) };
    if after == *before {
        return Ok((Object::User(before), None));
    }
    let stamp = draft.next_stamp(&proposal.actor);
    let (user, entry) = logged::edit(draft, proposal, stamp, Action::UserUpdated, &*before, after);
    Ok((Object::User(user), Some(entry)))
}

/// A request without permissions cannot be told from one that revokes all. Together with something else, that would happen
/// unnoticed, so it needs a request of its own.
fn check_permissions_given(user: &User, update: &UserUpdate<'_>) -> Result<(), Error> {
    if (update.account.is_none() && !update.reactivate) || !update.permissions.is_empty() || user.permissions.is_empty()
    {
        return Ok(());
    }
    let rule = format!(
        "must list the user's permissions ({}), since all others are revoked; revoke all in a request without issuer, subject \
         and reactivate",
        list_of(&user.permissions.names())
    );
    Err(Error::Invalid(vec![Violation { field: "permissions".to_owned(), rule }]))
}

/// A caller may grant and revoke only permissions that they hold.
fn check_may_change(before: &Permissions, after: &Permissions, caller_permissions: &Permissions) -> Result<(), Error> {
    check_may_grant(&after.minus(before), caller_permissions)?;
    check_may_grant(&before.minus(after), caller_permissions)
}

/// A way to act as a user may be given only by a caller who holds every permission of the user. Otherwise an access manager
/// with few permissions could become an administrator, or act in the name of one. The permissions of a single sign-on
/// account are not known here, so they may be all.
///
/// The permissions of a user can be neither granted nor revoked by a caller who lacks them: otherwise an access manager could
/// revoke them first, and then act as the user, with the user's name in the log. Revoking tokens and deactivating need no more
/// than `manage_access`. It must be possible for each access manager who sees a break-in, gives nobody a name, and can be undone
/// only by a caller who holds what the user holds.
pub(super) fn check_may_act_as(user: &User, caller_permissions: &Permissions) -> Result<(), Error> {
    match user.account {
        Some(_) => check_may_grant(&Permissions::all(), caller_permissions),
        None => check_may_grant(&user.permissions, caller_permissions),
    }
}

pub(super) fn deactivate(
    draft: &mut Draft<'_>,
    proposal: &Proposal,
    id: Uuid,
    expected: Option<Revision>,
) -> Result<Outcome, Error> {
    let before = draft.find_user(id)?;
    check_revision(before.revision, expected)?;
    if !before.is_active() {
        return Ok((Object::User(before), None));
    }
    check_not_last_access_manager(draft, &before)?;
    if draft.user_id(&proposal.actor) == Some(id) {
        return Err(Error::RemovesOwnAccess);
    }
    let stamp = draft.next_stamp(&proposal.actor);
    let after = User { deactivated_at: Some(stamp.timestamp), ..User::clone(&before) };
    let (user, entry) = logged::edit(draft, proposal, stamp, Action::UserDeactivated, &*before, after);
    Ok((Object::User(user), Some(entry)))
}

/// At least one other active user must hold `manage_access`. Permissions by single sign-on do not count: the issuer may
/// withdraw them or be unreachable.
fn check_not_last_access_manager(draft: &Draft<'_>, losing: &User) -> Result<(), Error> {
    let permission = Permission::ManageAccess;
    let loses = losing.is_active() && losing.permissions.covers(permission, Scope::Everywhere);
    if loses && !draft.has_active_user_with(permission, |user| user.id != losing.id) {
        return Err(Error::LastAccessManager(losing.email.clone()));
    }
    Ok(())
}

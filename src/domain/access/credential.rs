//! What callers show for themselves, and what it lets them do.

use std::sync::Arc;

use uuid::Uuid;

use super::{Account, Permission, Permissions, Token, User};
use crate::domain::text::Email;
use crate::domain::time::Timestamp;

/// Somebody whom the single sign-on vouches for, for as long as their token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who vouches.
    pub issuer: Arc<str>,
    /// The issuer's name for them.
    pub subject: Arc<str>,
    /// Their address.
    pub email: Email,
    /// What they may do.
    pub permissions: Permissions,
    /// Until when.
    pub expires_at: Timestamp,
}

impl Identity {
    /// Who they are, without what changes from token to token.
    pub fn account(&self) -> Account {
        Account { issuer: Arc::clone(&self.issuer), subject: Arc::clone(&self.subject) }
    }
}

/// What a caller has shown, once it has been found to be genuine. Whether it still works is for [`admit`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A token of ours, by its id.
    Token(Uuid),
    /// A token of the single sign-on.
    SignOn(Arc<Identity>),
    /// A client certificate that stands for a user.
    Certificate {
        /// The user.
        user_id: Uuid,
        /// The end of the certificate.
        expires_at: Timestamp,
    },
}

impl Credential {
    /// Whom it speaks for, whether or not it works; `None` if that is no user (yet).
    pub fn user_id(&self, directory: &impl Directory) -> Option<Uuid> {
        match self {
            Self::Token(id) => directory.token(*id).map(|token| token.user_id),
            Self::SignOn(identity) => directory.user_by_account(&identity.account()).map(|user| user.id),
            Self::Certificate { user_id, .. } => Some(*user_id),
        }
    }
}

/// Where users and tokens are looked up.
pub trait Directory {
    /// The user with this id.
    fn user(&self, id: Uuid) -> Option<&Arc<User>>;
    /// The user whom the single sign-on knows so.
    fn user_by_account(&self, account: &Account) -> Option<&Arc<User>>;
    /// The token with this id.
    fn token(&self, id: Uuid) -> Option<&Arc<Token>>;
}

/// What a credential lets its bearer do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Who they are. `None` for somebody who came by single sign-on and has not changed anything yet.
    pub user: Option<Arc<User>>,
    /// What they may do.
    pub permissions: Permissions,
    /// Until when, if nothing changes.
    pub until: Option<Timestamp>,
}

impl Grant {
    /// What it takes and is not there; nothing where any caller will do.
    pub fn lacks(&self, permission: Option<Permission>) -> Option<Permission> {
        permission.filter(|permission| !self.permissions.contains(*permission))
    }
}

/// What a credential lets its bearer do at `now`; `None` if it does not work: revoked, expired, or its user shut out.
pub fn admit(directory: &impl Directory, credential: &Credential, now: Timestamp) -> Option<Grant> {
    let granted = match credential {
        Credential::Token(id) => {
            let token = directory.token(*id).filter(|token| token.revoked_at.is_none())?;
            let user = directory.user(token.user_id)?;
            Grant { user: Some(Arc::clone(user)), permissions: token.allowed(user), until: token.expires_at }
        }
        Credential::SignOn(identity) => Grant {
            user: directory.user_by_account(&identity.account()).cloned(),
            permissions: identity.permissions,
            until: Some(identity.expires_at),
        },
        Credential::Certificate { user_id, expires_at } => {
            let user = directory.user(*user_id)?;
            Grant { user: Some(Arc::clone(user)), permissions: user.permissions, until: Some(*expires_at) }
        }
    };
    let shut_out = granted.user.as_ref().is_some_and(|user| !user.is_active());
    let expired = granted.until.is_some_and(|end| now >= end);
    (!shut_out && !expired).then_some(granted)
}

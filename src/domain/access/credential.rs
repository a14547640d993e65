//! Credentials, and what each permits.

use std::sync::Arc;

use uuid::Uuid;

use super::{Account, Permission, Permissions, Scope, Token, User};
use crate::domain::text::{Email, EnvironmentKey};
use crate::domain::time::Timestamp;

/// A caller identified by a single sign-on token, until the token expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The issuer of the token.
    pub issuer: Arc<str>,
    /// The issuer's identifier of the caller (`sub`).
    pub subject: Arc<str>,
    /// The caller's e-mail address.
    pub email: Email,
    /// The permissions that the token's claims grant.
    pub permissions: Permissions,
    /// The environment that the token's claims name as the caller's own. It may not exist.
    pub environment: Option<EnvironmentKey>,
    /// When the token expires.
    pub expires_at: Timestamp,
}

impl Identity {
    /// The caller's account, without what changes from token to token.
    pub fn account(&self) -> Account {
        Account { issuer: Arc::clone(&self.issuer), subject: Arc::clone(&self.subject) }
    }
}

/// A genuine credential. [`authenticate`] decides whether it is still valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// An API token, by its id.
    Token(Uuid),
    /// A single sign-on token.
    SignOn(Arc<Identity>),
    /// A client certificate that is mapped to a user.
    Certificate {
        /// The user.
        user_id: Uuid,
        /// When the certificate expires.
        expires_at: Timestamp,
    },
}

impl Credential {
    /// The user of the credential, whether or not it is valid; `None` for a single sign-on caller who is not a user
    /// yet.
    pub fn user_id(&self, directory: &impl Directory) -> Option<Uuid> {
        match self {
            Self::Token(id) => directory.token(*id).map(|token| token.user_id),
            Self::SignOn(identity) => directory.user_by_account(&identity.account()).map(|user| user.id),
            Self::Certificate { user_id, .. } => Some(*user_id),
        }
    }
}

/// Looks up users, tokens and environments.
pub trait Directory {
    /// The user with this id.
    fn user(&self, id: Uuid) -> Option<&Arc<User>>;
    /// The user linked to this single sign-on account.
    fn user_by_account(&self, account: &Account) -> Option<&Arc<User>>;
    /// The token with this id.
    fn token(&self, id: Uuid) -> Option<&Arc<Token>>;
    /// Whether there is an environment with this key.
    fn has_environment(&self, key: &EnvironmentKey) -> bool;
}

/// What a valid credential permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The user. `None` for a single sign-on caller who is not a user yet.
    pub user: Option<Arc<User>>,
    /// The permissions.
    pub permissions: Permissions,
    /// The credential's own environment: what a request is about that names none.
    pub environment: Option<EnvironmentKey>,
    /// When the credential expires, if it does.
    pub until: Option<Timestamp>,
}

impl Grant {
    /// Whether `permission` is held in the whole of `scope`; without a scope, anywhere.
    pub fn holds(&self, permission: Permission, scope: Option<Scope<'_>>) -> bool {
        match scope {
            Some(scope) => self.permissions.covers(permission, scope),
            None => self.permissions.holds_somewhere(permission),
        }
    }
}

/// What a credential permits at `now`. `None` if it is not valid: revoked, expired, or its user is deactivated.
pub fn authenticate(directory: &impl Directory, credential: &Credential, now: Timestamp) -> Option<Grant> {
    let grant = match credential {
        Credential::Token(id) => {
            let token = directory.token(*id).filter(|token| token.revoked_at.is_none())?;
            let user = directory.user(token.user_id)?;
            Grant {
                user: Some(Arc::clone(user)),
                permissions: token.allowed(user),
                environment: token.environment.clone(),
                until: token.expires_at,
            }
        }
        Credential::SignOn(identity) => Grant {
            user: directory.user_by_account(&identity.account()).cloned(),
            // The issuer does not know which environments exist. What it grants in others counts for nothing.
            permissions: identity.permissions.in_known_environments(|key| directory.has_environment(key)),
            environment: identity.environment.clone(),
            until: Some(identity.expires_at),
        },
        Credential::Certificate { user_id, expires_at } => {
            let user = directory.user(*user_id)?;
            Grant {
                user: Some(Arc::clone(user)),
                permissions: user.permissions.clone(),
                environment: None,
                until: Some(*expires_at),
            }
        }
    };
    let is_deactivated = grant.user.as_ref().is_some_and(|user| !user.is_active());
    let is_expired = grant.until.is_some_and(|end| now >= end);
    (!is_deactivated && !is_expired).then_some(grant)
}

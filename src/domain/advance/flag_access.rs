//! Where a caller may change flags, and which of them exist for the caller.
//!
//! What a caller may not see is answered exactly as what does not exist.

use std::sync::Arc;

use super::Actor;
use super::draft::Draft;
use crate::domain::access::{Directory, Permission, Permissions, Scope, ScopedPermission};
use crate::domain::audit::Entry;
use crate::domain::environment::Environment;
use crate::domain::error::{Error, Violation};
use crate::domain::flag::Flag;
use crate::domain::state::{EnvironmentChoice, EnvironmentRef, FlagRef};
use crate::domain::text::EnvironmentKey;

/// The most environments that an error names.
const MAX_NAMED: usize = 20;

/// What the actor of a proposal may do with flags.
pub(super) struct FlagAccess<'p> {
    permissions: &'p Permissions,
    /// The permission that the method requires. `None` for the service itself, which may change all flags.
    required: Option<Permission>,
}

impl<'p> FlagAccess<'p> {
    pub fn new(actor: &Actor, permissions: &'p Permissions) -> Self {
        let required = match actor {
            Actor::Caller { permission, .. } => Some(*permission),
            Actor::Service { .. } => None,
        };
        Self { permissions, required }
    }

    /// The flag that a request changes, and its environment.
    pub fn flag(&self, draft: &Draft<'_>, flag: &FlagRef) -> Result<(Arc<Flag>, Arc<Environment>), Error> {
        let not_found = || Error::FlagNotFound(flag.to_string());
        match flag {
            FlagRef::Id(id) => {
                let found = draft.flag_by_id(*id).filter(|found| self.sees_flags_in(&found.environment));
                let found = found.ok_or_else(not_found)?;
                let environment = self.changeable(draft, &found.environment)?;
                Ok((found, environment))
            }
            FlagRef::Key(choice, key) => {
                let environment = self.environment(draft, choice)?;
                let found = draft.flag_in(&environment.key, key).ok_or_else(not_found)?;
                Ok((found, environment))
            }
        }
    }

    /// The environment in which a request changes or creates a flag that it names by key.
    pub fn environment(&self, draft: &Draft<'_>, choice: &EnvironmentChoice) -> Result<Arc<Environment>, Error> {
        match choice.chosen() {
            Some(key) if self.permissions.holds_any_in(key) => self.changeable(draft, key),
            Some(key) => Err(Error::EnvironmentNotFound(key.to_string())),
            None => self.changeable(draft, self.only_environment(draft)?),
        }
    }

    /// Whether the caller may know of an entry that a request names.
    pub fn sees(&self, entry: &Entry) -> bool {
        match entry.environment.as_deref().map(EnvironmentKey::parse) {
            Some(key) => key.is_ok_and(|key| self.sees_flags_in(&key)),
            None => self.is_held_in(Scope::Everywhere),
        }
    }

    /// Whether the caller may know which flags an environment has. The log names them as well.
    fn sees_flags_in(&self, environment: &EnvironmentKey) -> bool {
        let scoped = Permission::ALL.into_iter().filter(|permission| permission.can_be_scoped());
        scoped.into_iter().any(|permission| self.permissions.covers(permission, Scope::Environment(environment)))
    }

    fn is_held_in(&self, scope: Scope<'_>) -> bool {
        self.required.is_none_or(|required| self.permissions.covers(required, scope))
    }

    /// The environment, if the caller may change its flags now.
    fn changeable(&self, draft: &Draft<'_>, key: &EnvironmentKey) -> Result<Arc<Environment>, Error> {
        let environment = draft.find_environment(&EnvironmentRef::Key(key.clone()))?;
        if let Some(required) = self.required.filter(|_| !self.is_held_in(Scope::Environment(key))) {
            let missing = ScopedPermission::in_environment(required, key.clone()).unwrap_or_else(|_| required.into());
            return Err(Error::PermissionDenied(missing));
        }
        if environment.archived_at.is_some() { Err(Error::EnvironmentArchived(key.clone())) } else { Ok(environment) }
    }

    /// The environment of a change that names none: the only one in which the caller may make it. With several, an unset variable would change
    /// another environment than the one that was meant. Archived ones count, so that archiving one does not redirect such changes.
    fn only_environment<'e>(&'e self, draft: &'e Draft<'_>) -> Result<&'e EnvironmentKey, Error> {
        let mut environments = self.environments(draft);
        match (environments.next(), environments.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Ok(EnvironmentKey::default_environment()),
            (Some(_), Some(_)) => Err(self.must_name_environment(draft)),
        }
    }

    fn must_name_environment(&self, draft: &Draft<'_>) -> Error {
        let mut keys: Vec<_> = self.environments(draft).map(EnvironmentKey::as_str).collect();
        keys.sort_unstable();
        let others = keys.len().saturating_sub(MAX_NAMED);
        keys.truncate(MAX_NAMED);
        let mut rule = format!("must name one of the environments in which you may do this: {}", keys.join(", "));
        if others > 0 {
            rule += &format!(" and {others} more");
        }
        Error::Invalid(vec![Violation { field: "environment".to_owned(), rule }])
    }

    /// The environments in which the caller holds the required permission.
    fn environments<'e>(&'e self, draft: &'e Draft<'_>) -> Box<dyn Iterator<Item = &'e EnvironmentKey> + 'e> {
        if self.is_held_in(Scope::Everywhere) {
            return Box::new(draft.environment_keys());
        }
        let held = |key: &&EnvironmentKey| self.is_held_in(Scope::Environment(key)) && draft.has_environment(key);
        Box::new(self.permissions.environments().filter(held))
    }
}

//! Which flags and which entries of the log exist for a caller, and where they may do what a method does.
//!
//! What a caller may not see is answered exactly as what does not exist.

use std::sync::Arc;

use super::access::{Permission, Permissions, Scope, ScopedPermission};
use super::audit::Entry;
use super::environment::Environment;
use super::error::{Error, Violation, list_of};
use super::flag::Flag;
use super::state::{EnvironmentRef, EnvironmentScope, FlagRef};
use super::text::EnvironmentKey;

/// Looks up flags and environments, whether a caller may see them or not.
pub trait FlagDirectory {
    /// The flag, even if it is archived. By key without an environment, it is the one of `default`.
    fn flag(&self, flag: &FlagRef) -> Option<&Arc<Flag>>;
    /// The environment, even if it is archived.
    fn environment(&self, environment: &EnvironmentRef) -> Option<&Arc<Environment>>;
    /// The keys of all environments, in no order.
    fn environment_keys(&self) -> impl Iterator<Item = &EnvironmentKey>;
}

/// An environment in which a caller with these permissions holds anything.
///
/// # Errors
/// When it does not exist for the caller.
pub fn seen_environment<'d>(
    directory: &'d impl FlagDirectory,
    permissions: &Permissions,
    named: &EnvironmentRef,
) -> Result<&'d Arc<Environment>, Error> {
    let found = directory.environment(named).filter(|found| permissions.holds_any_in(&found.key));
    found.ok_or_else(|| Error::EnvironmentNotFound(named.to_string()))
}

/// What a caller may do with flags, or with the log, by one method.
#[derive(Debug, Clone, Copy)]
pub struct FlagAccess<'p> {
    permissions: &'p Permissions,
    /// The permission that the method requires. `None` for the service itself, which may change all flags.
    required: Option<Permission>,
}

impl<'p> FlagAccess<'p> {
    /// The access of a caller with these permissions to a method that requires one of them.
    pub fn new(permissions: &'p Permissions, required: Option<Permission>) -> Self {
        Self { permissions, required }
    }

    /// The flag that a request names.
    ///
    /// # Errors
    /// When it does not exist for the caller, or they may not do this in its environment.
    pub fn find<'d>(&self, directory: &'d impl FlagDirectory, flag: &FlagRef) -> Result<&'d Arc<Flag>, Error> {
        let found = directory.flag(flag);
        let fits = |found: &&Arc<Flag>| {
            self.is_held_in(&found.environment)
                && flag.environment().is_none_or(|environment| *environment == found.environment)
        };
        found.filter(fits).ok_or_else(|| self.refusal(directory, flag, found))
    }

    /// Why a request may not have the flag that it names.
    fn refusal(&self, directory: &impl FlagDirectory, flag: &FlagRef, found: Option<&Arc<Flag>>) -> Error {
        let named = match flag {
            FlagRef::Id(named, _) => named.as_ref(),
            FlagRef::Key(named, _) => match named {
                Some(named) => Some(named),
                None if self.is_held_in(EnvironmentKey::default_environment()) => None,
                None => return self.must_name_environment(directory),
            },
        };
        if let Some(Err(error)) = named.map(|named| self.seen_environment(directory, named)) {
            return error;
        }
        let missing = |environment| self.check_held_in(environment).err();
        let refusal = match flag {
            FlagRef::Key(..) => named.and_then(missing),
            FlagRef::Id(..) => found.filter(|found| self.sees_flags_in(&found.environment)).and_then(|found| {
                missing(&found.environment).or_else(|| {
                    let rule = format!("must be that of the flag, {}, or absent", found.environment);
                    Some(Error::Invalid(vec![Violation { field: "environment".to_owned(), rule }]))
                })
            }),
        };
        refusal.unwrap_or_else(|| Error::FlagNotFound(flag.to_string()))
    }

    /// The environment with this key, if the caller may do this there.
    ///
    /// # Errors
    /// When it does not exist for the caller, or they lack the permission there.
    pub fn environment<'d>(
        &self,
        directory: &'d impl FlagDirectory,
        key: &EnvironmentKey,
    ) -> Result<&'d Arc<Environment>, Error> {
        let environment = self.seen_environment(directory, key)?;
        self.check_held_in(key).map(|()| environment)
    }

    /// The environments that a list or a watch is about: those that the request named, or else `default`.
    ///
    /// # Errors
    /// When one is named that does not exist for the caller, or they lack the permission there.
    pub fn scope(
        &self,
        directory: &impl FlagDirectory,
        named: Option<&EnvironmentScope>,
    ) -> Result<EnvironmentScope, Error> {
        let default = EnvironmentKey::default_environment();
        match named {
            Some(EnvironmentScope::All) => self.check(Scope::Everywhere)?,
            Some(EnvironmentScope::One(key)) => _ = self.environment(directory, key)?,
            None if self.is_held_in(default) => return Ok(EnvironmentScope::One(default.clone())),
            None => return Err(self.must_name_environment(directory)),
        }
        Ok(named.cloned().unwrap_or(EnvironmentScope::All))
    }

    /// The environments that a read of the log is about: those that the request named, or else all, with the entries about none.
    ///
    /// # Errors
    /// As [`scope`](Self::scope), and when a caller names none who may not read all entries.
    pub fn log_scope(
        &self,
        directory: &impl FlagDirectory,
        named: Option<&EnvironmentScope>,
    ) -> Result<EnvironmentScope, Error> {
        match named {
            Some(_) => self.scope(directory, named),
            None if self.is_held(Scope::Everywhere) => Ok(EnvironmentScope::All),
            None => Err(self.must_name_environment(directory)),
        }
    }

    /// Whether an entry of the log exists for the caller. Those about no environment need the permission everywhere.
    pub fn sees_entry(&self, entry: &Entry) -> bool {
        match entry.environment.as_deref().map(EnvironmentKey::parse) {
            Some(Ok(environment)) => self.is_held_in(&environment),
            Some(Err(_)) | None => self.is_held(Scope::Everywhere),
        }
    }

    /// The only environment in which the caller may do this, for a change that names none. With several, an unset variable would change
    /// another environment than the one that was meant. Archived ones count, so that archiving one does not redirect such changes.
    ///
    /// # Errors
    /// When there are several.
    pub fn only_environment(&self, directory: &impl FlagDirectory) -> Result<EnvironmentKey, Error> {
        let mut environments = self.environments(directory);
        match (environments.next(), environments.next()) {
            (Some(only), None) => Ok(only.clone()),
            (None, _) => Ok(EnvironmentKey::default_environment().clone()),
            (Some(_), Some(_)) => Err(self.must_name_environment(directory)),
        }
    }

    fn must_name_environment(&self, directory: &impl FlagDirectory) -> Error {
        let mut keys: Vec<_> = self.environments(directory).map(EnvironmentKey::as_str).collect();
        keys.sort_unstable();
        let rule = format!("must name one of the environments in which you may do this: {}", list_of(&keys));
        Error::Invalid(vec![Violation { field: "environment".to_owned(), rule }])
    }

    /// The environments in which the caller holds the required permission.
    fn environments<'e>(
        &'e self,
        directory: &'e impl FlagDirectory,
    ) -> Box<dyn Iterator<Item = &'e EnvironmentKey> + 'e> {
        if self.is_held(Scope::Everywhere) {
            return Box::new(directory.environment_keys());
        }
        let exists = |key: &EnvironmentKey| directory.environment(&EnvironmentRef::Key(key.clone())).is_some();
        Box::new(self.permissions.environments().filter(move |key| self.is_held_in(key) && exists(key)))
    }

    fn seen_environment<'d>(
        &self,
        directory: &'d impl FlagDirectory,
        key: &EnvironmentKey,
    ) -> Result<&'d Arc<Environment>, Error> {
        seen_environment(directory, self.permissions, &EnvironmentRef::Key(key.clone()))
    }

    /// Whether the caller may know which flags an environment has. The log names them as well.
    pub fn sees_flags_in(&self, environment: &EnvironmentKey) -> bool {
        let mut scoped = Permission::ALL.into_iter().filter(|permission| permission.can_be_scoped());
        scoped.any(|permission| self.permissions.covers(permission, Scope::Environment(environment)))
    }

    /// Whether the caller may do this in an environment.
    pub fn is_held_in(&self, environment: &EnvironmentKey) -> bool {
        self.is_held(Scope::Environment(environment))
    }

    /// Whether the caller may do this in the whole of a scope.
    pub fn is_held(&self, scope: Scope<'_>) -> bool {
        self.required.is_none_or(|required| self.permissions.covers(required, scope))
    }

    fn check_held_in(&self, environment: &EnvironmentKey) -> Result<(), Error> {
        self.check(Scope::Environment(environment))
    }

    /// # Errors
    /// When the caller may not do this in the whole of a scope, whether or not it exists.
    pub fn check(&self, scope: Scope<'_>) -> Result<(), Error> {
        self.missing(scope).map_or(Ok(()), |missing| Err(Error::PermissionDenied(missing)))
    }

    /// The required permission, if it is missing in a part of the scope.
    pub fn missing(&self, scope: Scope<'_>) -> Option<ScopedPermission> {
        let required = self.required.filter(|_| !self.is_held(scope))?;
        Some(match scope {
            Scope::Everywhere => required.into(),
            Scope::Environment(key) => {
                ScopedPermission::in_environment(required, key.clone()).unwrap_or_else(|_| required.into())
            }
        })
    }
}

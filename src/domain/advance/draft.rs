//! A batch being decided: the state at R, overlaid with the changes of the batch so far.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::{Actor, Command, Created, Decision, Proposal, RequestOwner, Step, StoredRequest};
use crate::domain::access::{
    Account, Credential, Directory, Grant, Identity, Permission, Permissions, Scope, Token, User, authenticate,
};
use crate::domain::audit::{Action, EntityType, Entry};
use crate::domain::environment::Environment;
use crate::domain::error::Error;
use crate::domain::flag::Flag;
use crate::domain::flag_access::FlagDirectory;
use crate::domain::hash;
use crate::domain::state::{Delta, EnvironmentRef, FlagRef, Head, State};
use crate::domain::text::{Email, EnvironmentKey, FlagKey, UNNAMED_SIGN_ON};
use crate::domain::time::Timestamp;
use crate::domain::{Hash, Revision};

/// The object that an entry is about: the values of the entry's `entity_...` fields.
pub(super) struct Entity {
    pub entity_type: EntityType,
    pub id: Option<Uuid>,
    pub key: Arc<str>,
    pub name: Arc<str>,
    /// The key of the environment that the entry is about.
    pub environment: Option<Arc<str>>,
    /// The object's revision before the change.
    pub previous_revision: Option<i64>,
}

/// The values before and after a change.
pub(super) struct Values {
    pub old: Option<Arc<str>>,
    pub new: Option<Arc<str>>,
}

/// When and by whom an object is changed, and the entry that records it. The object gets it first, since its JSON is part of the entry.
pub(super) struct ChangeStamp {
    pub entry_id: Uuid,
    pub revision: i64,
    pub timestamp: Timestamp,
    /// The actor's name in the audit log: the e-mail address of a user, or the name of the service.
    pub changed_by: Arc<str>,
}

/// The changes of the batch so far.
#[derive(Clone, Default)]
struct Changes {
    flags: HashMap<Uuid, Arc<Flag>>,
    keys: HashMap<(EnvironmentKey, FlagKey), Uuid>,
    environments: HashMap<Uuid, Arc<Environment>>,
    environment_keys: HashMap<EnvironmentKey, Uuid>,
    users: HashMap<Uuid, Arc<User>>,
    emails: HashMap<Email, Uuid>,
    accounts: HashMap<Account, Uuid>,
    tokens: HashMap<Uuid, Arc<Token>>,
    entries: Vec<Arc<Entry>>,
}

pub(super) struct Draft<'a> {
    state: &'a State,
    head: Head,
    changes: Changes,
    now: Timestamp,
    new_id: &'a mut dyn FnMut() -> Uuid,
}

impl<'a> Draft<'a> {
    pub fn new(state: &'a State, now: Timestamp, new_id: &'a mut dyn FnMut() -> Uuid) -> Self {
        Self { state, head: *state.head(), changes: Changes::default(), now, new_id }
    }

    /// The head of the log, including the batch so far.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Fails if the log was replaced since an entry was looked up in it, as by a restore.
    pub fn check_generation(&self, generation: u64) -> Result<(), Error> {
        if generation == self.state.generation() { Ok(()) } else { Err(Error::Stale) }
    }

    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub fn new_id(&mut self) -> Uuid {
        (self.new_id)()
    }

    /// The flag with this id, in its current form within the batch.
    pub fn flag_by_id(&self, id: Uuid) -> Option<&Arc<Flag>> {
        self.flag(&FlagRef::id(id))
    }

    /// The flag with this key in an environment, in its current form within the batch.
    pub fn flag_in(&self, environment: &EnvironmentKey, key: &FlagKey) -> Option<&Arc<Flag>> {
        self.flag(&FlagRef::Key(Some(environment.clone()), key.clone()))
    }

    /// The environment in its current form within the batch.
    pub fn find_environment(&self, environment: &EnvironmentRef) -> Result<Arc<Environment>, Error> {
        self.environment(environment).cloned().ok_or_else(|| Error::EnvironmentNotFound(environment.to_string()))
    }

    /// The number of environments, including those that the batch created.
    pub fn environment_count(&self) -> usize {
        let is_new = |id: &&Uuid| self.state.environment(&EnvironmentRef::Id(**id)).is_none();
        self.state.environment_count() + self.changes.environments.keys().filter(is_new).count()
    }

    pub fn find_user(&self, id: Uuid) -> Result<Arc<User>, Error> {
        self.user(id).cloned().ok_or(Error::UserNotFound(id))
    }

    pub fn find_token(&self, id: Uuid) -> Result<Arc<Token>, Error> {
        self.token(id).cloned().ok_or(Error::TokenNotFound(id))
    }

    pub fn user_by_email(&self, email: &Email) -> Option<&Arc<User>> {
        let changed = self.changes.emails.get(email).and_then(|id| self.changes.users.get(id));
        changed.or_else(|| self.state.user_by_email(email))
    }

    /// Whether any active user holds `permission` everywhere and meets `condition`.
    pub fn has_active_user_with(&self, permission: Permission, condition: impl Fn(&User) -> bool) -> bool {
        let holds =
            |user: &User| user.is_active() && user.permissions.covers(permission, Scope::Everywhere) && condition(user);
        let unchanged = self.state.users(None).filter(|user| !self.changes.users.contains_key(&user.id));
        self.changes.users.values().chain(unchanged).any(|user| holds(user))
    }

    /// Whether a user has a valid token other than this one.
    pub fn has_other_token(&self, user_id: Uuid, token_id: Uuid) -> bool {
        let unchanged =
            self.state.tokens_of(user_id, None).filter(|token| !self.changes.tokens.contains_key(&token.id));
        let changed = self.changes.tokens.values().filter(|token| token.user_id == user_id);
        changed.chain(unchanged).any(|token| token.id != token_id && token.is_live(self.now))
    }

    /// The user of an actor, whether or not the credential is valid; `None` for the service, or a caller who is not a user yet.
    pub fn user_id(&self, actor: &Actor) -> Option<Uuid> {
        user_id(self, actor)
    }

    /// As [`user_id`](Self::user_id), before the batch.
    pub fn user_id_at_base(&self, actor: &Actor) -> Option<Uuid> {
        user_id(self.state, actor)
    }

    /// The identity of a single sign-on caller who is not a user yet.
    pub fn unprovisioned_identity(&self, actor: &Actor) -> Option<Arc<Identity>> {
        match actor {
            Actor::Caller { credential: Credential::SignOn(identity), .. }
                if self.user_by_account(&identity.account()).is_none() =>
            {
                Some(Arc::clone(identity))
            }
            _ => None,
        }
    }

    fn check_credential(&self, credential: &Credential) -> Result<Grant, Error> {
        // Expiry is checked against the clock, not against the log's time, which may be ahead.
        authenticate(self, credential, self.now).ok_or(Error::Unauthenticated)
    }

    /// What an actor may do at the present revision.
    pub fn authenticate(&self, actor: &Actor) -> Result<Permissions, Error> {
        match actor {
            Actor::Caller { credential, .. } => self.check_credential(credential).map(|granted| granted.permissions),
            Actor::Service { .. } => Ok(Permissions::all()),
        }
    }

    /// Like `authenticate`, and checks that the actor holds the permission that the method requires: everywhere, or for a change of flags
    /// somewhere. [`FlagAccess`](super::flag_access::FlagAccess) then checks it in the environment of each flag.
    pub fn authorize(&self, actor: &Actor, command: &Command) -> Result<Permissions, Error> {
        let granted = self.authenticate(actor)?;
        let Actor::Caller { permission, .. } = actor else { return Ok(granted) };
        let is_held = if command.changes_flags() {
            granted.holds_somewhere(*permission)
        } else {
            granted.covers(*permission, Scope::Everywhere)
        };
        if is_held { Ok(granted) } else { Err(Error::PermissionDenied((*permission).into())) }
    }

    /// The stamp of the next change. Timestamps never decrease along revisions, whatever the clock does. None is at or before
    /// the closed time, because questions about that were answered already.
    pub fn next_stamp(&mut self, actor: &Actor) -> ChangeStamp {
        ChangeStamp {
            entry_id: self.new_id(),
            revision: self.head.revision + 1,
            timestamp: self.now.max(self.head.timestamp).max(self.state.closed_at().next()),
            changed_by: self.actor_name(actor),
        }
    }

    fn actor_name(&self, actor: &Actor) -> Arc<str> {
        let credential = match actor {
            Actor::Service { name } => return Arc::clone(name),
            Actor::Caller { credential, .. } => credential,
        };
        let user = credential.user_id(self).and_then(|id| self.user(id));
        match (user, credential) {
            (Some(user), _) => user.email.shared(),
            // The caller may have chosen the address at the issuer: it must not name another person.
            (None, Credential::SignOn(identity)) if self.user_by_email(&identity.email).is_some() => {
                UNNAMED_SIGN_ON.into()
            }
            (None, Credential::SignOn(identity)) => identity.email.shared(),
            // Unreachable: `authenticate` rejects an actor whose user does not exist.
            (None, _) => "".into(),
        }
    }

    pub fn put_flag(&mut self, flag: Flag) -> Arc<Flag> {
        let flag = Arc::new(flag);
        self.changes.keys.insert((flag.environment.clone(), flag.key.clone()), flag.id);
        self.changes.flags.insert(flag.id, Arc::clone(&flag));
        flag
    }

    pub fn put_environment(&mut self, environment: Environment) -> Arc<Environment> {
        let environment = Arc::new(environment);
        self.changes.environment_keys.insert(environment.key.clone(), environment.id);
        self.changes.environments.insert(environment.id, Arc::clone(&environment));
        environment
    }

    pub fn put_user(&mut self, user: User) -> Arc<User> {
        let user = Arc::new(user);
        self.changes.emails.insert(user.email.clone(), user.id);
        self.changes.accounts.extend(user.account.clone().map(|account| (account, user.id)));
        self.changes.users.insert(user.id, Arc::clone(&user));
        user
    }

    pub fn put_token(&mut self, token: Token) -> Arc<Token> {
        let token = Arc::new(token);
        self.changes.tokens.insert(token.id, Arc::clone(&token));
        token
    }

    /// Writes the entry of a change, and moves the head to it.
    pub fn write_entry(
        &mut self,
        proposal: &Proposal,
        stamp: ChangeStamp,
        action: Action,
        entity: Entity,
        values: Values,
    ) -> Arc<Entry> {
        let token_id = match proposal.actor {
            Actor::Caller { credential: Credential::Token(id), .. } => Some(id),
            _ => None,
        };
        // A revert by a first-time single sign-on caller writes two entries: the new user, and the flip, which is the revert.
        let reverts = proposal.command.reverts().filter(|_| action.is_flip());
        let mut entry = Entry {
            id: stamp.entry_id,
            revision: stamp.revision,
            timestamp: stamp.timestamp,
            user_id: self.user_id(&proposal.actor),
            user_email: stamp.changed_by,
            token_id,
            action,
            entity_type: entity.entity_type,
            entity_id: entity.id,
            entity_key: entity.key,
            entity_name: entity.name,
            old_value: values.old,
            new_value: values.new,
            reason: proposal.reason.as_ref().map(|r| r.shared()),
            request_id: proposal.request.as_ref().map(|r| r.id.shared()),
            method: Arc::clone(&proposal.origin.method),
            peer: proposal.origin.peer.clone(),
            user_agent: proposal.origin.user_agent.clone(),
            previous_entity_revision: entity.previous_revision,
            reverts,
            environment: entity.environment,
            hash_version: hash::version(reverts),
            hash: hash::GENESIS,
            created_at: self.now,
        };
        entry.hash = hash::entry_hash(&self.head.hash, self.head.log_id, &entry);
        self.head = Head { revision: entry.revision, hash: entry.hash, timestamp: entry.timestamp, ..self.head };
        let entry = Arc::new(entry);
        self.changes.entries.push(Arc::clone(&entry));
        entry
    }

    /// Moves the floor: the log then begins after this revision, whose entry has this hash.
    pub fn raise_floor(&mut self, floor: Revision, floor_hash: Hash) {
        self.head = Head { floor, floor_hash, ..self.head };
    }

    /// Runs `change`, and undoes it unless `keep` accepts the outcome.
    pub fn attempt<T>(&mut self, change: impl FnOnce(&mut Self) -> T, keep: impl FnOnce(&T) -> bool) -> T {
        let before = (self.head, self.changes.clone());
        let outcome = change(self);
        if !keep(&outcome) {
            (self.head, self.changes) = before;
        }
        outcome
    }

    /// Completes the batch.
    pub fn finish(
        self,
        requests: Vec<StoredRequest>,
        owners: Vec<Option<RequestOwner>>,
        decisions: Vec<Decision>,
    ) -> Step {
        let Changes { flags, environments, users, tokens, entries, .. } = self.changes;
        let state = self.state;
        let (flags, new_flags) = new_ones_last(flags, |id| state.flag(&FlagRef::id(id)).is_none());
        let is_new_environment = |id| state.environment(&EnvironmentRef::Id(id)).is_none();
        let (environments, new_environments) = new_ones_last(environments, is_new_environment);
        let (users, new_users) = new_ones_last(users, |id| state.user(id).is_none());
        let (tokens, new_tokens) = new_ones_last(tokens, |id| state.token(id).is_none());
        Step {
            base: *state.head(),
            head: self.head,
            entries,
            delta: Delta { flags, environments, users, tokens },
            created: Created { flags: new_flags, environments: new_environments, users: new_users, tokens: new_tokens },
            requests,
            owners,
            decisions,
        }
    }
}

impl FlagDirectory for Draft<'_> {
    fn flag(&self, flag: &FlagRef) -> Option<&Arc<Flag>> {
        let changed = match flag {
            FlagRef::Id(_, id) => Some(id),
            FlagRef::Key(environment, key) => {
                let environment = environment.as_ref().unwrap_or(EnvironmentKey::default_environment());
                self.changes.keys.get(&(environment.clone(), key.clone()))
            }
        };
        changed.and_then(|id| self.changes.flags.get(id)).or_else(|| self.state.flag(flag))
    }

    fn environment(&self, environment: &EnvironmentRef) -> Option<&Arc<Environment>> {
        let changed = match environment {
            EnvironmentRef::Id(id) => Some(id),
            EnvironmentRef::Key(key) => self.changes.environment_keys.get(key),
        };
        changed.and_then(|id| self.changes.environments.get(id)).or_else(|| self.state.environment(environment))
    }

    fn environment_keys(&self) -> impl Iterator<Item = &EnvironmentKey> {
        let new = self.changes.environment_keys.keys().filter(|key| !self.state.has_environment(key));
        self.state.environments(None).map(|environment| &environment.key).chain(new)
    }
}

impl Directory for Draft<'_> {
    fn user(&self, id: Uuid) -> Option<&Arc<User>> {
        self.changes.users.get(&id).or_else(|| self.state.user(id))
    }

    fn user_by_account(&self, account: &Account) -> Option<&Arc<User>> {
        let known = || self.state.user_by_account(account).map(|user| user.id);
        let id = self.changes.accounts.get(account).copied().or_else(known)?;
        // The batch may have linked the user to another account.
        self.user(id).filter(|user| user.account.as_ref() == Some(account))
    }

    fn token(&self, id: Uuid) -> Option<&Arc<Token>> {
        self.changes.tokens.get(&id).or_else(|| self.state.token(id))
    }

    fn has_environment(&self, key: &EnvironmentKey) -> bool {
        self.changes.environment_keys.contains_key(key) || self.state.has_environment(key)
    }
}

fn user_id(directory: &impl Directory, actor: &Actor) -> Option<Uuid> {
    let Actor::Caller { credential, .. } = actor else { return None };
    credential.user_id(directory)
}

/// The changed objects with the new ones last, and the number of new ones. Each part is sorted by id, so that rows are
/// always locked in the same order.
fn new_ones_last<T>(objects: HashMap<Uuid, Arc<T>>, is_new: impl Fn(Uuid) -> bool) -> (Vec<Arc<T>>, usize) {
    let mut objects: Vec<_> = objects.into_iter().map(|(id, object)| (is_new(id), id, object)).collect();
    objects.sort_unstable_by_key(|(new, id, _)| (*new, *id));
    let count = objects.iter().filter(|(new, ..)| *new).count();
    (objects.into_iter().map(|(.., object)| object).collect(), count)
}

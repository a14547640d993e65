//! The state at one revision: all flags, environments, users and tokens. The mirror holds it, and `advance` decides on it.

mod flags;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::HashMap;
use uuid::Uuid;

use super::Hash;
use super::Revision;
use super::access::{Account, Directory, Scope, SecretHash, Token, User};
use super::environment::Environment;
use super::flag::Flag;
use super::flag_access::FlagDirectory;
use super::hash::GENESIS;
use super::text::{Email, EnvironmentKey, FlagKey, Malformed};
use super::time::Timestamp;
use flags::Flags;

/// The head of the log: its last entry, and its floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The log's id, set when the database is created.
    pub log_id: Uuid,
    /// The last entry's revision; 0 in an empty log.
    pub revision: Revision,
    /// The last entry's hash.
    pub hash: Hash,
    /// The last entry's timestamp.
    pub timestamp: Timestamp,
    /// The floor: entries up to this revision were trimmed.
    pub floor: Revision,
    /// The hash at the floor, which the first kept entry follows.
    pub floor_hash: Hash,
}

impl Head {
    /// The hash at a revision, if the head tells it: at the head, at the floor, and before the first entry.
    pub fn hash_at(&self, revision: Revision) -> Option<Hash> {
        match revision {
            at if at == self.revision => Some(self.hash),
            at if at == self.floor => Some(self.floor_hash),
            0 => Some(GENESIS),
            _ => None,
        }
    }
}

/// How a request names a flag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FlagRef {
    /// By id. An environment that is named too must be that of the flag.
    Id(Option<EnvironmentKey>, Uuid),
    /// By key, in an environment. If none is named, a read is about `default`. A change is about the only environment in which the caller
    /// may make it.
    Key(Option<EnvironmentKey>, FlagKey),
}

impl FlagRef {
    /// By id alone.
    pub fn id(id: Uuid) -> Self {
        Self::Id(None, id)
    }

    /// By key, without an environment.
    pub fn key(key: FlagKey) -> Self {
        Self::Key(None, key)
    }

    /// This flag; if it is named by key without an environment, the one in the caller's own.
    #[must_use]
    pub fn or_in(self, own: Option<&EnvironmentKey>) -> Self {
        match self {
            Self::Key(None, key) => Self::Key(own.cloned(), key),
            named => named,
        }
    }

    /// The environment that is named.
    pub fn environment(&self) -> Option<&EnvironmentKey> {
        match self {
            Self::Id(environment, _) | Self::Key(environment, _) => environment.as_ref(),
        }
    }
}

impl std::fmt::Display for FlagRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(_, id) => id.fmt(f),
            Self::Key(_, key) => key.fmt(f),
        }
    }
}

/// The environments that a list or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EnvironmentScope {
    /// All of them.
    All,
    /// One.
    One(EnvironmentKey),
}

impl EnvironmentScope {
    /// What stands for all environments in a request.
    pub const ALL: &'static str = "-";

    /// Parses the key of an environment, or `-`.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text == Self::ALL { Ok(Self::All) } else { EnvironmentKey::parse(text).map(Self::One) }
    }

    /// Whether it is about this environment.
    pub fn contains(&self, environment: &EnvironmentKey) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == environment,
        }
    }

    /// Where a permission must be held for all of it.
    pub fn of_permission(&self) -> Scope<'_> {
        self.only().map_or(Scope::Everywhere, Scope::Environment)
    }

    /// The environment that it is about, if it is about one.
    pub fn only(&self) -> Option<&EnvironmentKey> {
        match self {
            Self::All => None,
            Self::One(one) => Some(one),
        }
    }
}

impl std::fmt::Display for EnvironmentScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str(Self::ALL),
            Self::One(key) => key.fmt(f),
        }
    }
}

/// How a request names an environment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EnvironmentRef {
    /// By id.
    Id(Uuid),
    /// By key.
    Key(EnvironmentKey),
}

impl std::fmt::Display for EnvironmentRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Key(key) => key.fmt(f),
        }
    }
}

/// Changed objects, in their form after the change.
#[derive(Debug, Clone, Default)]
pub struct Delta {
    /// Changed flags.
    pub flags: Vec<Arc<Flag>>,
    /// Changed environments.
    pub environments: Vec<Arc<Environment>>,
    /// Changed users.
    pub users: Vec<Arc<User>>,
    /// Changed tokens.
    pub tokens: Vec<Arc<Token>>,
}

/// All flags, environments, users and tokens at `head.revision`.
#[derive(Debug, Clone)]
pub struct State {
    /// See [`State::generation`].
    generation: u64,
    head: Head,
    /// See [`State::close`].
    closed_at: Timestamp,
    flags: Flags,
    environments: HashMap<Uuid, Arc<Environment>>,
    environment_keys: BTreeMap<EnvironmentKey, Uuid>,
    users: HashMap<Uuid, Arc<User>>,
    emails: BTreeMap<Email, Uuid>,
    accounts: HashMap<Account, Uuid>,
    tokens: HashMap<Uuid, Arc<Token>>,
    secrets: HashMap<SecretHash, Uuid>,
    /// User and token ids, sorted: the tokens of each user from the oldest on, as far as clocks agree.
    tokens_by_user: BTreeSet<(Uuid, Uuid)>,
}

impl State {
    /// A state without objects.
    pub fn new(head: Head) -> Self {
        Self {
            generation: 0,
            head,
            closed_at: Timestamp::MIN,
            flags: Flags::default(),
            environments: HashMap::new(),
            environment_keys: BTreeMap::new(),
            users: HashMap::new(),
            emails: BTreeMap::new(),
            accounts: HashMap::new(),
            tokens: HashMap::new(),
            secrets: HashMap::new(),
            tokens_by_user: BTreeSet::new(),
        }
    }

    /// The state of an empty log.
    pub fn empty(log_id: Uuid) -> Self {
        let (hash, timestamp) = (GENESIS, Timestamp::default());
        Self::new(Head { log_id, revision: 0, hash, timestamp, floor: 0, floor_hash: GENESIS })
    }

    /// Moves to `head` and takes over the changed objects. The cost grows with the number of changes, not of objects.
    pub fn apply(&mut self, head: Head, delta: &Delta) {
        self.flags.apply(&delta.flags);
        for environment in &delta.environments {
            self.environments.insert(environment.id, Arc::clone(environment));
            self.environment_keys.insert(environment.key.clone(), environment.id);
        }
        for user in &delta.users {
            let before = self.users.insert(user.id, Arc::clone(user));
            // Unless another user of the same delta has taken over the account.
            let tied = before.as_ref().and_then(|before| before.account.as_ref());
            if let Some(account) = tied.filter(|account| self.accounts.get(*account) == Some(&user.id)) {
                self.accounts.remove(account);
            }
            self.accounts.extend(user.account.clone().map(|account| (account, user.id)));
            if before.is_none() {
                self.emails.insert(user.email.clone(), user.id);
            }
        }
        for token in &delta.tokens {
            if self.tokens.insert(token.id, Arc::clone(token)).is_none() {
                self.secrets.insert(token.secret_hash, token.id);
                self.tokens_by_user.insert((token.user_id, token.id));
            }
        }
        self.head = head;
    }

    /// The head of the log at this state.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Closes a time: after this state's head, no entry is dated at or before it. The closed time never decreases.
    pub fn close(&mut self, through: Timestamp) {
        self.closed_at = self.closed_at.max(through);
    }

    /// The closed time.
    pub fn closed_at(&self) -> Timestamp {
        self.closed_at
    }

    /// Whether all entries up to `time` are known. The next entry may be dated exactly as the last one, but not before it.
    pub fn is_closed(&self, time: Timestamp) -> bool {
        time <= self.closed_at || time < self.head.timestamp
    }

    /// Counts the logs that this process has known: it grows when the log turns out not to continue the known one, as
    /// after a restore. What was read in one generation means nothing in the next.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// This state, which was loaded from the database, as the replacement of `older`, whose next entries are not in the log.
    pub fn replacing(self, older: &Self) -> Self {
        let generation = older.generation + u64::from(!self.continues(older));
        Self { generation, ..self }
    }

    /// Whether this log continues that of `older`, and only its next entries were trimmed. Without these entries, the flags
    /// decide: if each is unchanged or has changed later, a reader of `older` can continue here and misses nothing.
    fn continues(&self, older: &Self) -> bool {
        let at = older.head.revision;
        let fits = |flag: &Arc<Flag>| flag.revision > at || older.flags.same_key(flag) == Some(flag);
        let stays = |flag: &Arc<Flag>| self.flags.same_key(flag).is_some_and(|now| now.id == flag.id);
        self.head.log_id == older.head.log_id
            && self.head.floor > at
            && self.flags.all().all(fits)
            && older.flags.all().all(stays)
    }

    /// The flag, even if it is archived, and whether a caller may see it or not. By key without an environment, it is the one of `default`.
    pub fn flag(&self, flag: &FlagRef) -> Option<&Arc<Flag>> {
        match flag {
            FlagRef::Id(_, id) => self.flags.by_id(*id),
            FlagRef::Key(environment, key) => {
                self.flags.by_key(environment.as_ref().unwrap_or(EnvironmentKey::default_environment()), key)
            }
        }
    }

    /// The flag with this key in an environment, even if it is archived.
    pub fn flag_in(&self, environment: &EnvironmentKey, key: &FlagKey) -> Option<&Arc<Flag>> {
        self.flags.by_key(environment, key)
    }

    /// All flags, sorted by environment and key.
    pub fn all_flags(&self) -> impl Iterator<Item = &Arc<Flag>> {
        self.flags.sorted()
    }

    /// All flags of a scope whose keys begin with `prefix`, sorted by environment and key, after `after`.
    pub fn flags<'a>(
        &'a self,
        scope: &EnvironmentScope,
        prefix: &'a str,
        after: Option<(&'a EnvironmentKey, &'a FlagKey)>,
    ) -> impl Iterator<Item = &'a Arc<Flag>> + use<'a> {
        self.flags.beginning_with(scope, prefix, after)
    }

    /// The flags of a scope that changed after a revision, in their present form, archived ones included, in the order of their
    /// last change.
    pub fn flags_since<'a>(
        &'a self,
        scope: &EnvironmentScope,
        revision: Revision,
    ) -> impl Iterator<Item = &'a Arc<Flag>> + use<'a> {
        self.flags.changed_since(scope, revision)
    }

    /// The flag of a scope that changed last. While it is the same, no flag of the scope has changed.
    pub fn last_changed_flag(&self, scope: &EnvironmentScope) -> Option<&Arc<Flag>> {
        self.flags.last_changed(scope)
    }

    /// The environment, even if it is archived.
    pub fn environment(&self, environment: &EnvironmentRef) -> Option<&Arc<Environment>> {
        let id = match environment {
            EnvironmentRef::Id(id) => id,
            EnvironmentRef::Key(key) => self.environment_keys.get(key)?,
        };
        self.environments.get(id)
    }

    /// All environments, sorted by key, after `after`.
    pub fn environments(&self, after: Option<&EnvironmentKey>) -> impl Iterator<Item = &Arc<Environment>> {
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        self.environment_keys.range((from, Bound::Unbounded)).filter_map(|(_, id)| self.environments.get(id))
    }

    /// The number of environments, archived ones included.
    pub fn environment_count(&self) -> usize {
        self.environments.len()
    }

    /// All users, sorted by e-mail address, after `after`.
    pub fn users(&self, after: Option<&Email>) -> impl Iterator<Item = &Arc<User>> {
        let from = after.map_or(Bound::Unbounded, |email| Bound::Excluded(email.clone()));
        self.emails.range((from, Bound::Unbounded)).filter_map(|(_, id)| self.users.get(id))
    }

    /// The user with this e-mail address.
    pub fn user_by_email(&self, email: &Email) -> Option<&Arc<User>> {
        self.users.get(self.emails.get(email)?)
    }

    /// A user's tokens, sorted by id, after `after`.
    pub fn tokens_of(&self, user_id: Uuid, after: Option<Uuid>) -> impl Iterator<Item = &Arc<Token>> {
        let from = match after {
            Some(after) => Bound::Excluded((user_id, after)),
            None => Bound::Included((user_id, Uuid::nil())),
        };
        let to = Bound::Included((user_id, Uuid::max()));
        self.tokens_by_user.range((from, to)).filter_map(|(_, id)| self.tokens.get(id))
    }

    /// All tokens, unsorted, including tokens of unknown users.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.tokens.values()
    }

    /// The token with this secret's hash.
    pub fn token_by_secret(&self, hash: &SecretHash) -> Option<&Arc<Token>> {
        self.tokens.get(self.secrets.get(hash)?)
    }
}

impl Directory for State {
    fn user(&self, id: Uuid) -> Option<&Arc<User>> {
        self.users.get(&id)
    }

    fn user_by_account(&self, account: &Account) -> Option<&Arc<User>> {
        self.users.get(self.accounts.get(account)?)
    }

    fn token(&self, id: Uuid) -> Option<&Arc<Token>> {
        self.tokens.get(&id)
    }

    fn has_environment(&self, key: &EnvironmentKey) -> bool {
        self.environment_keys.contains_key(key)
    }
}

impl FlagDirectory for State {
    fn flag(&self, flag: &FlagRef) -> Option<&Arc<Flag>> {
        self.flag(flag)
    }

    fn environment(&self, environment: &EnvironmentRef) -> Option<&Arc<Environment>> {
        self.environment(environment)
    }

    fn environment_keys(&self) -> impl Iterator<Item = &EnvironmentKey> {
        self.environment_keys.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(state: &State, revision: Revision) -> Vec<(&str, Revision)> {
        state.flags_since(&EnvironmentScope::All, revision).map(|flag| (flag.key.as_str(), flag.revision)).collect()
    }

    fn state(head: Head, flags: &[(&str, Revision)]) -> State {
        let mut state = State::new(head);
        let flags = flags.iter().map(|(key, revision)| Arc::new(Flag::sample(key, *revision))).collect();
        state.apply(head, &Delta { flags, ..Delta::default() });
        state
    }

    #[test]
    fn trimmed_log_continues_when_flags_fit() {
        let at = |revision, floor| Head { revision, floor, ..*State::empty(Uuid::nil()).head() };
        let older = state(at(5, 0), &[("a", 3), ("b", 5)]);
        let goes_on = |head, flags: &[_]| state(head, flags).replacing(&older).generation() == older.generation();
        assert!(goes_on(at(9, 6), &[("a", 3), ("b", 5)]));
        assert!(goes_on(at(9, 6), &[("a", 8), ("b", 5), ("c", 6)]));
        for (what, flags) in [
            ("a flag is gone", &[("a", 3)][..]),
            ("a flag has not changed yet", &[("a", 3), ("b", 4)]),
            ("a flag has changed before", &[("a", 4), ("b", 5)]),
            ("a flag was there before", &[("a", 3), ("b", 5), ("c", 2)]),
        ] {
            assert!(!goes_on(at(9, 6), flags), "{what}");
        }
        assert!(
            !goes_on(at(9, 5), &[("a", 3), ("b", 5)]),
            "the entry after the known head is kept, so it shows that the log does not continue"
        );
        assert!(!goes_on(Head { log_id: Uuid::max(), ..at(9, 6) }, &[("a", 3), ("b", 5)]), "another log");
    }

    #[test]
    fn flags_since_lists_each_flag_once() {
        let mut state = State::empty(Uuid::nil());
        assert_eq!((since(&state, 0), state.last_changed_flag(&EnvironmentScope::All)), (vec![], None));
        for (key, revision) in [("a", 1), ("b", 2), ("c", 3), ("a", 4), ("b", 6), ("a", 7)] {
            let head = Head { revision, ..*state.head() };
            state.apply(head, &Delta { flags: vec![Arc::new(Flag::sample(key, revision))], ..Delta::default() });
        }
        assert_eq!(since(&state, 0), [("c", 3), ("b", 6), ("a", 7)]);
        assert_eq!(since(&state, 3), [("b", 6), ("a", 7)]);
        assert_eq!(since(&state, 6), [("a", 7)]);
        assert_eq!(
            (since(&state, 7), state.last_changed_flag(&EnvironmentScope::All).map(|flag| flag.revision)),
            (vec![], Some(7))
        );
        // The same change again, as a follower may bring it.
        state.apply(*state.head(), &Delta { flags: vec![Arc::new(Flag::sample("a", 7))], ..Delta::default() });
        assert_eq!(since(&state, 0), [("c", 3), ("b", 6), ("a", 7)]);
    }
}

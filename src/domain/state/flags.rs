//! All flags of a state, found by key, by id and by their last change.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use itertools::Itertools;
use uuid::Uuid;

use crate::domain::Revision;
use crate::domain::flag::Flag;
use crate::domain::state::EnvironmentScope;
use crate::domain::text::{EnvironmentKey, FlagKey};

/// The position of a flag, which it keeps, since flags are never removed. Memory holds fewer than four billion of them.
type Slot = u32;

/// All flags. Each is in one list, and the indexes hold its slot there: a change replaces the flag in one place, and a million flags take
/// a quarter of the memory that four maps with keys of their own would.
#[derive(Debug, Clone, Default)]
pub(super) struct Flags {
    slots: Vec<Arc<Flag>>,
    /// By the hash of environment and key. With a million flags, a lookup in `order` would read twenty keys from all over the memory.
    by_key: HashTable<Slot>,
    /// By the id's hash.
    by_id: HashTable<Slot>,
    /// The flags of each environment. They share the text of its key here.
    environments: BTreeMap<EnvironmentKey, EnvironmentFlags>,
    hasher: DefaultHashBuilder,
}

/// The flags of one environment.
#[derive(Debug, Clone, Default)]
struct EnvironmentFlags {
    /// Sorted by key.
    order: BTreeMap<FlagKey, Slot>,
    /// Each under the revision of its last change, so that changes since a revision are found without a walk over all flags.
    changes: BTreeMap<Revision, Slot>,
}

impl Flags {
    /// Takes over flags in their form after a change.
    pub fn apply(&mut self, flags: &[Arc<Flag>]) {
        if self.slots.is_empty() {
            self.load(flags);
            return;
        }
        for flag in flags {
            let (slot, before) = self.put(flag);
            let environment = self.environments.entry(flag.environment.clone()).or_default();
            match before {
                Some(before) => environment.changes.remove(&before.revision),
                None => environment.order.insert(flag.key.clone(), slot),
            };
            environment.changes.insert(flag.revision, slot);
        }
    }

    /// Takes over the first flags. The sorted indexes are made from all of them at once, which is faster, and fills their nodes.
    fn load(&mut self, flags: &[Arc<Flag>]) {
        let Self { slots, by_key, by_id, hasher, .. } = self;
        slots.reserve_exact(flags.len());
        by_key.reserve(flags.len(), |&slot| hasher.hash_one(name(&slots[slot as usize])));
        by_id.reserve(flags.len(), |&slot| hasher.hash_one(slots[slot as usize].id));
        for flag in flags {
            self.put(flag);
        }
        let mut environments: HashMap<&EnvironmentKey, Vec<Slot>> = HashMap::new();
        for (slot, flag) in (0..).zip(&self.slots) {
            environments.entry(&flag.environment).or_default().push(slot);
        }
        let flags = |slots: Vec<Slot>| EnvironmentFlags {
            order: slots.iter().map(|slot| (self.at(*slot).key.clone(), *slot)).collect(),
            changes: slots.iter().map(|slot| (self.at(*slot).revision, *slot)).collect(),
        };
        self.environments = environments.into_iter().map(|(key, slots)| (key.clone(), flags(slots))).collect();
    }

    /// Puts a flag in its slot. Returns the slot and what was there before.
    fn put(&mut self, flag: &Arc<Flag>) -> (Slot, Option<Arc<Flag>>) {
        let flag = self.with_shared_environment(flag);
        if let Some(slot) = self.slot_of(&flag.environment, &flag.key) {
            let before = std::mem::replace(&mut self.slots[slot as usize], flag);
            return (slot, Some(before));
        }
        let slot = Slot::try_from(self.slots.len()).unwrap_or(Slot::MAX);
        self.slots.push(flag);
        let Self { slots, by_key, by_id, hasher, .. } = self;
        let hash_key = |slot: &Slot| hasher.hash_one(name(&slots[*slot as usize]));
        let hash_id = |slot: &Slot| hasher.hash_one(slots[*slot as usize].id);
        by_key.insert_unique(hash_key(&slot), slot, hash_key);
        by_id.insert_unique(hash_id(&slot), slot, hash_id);
        (slot, None)
    }

    /// The flag, with the text of its environment's key that the others have. A flag that was read from the database has one of its own.
    fn with_shared_environment(&self, flag: &Arc<Flag>) -> Arc<Flag> {
        match self.environments.get_key_value(&flag.environment) {
            Some((shared, _)) if !shared.is_shared_with(&flag.environment) => {
                Arc::new(Flag { environment: shared.clone(), ..Flag::clone(flag) })
            }
            _ => Arc::clone(flag),
        }
    }

    fn slot_of(&self, environment: &EnvironmentKey, key: &FlagKey) -> Option<Slot> {
        self.find(&self.by_key, (environment, key), |flag| flag.key == *key && flag.environment == *environment)
    }

    fn find(&self, table: &HashTable<Slot>, name: impl Hash, is_it: impl Fn(&Flag) -> bool) -> Option<Slot> {
        table.find(self.hasher.hash_one(name), |&slot| is_it(&self.slots[slot as usize])).copied()
    }

    fn at(&self, slot: Slot) -> &Arc<Flag> {
        &self.slots[slot as usize]
    }

    /// The flag with this key in an environment.
    pub fn by_key(&self, environment: &EnvironmentKey, key: &FlagKey) -> Option<&Arc<Flag>> {
        self.slot_of(environment, key).map(|slot| self.at(slot))
    }

    /// The flag with the environment and key of another.
    pub fn same_key(&self, flag: &Flag) -> Option<&Arc<Flag>> {
        self.by_key(&flag.environment, &flag.key)
    }

    /// The flag with this id.
    pub fn by_id(&self, id: Uuid) -> Option<&Arc<Flag>> {
        self.find(&self.by_id, id, |flag| flag.id == id).map(|slot| self.at(slot))
    }

    /// All flags, unsorted.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Flag>> {
        self.slots.iter()
    }

    /// The environments of a scope, from one on.
    fn environments<'a>(
        &'a self,
        scope: &EnvironmentScope,
        from: Option<&EnvironmentKey>,
    ) -> impl Iterator<Item = (&'a EnvironmentKey, &'a EnvironmentFlags)> + use<'a> {
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        let range = match scope {
            EnvironmentScope::All => (from, Bound::Unbounded),
            EnvironmentScope::One(key) => (Bound::Included(key), Bound::Included(key)),
        };
        self.environments.range::<EnvironmentKey, _>(range)
    }

    /// All flags, sorted by environment and key.
    pub fn sorted(&self) -> impl Iterator<Item = &Arc<Flag>> {
        self.environments.values().flat_map(|flags| flags.order.values()).map(|slot| self.at(*slot))
    }

    /// The flags of a scope whose keys begin with `prefix`, sorted by environment and key, after `after`.
    pub fn beginning_with<'a>(
        &'a self,
        scope: &EnvironmentScope,
        prefix: &'a str,
        after: Option<(&'a EnvironmentKey, &'a FlagKey)>,
    ) -> impl Iterator<Item = &'a Arc<Flag>> + use<'a> {
        // A prefix that is not a valid key (empty, or `-x`) cannot be a start of a range. It still ends the range.
        let first = FlagKey::parse(prefix).ok();
        self.environments(scope, after.map(|(environment, _)| environment)).flat_map(move |(environment, flags)| {
            let after = after.filter(|(known, _)| *known == environment).map(|(_, key)| key);
            let from = match (after, &first) {
                (Some(after), Some(first)) if after < first => Bound::Included(first),
                (Some(after), _) => Bound::Excluded(after),
                (None, Some(first)) => Bound::Included(first),
                (None, None) => Bound::Unbounded,
            };
            let flags = flags.order.range::<FlagKey, _>((from, Bound::Unbounded));
            flags.take_while(move |(key, _)| key.as_str().starts_with(prefix)).map(|(_, slot)| self.at(*slot))
        })
    }

    /// The flags of a scope that changed after a revision, in the order of their last change.
    pub fn changed_since<'a>(
        &'a self,
        scope: &EnvironmentScope,
        revision: Revision,
    ) -> impl Iterator<Item = &'a Arc<Flag>> + use<'a> {
        let since = (Bound::Excluded(revision), Bound::Unbounded);
        let changes = self.environments(scope, None).map(|(_, flags)| flags.changes.range(since));
        changes.kmerge_by(|(one, _), (other, _)| one < other).map(|(_, slot)| self.at(*slot))
    }

    /// The flag of a scope that changed last.
    pub fn last_changed(&self, scope: &EnvironmentScope) -> Option<&Arc<Flag>> {
        let last = self.environments(scope, None).filter_map(|(_, flags)| flags.changes.last_key_value());
        last.max_by_key(|(revision, _)| **revision).map(|(_, slot)| self.at(*slot))
    }
}

/// What `by_key` finds a flag by.
fn name(flag: &Flag) -> (&EnvironmentKey, &FlagKey) {
    (&flag.environment, &flag.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is loaded first and changed then, every index shows each flag once, in its last form.
        #[test]
        fn indexes_show_each_flag_in_its_last_form(
            changed in prop::collection::vec((0_usize..3, 0_u8..20), 1..60),
            loaded in 0_usize..60,
        ) {
            let keys = ["default", "a", "b"].map(|key| EnvironmentKey::parse(key).unwrap());
            let flag = |at, (environment, key): (usize, u8)| {
                let flag = Flag::sample_in(keys[environment].as_str(), &key.to_string(), at);
                // The flags that are loaded share these texts. Each of the others has one of its own.
                let is_loaded = at <= Revision::try_from(loaded).unwrap();
                Arc::new(if is_loaded { Flag { environment: keys[environment].clone(), ..flag } } else { flag })
            };
            let changes: Vec<_> = (1..).zip(&changed).map(|(at, name)| flag(at, *name)).collect();
            let (first, later) = changes.split_at(loaded.min(changes.len()));
            let mut flags = Flags::default();
            flags.apply(first);
            later.chunks(3).for_each(|some| flags.apply(some));
            let last: BTreeMap<_, _> =
                changes.iter().map(|flag| ((flag.environment.clone(), flag.key.clone()), flag)).collect();
            prop_assert!(flags.sorted().eq(last.values().copied()));
            prop_assert_eq!(flags.all().count(), last.len());
            for flag in last.values() {
                prop_assert_eq!(flags.same_key(flag), Some(*flag));
                prop_assert_eq!(flags.by_id(flag.id), Some(*flag));
                let later = last.values().filter(|other| other.environment == flag.environment && other.key > flag.key);
                let scope = EnvironmentScope::One(flag.environment.clone());
                prop_assert!(flags.beginning_with(&scope, "", Some((&flag.environment, &flag.key))).eq(later.copied()));
                let shared = &flags.same_key(flag).unwrap().environment;
                let is_shared = |other: &Arc<Flag>| other.environment.is_shared_with(shared);
                prop_assert!(first.is_empty() || flags.beginning_with(&scope, "", None).all(is_shared));
            }
            prop_assert_eq!(flags.by_key(&EnvironmentKey::parse("c").unwrap(), &changes[0].key), None);
            let after = |from: &(EnvironmentKey, FlagKey)| last.range(from.clone()..).skip(1).map(|(_, flag)| *flag);
            for name @ (environment, key) in last.keys() {
                prop_assert!(flags.beginning_with(&EnvironmentScope::All, "", Some((environment, key))).eq(after(name)));
                let begins = last.values().copied().filter(|flag| flag.key.as_str().starts_with(key.as_str()));
                prop_assert!(flags.beginning_with(&EnvironmentScope::All, key.as_str(), None).eq(begins));
            }
            let scopes = keys.iter().cloned().map(EnvironmentScope::One).chain([EnvironmentScope::All]);
            for scope in scopes {
                let changed = || last.values().copied().filter(|flag| scope.contains(&flag.environment));
                for revision in 0..=changes.last().map_or(0, |flag| flag.revision) {
                    let mut since: Vec<_> = changed().filter(|flag| flag.revision > revision).collect();
                    since.sort_unstable_by_key(|flag| flag.revision);
                    prop_assert!(flags.changed_since(&scope, revision).eq(since));
                }
                prop_assert_eq!(flags.last_changed(&scope), changed().max_by_key(|flag| flag.revision));
            }
            prop_assert_eq!(flags.by_id(Uuid::nil()), None);
        }
    }
}

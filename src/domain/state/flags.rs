//! All flags of a state, found by key, by id and by their last change.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use uuid::Uuid;

use crate::domain::Revision;
use crate::domain::flag::Flag;
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
    /// The flags of each environment, sorted by key. The flags of an environment share the text of its key here.
    order: BTreeMap<EnvironmentKey, BTreeMap<FlagKey, Slot>>,
    /// Each flag under the revision of its last change, so that changes since a revision are found without a walk over all flags.
    changes: BTreeMap<Revision, Slot>,
    hasher: DefaultHashBuilder,
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
            match before {
                Some(before) => self.changes.remove(&before.revision),
                None => self.order.entry(flag.environment.clone()).or_default().insert(flag.key.clone(), slot),
            };
            self.changes.insert(flag.revision, slot);
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
        let flags = || (0..).zip(&self.slots);
        let mut environments: HashMap<&EnvironmentKey, Vec<(FlagKey, Slot)>> = HashMap::new();
        for (slot, flag) in flags() {
            environments.entry(&flag.environment).or_default().push((flag.key.clone(), slot));
        }
        self.order = environments.into_iter().map(|(key, flags)| (key.clone(), flags.into_iter().collect())).collect();
        self.changes = flags().map(|(slot, flag)| (flag.revision, slot)).collect();
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
        match self.order.get_key_value(&flag.environment) {
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

    /// All flags, sorted by environment and key.
    pub fn sorted(&self) -> impl Iterator<Item = &Arc<Flag>> {
        self.order.values().flatten().map(|(_, slot)| self.at(*slot))
    }

    /// The flags of an environment from this key on, sorted by key.
    pub fn from<'a>(
        &'a self,
        environment: &EnvironmentKey,
        start: Bound<&FlagKey>,
    ) -> impl Iterator<Item = &'a Arc<Flag>> + use<'a> {
        let flags = self.order.get(environment).map(|flags| flags.range::<FlagKey, _>((start, Bound::Unbounded)));
        flags.into_iter().flatten().map(|(_, slot)| self.at(*slot))
    }

    /// The flags that changed after a revision, in the order of their last change.
    pub fn changed_since(&self, revision: Revision) -> impl Iterator<Item = &Arc<Flag>> {
        self.changes.range((Bound::Excluded(revision), Bound::Unbounded)).map(|(_, slot)| self.at(*slot))
    }

    /// The flag that changed last.
    pub fn last_changed(&self) -> Option<&Arc<Flag>> {
        self.changes.last_key_value().map(|(_, slot)| self.at(*slot))
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
            let last: BTreeMap<_, _> = changes.iter().map(|flag| (name(flag), flag)).collect();
            prop_assert!(flags.sorted().eq(last.values().copied()));
            prop_assert_eq!(flags.all().count(), last.len());
            for flag in last.values() {
                prop_assert_eq!(flags.same_key(flag), Some(*flag));
                prop_assert_eq!(flags.by_id(flag.id), Some(*flag));
                let later = last.values().filter(|other| other.environment == flag.environment && other.key > flag.key);
                prop_assert!(flags.from(&flag.environment, Bound::Excluded(&flag.key)).eq(later.copied()));
                let shared = &flags.same_key(flag).unwrap().environment;
                let is_shared = |other: &Arc<Flag>| other.environment.is_shared_with(shared);
                prop_assert!(first.is_empty() || flags.from(shared, Bound::Unbounded).all(is_shared));
            }
            prop_assert_eq!(flags.by_key(&EnvironmentKey::parse("c").unwrap(), &changes[0].key), None);
            for revision in 0..=changes.last().map_or(0, |flag| flag.revision) {
                let mut since: Vec<_> = last.values().copied().filter(|flag| flag.revision > revision).collect();
                since.sort_unstable_by_key(|flag| flag.revision);
                prop_assert!(flags.changed_since(revision).eq(since));
            }
            prop_assert_eq!(flags.last_changed(), changes.last());
            prop_assert_eq!(flags.by_id(Uuid::nil()), None);
        }
    }
}

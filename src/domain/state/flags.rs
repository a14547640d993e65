//! All flags of a state, found by key, by id and by their last change.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::ops::Bound;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use uuid::Uuid;

use crate::domain::Revision;
use crate::domain::flag::Flag;
use crate::domain::text::FlagKey;

/// The position of a flag, which it keeps, since flags are never removed. Memory holds fewer than four billion of them.
type Slot = u32;

/// All flags. Each is in one list, and the indexes hold its slot there: a change replaces the flag in one place, and a million flags take
/// a quarter of the memory that four maps with keys of their own would.
#[derive(Debug, Clone, Default)]
pub(super) struct Flags {
    slots: Vec<Arc<Flag>>,
    /// By the key's hash. With a million flags, a lookup in `order` would read twenty keys from all over the memory.
    by_key: HashTable<Slot>,
    /// By the id's hash.
    by_id: HashTable<Slot>,
    /// Sorted by key.
    order: BTreeMap<FlagKey, Slot>,
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
                None => self.order.insert(flag.key.clone(), slot),
            };
            self.changes.insert(flag.revision, slot);
        }
    }

    /// Takes over the first flags. The sorted indexes are made from all of them at once, which is faster, and fills their nodes.
    fn load(&mut self, flags: &[Arc<Flag>]) {
        let Self { slots, by_key, by_id, hasher, .. } = self;
        slots.reserve_exact(flags.len());
        by_key.reserve(flags.len(), |&slot| hasher.hash_one(&slots[slot as usize].key));
        by_id.reserve(flags.len(), |&slot| hasher.hash_one(slots[slot as usize].id));
        for flag in flags {
            self.put(flag);
        }
        let flags = || (0..).zip(&self.slots);
        self.order = flags().map(|(slot, flag)| (flag.key.clone(), slot)).collect();
        self.changes = flags().map(|(slot, flag)| (flag.revision, slot)).collect();
    }

    /// Puts a flag in its slot. Returns the slot and what was there before.
    fn put(&mut self, flag: &Arc<Flag>) -> (Slot, Option<Arc<Flag>>) {
        if let Some(slot) = self.slot_of(&flag.key) {
            let before = std::mem::replace(&mut self.slots[slot as usize], Arc::clone(flag));
            return (slot, Some(before));
        }
        let slot = Slot::try_from(self.slots.len()).unwrap_or(Slot::MAX);
        self.slots.push(Arc::clone(flag));
        let Self { slots, by_key, by_id, hasher, .. } = self;
        let hash_key = |slot: &Slot| hasher.hash_one(&slots[*slot as usize].key);
        let hash_id = |slot: &Slot| hasher.hash_one(slots[*slot as usize].id);
        by_key.insert_unique(hash_key(&slot), slot, hash_key);
        by_id.insert_unique(hash_id(&slot), slot, hash_id);
        (slot, None)
    }

    fn slot_of(&self, key: &FlagKey) -> Option<Slot> {
        self.find(&self.by_key, key, |flag| flag.key == *key)
    }

    fn find(&self, table: &HashTable<Slot>, name: impl Hash, is_it: impl Fn(&Flag) -> bool) -> Option<Slot> {
        table.find(self.hasher.hash_one(name), |&slot| is_it(&self.slots[slot as usize])).copied()
    }

    fn at(&self, slot: Slot) -> &Arc<Flag> {
        &self.slots[slot as usize]
    }

    /// The flag with this key.
    pub fn by_key(&self, key: &FlagKey) -> Option<&Arc<Flag>> {
        self.slot_of(key).map(|slot| self.at(slot))
    }

    /// The flag with this id.
    pub fn by_id(&self, id: Uuid) -> Option<&Arc<Flag>> {
        self.find(&self.by_id, id, |flag| flag.id == id).map(|slot| self.at(slot))
    }

    /// All flags, unsorted.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Flag>> {
        self.slots.iter()
    }

    /// The flags from this key on, sorted by key.
    pub fn from<'a>(&'a self, start: Bound<&FlagKey>) -> impl Iterator<Item = &'a Arc<Flag>> + use<'a> {
        self.order.range::<FlagKey, _>((start, Bound::Unbounded)).map(|(_, slot)| self.at(*slot))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is loaded first and changed then, every index shows each flag once, in its last form.
        #[test]
        fn indexes_show_each_flag_in_its_last_form(changed in prop::collection::vec(0_u8..20, 1..60), loaded in 0_usize..60) {
            let changes: Vec<_> = (1..).zip(&changed).map(|(at, key)| Arc::new(Flag::sample(&key.to_string(), at))).collect();
            let (first, later) = changes.split_at(loaded.min(changes.len()));
            let mut flags = Flags::default();
            flags.apply(first);
            later.chunks(3).for_each(|some| flags.apply(some));
            let last: BTreeMap<_, _> = changes.iter().map(|flag| (flag.key.clone(), flag)).collect();
            prop_assert!(flags.from(Bound::Unbounded).eq(last.values().copied()));
            prop_assert_eq!(flags.all().count(), last.len());
            for flag in last.values() {
                prop_assert_eq!(flags.by_key(&flag.key), Some(*flag));
                prop_assert_eq!(flags.by_id(flag.id), Some(*flag));
                prop_assert!(flags.from(Bound::Excluded(&flag.key)).all(|other| other.key > flag.key));
            }
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

//! Sets of permissions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::permission::{Permission, Scope, ScopedPermission};
use crate::domain::text::EnvironmentKey;

/// A set of permissions, each held everywhere or in some environments. Holding one everywhere covers each environment.
///
/// A set is reduced: it has no permission in an environment that it has everywhere. So sets that cover the same are equal.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Permissions {
    everywhere: Bits,
    /// What is held only in some environments, sorted by key. `None` if there are no such, as for most callers: then a check
    /// is a bit test, and a copy touches no counter.
    scoped: Option<Arc<[(EnvironmentKey, Bits)]>>,
}

/// Permissions without a scope: one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Bits(u8);

impl Bits {
    const NONE: Self = Self(0);

    fn of(permission: Permission) -> Self {
        Self(1 << permission as u8)
    }

    fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl Permissions {
    /// All permissions, everywhere.
    pub fn all() -> Self {
        Permission::ALL.into_iter().collect()
    }

    /// Makes a set from what is held everywhere, and in environments.
    fn reduced(everywhere: Bits, scoped: impl IntoIterator<Item = (EnvironmentKey, Bits)>) -> Self {
        let mut environments: BTreeMap<EnvironmentKey, Bits> = BTreeMap::new();
        for (key, bits) in scoped {
            let bits = bits.minus(everywhere);
            if bits != Bits::NONE {
                let known = environments.entry(key).or_default();
                *known = known.union(bits);
            }
        }
        let scoped = if environments.is_empty() { None } else { Some(environments.into_iter().collect()) };
        Self { everywhere, scoped }
    }

    /// Whether nothing is held anywhere.
    pub fn is_empty(&self) -> bool {
        self.everywhere == Bits::NONE && self.scoped.is_none()
    }

    /// Whether `permission` is held in the whole of `scope`.
    pub fn covers(&self, permission: Permission, scope: Scope<'_>) -> bool {
        let bit = Bits::of(permission);
        self.everywhere.contains(bit)
            || match scope {
                Scope::Everywhere => false,
                Scope::Environment(key) => self.only_in(key).contains(bit),
            }
    }

    /// Whether `permission` is held everywhere or in any environment.
    pub fn holds_somewhere(&self, permission: Permission) -> bool {
        let bit = Bits::of(permission);
        self.everywhere.contains(bit) || self.scoped().iter().any(|(_, bits)| bits.contains(bit))
    }

    /// Whether anything is held in an environment, be it everywhere or only there.
    pub fn holds_any_in(&self, environment: &EnvironmentKey) -> bool {
        self.held_in(environment) != Bits::NONE
    }

    /// Whether everything in `other` is held here too.
    pub fn covers_all(&self, other: &Self) -> bool {
        self.everywhere.contains(other.everywhere)
            && other.scoped().iter().all(|(key, bits)| self.held_in(key).contains(*bits))
    }

    /// What both sets cover.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        if self.covers_all(other) {
            return other.clone();
        }
        if other.covers_all(self) {
            return self.clone();
        }
        let everywhere = self.everywhere.intersection(other.everywhere);
        let environments = self.environments().chain(other.environments());
        Self::reduced(
            everywhere,
            environments.map(|key| (key.clone(), self.held_in(key).intersection(other.held_in(key)))),
        )
    }

    /// The permissions in this set that `other` does not cover.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let scoped = self.scoped().iter().map(|(key, bits)| (key.clone(), bits.minus(other.held_in(key))));
        Self::reduced(self.everywhere.minus(other.everywhere), scoped)
    }

    /// This set without what is held only in environments that are not known.
    #[must_use]
    pub fn in_known_environments(&self, is_known: impl Fn(&EnvironmentKey) -> bool) -> Self {
        if self.environments().all(&is_known) {
            return self.clone();
        }
        Self::reduced(self.everywhere, self.scoped().iter().filter(|(key, _)| is_known(key)).cloned())
    }

    /// The environments in which permissions are held that are not held everywhere, sorted.
    pub fn environments(&self) -> impl Iterator<Item = &EnvironmentKey> {
        self.scoped().iter().map(|(key, _)| key)
    }

    /// The permissions, sorted by name and then by environment, those everywhere first.
    pub fn iter(&self) -> impl Iterator<Item = ScopedPermission> {
        Permission::ALL.into_iter().flat_map(|permission| {
            let bit = Bits::of(permission);
            let everywhere = self.everywhere.contains(bit).then(|| permission.into());
            let scoped = self.scoped().iter().filter(move |(_, bits)| bits.contains(bit));
            let scoped =
                scoped.filter_map(move |(key, _)| ScopedPermission::in_environment(permission, key.clone()).ok());
            everywhere.into_iter().chain(scoped)
        })
    }

    /// The permissions as text, sorted.
    pub fn names(&self) -> Vec<String> {
        self.iter().map(|permission| permission.to_string()).collect()
    }

    fn scoped(&self) -> &[(EnvironmentKey, Bits)] {
        self.scoped.as_deref().unwrap_or_default()
    }

    /// What is held in an environment and not everywhere.
    fn only_in(&self, key: &EnvironmentKey) -> Bits {
        let scoped = self.scoped();
        scoped.binary_search_by(|(known, _)| known.cmp(key)).map_or(Bits::NONE, |position| scoped[position].1)
    }

    /// What is held in an environment, be it everywhere or only there.
    fn held_in(&self, key: &EnvironmentKey) -> Bits {
        self.everywhere.union(self.only_in(key))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// The permissions as text, sorted.
impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// The union of several sets.
impl FromIterator<Permissions> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permissions>>(sets: I) -> Self {
        let (mut everywhere, mut scoped) = (Bits::NONE, Vec::new());
        for set in sets {
            everywhere = everywhere.union(set.everywhere);
            scoped.extend_from_slice(set.scoped());
        }
        Self::reduced(everywhere, scoped)
    }
}

impl FromIterator<ScopedPermission> for Permissions {
    fn from_iter<I: IntoIterator<Item = ScopedPermission>>(permissions: I) -> Self {
        let (mut everywhere, mut scoped) = (Bits::NONE, Vec::new());
        for held in permissions {
            let bit = Bits::of(held.permission());
            match held.scope() {
                Scope::Everywhere => everywhere = everywhere.union(bit),
                Scope::Environment(key) => scoped.push((key.clone(), bit)),
            }
        }
        Self::reduced(everywhere, scoped)
    }
}

/// The permissions everywhere.
impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().map(ScopedPermission::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every permission everywhere, and in each of three environments.
    fn universe() -> Vec<ScopedPermission> {
        let everywhere = Permission::ALL.into_iter().map(ScopedPermission::from);
        let keys = ["dev", "production", "staging"].map(|key| EnvironmentKey::parse(key).unwrap());
        let scoped = keys.into_iter().flat_map(|key| {
            Permission::ALL.into_iter().filter_map(move |p| ScopedPermission::in_environment(p, key.clone()).ok())
        });
        everywhere.chain(scoped).collect()
    }

    /// Permissions in any order, some of them twice, some in an environment and everywhere.
    fn some() -> impl Strategy<Value = Vec<ScopedPermission>> {
        prop::collection::vec(prop::sample::select(universe()), 0..16)
    }

    fn set(list: &[ScopedPermission]) -> Permissions {
        list.iter().cloned().collect()
    }

    fn parsed(names: &[&str]) -> Permissions {
        names.iter().map(|name| ScopedPermission::parse(name).unwrap()).collect()
    }

    fn covers(set: &Permissions, wanted: &ScopedPermission) -> bool {
        set.covers(wanted.permission(), wanted.scope())
    }

    /// As [`covers`], by looking through the list.
    fn list_covers(list: &[ScopedPermission], wanted: &ScopedPermission) -> bool {
        list.contains(wanted) || list.contains(&wanted.permission().into())
    }

    #[test]
    fn all_are_every_permission_everywhere() {
        let names = Permissions::all().names();
        assert!(names.is_sorted());
        assert_eq!(names, Permission::ALL.map(Permission::as_str));
        assert!(universe().iter().all(|one| covers(&Permissions::all(), one)));
    }

    #[test]
    fn permission_everywhere_absorbs_the_same_in_environments() {
        let set = parsed(&[
            "view_feature_flags@staging",
            "toggle_feature_flags@staging",
            "toggle_feature_flags@dev",
            "toggle_feature_flags@dev",
            "view_feature_flags",
        ]);
        let names = ["toggle_feature_flags@dev", "toggle_feature_flags@staging", "view_feature_flags"];
        assert_eq!(set.names(), names);
        assert_eq!(set.environments().map(EnvironmentKey::as_str).collect::<Vec<_>>(), ["dev", "staging"]);
        assert_eq!(serde_json::to_value(&set).unwrap(), serde_json::json!(names));
        assert_eq!(set.in_known_environments(|key| key.as_str() == "dev").names(), [names[0], names[2]]);
    }

    #[test]
    fn permission_in_one_environment_is_not_held_everywhere() {
        let (one, all) = (parsed(&["toggle_feature_flags@dev"]), parsed(&["toggle_feature_flags"]));
        assert!(!one.covers(Permission::ToggleFeatureFlags, Scope::Everywhere));
        assert!(one.holds_somewhere(Permission::ToggleFeatureFlags));
        assert!(!one.holds_somewhere(Permission::ViewFeatureFlags));
        assert!(all.covers_all(&one) && !one.covers_all(&all));
        assert_eq!((all.minus(&one), one.minus(&all)), (all.clone(), Permissions::default()));
        assert_eq!((all.intersection(&one), one.intersection(&all)), (one.clone(), one));
    }

    proptest! {
        #[test]
        fn set_is_reduced_whatever_the_order(list in some(), seed in any::<prop::sample::Index>()) {
            let set = set(&list);
            let mut other = list.clone();
            if !other.is_empty() {
                let at = seed.index(other.len());
                other.rotate_left(at);
                other.push(other[0].clone());
            }
            prop_assert_eq!(&set, &other.into_iter().collect());
            prop_assert_eq!(&set, &set.iter().collect(), "reducing again changes nothing");
            let names = set.names();
            prop_assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "sorted and unique: {:?}", names);
            let is_needed = |one: &ScopedPermission| !covers(&set.minus(&std::iter::once(one.clone()).collect()), one);
            prop_assert!(set.iter().all(|one| is_needed(&one)), "no permission is covered by another: {:?}", names);
        }

        #[test]
        fn set_covers_what_its_list_covers(list in some()) {
            let set = set(&list);
            for one in universe() {
                prop_assert_eq!(covers(&set, &one), list_covers(&list, &one), "{}", one);
            }
            for permission in Permission::ALL {
                let is_listed = list.iter().any(|one| one.permission() == permission);
                prop_assert_eq!(set.holds_somewhere(permission), is_listed, "{}", permission);
            }
            prop_assert_eq!(set.is_empty(), list.is_empty());
        }

        #[test]
        fn sets_combine_as_what_they_cover(first in some(), second in some()) {
            let (a, b) = (set(&first), set(&second));
            let union: Permissions = [a.clone(), b.clone()].into_iter().collect();
            prop_assert_eq!(&union, &set(&[first, second].concat()));
            let (common, rest) = (a.intersection(&b), a.minus(&b));
            prop_assert_eq!(&common, &b.intersection(&a));
            for one in universe() {
                prop_assert_eq!(covers(&common, &one), covers(&a, &one) && covers(&b, &one), "{}", one);
            }
            prop_assert_eq!(rest.names(), a.iter().filter(|one| !covers(&b, one)).map(|one| one.to_string()).collect::<Vec<_>>());
            let all_covered = universe().iter().all(|one| !covers(&b, one) || covers(&a, one));
            prop_assert_eq!(a.covers_all(&b), all_covered);
            prop_assert_eq!(a.covers_all(&b), b.minus(&a).is_empty());
            prop_assert_eq!(a.covers_all(&b) && b.covers_all(&a), a == b, "what covers the same is equal");
        }

        #[test]
        fn intersection_is_the_greatest_common_subset(first in some(), second in some(), third in some()) {
            let (a, b, subset) = (set(&first), set(&second), set(&third));
            let common = a.intersection(&b);
            prop_assert!(a.covers_all(&common) && b.covers_all(&common));
            if a.covers_all(&subset) && b.covers_all(&subset) {
                prop_assert!(common.covers_all(&subset));
            }
        }
    }
}

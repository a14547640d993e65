//! What a file would change on the server.

use std::collections::{BTreeMap, HashSet};

use super::imported::{Lost, Wanted};
use crate::api::pb::{FeatureFlag, FeatureFlagStatus};
use crate::domain::Revision;
use crate::domain::flag::Status;

/// All that is to be done for a file.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub changes: Vec<Change>,
    /// Flags that are as the file wants them.
    pub unchanged: usize,
    /// Flags of the server's that the file does not speak of: they are left alone.
    pub only_there: usize,
    pub lost: Vec<Lost>,
}

/// What is to be done to one flag, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub key: String,
    /// The revision of the flag that it was compared with; none for one that is not there.
    pub revision: Option<Revision>,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create(New),
    Unarchive,
    Update(Edits),
    Set(Status),
    Archive,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct New {
    pub name: String,
    pub description: String,
    pub status: Status,
}

/// What is to be edited, one of them at the least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edits {
    pub name: Option<Edit>,
    pub description: Option<Edit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub old: String,
    pub new: String,
}

impl Difference {
    /// Compares what is wanted with all flags of the server, archived ones too, by key.
    pub fn new(wanted: &[Wanted], there: &BTreeMap<String, FeatureFlag>) -> Self {
        let named: HashSet<_> = wanted.iter().map(|flag| flag.key.as_str()).collect();
        let only_there = there.keys().filter(|key| !named.contains(key.as_str())).count();
        let mut difference = Self { only_there, ..Self::default() };
        for flag in wanted {
            let change = match there.get(flag.key.as_str()) {
                Some(there) => difference.change(flag, there),
                None => create(flag),
            };
            if change.steps.is_empty() {
                difference.unchanged += 1;
            } else {
                difference.changes.push(change);
            }
        }
        difference.changes.sort_by(|one, other| one.key.cmp(&other.key));
        difference
    }

    fn change(&mut self, wanted: &Wanted, there: &FeatureFlag) -> Change {
        let edit = |old: &str, new: Option<&str>| {
            let new = new.filter(|new| *new != old)?;
            Some(Edit { old: old.to_owned(), new: new.to_owned() })
        };
        let name = edit(&there.name, wanted.name.as_ref().map(|name| name.as_str()));
        let description = edit(&there.description, wanted.description.as_ref().map(|text| text.as_str()));
        let is_archived = there.archived_at.is_some();
        let archived = wanted.archived.unwrap_or(is_archived);
        let on = there.status() == FeatureFlagStatus::Enabled;
        let mut flip = wanted.status.filter(|status| (*status == Status::Enabled) != on);
        if is_archived && wanted.archived.is_none() && flip.take().is_some() {
            self.lost.push(Lost::new(&there.key, "its status: the flag is archived on the server, and stays so"));
        }
        // An archived flag cannot be flipped: where one is to be, it is brought back for it.
        let steps = [
            (is_archived && (!archived || flip.is_some())).then_some(Step::Unarchive),
            (name.is_some() || description.is_some()).then_some(Step::Update(Edits { name, description })),
            flip.map(Step::Set),
            (archived && (!is_archived || flip.is_some())).then_some(Step::Archive),
        ];
        let steps = steps.into_iter().flatten().collect();
        Change { key: there.key.clone(), revision: Some(there.revision), steps }
    }
}

/// A flag without a name is called by its key, and one without a status is off.
fn create(wanted: &Wanted) -> Change {
    let key = wanted.key.as_str().to_owned();
    let name = wanted.name.as_ref().map_or_else(|| key.clone(), |name| name.as_str().to_owned());
    let description = wanted.description.as_ref().map(|text| text.as_str().to_owned()).unwrap_or_default();
    let status = wanted.status.unwrap_or(Status::Disabled);
    let archive = (wanted.archived == Some(true)).then_some(Step::Archive);
    let steps = std::iter::once(Step::Create(New { name, description, status })).chain(archive).collect();
    Change { key, revision: None, steps }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::text::{Description, FlagKey, Name};

    fn there() -> impl Strategy<Value = FeatureFlag> {
        ("[ab]", "[ab]?", any::<bool>(), any::<bool>()).prop_map(|(name, description, on, archived)| FeatureFlag {
            name,
            description,
            status: status(on).into(),
            revision: 7,
            archived_at: archived.then(Default::default),
            ..Default::default()
        })
    }

    fn wanted() -> impl Strategy<Value = Wanted> {
        let option = prop::option::of::<BoxedStrategy<String>>;
        let texts = (option("[ab]".boxed()), option("[ab]?".boxed()));
        (texts, any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|((name, description), on, archived)| Wanted {
            key: FlagKey::parse("k").unwrap(),
            name: name.map(|name| Name::parse(&name).unwrap()),
            description: description.map(|text| Description::parse(&text).unwrap()),
            status: on.map(|on| if on { Status::Enabled } else { Status::Disabled }),
            archived,
        })
    }

    fn status(on: bool) -> FeatureFlagStatus {
        if on { FeatureFlagStatus::Enabled } else { FeatureFlagStatus::Disabled }
    }

    /// What a server does at such a step, as strict as it is.
    fn apply(flags: &mut BTreeMap<String, FeatureFlag>, key: &str, step: &Step) {
        if let Step::Create(New { name, description, status: created }) = step {
            let flag = FeatureFlag {
                key: key.to_owned(),
                name: name.clone(),
                description: description.clone(),
                status: status(*created == Status::Enabled).into(),
                ..Default::default()
            };
            assert!(flags.insert(key.to_owned(), flag).is_none());
            return;
        }
        let flag = flags.get_mut(key).unwrap();
        let before = flag.clone();
        match step {
            Step::Create(_) => {}
            Step::Unarchive => flag.archived_at = None,
            Step::Archive => flag.archived_at = Some(Default::default()),
            Step::Update(Edits { name, description }) => {
                flag.name = name.as_ref().map_or(flag.name.clone(), |edit| edit.new.clone());
                flag.description = description.as_ref().map_or(flag.description.clone(), |edit| edit.new.clone());
            }
            Step::Set(wanted) => {
                assert_eq!(flag.archived_at, None, "an archived flag cannot be flipped");
                flag.status = status(*wanted == Status::Enabled).into();
            }
        }
        assert_ne!(*flag, before, "{step:?} does nothing");
    }

    proptest! {
        #[test]
        fn the_steps_lead_to_what_is_wanted_and_no_further(before in prop::option::of(there()), wanted in wanted()) {
            let before = before.map(|flag| ("k".to_owned(), FeatureFlag { key: "k".to_owned(), ..flag }));
            let mut flags: BTreeMap<_, _> = before.clone().into_iter().collect();
            let difference = Difference::new(std::slice::from_ref(&wanted), &flags);
            for change in &difference.changes {
                change.steps.iter().for_each(|step| apply(&mut flags, &change.key, step));
            }
            let after = &flags["k"];
            let (_, before) = before.unzip();
            prop_assert!(wanted.name.as_ref().is_none_or(|name| name.as_str() == after.name));
            prop_assert!(wanted.description.as_ref().is_none_or(|text| text.as_str() == after.description));
            prop_assert!(wanted.archived.is_none_or(|archived| archived == after.archived_at.is_some()));
            let on = wanted.status.map(|status| status == Status::Enabled);
            let as_wanted = on.is_none_or(|on| after.status() == status(on));
            let stays_archived = wanted.archived.is_none() && before.as_ref().is_some_and(|f| f.archived_at.is_some());
            prop_assert!(as_wanted || (stays_archived && difference.lost.len() == 1), "{after:?}");
            if let Some(before) = before {
                prop_assert!(wanted.name.is_some() || before.name == after.name);
                prop_assert!(wanted.description.is_some() || before.description == after.description);
                prop_assert!(wanted.status.is_some() || before.status == after.status);
            }
            let again = Difference::new(std::slice::from_ref(&wanted), &flags);
            prop_assert_eq!((again.changes, again.unchanged, again.only_there), (Vec::new(), 1, 0));
        }
    }

    #[test]
    fn flags_that_the_file_does_not_speak_of_are_counted_and_left_alone() {
        let there = BTreeMap::from([("a".to_owned(), FeatureFlag::default())]);
        let difference = Difference::new(&[], &there);
        assert_eq!((difference.changes.len(), difference.unchanged, difference.only_there), (0, 0, 1));
    }
}

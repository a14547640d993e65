//! The difference between a file and the server: the steps that make the server's flags what the file says.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::imported::{ImportedFlag, Omission};
use crate::api::pb::{FeatureFlag, FeatureFlagStatus};
use crate::cli::flag::name::FlagName;
use crate::domain::Revision;
use crate::domain::flag::Status;
use crate::domain::text::{Description, Name};

/// Everything that an import would do.
#[derive(Debug, Default)]
pub(in crate::cli::flag) struct ImportPlan {
    /// Sorted by environment and key.
    pub changes: Vec<FlagChange>,
    /// The number of flags that already are what the file says.
    pub unchanged: usize,
    /// The number of flags on the server that the file does not mention. An import never changes them.
    pub only_on_server: usize,
    /// Values in the file that are not imported, because the flag's state on the server does not allow it.
    pub omissions: Vec<Omission>,
}

/// One flag's changes, in the order of `steps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::flag) struct FlagChange {
    pub name: FlagName,
    /// The flag's revision when it was compared; `None` for a flag that does not exist yet.
    pub revision: Option<Revision>,
    pub steps: Vec<ChangeStep>,
    /// Whether the flag's readers get another value, which needs a reason where the environment requires one.
    pub has_effect: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::flag) enum ChangeStep {
    Create(FlagContent),
    Unarchive,
    Update(TextEdits),
    SetStatus(Status),
    Archive,
}

/// What a new flag begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::flag) struct FlagContent {
    pub name: String,
    pub description: String,
    pub status: Status,
}

/// Edits of a flag's texts, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::flag) struct TextEdits {
    pub name: Option<TextEdit>,
    pub description: Option<TextEdit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::flag) struct TextEdit {
    pub old: String,
    pub new: String,
}

impl ImportPlan {
    /// Compares a file's flags with all flags of the server in the same environments, including archived ones.
    pub fn new(imported: &[ImportedFlag], on_server: &BTreeMap<FlagName, FeatureFlag>) -> Self {
        let names: HashSet<_> = imported.iter().map(ImportedFlag::full_name).collect();
        let only_on_server = on_server.keys().filter(|name| !names.contains(name)).count();
        let mut plan = Self { only_on_server, ..Self::default() };
        for flag in imported {
            let change = match on_server.get(&flag.full_name()) {
                Some(existing) => plan.change_existing(flag, existing),
                None => create(flag),
            };
            if change.steps.is_empty() {
                plan.unchanged += 1;
            } else {
                plan.changes.push(change);
            }
        }
        plan.changes.sort_by(|one, other| one.name.cmp(&other.name));
        plan
    }

    pub fn step_count(&self) -> usize {
        self.changes.iter().map(|change| change.steps.len()).sum()
    }

    /// The environments of all changes.
    pub fn environments(&self) -> BTreeSet<&str> {
        self.changes.iter().filter_map(|change| change.name.environment.as_deref()).collect()
    }

    /// The environments in which readers of a flag get another value.
    pub fn affected_environments(&self) -> BTreeSet<&str> {
        let affected = self.changes.iter().filter(|change| change.has_effect);
        affected.filter_map(|change| change.name.environment.as_deref()).collect()
    }

    fn change_existing(&mut self, imported: &ImportedFlag, existing: &FeatureFlag) -> FlagChange {
        let name = edit(&existing.name, imported.name.as_ref().map(Name::as_str));
        let description = edit(&existing.description, imported.description.as_ref().map(Description::as_str));
        let is_archived = existing.archived_at.is_some();
        let archived = imported.archived.unwrap_or(is_archived);
        let is_enabled = existing.status() == FeatureFlagStatus::Enabled;
        let mut flip = imported.status.filter(|status| (*status == Status::Enabled) != is_enabled);
        if is_archived && imported.archived.is_none() && flip.take().is_some() {
            let what = "status: the flag is archived on the server; unarchive it first";
            self.omissions.push(Omission::new(imported.environment.as_deref(), &existing.key, what));
        }
        // An archived flag cannot be flipped: it is unarchived first, and archived again if the file says so.
        let steps = [
            (is_archived && (!archived || flip.is_some())).then_some(ChangeStep::Unarchive),
            (name.is_some() || description.is_some()).then_some(ChangeStep::Update(TextEdits { name, description })),
            flip.map(ChangeStep::SetStatus),
            (archived && (!is_archived || flip.is_some())).then_some(ChangeStep::Archive),
        ];
        let steps = steps.into_iter().flatten().collect();
        let has_effect = flip.is_some() || (is_enabled && archived != is_archived);
        FlagChange { name: imported.full_name(), revision: Some(existing.revision), steps, has_effect }
    }
}

fn edit(old: &str, new: Option<&str>) -> Option<TextEdit> {
    let new = new.filter(|new| *new != old)?;
    Some(TextEdit { old: old.to_owned(), new: new.to_owned() })
}

/// Creates a flag. By default its name is its key, and its status is disabled.
fn create(imported: &ImportedFlag) -> FlagChange {
    let content = FlagContent {
        name: imported.name.as_ref().map_or_else(|| imported.key.to_string(), Name::to_string),
        description: imported.description.as_ref().map(Description::to_string).unwrap_or_default(),
        status: imported.status.unwrap_or(Status::Disabled),
    };
    let archive = (imported.archived == Some(true)).then_some(ChangeStep::Archive);
    let has_effect = content.status == Status::Enabled;
    let steps = std::iter::once(ChangeStep::Create(content)).chain(archive).collect();
    FlagChange { name: imported.full_name(), revision: None, steps, has_effect }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::text::FlagKey;

    fn existing() -> impl Strategy<Value = FeatureFlag> {
        ("[ab]", "[ab]?", any::<bool>(), any::<bool>()).prop_map(|(name, description, on, archived)| FeatureFlag {
            name,
            description,
            status: status(on).into(),
            revision: 7,
            archived_at: archived.then(Default::default),
            ..Default::default()
        })
    }

    fn imported() -> impl Strategy<Value = ImportedFlag> {
        let option = prop::option::of::<BoxedStrategy<String>>;
        let texts = (option("[ab]".boxed()), option("[ab]?".boxed()));
        (texts, any::<Option<bool>>(), any::<Option<bool>>()).prop_map(|((name, description), on, archived)| {
            ImportedFlag {
                environment: Some("e".to_owned()),
                key: FlagKey::parse("k").unwrap(),
                name: name.map(|name| Name::parse(&name).unwrap()),
                description: description.map(|text| Description::parse(&text).unwrap()),
                status: on.map(|on| if on { Status::Enabled } else { Status::Disabled }),
                archived,
            }
        })
    }

    fn name(environment: &str) -> FlagName {
        FlagName { environment: Some(environment.to_owned()), key: "k".to_owned() }
    }

    fn status(on: bool) -> FeatureFlagStatus {
        if on { FeatureFlagStatus::Enabled } else { FeatureFlagStatus::Disabled }
    }

    /// Does what the server does, with the same checks.
    fn apply(flags: &mut BTreeMap<FlagName, FeatureFlag>, of: &FlagName, step: &ChangeStep) {
        if let ChangeStep::Create(FlagContent { name, description, status: created }) = step {
            let flag = FeatureFlag {
                key: of.key.clone(),
                name: name.clone(),
                description: description.clone(),
                status: status(*created == Status::Enabled).into(),
                ..Default::default()
            };
            assert!(flags.insert(of.clone(), flag).is_none());
            return;
        }
        let flag = flags.get_mut(of).unwrap();
        let before = flag.clone();
        match step {
            ChangeStep::Create(_) => {}
            ChangeStep::Unarchive => flag.archived_at = None,
            ChangeStep::Archive => flag.archived_at = Some(Default::default()),
            ChangeStep::Update(TextEdits { name, description }) => {
                flag.name = name.as_ref().map_or(flag.name.clone(), |edit| edit.new.clone());
                flag.description = description.as_ref().map_or(flag.description.clone(), |edit| edit.new.clone());
            }
            ChangeStep::SetStatus(new) => {
                assert_eq!(flag.archived_at, None, "an archived flag cannot be flipped");
                flag.status = status(*new == Status::Enabled).into();
            }
        }
        assert_ne!(*flag, before, "{step:?} does nothing");
    }

    proptest! {
        #[test]
        fn steps_make_flag_what_file_says_and_no_more(before in prop::option::of(existing()), imported in imported()) {
            let before = before.map(|flag| (name("e"), FeatureFlag { key: "k".to_owned(), ..flag }));
            let elsewhere = (name("other"), FeatureFlag { name: "as it was".to_owned(), ..Default::default() });
            let mut flags: BTreeMap<_, _> = before.clone().into_iter().chain([elsewhere.clone()]).collect();
            let plan = ImportPlan::new(std::slice::from_ref(&imported), &flags);
            for change in &plan.changes {
                change.steps.iter().for_each(|step| apply(&mut flags, &change.name, step));
            }
            prop_assert_eq!(&flags[&elsewhere.0], &elsewhere.1, "the same key in another environment");
            let after = &flags[&name("e")];
            let (_, before) = before.unzip();
            prop_assert!(imported.name.as_ref().is_none_or(|name| name.as_str() == after.name));
            prop_assert!(imported.description.as_ref().is_none_or(|text| text.as_str() == after.description));
            prop_assert!(imported.archived.is_none_or(|archived| archived == after.archived_at.is_some()));
            let on = imported.status.map(|status| status == Status::Enabled);
            let as_wanted = on.is_none_or(|on| after.status() == status(on));
            let stays_archived = imported.archived.is_none() && before.as_ref().is_some_and(|f| f.archived_at.is_some());
            prop_assert!(as_wanted || (stays_archived && plan.omissions.len() == 1), "{after:?}");
            if let Some(before) = before {
                prop_assert!(imported.name.is_some() || before.name == after.name);
                prop_assert!(imported.description.is_some() || before.description == after.description);
                prop_assert!(imported.status.is_some() || before.status == after.status);
            }
            let again = ImportPlan::new(std::slice::from_ref(&imported), &flags);
            prop_assert_eq!((again.changes, again.unchanged, again.only_on_server), (Vec::new(), 1, 1));
        }
    }

    #[test]
    fn flag_missing_in_file_is_counted_and_kept() {
        let on_server = BTreeMap::from([(name("e"), FeatureFlag::default())]);
        let plan = ImportPlan::new(&[], &on_server);
        assert_eq!((plan.changes.len(), plan.unchanged, plan.only_on_server), (0, 0, 1));
    }
}

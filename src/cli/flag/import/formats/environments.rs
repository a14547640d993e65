//! The environments that a file names: which of them are imported, and into which environments of the server.

use std::collections::BTreeSet;

use super::ParseOptions;
use crate::cli::flag::import::imported::{ImportedFlags, Omission};
use crate::domain::text::EnvironmentKey;

/// The longest key of an environment.
const MAX_KEY_LENGTH: usize = 64;

/// The environments to import, of those that the file names: all, or one. If all flags go into one environment, the file must name that
/// one: flags of another go there only if the caller says so, since a variable may name the target unnoticed.
pub(super) fn select<'a>(all: &BTreeSet<&'a str>, options: &ParseOptions) -> Result<Vec<&'a str>, String> {
    let names = || all.iter().copied().collect::<Vec<_>>().join(", ");
    if let Some(from) = &options.from_environment {
        let found = all.get(from.as_str()).map(|found| vec![*found]);
        return found.ok_or_else(|| match all.is_empty() {
            true => format!("the file names no environments, and so no {from:?}; omit --from-environment"),
            false => format!("no environment {from:?}; the file has {}", names()),
        });
    }
    let Some(target) = options.target.as_deref().filter(|_| !all.is_empty()) else {
        return Ok(all.iter().copied().collect());
    };
    if let Some(exact) = all.get(target) {
        return Ok(vec![exact]);
    }
    let with_its_key: Vec<_> = all.iter().copied().filter(|name| key_of(name).as_deref() == Some(target)).collect();
    match with_its_key.len() {
        1 => Ok(with_its_key),
        _ => Err(format!(
            "the flags go into {target:?}, and the file has those of {}; pass the one to import with --from-environment",
            names()
        )),
    }
}

/// The key that stands for an environment of another product: `Production EU` becomes `production-eu`.
pub(super) fn key_of(name: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let lower = name.to_lowercase();
    let words: Vec<_> = lower.split(|c| !is_allowed(c)).filter(|word| !word.is_empty()).collect();
    let mut key = words.join("-");
    key.truncate(MAX_KEY_LENGTH);
    EnvironmentKey::parse(&key).is_ok().then_some(key)
}

/// Leaves out the flags of other environments, and reports them.
pub(super) fn keep_selected(imported: &mut ImportedFlags, options: &ParseOptions) -> Result<(), String> {
    let flags = std::mem::take(&mut imported.flags);
    let all: BTreeSet<_> = flags.iter().filter_map(|flag| flag.environment.as_deref()).collect();
    let selected: BTreeSet<_> = select(&all, options)?.into_iter().map(str::to_owned).collect();
    let is_kept = |environment: &Option<String>| match environment {
        Some(environment) => selected.contains(environment),
        None => options.from_environment.is_none(),
    };
    let (kept, others): (Vec<_>, Vec<_>) = flags.into_iter().partition(|flag| is_kept(&flag.environment));
    imported.flags = kept;
    if let Some(example) = others.first() {
        imported.omissions.push(Omission::of_other_environments(others.len(), &example.full_name()));
    }
    Ok(())
}

/// Gives all flags the target as their environment, if there is one.
pub(super) fn into_target(mut imported: ImportedFlags, target: Option<&String>) -> ImportedFlags {
    if let Some(target) = target {
        imported.flags.iter_mut().for_each(|flag| flag.environment = Some(target.clone()));
        let of_flags = imported.omissions.iter_mut().filter(|omission| omission.environment.is_some());
        of_flags.for_each(|omission| omission.environment = Some(target.clone()));
    }
    imported
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(all: &[&'static str], from: Option<&str>, target: Option<&str>) -> Result<Vec<&'static str>, String> {
        let (from_environment, target) = (from.map(str::to_owned), target.map(str::to_owned));
        select(&all.iter().copied().collect(), &ParseOptions { from_environment, target, ..Default::default() })
    }

    #[test]
    fn all_environments_or_one_are_selected() {
        assert_eq!(selected(&["a", "b"], None, None), Ok(vec!["a", "b"]));
        assert_eq!(selected(&["a", "b"], Some("b"), None), Ok(vec!["b"]));
        assert_eq!(selected(&["a", "b"], Some("b"), Some("a")), Ok(vec!["b"]));
        assert_eq!(selected(&["A", "b"], None, Some("a")), Ok(vec!["A"]));
        assert_eq!(selected(&["A", "a"], None, Some("a")), Ok(vec!["a"]), "the exact name");
        assert_eq!(selected(&["a"], Some("a"), Some("b")), Ok(vec!["a"]), "a copy into another environment");
        assert_eq!(selected(&[], None, Some("b")), Ok(vec![]));
        for (all, from, target) in [
            (&["a", "b"][..], None, Some("c")),
            (&["a"], None, Some("b")),
            (&["A B", "a-B"], None, Some("a-b")),
            (&["a"], Some("b"), None),
            (&[], Some("a"), None),
        ] {
            assert!(selected(all, from, target).is_err(), "{all:?} {from:?} {target:?}");
        }
    }

    #[test]
    fn names_of_environments_become_keys() {
        for (name, key) in [("production", "production"), ("Production EU", "production-eu"), ("_a..B1_", "a-b1")] {
            assert_eq!(key_of(name).as_deref(), Some(key));
        }
        assert_eq!(key_of(&"x".repeat(100)).map(|key| key.len()), Some(MAX_KEY_LENGTH));
        assert_eq!((key_of(""), key_of("\u{65b0}")), (None, None));
    }
}

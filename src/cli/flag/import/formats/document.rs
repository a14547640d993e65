//! Files that are one document: JSON, or YAML, within limits. Nothing in a document is ignored silently: a duplicate key is an
//! error, and each type keeps the fields that it does not read, for the report.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::options::AliasLimits;
use serde_saphyr::{Budget, DuplicateKeyPolicy, Options, UserMessageFormatter, alias_limits, budget, options};

use crate::cli::flag::import::imported::{FlagCollector, ParseErrors};

/// How deep a YAML file's objects and lists may be nested, so that parsing them fits into a thread's stack.
const MAX_DEPTH: usize = 64;

/// How many values a YAML file may hold: more than the largest file of flags needs.
const MAX_NODES: usize = 8_000_000;

/// How many aliases a YAML file may have, and how many values they may repeat in total. A few lines of nested aliases (a "billion
/// laughs" attack) would otherwise fill all memory.
const MAX_ALIASES: usize = 10_000;
const MAX_REPEATED_NODES: usize = 100_000;

/// Parses a file that is one document; `expected` is what it should be, for the error.
pub(super) fn parse_document<T: DeserializeOwned>(text: &str, expected: &str) -> Result<T, ParseErrors> {
    let parsed = if is_json(text) {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        let parsed = serde_saphyr::from_str_with_options(text, yaml_options());
        parsed.map_err(|error| error.render_with_formatter(&UserMessageFormatter))
    };
    parsed.map_err(|error| vec![format!("not {expected}: {error}")])
}

/// Whether a document is JSON. It is YAML otherwise.
pub(super) fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

fn yaml_options() -> Options {
    options! {
        budget: limits(),
        alias_limits: repetitions(),
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// The size of the file is limited where it is read.
fn limits() -> Option<Budget> {
    budget! {
        max_depth: MAX_DEPTH,
        flow_nesting_limit: MAX_DEPTH,
        max_nodes: MAX_NODES,
        max_events: 2 * MAX_NODES,
        max_aliases: MAX_ALIASES,
        max_anchors: MAX_ALIASES,
        max_recorded_anchor_events: MAX_NODES,
    }
}

fn repetitions() -> AliasLimits {
    alias_limits! { max_total_replayed_events: MAX_REPEATED_NODES, max_replay_stack_depth: MAX_DEPTH }
}

/// An object's fields in the order of the file, each once.
#[derive(Debug)]
pub(super) struct Entries<T>(pub Vec<(String, T)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Entries<T> {
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        read_entries(map)
    }
}

/// Reads the fields of an object.
pub(super) fn read_entries<'de, T: Deserialize<'de>, A: MapAccess<'de>>(mut map: A) -> Result<Entries<T>, A::Error> {
    let (mut entries, mut seen) = (Vec::new(), HashSet::new());
    while let Some((key, value)) = map.next_entry::<String, T>()? {
        if !seen.insert(key.clone()) {
            return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
        }
        entries.push((key, value));
    }
    Ok(Entries(entries))
}

/// Reads null as an empty list.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The fields of an object that its type does not read. `#[serde(flatten)]` fills it.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct UnreadFields(Entries<Value>);

impl UnreadFields {
    /// Reports each field. `path` is the path of the object; `key` is the key of its flag, or empty.
    pub fn report(&self, path: &str, key: &str, collector: &mut FlagCollector) {
        for (name, value) in &self.0.0 {
            collector.omit_field(&format!("{path}.{name}"), key, value);
        }
    }

    /// The values of the fields with one of these names. A list gives its items.
    pub fn items<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Value> {
        let fields = self.0.0.iter().filter(|(name, _)| names.contains(&name.as_str()));
        fields.flat_map(|(_, value)| match value {
            Value::Array(items) => items.as_slice(),
            Value::Null => &[],
            value => std::slice::from_ref(value),
        })
    }

    /// Reports the unread fields of the document's root. Each item of a list counts by itself.
    pub fn report_document(&self, collector: &mut FlagCollector) {
        for (name, value) in &self.0.0 {
            match value {
                Value::Array(items) => {
                    items.iter().for_each(|item| collector.omit_field(&format!("{name}[]"), "", item));
                }
                value => collector.omit_field(name, "", value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let [error] =
            <[String; 1]>::try_from(parse_document::<Entries<Value>>(text, "a document").unwrap_err()).unwrap();
        assert!(error.starts_with("not a document: ") && !error.contains('\n'), "{error:?}");
        error
    }

    #[test]
    fn yaml_and_json_give_the_same_values() {
        let json: Entries<Value> = parse_document(r#"{"a":{"b":[1,true,null,"x"]},"c":"on"}"#, "a document").unwrap();
        let yaml: Entries<Value> = parse_document("# x\na:\n  b: [1, true, ~, \"x\"]\nc: on\n", "a document").unwrap();
        assert_eq!(json.0, yaml.0);
    }

    #[test]
    fn ambiguous_document_is_an_error() {
        for (text, expected) in [
            (r#"{"a":1,"a":2}"#, "duplicate key \"a\""),
            ("a: 1\na: 2\n", "duplicate"),
            ("a: {b: 1, b: 2}\n", "duplicate"),
            (r#"{"a":1}{"a":2}"#, "trailing"),
            ("a: 1\n---\na: 2\n", "single yaml document"),
            (r#"{"a":1e999}"#, "out of range"),
            ("a: !custom 1\n", "tag"),
            ("a: *missing\n", "reference to unknown"),
            ("a: [1\n", "unclosed"),
            ("- a\n", "expected mapping"),
        ] {
            let error = refused(text);
            assert!(error.to_lowercase().contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn limits_hold_for_depth_and_aliases() {
        let nested = |depth: usize| format!("a: {}1{}", "[".repeat(depth), "]".repeat(depth));
        let block = |depth: usize| (0..depth).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
        for deep in [nested(MAX_DEPTH - 1), block(MAX_DEPTH)] {
            parse_document::<Entries<Value>>(&deep, "a document").unwrap();
        }
        for deep in [nested(MAX_DEPTH), block(MAX_DEPTH + 1), nested(100_000), block(2_000)] {
            refused(&deep);
        }
        refused(&format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)));
        // Each repeats the one before it: in width, in depth, and itself.
        let bomb: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}]\n", n - 1)).collect();
        refused(&format!("a0: &a0 [x, x, x]\n{bomb}"));
        let chain: String = (1..400).map(|n| format!("a{n}: &a{n} [*a{}]\n", n - 1)).collect();
        refused(&format!("a0: &a0 [x]\n{chain}"));
        refused("a: &a [*a]\n");
        let many = "[*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]";
        refused(&format!("a: &a 1\nb:\n{}", format!("- {many}\n").repeat(MAX_ALIASES / 10 + 1)));
    }
}

//! flagd's flag definitions. A boolean flag gets the status that its default variant has for every user.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{FileFormat, FileStart, parse_json};
use crate::cli::flag::import::imported::{FlagCollector, FlagFields, ImportedFlags, ParseErrors};
use crate::domain::flag::Status;

pub(super) const FORMAT: FileFormat = FileFormat {
    name: "flagd",
    help: "A flag definition file of flagd, JSON",
    detect: |start: &FileStart<'_>| start.has_json_field("flags"),
    has_environments: false,
    parse: |text, _| parse(text),
};

#[derive(Deserialize)]
struct File {
    flags: Flags,
    #[serde(rename = "$evaluators")]
    evaluators: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
}

/// The flags in the order of the file. Duplicate keys are kept, so that they can be reported.
struct Flags(Vec<(String, Flag)>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Flag {
    state: State,
    variants: Option<Map<String, Value>>,
    default_variant: Option<String>,
    targeting: Option<Value>,
    metadata: Option<Map<String, Value>>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum State {
    Enabled,
    Disabled,
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Flags;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the flags by their keys")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Flags, A::Error> {
                let mut flags = Vec::new();
                while let Some(flag) = map.next_entry()? {
                    flags.push(flag);
                }
                Ok(Flags(flags))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

fn parse(text: &str) -> Result<ImportedFlags, ParseErrors> {
    let file: File = parse_json(text, "a flag definition of flagd")?;
    let mut collector = FlagCollector::default();
    for (part, content) in [("$evaluators", &file.evaluators), ("metadata", &file.metadata)] {
        if content.as_ref().is_some_and(|map| !map.is_empty()) {
            collector.omit_from_file(part);
        }
    }
    for (key, flag) in &file.flags.0 {
        add_flag(key, flag, &mut collector);
    }
    collector.finish()
}

fn add_flag(key: &str, flag: &Flag, collector: &mut FlagCollector) {
    let location = format!("flags.{key}");
    let empty = Map::new();
    let variants = flag.variants.as_ref().unwrap_or(&empty);
    if let Some((name, _)) = variants.iter().find(|(_, value)| !value.is_boolean()) {
        collector.omit(key, &[format!("the flag: variant {name:?} is neither true nor false")]);
        return;
    }
    let status = match flag.default_variant.as_deref().map(|name| (name, variants.get(name))) {
        Some((_, Some(value))) => Some(if *value == Value::Bool(true) { Status::Enabled } else { Status::Disabled }),
        Some((name, None)) => {
            collector.error(&location, format_args!("defaultVariant {name:?} is not among the variants"));
            None
        }
        None => None,
    };
    collector.omit(key, &omissions(flag));
    // flagd's clients treat a disabled flag as missing, as toggled's clients treat an archived one.
    let archived = Some(flag.state == State::Disabled);
    collector.add(&location, &FlagFields { key, status, archived, ..FlagFields::default() });
}

/// What of a boolean flag cannot be imported.
fn omissions(flag: &Flag) -> Vec<String> {
    let has_targeting = |rule: &Value| !rule.is_null() && *rule != Value::Object(Map::new());
    let parts = [
        flag.default_variant.is_none().then_some("no defaultVariant: status not imported"),
        flag.targeting
            .as_ref()
            .is_some_and(has_targeting)
            .then_some("targeting: the status of defaultVariant applies to every user"),
        flag.metadata.as_ref().is_some_and(|map| !map.is_empty()).then_some("metadata"),
    ];
    parts.into_iter().flatten().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flag::import::imported::Omission;

    fn parse_flag(flag: &str) -> Result<ImportedFlags, ParseErrors> {
        parse(&format!(r#"{{"flags":{{"a":{flag}}}}}"#))
    }

    #[test]
    fn boolean_flag_has_status_of_default_variant() {
        for (flag, status, archived) in [
            (r#"{"state":"ENABLED","variants":{"on":true,"off":false},"defaultVariant":"on"}"#, Status::Enabled, false),
            (
                r#"{"state":"ENABLED","variants":{"on":true,"off":false},"defaultVariant":"off"}"#,
                Status::Disabled,
                false,
            ),
            (
                r#"{"state":"DISABLED","variants":{"yes":true},"defaultVariant":"yes","targeting":{}}"#,
                Status::Enabled,
                true,
            ),
        ] {
            let imported = parse_flag(flag).unwrap();
            assert_eq!(imported.omissions, [], "{flag}");
            let fields: Vec<_> = imported.flags.iter().map(|flag| (flag.status, flag.archived)).collect();
            assert_eq!(fields, [(Some(status), Some(archived))], "{flag}");
        }
    }

    #[test]
    fn what_no_flag_can_hold_is_reported() {
        for (flag, imported, expected) in [
            (r#"{"state":"ENABLED","variants":{"red":"f00","blue":"00f"},"defaultVariant":"red"}"#, 0, "\"blue\""),
            (r#"{"state":"ENABLED","variants":{"one":1},"defaultVariant":"one"}"#, 0, "\"one\""),
            (
                r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":"on","targeting":{"fractional":[]}}"#,
                1,
                "targeting",
            ),
            (
                r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":"on","metadata":{"owner":"x"}}"#,
                1,
                "metadata",
            ),
            (r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":null}"#, 1, "status not imported"),
        ] {
            let ImportedFlags { flags, omissions } = parse_flag(flag).unwrap();
            assert_eq!((flags.len(), omissions.len()), (imported, 1), "{flag}");
            assert!(omissions[0].subject == "a" && omissions[0].what.contains(expected), "{omissions:?}");
        }
        let file = r#"{"flags":{},"$evaluators":{"mail":{"in":[]}},"metadata":{"version":"1"}}"#;
        assert_eq!(parse(file).unwrap().omissions, ["$evaluators", "metadata"].map(Omission::of_file));
    }

    #[test]
    fn invalid_definition_or_key_is_an_error() {
        let on = r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":"on"}"#;
        for (text, expected) in [
            (
                r#"{"flags":{"a":{"state":"ENABLED","variants":{"on":true},"defaultVariant":"off"}}}"#.to_owned(),
                "\"off\"",
            ),
            (r#"{"flags":{"a":{"state":"MAYBE"}}}"#.to_owned(), "MAYBE"),
            (r#"{"flags":[]}"#.to_owned(), "by their keys"),
            (format!(r#"{{"flags":{{"a b":{on}}}}}"#), "flags.a b: key must be"),
            (format!(r#"{{"flags":{{"a":{on},"a":{on}}}}}"#), "duplicate key"),
        ] {
            let errors = parse(&text).unwrap_err();
            assert!(errors.len() == 1 && errors[0].contains(expected), "{text}: {errors:?}");
        }
    }
}

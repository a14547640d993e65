//! flagd's flag definitions: what a boolean flag evaluates to for everybody.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::cli::flag::import::imported::{Contents, Lost, Raw};
use crate::domain::flag::Status;

#[derive(Deserialize)]
struct File {
    flags: Flags,
    #[serde(rename = "$evaluators")]
    evaluators: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
}

/// In the order of the file, and one that is there twice is there twice.
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

pub(super) fn parse(text: &str) -> Contents {
    let file: File = match serde_json::from_str(text) {
        Ok(file) => file,
        Err(error) => return Contents::unusable(format!("it is no flag definition of flagd: {error}")),
    };
    let mut contents = Contents::default();
    for (part, there) in [("$evaluators", &file.evaluators), ("metadata", &file.metadata)] {
        if there.as_ref().is_some_and(|map| !map.is_empty()) {
            contents.lost.push(Lost::new("the file", part));
        }
    }
    for (key, flag) in &file.flags.0 {
        take(key, flag, &mut contents);
    }
    contents
}

fn take(key: &str, flag: &Flag, contents: &mut Contents) {
    let place = format!("flags.{key}");
    let none = Map::new();
    let variants = flag.variants.as_ref().unwrap_or(&none);
    if let Some((name, _)) = variants.iter().find(|(_, value)| !value.is_boolean()) {
        contents.lost.push(Lost::new(key, format!("the flag: its variant {name:?} is neither true nor false")));
        return;
    }
    let mut lost = Vec::new();
    let status = match flag.default_variant.as_deref().map(|name| (name, variants.get(name))) {
        Some((_, Some(value))) => Some(if *value == Value::Bool(true) { Status::Enabled } else { Status::Disabled }),
        Some((name, None)) => {
            contents.fault(&place, format_args!("its defaultVariant {name:?} is none of its variants"));
            None
        }
        None => {
            lost.push("that it is what its reader takes for the default (no defaultVariant): its status is left alone");
            None
        }
    };
    if flag.targeting.as_ref().is_some_and(|rule| !rule.is_null() && rule != &Value::Object(Map::new())) {
        lost.push("targeting: it gets the status of its defaultVariant, for everybody");
    }
    if flag.metadata.as_ref().is_some_and(|map| !map.is_empty()) {
        lost.push("metadata");
    }
    if !lost.is_empty() {
        contents.lost.push(Lost::new(key, lost.join("; ")));
    }
    // To its readers a disabled flag is as good as none, which is what an archived one is here.
    let archived = Some(flag.state == State::Disabled);
    contents.take(&place, &Raw { key, status, archived, ..Raw::default() });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(flag: &str) -> Contents {
        parse(&format!(r#"{{"flags":{{"a":{flag}}}}}"#))
    }

    #[test]
    fn a_boolean_flag_is_what_its_default_variant_is() {
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
            let contents = one(flag);
            assert_eq!((&contents.faults[..], &contents.lost[..]), (&[][..], &[][..]), "{flag}");
            let told: Vec<_> = contents.flags.iter().map(|flag| (flag.status, flag.archived)).collect();
            assert_eq!(told, [(Some(status), Some(archived))], "{flag}");
        }
    }

    #[test]
    fn what_cannot_be_carried_is_told() {
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
            (r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":null}"#, 1, "left alone"),
        ] {
            let contents = one(flag);
            assert_eq!((contents.flags.len(), contents.lost.len(), contents.faults.len()), (imported, 1, 0), "{flag}");
            assert!(contents.lost[0].of == "a" && contents.lost[0].what.contains(expected), "{:?}", contents.lost);
        }
        let contents = parse(r#"{"flags":{},"$evaluators":{"mail":{"in":[]}},"metadata":{"version":"1"}}"#);
        let told: Vec<_> = contents.lost.iter().map(|lost| lost.what.as_str()).collect();
        assert_eq!(told, ["$evaluators", "metadata"]);
    }

    #[test]
    fn what_flagd_would_refuse_or_our_keys_cannot_be_is_a_fault() {
        let on = r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":"on"}"#;
        for (text, expected) in [
            (
                r#"{"flags":{"a":{"state":"ENABLED","variants":{"on":true},"defaultVariant":"off"}}}"#.to_owned(),
                "\"off\"",
            ),
            (r#"{"flags":{"a":{"state":"MAYBE"}}}"#.to_owned(), "MAYBE"),
            (r#"{"flags":[]}"#.to_owned(), "by their keys"),
            (format!(r#"{{"flags":{{"a b":{on}}}}}"#), "flags.a b: key must be"),
            (format!(r#"{{"flags":{{"a":{on},"a":{on}}}}}"#), "already"),
        ] {
            let faults = parse(&text).faults;
            assert!(faults.len() == 1 && faults[0].contains(expected), "{text}: {faults:?}");
        }
    }
}

//! flagd's flag definitions. A boolean flag gets the status that its default variant has, if that is the same for every user.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::document::{Entries, UnreadFields, parse_document, read_entries};
use super::{FileFormat, FileStart};
use crate::cli::flag::import::imported::{FlagCollector, FlagFields, ImportedFlags, ParseErrors};
use crate::domain::flag::Status;
use crate::domain::text::EnvironmentKey;

pub(super) const FORMAT: FileFormat = FileFormat {
    name: "flagd",
    help: "A flag definition file of flagd, JSON or YAML",
    detect: |start: &FileStart<'_>| start.has_field("flags"),
    selects_environments: false,
    is_csv: false,
    parse: |text, _| parse(text),
};

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct File {
    flags: Flags,
    #[serde(rename = "$schema")]
    _schema: Option<IgnoredAny>,
    metadata: Option<Metadata>,
    #[serde(flatten)]
    unread: UnreadFields,
}

/// The flags in the order of the file: an object with the flags by their keys, or a list, which only the flagd daemon accepts.
enum Flags {
    ByKey(Entries<Flag>),
    List(Vec<Flag>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
struct Flag {
    /// In a list only.
    key: Option<String>,
    /// Not an enum, which would fail at the first wrong state: every wrong one is reported.
    state: Option<Value>,
    variants: Option<Entries<Value>>,
    default_variant: Option<String>,
    targeting: Option<Value>,
    metadata: Option<Metadata>,
    #[serde(flatten)]
    unread: UnreadFields,
}

/// Metadata of a flag, or of all flags of the file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
struct Metadata {
    /// The flag set, which is an environment here.
    flag_set_id: Option<Value>,
    #[serde(flatten)]
    unread: UnreadFields,
}

impl Metadata {
    /// The environment, if the flag set's id can be the key of one. The rest is reported.
    fn environment(&self, path: &str, key: &str, collector: &mut FlagCollector) -> Option<&str> {
        self.unread.report(path, key, collector);
        let id = self.flag_set_id.as_ref()?;
        let environment = id.as_str().filter(|id| EnvironmentKey::parse(id).is_ok());
        if environment.is_none() {
            collector.omit_field(&format!("{path}.flagSetId"), key, id);
        }
        environment
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FlagsVisitor;
        impl<'de> Visitor<'de> for FlagsVisitor {
            type Value = Flags;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with the flags by their keys, or a list of flags")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Flags, A::Error> {
                read_entries(map).map(Flags::ByKey)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Flags, A::Error> {
                let mut flags = Vec::new();
                while let Some(flag) = list.next_element()? {
                    flags.push(flag);
                }
                Ok(Flags::List(flags))
            }
        }
        deserializer.deserialize_any(FlagsVisitor)
    }
}

fn parse(text: &str) -> Result<ImportedFlags, ParseErrors> {
    let file: File = parse_document(text, "a flag definition of flagd")?;
    let mut collector = FlagCollector::default();
    file.unread.report_document(&mut collector);
    let metadata = file.metadata.as_ref();
    let environment = metadata.and_then(|metadata| metadata.environment("metadata", "", &mut collector));
    match &file.flags {
        Flags::ByKey(Entries(flags)) => {
            for (key, flag) in flags {
                let own_key = flag.key.as_deref().filter(|own_key| own_key != key).map(Value::from);
                collector.omit_field("flags.*.key", key, &own_key.unwrap_or_default());
                add_flag(&format!("flags.{key}"), "flags.*", environment, key, flag, &mut collector);
            }
        }
        Flags::List(flags) => {
            for (position, flag) in flags.iter().enumerate() {
                let location = format!("flags[{position}]");
                match &flag.key {
                    Some(key) => add_flag(&location, "flags[]", environment, key, flag, &mut collector),
                    None => collector.error(location, "key is missing"),
                }
            }
        }
    }
    collector.finish()
}

/// Adds a flag; `path` is the path of its kind of object, and `environment` that of the whole file.
fn add_flag(
    location: &str,
    path: &str,
    environment: Option<&str>,
    key: &str,
    flag: &Flag,
    collector: &mut FlagCollector,
) {
    // flagd's clients treat a disabled flag as missing, as toggled's clients treat an archived one.
    let archived = match flag.state.as_ref().map(Value::as_str) {
        Some(Some("ENABLED")) => Some(false),
        Some(Some("DISABLED")) => Some(true),
        state => {
            let problem = if state.is_some() {
                "state is neither ENABLED nor DISABLED"
            } else {
                "state is missing: ENABLED or DISABLED"
            };
            collector.error(location, format_args!("{problem}"));
            None
        }
    };
    let variants = flag.variants.as_ref().map(|variants| &*variants.0).unwrap_or_default();
    if let Some((name, _)) = variants.iter().find(|(_, value)| !value.is_boolean()) {
        collector.omit(environment, key, &[format!("the flag: variant {name:?} is neither true nor false")]);
        return;
    }
    let default = flag.default_variant.as_deref();
    let value = default.map(|name| (name, variants.iter().find(|(variant, _)| variant == name)));
    let mut status = match value {
        Some((_, Some((_, Value::Bool(true))))) => Some(Status::Enabled),
        Some((_, Some(_))) => Some(Status::Disabled),
        Some((name, None)) => {
            collector.error(location, format_args!("defaultVariant {name:?} is not among the variants"));
            None
        }
        None => None,
    };
    let mut reasons = Vec::new();
    if default.is_none() {
        reasons.push("no defaultVariant: status not imported".to_owned());
    }
    let targeting =
        flag.targeting.as_ref().filter(|rule| !rule.is_null() && **rule != Value::Object(Default::default()));
    if let Some(rule) = targeting {
        reasons.push("targeting decides for each user: status not imported".to_owned());
        collector.omit_field(&format!("{path}.targeting"), key, rule);
        status = None;
    }
    let metadata = flag.metadata.as_ref();
    let own = metadata.and_then(|metadata| metadata.environment(&format!("{path}.metadata"), key, collector));
    let environment = own.or(environment);
    collector.omit(environment, key, &reasons);
    flag.unread.report(path, key, collector);
    collector.add(location, &FlagFields { environment, key, status, archived, ..FlagFields::default() });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_flag(flag: &str) -> Result<ImportedFlags, ParseErrors> {
        parse(&format!(r#"{{"flags":{{"a":{flag}}}}}"#))
    }

    /// The report, as the preview shows it.
    fn report(imported: &ImportedFlags) -> Vec<String> {
        imported.omissions.iter().map(|omission| format!("{}: {omission}", omission.subject)).collect()
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
    fn flag_of_other_type_is_reported() {
        for (flag, variant) in [
            (r#"{"state":"ENABLED","variants":{"red":"f00","blue":"00f"},"defaultVariant":"red"}"#, "red"),
            (r#"{"state":"ENABLED","variants":{"on":true,"one":1},"defaultVariant":"one"}"#, "one"),
        ] {
            let imported = parse_flag(flag).unwrap();
            assert_eq!(imported.flags, []);
            assert_eq!(report(&imported), [format!("a: the flag: variant {variant:?} is neither true nor false")]);
        }
    }

    #[test]
    fn flag_that_differs_by_user_keeps_status() {
        for default in ["on", "off"] {
            let targeting = r#"{"fractional":[["on",1],["off",9]]}"#;
            let variants = r#""variants":{"on":true,"off":false}"#;
            let flag =
                format!(r#"{{"state":"ENABLED",{variants},"defaultVariant":"{default}","targeting":{targeting}}}"#);
            let imported = parse_flag(&flag).unwrap();
            assert_eq!((imported.flags[0].status, imported.flags[0].archived), (None, Some(false)));
            assert_eq!(
                report(&imported),
                [
                    &*format!("the file: flags.*.targeting: 1, such as {targeting} of a"),
                    "a: targeting decides for each user: status not imported",
                ]
            );
        }
        let imported = parse_flag(r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":null}"#).unwrap();
        assert_eq!(imported.flags[0].status, None);
        assert_eq!(report(&imported), ["a: no defaultVariant: status not imported"]);
    }

    #[test]
    fn every_other_field_is_reported_once_with_an_example() {
        let flag =
            r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":"on","metadata":{"owner":"x"},"key":"c"}"#;
        let evaluators = r#""$evaluators":{"mail":{"in":[]}}"#;
        let file = format!(
            r#"{{"$schema":"s","flags":{{"a":{flag},"b":{flag}}},{evaluators},"metadata":{{"version":"1"}},"new":[1,2]}}"#
        );
        let expected = [
            r#"$evaluators: 1, such as {"mail":{"in":[]}}"#,
            r#"flags.*.key: 2, such as "c" of a"#,
            r#"flags.*.metadata.owner: 2, such as "x" of a"#,
            r#"metadata.version: 1, such as "1""#,
            "new[]: 2, such as 1",
        ];
        assert_eq!(report(&parse(&file).unwrap()), expected.map(|line| format!("the file: {line}")));
    }

    #[test]
    fn list_of_flags_is_read_like_an_object() {
        let text = r#"{"flags":[
            {"key":"a","state":"ENABLED","variants":{"on":true},"defaultVariant":"on","metadata":{"owner":"x"}},
            {"key":"b","state":"DISABLED","variants":{"on":true,"off":false},"defaultVariant":"off"},
            {"key":"c","state":"ENABLED","variants":{"red":"f00"},"defaultVariant":"red"}
        ]}"#;
        let imported = parse(text).unwrap();
        let fields: Vec<_> =
            imported.flags.iter().map(|flag| (flag.key.as_str(), flag.status, flag.archived)).collect();
        assert_eq!(fields, [("a", Some(Status::Enabled), Some(false)), ("b", Some(Status::Disabled), Some(true))]);
        assert_eq!(
            report(&imported),
            [
                r#"the file: flags[].metadata.owner: 1, such as "x" of a"#,
                r#"c: the flag: variant "red" is neither true nor false"#,
            ]
        );
    }

    #[test]
    fn flag_set_is_the_environment() {
        let on = r#""state":"ENABLED","variants":{"on":true},"defaultVariant":"on""#;
        let text = format!(
            r#"{{"metadata":{{"flagSetId":"staging"}},"flags":{{"a":{{{on}}},"b":{{{on},"metadata":{{"flagSetId":"production"}}}}}}}}"#
        );
        let imported = parse(&text).unwrap();
        assert_eq!(imported.omissions, []);
        let environments: Vec<_> = imported.flags.iter().map(|flag| flag.environment.as_deref()).collect();
        assert_eq!(environments, [Some("staging"), Some("production")]);
        let imported = parse(&text.replace(r#""staging""#, r#""My flags""#)).unwrap();
        assert_eq!(imported.flags[0].environment, None);
        assert_eq!(report(&imported), [r#"the file: metadata.flagSetId: 1, such as "My flags""#]);
    }

    #[test]
    fn yaml_is_read_like_json() {
        let text = "# flags of the shop\nflags:\n  a: &on\n    state: ENABLED\n    variants: {on: true, off: false}\n    \
                    defaultVariant: on\n  b: *on\n  c:\n    <<: *on\n    defaultVariant: off\n";
        let imported = parse(text).unwrap();
        assert_eq!(imported.omissions, []);
        let fields: Vec<_> = imported.flags.iter().map(|flag| (flag.key.as_str(), flag.status)).collect();
        assert_eq!(fields, [("a", Some(Status::Enabled)), ("b", Some(Status::Enabled)), ("c", Some(Status::Disabled))]);
    }

    #[test]
    fn every_wrong_state_is_reported() {
        let text =
            r#"{"flags":{"a":{},"b":{"state":"on"},"c":{"state":7},"d e":{"state":null},"f":{"state":"ENABLED"}}}"#;
        let errors = parse(text).unwrap_err();
        let places: Vec<_> = errors.iter().filter_map(|error| error.split(':').next()).collect();
        assert_eq!(places, ["flags.a", "flags.b", "flags.c", "flags.d e", "flags.d e"], "{errors:?}");
    }

    #[test]
    fn invalid_definition_or_key_is_an_error() {
        let on = r#"{"state":"ENABLED","variants":{"on":true},"defaultVariant":"on"}"#;
        let keyed = r#"{"key":"a","state":"ENABLED","variants":{"on":true},"defaultVariant":"on"}"#;
        for (text, expected) in [
            (
                r#"{"flags":{"a":{"state":"ENABLED","variants":{"on":true},"defaultVariant":"off"}}}"#.to_owned(),
                "\"off\"",
            ),
            (r#"{"flags":{"a":{"state":"MAYBE"}}}"#.to_owned(), "flags.a: state is neither ENABLED nor DISABLED"),
            (r#"{"flags":{"a":{"State":"ENABLED"}}}"#.to_owned(), "flags.a: state is missing"),
            (r#"{"flags":7}"#.to_owned(), "by their keys, or a list"),
            (r#"{"flags":{"a":7}}"#.to_owned(), "invalid type: integer `7`, expected an object"),
            (format!(r#"{{"flags":[{on}]}}"#), "flags[0]: key is missing"),
            (format!(r#"{{"flags":[{keyed},{keyed}]}}"#), "flags[1]: duplicate key \"a\", first at flags[0]"),
            (format!(r#"{{"flags":{{"a b":{on}}}}}"#), "flags.a b: key must be"),
            (format!(r#"{{"flags":{{"a":{on},"a":{on}}}}}"#), "duplicate key \"a\""),
            (format!(r#"{{"flags":{{}},"flags":{{"a":{on}}}}}"#), "duplicate field `flags`"),
            (
                r#"{"flags":{"a":{"state":"ENABLED","variants":{"on":true,"on":false},"defaultVariant":"on"}}}"#
                    .to_owned(),
                "duplicate key \"on\"",
            ),
        ] {
            let errors = parse(&text).unwrap_err();
            assert!(errors.len() == 1 && errors[0].contains(expected), "{text}: {errors:?}");
        }
    }
}

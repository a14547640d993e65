//! The file formats of `flag import`. To add one, write its parser in a file here, as a `FileFormat`, and list it in `FORMATS`.

mod csv;
mod flagd;
mod ndjson;
mod unleash;

use std::collections::BTreeMap;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::imported::{ImportedFlags, ParseErrors};

/// All formats. The first whose `detect` says yes is the format of a file.
static FORMATS: [FileFormat; 4] = [csv::FORMAT, ndjson::FORMAT, unleash::FORMAT, flagd::FORMAT];

/// The value of `--format` that stands for detection.
pub(super) const AUTO: &str = "auto";

/// A format that flags are imported from.
#[derive(Debug)]
pub(super) struct FileFormat {
    /// The value of `--format`.
    name: &'static str,
    /// What `--help` says about it.
    help: &'static str,
    /// Whether a file that begins like this has this format.
    detect: fn(&FileStart<'_>) -> bool,
    /// Whether its files describe several environments, of which `--environment` selects one.
    has_environments: bool,
    /// Reads a file: its text, and the environment that was selected.
    parse: fn(&str, Option<&str>) -> Result<ImportedFlags, ParseErrors>,
}

/// The start of a file, by which its format is detected.
#[derive(Debug)]
struct FileStart<'a> {
    first_line: &'a str,
    /// The names of the fields of the first JSON object; none if the file does not begin with one.
    json_fields: Vec<String>,
}

impl<'a> FileStart<'a> {
    fn of(text: &'a str) -> Self {
        type Object = BTreeMap<String, IgnoredAny>;
        let object = serde_json::Deserializer::from_str(text).into_iter::<Object>().next();
        let json_fields = object.and_then(Result::ok).map(|fields| fields.into_keys().collect()).unwrap_or_default();
        Self { first_line: text.lines().next().unwrap_or_default(), json_fields }
    }

    fn has_json_field(&self, name: &str) -> bool {
        self.json_fields.iter().any(|field| field == name)
    }
}

/// What `--format` selects.
#[derive(Debug, Clone, Copy)]
pub(super) enum FormatChoice {
    Detect,
    Given(&'static FileFormat),
}

/// Parses `--format`, and describes its values in `--help`.
pub(super) fn format_parser() -> impl TypedValueParser<Value = FormatChoice> {
    let auto = PossibleValue::new(AUTO).help("Detect the format by the file's content");
    let formats = FORMATS.iter().map(|format| PossibleValue::new(format.name).help(format.help));
    let find = |name: String| FORMATS.iter().find(|format| format.name == name);
    PossibleValuesParser::new(std::iter::once(auto).chain(formats))
        .map(move |name| find(name).map_or(FormatChoice::Detect, FormatChoice::Given))
}

/// Reads a file in the given or the detected format.
pub(super) fn parse(text: &str, choice: FormatChoice, environment: Option<&str>) -> Result<ImportedFlags, ParseErrors> {
    // Spreadsheets begin the files that they save with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let format = match choice {
        FormatChoice::Given(format) => format,
        FormatChoice::Detect => detect(text).map_err(|error| vec![error.to_owned()])?,
    };
    if environment.is_some() && !format.has_environments {
        return Err(vec!["--environment applies only to exports of Unleash".to_owned()]);
    }
    (format.parse)(text, environment)
}

/// The format of a file. An empty file could have any, so that one is not guessed.
fn detect(text: &str) -> Result<&'static FileFormat, &'static str> {
    let text = text.trim_start();
    if text.is_empty() {
        return Err(EMPTY);
    }
    let start = FileStart::of(text);
    FORMATS.iter().find(|format| (format.detect)(&start)).ok_or(UNKNOWN)
}

const EMPTY: &str = "the file is empty; if it is meant to be, pass --format ndjson";

const UNKNOWN: &str = "unknown format: neither CSV with a column key, nor NDJSON of flag export, nor JSON of flagd or Unleash; \
                       pass --format to see the errors for one of them";

/// Parses a file that is one JSON document; `document` is what it should be, for the error.
fn parse_json<T: DeserializeOwned>(text: &str, document: &str) -> Result<T, ParseErrors> {
    serde_json::from_str(text).map_err(|error| vec![format!("not {document}: {error}")])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn detected(text: &str) -> Result<&'static str, &'static str> {
        detect(text).map(|format| format.name)
    }

    #[test]
    fn format_is_detected_by_content() {
        for (text, format) in [
            ("key,name\na,A\n", "csv"),
            ("name,\"Key\"\r\nA,a\r\n", "csv"),
            ("{\"key\":\"a\"}\n{\"key\":\"b\"}\n", "ndjson"),
            ("{\"flags\":{}}", "flagd"),
            ("{\n  \"$schema\": \"https://example.com\",\n  \"flags\": {}\n}", "flagd"),
            ("{\"version\":4,\"features\":[]}", "unleash"),
        ] {
            assert_eq!(detected(text), Ok(format), "{text}");
        }
        for text in ["hello", "[]", "{}", "{\"flags\":", "name\nA\n", "%PDF-1.7", "{]", "{key}", "[key]"] {
            assert_eq!(detected(text), Err(UNKNOWN), "{text}");
        }
    }

    #[test]
    fn empty_file_needs_a_format() {
        for text in ["", "\n \n"] {
            assert_eq!(detected(text), Err(EMPTY), "{text:?}");
            let flags = parse(text, FormatChoice::Given(&ndjson::FORMAT), None).unwrap();
            assert_eq!(flags, ImportedFlags { flags: Vec::new(), omissions: Vec::new() });
        }
    }

    #[test]
    fn byte_order_mark_is_ignored() {
        assert_eq!(parse("\u{feff}key\na\n", FormatChoice::Detect, None).unwrap().flags.len(), 1);
    }

    #[test]
    fn environment_is_refused_unless_unleash() {
        assert_eq!(parse("key\na\n", FormatChoice::Detect, Some("production")).unwrap_err().len(), 1);
    }

    /// Pieces of files in these formats, cut anywhere and in any order.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("key,name,status\n".to_owned()),
            Just(
                "{\"flags\":{\"a\":{\"state\":\"ENABLED\",\"variants\":{\"on\":true},\"defaultVariant\":\"on\""
                    .to_owned()
            ),
            Just("{\"features\":[{\"name\":\"a\",\"enabled\":true".to_owned()),
            Just("\"featureEnvironments\":[{\"featureName\":\"a\",\"environment\":\"e\",\"enabled\":".to_owned()),
            Just("{\"key\":\"a\",\"status\":\"on\"}\n".to_owned()),
            "[\\[\\]{}\",:\\\\\n\r a0]{0,8}",
            "\\PC{0,20}",
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in prop_oneof![pieces(), any::<String>()]) {
            for choice in FORMATS.iter().map(FormatChoice::Given).chain([FormatChoice::Detect]) {
                for environment in [None, Some("e")] {
                    let _ = parse(&text, choice, environment);
                }
            }
        }
    }
}

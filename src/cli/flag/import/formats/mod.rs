//! The file formats of `flag import`. To add one, write its parser in a file here, as a `FileFormat`, and list it in `FORMATS`.

mod csv;
mod document;
mod environments;
mod flagd;
mod ndjson;
mod unleash;

use std::collections::BTreeMap;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::de::IgnoredAny;

use super::imported::{ImportedFlags, ParseErrors};

/// All formats. A file has the first one whose `detect` accepts its start.
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
    /// Whether its parser selects environments itself, because their names are not keys.
    selects_environments: bool,
    /// Whether its files have CSV cells.
    is_csv: bool,
    /// Reads a file's text.
    parse: fn(&str, &ParseOptions) -> Result<ImportedFlags, ParseErrors>,
}

/// How a file is read. Each option applies to some formats only.
#[derive(Debug, Default, Args)]
pub(super) struct ParseOptions {
    /// Import only this one of the environments that the file names. By default all, each into the one with the same key; with -e
    /// only the one with that key
    #[arg(long, value_name = "NAME")]
    pub from_environment: Option<String>,
    /// The environment that all flags go into, if one is named.
    #[arg(skip)]
    pub target: Option<String>,
    /// Take CSV cells as they are, such as those of an export with --raw-cells. By default, the ' before a cell that a
    /// spreadsheet would run is removed
    #[arg(long)]
    pub raw_cells: bool,
}

/// The start of a file, by which its format is detected.
#[derive(Debug)]
struct FileStart<'a> {
    first_line: &'a str,
    is_json: bool,
    /// The names of the fields of the first JSON object, or of a YAML document.
    fields: Vec<String>,
}

impl<'a> FileStart<'a> {
    fn of(text: &'a str) -> Self {
        let is_json = document::is_json(text);
        let fields = if is_json { json_fields(text) } else { yaml_fields(text) };
        Self { first_line: text.lines().next().unwrap_or_default(), is_json, fields }
    }

    fn has_field(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field == name)
    }
}

fn json_fields(text: &str) -> Vec<String> {
    type Object = BTreeMap<String, IgnoredAny>;
    let object = serde_json::Deserializer::from_str(text).into_iter::<Object>().next();
    object.and_then(Result::ok).map(|fields| fields.into_keys().collect()).unwrap_or_default()
}

/// The fields by the lines that are not indented. The file may have errors, which its format's parser reports.
fn yaml_fields(text: &str) -> Vec<String> {
    let names = text.lines().filter(|line| !line.starts_with([' ', '#', '-'])).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim_end().trim_matches(['"', '\'']).to_owned()).collect()
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
pub(super) fn parse(text: &str, choice: FormatChoice, options: &ParseOptions) -> Result<ImportedFlags, ParseErrors> {
    // Spreadsheets begin the files that they save with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let format = match choice {
        FormatChoice::Given(format) => format,
        FormatChoice::Detect => detect(text).map_err(|error| vec![error.to_owned()])?,
    };
    if options.raw_cells && !format.is_csv {
        return Err(vec!["--raw-cells applies only to CSV".to_owned()]);
    }
    let mut imported = (format.parse)(text, options)?;
    if !format.selects_environments {
        environments::keep_selected(&mut imported, options).map_err(|error| vec![error])?;
    }
    Ok(environments::into_target(imported, options.target.as_ref()))
}

/// The format of a file. An empty file could have any format, so it is refused.
fn detect(text: &str) -> Result<&'static FileFormat, &'static str> {
    let text = text.trim_start();
    if text.is_empty() {
        return Err(EMPTY);
    }
    let start = FileStart::of(text);
    if let Some((_, product)) =
        OTHER_PRODUCTS.iter().find(|(fields, _)| fields.iter().all(|field| start.has_field(field)))
    {
        return Err(product);
    }
    FORMATS.iter().find(|format| (format.detect)(&start)).ok_or(UNKNOWN)
}

/// Fields by which files of other products are recognized, each with its error: they look like one of our formats.
const OTHER_PRODUCTS: [(&[&str], &str); 6] = [
    (&["flags", "namespace"], FLIPT),
    (&["flags", "version"], FLIPT),
    (&["flagValues"], LAUNCHDARKLY),
    (&["key", "variations"], LAUNCHDARKLY),
    (&["items", "_links"], LAUNCHDARKLY),
    (
        &["flags", "segments"],
        "a file of Flipt or LaunchDarkly, which no format here can read; write its flags as CSV or NDJSON",
    ),
];

const FLIPT: &str = "an export of Flipt, which no format here can read; write its flags as CSV or NDJSON";

const LAUNCHDARKLY: &str = "a file of LaunchDarkly, which no format here can read; write its flags as CSV or NDJSON";

const EMPTY: &str = "the file is empty; if it is meant to be, pass --format ndjson";

const UNKNOWN: &str = "unknown format: neither CSV with a column key, nor NDJSON of flag export, nor JSON or YAML of flagd or \
                       Unleash; \
                       pass --format to see the errors for one of them";

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
            ("key;name\na;A\n", "csv"),
            ("{\"key\":\"a\"}\n{\"key\":\"b\"}\n", "ndjson"),
            ("{\"flags\":{}}", "flagd"),
            ("{\n  \"$schema\": \"https://example.com\",\n  \"flags\": {}\n}", "flagd"),
            ("{\"flags\":[]}", "flagd"),
            ("# of the shop\n---\n$schema: x\nflags:\n  a: {}\n", "flagd"),
            ("\"flags\" : {}\n", "flagd"),
            ("{\"version\":4,\"features\":[]}", "unleash"),
            ("version: 4\nfeatures:\n- name: a\n", "unleash"),
        ] {
            assert_eq!(detected(text), Ok(format), "{text}");
        }
        for text in [
            "hello",
            "[]",
            "{}",
            "{\"flags\":",
            "name\nA\n",
            "%PDF-1.7",
            "{]",
            "{key}",
            "[key]",
            "key: a\n",
            "a:\n  flags: {}\n",
        ] {
            assert_eq!(detected(text), Err(UNKNOWN), "{text}");
        }
    }

    #[test]
    fn empty_file_needs_a_format() {
        for text in ["", "\n \n"] {
            assert_eq!(detected(text), Err(EMPTY), "{text:?}");
            let flags = parse(text, FormatChoice::Given(&ndjson::FORMAT), &ParseOptions::default()).unwrap();
            assert_eq!(flags, ImportedFlags { flags: Vec::new(), omissions: Vec::new() });
        }
    }

    #[test]
    fn byte_order_mark_is_ignored() {
        for text in ["key\na\n", "{\"key\":\"a\"}", "flags: {}\n", "{\"flags\":{}}"] {
            let imported = parse(&format!("\u{feff}{text}"), FormatChoice::Detect, &ParseOptions::default());
            assert_eq!(imported.unwrap(), parse(text, FormatChoice::Detect, &ParseOptions::default()).unwrap());
        }
    }

    #[test]
    fn option_of_another_format_is_refused() {
        let from_environment = Some("production".to_owned());
        let environment = ParseOptions { from_environment, ..ParseOptions::default() };
        let raw_cells = ParseOptions { raw_cells: true, ..ParseOptions::default() };
        for (text, options, accepted) in [
            ("key\na\n", &environment, false),
            ("{\"key\":\"a\"}", &raw_cells, false),
            ("key\na\n", &raw_cells, true),
            ("{\"flags\":{}}", &environment, false),
            ("key,environment\na,production\n", &environment, true),
        ] {
            assert_eq!(parse(text, FormatChoice::Detect, options).is_ok(), accepted, "{text} {options:?}");
        }
    }

    #[test]
    fn file_of_another_product_is_named() {
        for (text, product) in [
            ("version: \"1.5\"\nnamespace: default\nflags:\n- key: a\n  enabled: true\n", FLIPT),
            ("{\"version\":\"1.2\",\"flags\":[{\"key\":\"a\",\"enabled\":true}]}", FLIPT),
            ("{\"key\":\"a\",\"variations\":[],\"environments\":{}}", LAUNCHDARKLY),
            ("{\"items\":[],\"_links\":{}}", LAUNCHDARKLY),
            ("{\"flagValues\":{\"a\":true}}", LAUNCHDARKLY),
        ] {
            assert_eq!(detected(text), Err(product), "{text}");
        }
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
            Just("flags:\n  a: &x\n    state: ENABLED\n    <<: *x\n".to_owned()),
            "[\\[\\]{}\",:\\\\\n\r a0]{0,8}",
            "\\PC{0,20}",
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in prop_oneof![pieces(), any::<String>()]) {
            for choice in FORMATS.iter().map(FormatChoice::Given).chain([FormatChoice::Detect]) {
                for from_environment in [None, Some("e".to_owned())] {
                    let _ = parse(&text, choice, &ParseOptions { from_environment, ..ParseOptions::default() });
                }
            }
        }
    }
}

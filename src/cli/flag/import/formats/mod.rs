//! The formats that flags come in, one file each.

mod csv;
mod flagd;
mod ndjson;
mod unleash;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::imported::Contents;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Whichever of the others it looks like
    Auto,
    /// Columns by the names in the first line: key, and any of name, description, status, archived
    Csv,
    /// One JSON object a line, as flag export writes it
    Ndjson,
    /// A flag definition file of flagd, JSON
    Flagd,
    /// An export of Unleash, JSON
    Unleash,
}

/// Reads a file. What is wrong with it is in the contents.
pub(super) fn parse(text: &str, format: Format, environment: Option<&str>) -> Contents {
    // Spreadsheets put it before what they save.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let format = match format {
        Format::Auto => match detect(text) {
            Ok(format) => format,
            Err(fault) => return Contents::unusable(fault),
        },
        given => given,
    };
    if environment.is_some() && format != Format::Unleash {
        return Contents::unusable("--environment is for exports of Unleash, which this is not");
    }
    match format {
        Format::Csv => csv::parse(text),
        Format::Flagd => flagd::parse(text),
        Format::Unleash => unleash::parse(text, environment),
        // An auto that has found nothing is gone by now.
        Format::Auto | Format::Ndjson => ndjson::parse(text),
    }
}

/// What a JSON object of each format has, and no other.
#[derive(Deserialize)]
struct Shape {
    key: Option<IgnoredAny>,
    flags: Option<IgnoredAny>,
    features: Option<IgnoredAny>,
}

/// The format by its first JSON object, or CSV. A file with nothing in it is an export of no flags.
fn detect(text: &str) -> Result<Format, &'static str> {
    let start = text.trim_start();
    if start.is_empty() {
        return Err(EMPTY);
    }
    if !start.starts_with(['{', '[']) {
        let has_key = start.lines().next().is_some_and(|head| csv::names(head).any(|name| name == "key"));
        return if has_key { Ok(Format::Csv) } else { Err(UNKNOWN) };
    }
    match serde_json::Deserializer::from_str(start).into_iter().next() {
        Some(Ok(Shape { key: Some(_), .. })) => Ok(Format::Ndjson),
        Some(Ok(Shape { features: Some(_), .. })) => Ok(Format::Unleash),
        Some(Ok(Shape { flags: Some(_), .. })) => Ok(Format::Flagd),
        _ => Err(UNKNOWN),
    }
}

const EMPTY: &str = "it is empty; --format ndjson takes that for no flags at all";

const UNKNOWN: &str = "it is neither CSV with a column key, nor NDJSON of flag export, nor JSON of flagd or Unleash; \
                       --format shows what is wrong with it as one of them";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formats_are_told_by_what_is_in_them() {
        for (text, format) in [
            ("key,name\na,A\n", Format::Csv),
            ("name,\"Key\"\r\nA,a\r\n", Format::Csv),
            ("{\"key\":\"a\"}\n{\"key\":\"b\"}\n", Format::Ndjson),
            ("{\"flags\":{}}", Format::Flagd),
            ("{\n  \"$schema\": \"https://example.com\",\n  \"flags\": {}\n}", Format::Flagd),
            ("{\"version\":4,\"features\":[]}", Format::Unleash),
        ] {
            assert_eq!(detect(text), Ok(format), "{text}");
        }
        for text in ["", "\n \n"] {
            assert_eq!(detect(text), Err(EMPTY), "{text:?}");
            let contents = parse(text, Format::Ndjson, None);
            assert_eq!((contents.flags.len(), contents.faults), (0, Vec::new()));
        }
        for text in ["hello", "[]", "{}", "{\"flags\":", "name\nA\n", "%PDF-1.7", "{]"] {
            assert_eq!(detect(text), Err(UNKNOWN), "{text}");
        }
    }

    #[test]
    fn the_mark_of_a_spreadsheet_is_no_part_of_the_first_name() {
        let contents = parse("\u{feff}key\na\n", Format::Auto, None);
        assert_eq!((contents.flags.len(), contents.faults), (1, Vec::new()));
    }

    #[test]
    fn an_environment_is_asked_of_unleash_alone() {
        assert_eq!(parse("key\na\n", Format::Auto, Some("production")).faults.len(), 1);
    }

    const ALL: [Format; 5] = [Format::Auto, Format::Csv, Format::Ndjson, Format::Flagd, Format::Unleash];

    /// What may stand in files of these formats, cut anywhere and put together anyhow.
    fn shards() -> impl Strategy<Value = String> {
        let shard = prop_oneof![
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
        prop::collection::vec(shard, 0..8).prop_map(|shards| shards.concat())
    }

    proptest! {
        #[test]
        fn nothing_that_a_file_holds_makes_it_panic(text in prop_oneof![shards(), any::<String>()]) {
            for format in ALL {
                parse(&text, format, None);
                parse(&text, format, Some("e"));
            }
        }
    }
}

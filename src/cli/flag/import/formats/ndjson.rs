//! NDJSON: one flag a line, as `flag export` and `flag list --output json` write it. Every field but the key may be missing.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{FileFormat, FileStart};
use crate::cli::flag::import::imported::{FlagCollector, FlagFields, ImportedFlags, ParseErrors};

pub(super) const FORMAT: FileFormat = FileFormat {
    name: "ndjson",
    help: "One JSON object a line, as flag export writes it",
    detect: |start: &FileStart<'_>| start.is_json && start.has_field("key"),
    selects_environments: false,
    is_csv: false,
    parse: |text, _| parse(text),
};

/// A line of the file. An unknown field is an error: it may be a misspelled one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    environment: Option<String>,
    name: Option<String>,
    description: Option<String>,
    status: Option<String>,
    archived: Option<bool>,
    // Set by the server only, so that an import of them is not expected, and not reported. `id` and `archived_at` tell whether the
    // flag is archived.
    archived_at: Option<Value>,
    id: Option<Value>,
    #[serde(rename = "revision")]
    _revision: Option<IgnoredAny>,
    #[serde(rename = "created_at")]
    _created_at: Option<IgnoredAny>,
    #[serde(rename = "updated_at")]
    _updated_at: Option<IgnoredAny>,
    #[serde(rename = "updated_by")]
    _updated_by: Option<IgnoredAny>,
    #[serde(rename = "last_flip")]
    _last_flip: Option<IgnoredAny>,
}

impl Line {
    /// A line with an id was written by a server, which omits `archived_at` for a flag that is not archived. A line
    /// without one was written by hand, where a missing field means no change.
    fn archived(&self) -> Option<bool> {
        self.archived
            .or_else(|| (self.id.is_some() || self.archived_at.is_some()).then_some(self.archived_at.is_some()))
    }
}

fn parse(text: &str) -> Result<ImportedFlags, ParseErrors> {
    let mut collector = FlagCollector::default();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let location = format!("line {}", index + 1);
        match serde_json::from_str::<Line>(line) {
            Ok(line) => {
                let fields = FlagFields {
                    environment: line.environment.as_deref(),
                    key: &line.key,
                    name: line.name.as_deref(),
                    description: line.description.as_deref(),
                    status: line.status.as_deref().and_then(|word| collector.status(&location, word)),
                    archived: line.archived(),
                };
                if line.archived == Some(false) && line.archived_at.is_some() {
                    collector.error(&location, "archived is false, but archived_at is set; remove one of them");
                }
                collector.add(&location, &fields);
            }
            Err(error) => collector.error(&location, describe(&error)),
        }
    }
    collector.finish()
}

/// The error without its own line number, which is always 1: the parser sees one line at a time.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    format!("{} (column {})", &text[..end], error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::flag::Status;

    #[test]
    fn line_with_id_without_archived_at_is_unarchived() {
        let text = r#"{"id":"7","key":"a","name":"A","description":"","status":"enabled","revision":7,"updated_by":"ann","last_flip":{"revision":7}}
{"id":"8","key":"b","name":"B","description":"x","status":"disabled","archived_at":"2026-01-01T00:00:00Z"}

{"key":"c"}
{"key":"d","archived":true}
"#;
        let imported = parse(text).unwrap();
        assert!(imported.omissions.is_empty(), "what only a server sets is not reported");
        let fields: Vec<_> = imported.flags.iter().map(|f| (f.key.as_str(), f.status, f.archived)).collect();
        assert_eq!(
            fields,
            [
                ("a", Some(Status::Enabled), Some(false)),
                ("b", Some(Status::Disabled), Some(true)),
                ("c", None, None),
                ("d", None, Some(true)),
            ]
        );
    }

    #[test]
    fn every_error_is_reported_with_its_line() {
        let nul = "{\"key\":\"a\",\"name\":\"\\u0000\"}";
        let text = format!(
            "{nul}\n{{\"key\":\"b\",\"colour\":1}}\n{{\"key\":\"c\"\n{{\"key\":\"a\"}}\n{{\"name\":\"\"}}\n7\n{{\"key\":\"e\",\"key\":\"e\"}}\n\
             {{\"key\":\"f\",\"archived\":false,\"archived_at\":\"2026-01-01T00:00:00Z\"}}\n"
        );
        let errors = parse(&text).unwrap_err();
        let lines: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
        assert_eq!(
            lines,
            ["line 1", "line 2", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8"],
            "{errors:?}"
        );
        assert!(errors[0].contains("U+0000") && errors[1].contains("colour"), "{errors:?}");
        assert!(errors[6].contains("duplicate field `key`") && errors[7].contains("archived_at is set"), "{errors:?}");
        assert!(errors[2].contains("column 10") && !errors[2].contains("at line"), "{errors:?}");
    }
}

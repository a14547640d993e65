//! NDJSON: one flag a line, as `flag export` and `flag list --output json` write it, or less of it.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cli::flag::import::imported::{Contents, Raw, status};

/// A field with another name is refused rather than left out without a word.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    name: Option<String>,
    description: Option<String>,
    status: Option<String>,
    archived: Option<bool>,
    archived_at: Option<IgnoredAny>,
    id: Option<IgnoredAny>,
    // The server's own to say.
    #[serde(rename = "revision")]
    _revision: Option<IgnoredAny>,
    #[serde(rename = "created_at")]
    _created_at: Option<IgnoredAny>,
    #[serde(rename = "updated_at")]
    _updated_at: Option<IgnoredAny>,
    #[serde(rename = "updated_by")]
    _updated_by: Option<IgnoredAny>,
}

impl Line {
    /// A flag as a server wrote it, which has an id, leaves `archived_at` out when it is in use. What somebody wrote by
    /// hand leaves out what it says nothing about.
    fn archived(&self) -> Option<bool> {
        self.archived
            .or_else(|| (self.id.is_some() || self.archived_at.is_some()).then_some(self.archived_at.is_some()))
    }
}

pub(super) fn parse(text: &str) -> Contents {
    let mut contents = Contents::default();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("line {}", index + 1);
        match serde_json::from_str::<Line>(line) {
            Ok(line) => {
                let mut fault = |rule| contents.fault(&place, rule);
                let status = line.status.as_deref().and_then(|word| status(word).map_err(&mut fault).ok());
                contents.take(
                    &place,
                    &Raw {
                        key: &line.key,
                        name: line.name.as_deref(),
                        description: line.description.as_deref(),
                        status,
                        archived: line.archived(),
                    },
                );
            }
            Err(error) => contents.fault(&place, without_place(&error)),
        }
    }
    contents
}

/// What it says of the place counts within the line, and would be taken for the line of the file.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    format!("{} (column {})", &text[..end], error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::flag::Status;

    #[test]
    fn a_line_by_a_server_says_that_a_flag_is_in_use_by_saying_nothing() {
        let text = r#"{"id":"7","key":"a","name":"A","description":"","status":"enabled","revision":7,"updated_by":"ann"}
{"id":"8","key":"b","name":"B","description":"x","status":"disabled","archived_at":"2026-01-01T00:00:00Z"}

{"key":"c"}
{"key":"d","archived":true}
"#;
        let contents = parse(text);
        assert_eq!(contents.faults, Vec::<String>::new());
        let told: Vec<_> = contents.flags.iter().map(|f| (f.key.as_str(), f.status, f.archived)).collect();
        assert_eq!(
            told,
            [
                ("a", Some(Status::Enabled), Some(false)),
                ("b", Some(Status::Disabled), Some(true)),
                ("c", None, None),
                ("d", None, Some(true)),
            ]
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_line() {
        let nul = "{\"key\":\"a\",\"name\":\"\\u0000\"}";
        let text = format!(
            "{nul}\n{{\"key\":\"b\",\"colour\":1}}\n{{\"key\":\"c\"\n{{\"key\":\"a\"}}\n{{\"name\":\"\"}}\n7\n"
        );
        let faults = parse(&text).faults;
        let places: Vec<_> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        assert_eq!(places, ["line 1", "line 2", "line 3", "line 4", "line 5", "line 6"], "{faults:?}");
        assert!(faults[0].contains("U+0000") && faults[1].contains("colour"), "{faults:?}");
        assert!(faults[2].contains("column 10") && !faults[2].contains("at line"), "{faults:?}");
    }
}

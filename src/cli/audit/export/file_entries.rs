//! The entries of an exported file, and whether an export can continue it.

use std::io::{self, BufRead};

use uuid::Uuid;

use super::Format;
use super::record::{self, RecordedEntry};
use crate::api::pb::{AuditLog, ListAuditLogsRequest};
use crate::cli::output::CsvCells;
use crate::domain::{Hash, Revision};
use crate::verify::{LineEnd, read_line};

/// The position of an entry: its log, revision and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::audit) struct EntryPosition {
    pub log_id: Uuid,
    pub revision: Revision,
    pub hash: Hash,
}

impl EntryPosition {
    /// The position that a server gives for an entry.
    pub fn new(log_id: &str, entry: &AuditLog) -> Option<Self> {
        let (log_id, hash) = (Uuid::try_parse(log_id).ok()?, entry.hash.as_slice().try_into().ok()?);
        Some(Self { log_id, revision: entry.revision, hash })
    }
}

/// The complete entries of a file. Their hashes are not verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cli::audit) struct FileEntries {
    pub count: u64,
    pub first: Option<Revision>,
    pub last: Option<EntryPosition>,
    /// The size of the complete lines. An incomplete last line is cut off before the export continues.
    pub bytes: u64,
}

/// Why an export cannot continue a file.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli::audit) enum NotContinuable {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("line {1} is not {0} that audit export wrote; name another file or another --format")]
    NotExported(&'static str, u64),
    #[error(
        "line {0} is an entry that the filters leave out; pass the filters of the last export, or name another file"
    )]
    OtherFilters(u64),
    #[error("an older version wrote it with fewer columns; name another file")]
    OlderColumns,
    #[error(
        "line {0} has a cell that a spreadsheet would run as a formula, as written with --raw-cells or by an older version; pass \
             --raw-cells, or name another file"
    )]
    RawCells(u64),
    #[error(
        "line {0} has a cell with a ' before a formula, as written without --raw-cells; omit --raw-cells, or name another file"
    )]
    DefusedCells(u64),
}

impl FileEntries {
    /// Reads a whole file. An export with `filters` is to continue it.
    pub fn read(
        mut file: impl BufRead,
        format: Format,
        cells: CsvCells,
        filters: &ListAuditLogsRequest,
    ) -> Result<Self, NotContinuable> {
        let mut entries = Self::default();
        let (mut line, mut number) = (Vec::new(), 0);
        // The first line with a formula, and the first with a cell that looks defused. A formula shows that the file is raw; a cell
        // that looks defused may be raw as well.
        let (mut formula, mut defused) = (None, None);
        let mut other_filters = None;
        let header = record::header(format)?;
        let quote = (format == Format::Csv).then_some(b'"');
        loop {
            number += 1;
            let not_exported = || NotContinuable::NotExported(format.name(), number);
            let end = read_line(&mut file, &mut line, quote)?;
            let expected =
                if entries.bytes < header.len() as u64 { header.clone() } else { entries.next_prefix(format) };
            if end == LineEnd::TooLong {
                return Err(not_exported());
            }
            if end == LineEnd::EndOfFile {
                // An incomplete line must match the start of the line that belongs there.
                let common = expected.len().min(line.len());
                if line[..common] != expected[..common] {
                    return Err(not_exported());
                }
                return match (cells, formula, defused) {
                    (CsvCells::Defused, Some(line), _) => Err(NotContinuable::RawCells(line)),
                    (CsvCells::Raw, None, Some(line)) => Err(NotContinuable::DefusedCells(line)),
                    _ => other_filters.map_or(Ok(entries), |line| Err(NotContinuable::OtherFilters(line))),
                };
            }
            if entries.bytes < header.len() as u64 {
                if line != header {
                    return Err(if record::is_older_header(&line) {
                        NotContinuable::OlderColumns
                    } else {
                        not_exported()
                    });
                }
            } else {
                let RecordedEntry { position, passes, has_formula, has_defused } =
                    record::read(format, cells, &line, filters).ok_or_else(not_exported)?;
                other_filters = other_filters.or((!passes).then_some(number));
                entries.push(position).ok_or_else(not_exported)?;
                formula = formula.or(has_formula.then_some(number));
                defused = defused.or(has_defused.then_some(number));
            }
            entries.bytes += line.len() as u64;
        }
    }

    /// Whether entries are missing between the first and the last.
    pub fn has_holes(&self) -> bool {
        let span = self.first.zip(self.last).map_or(0, |(first, last)| last.revision.abs_diff(first) + 1);
        span != self.count
    }

    /// Adds an entry; `None` if it cannot follow those before it.
    pub fn push(&mut self, entry: EntryPosition) -> Option<()> {
        if self.last.is_some_and(|last| last.log_id != entry.log_id || last.revision >= entry.revision) {
            return None;
        }
        self.count += 1;
        self.first = self.first.or(Some(entry.revision));
        self.last = Some(entry);
        Some(())
    }

    /// The known start of the next entry's line.
    fn next_prefix(&self, format: Format) -> Vec<u8> {
        let log = self.last.map(|last| last.log_id.to_string()).unwrap_or_default();
        match format {
            Format::Ndjson => format!("{{\"log_id\":\"{log}").into_bytes(),
            Format::Csv => log.into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const LOG: &str = "00000000-0000-0000-0000-000000000007";

    /// An entry with every field, and texts that need escaping.
    fn entry(revision: Revision) -> AuditLog {
        AuditLog {
            id: Uuid::from_u128(revision as u128).to_string(),
            revision,
            timestamp: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 1_000 }),
            user_id: Some("u".into()),
            user_email: "ann@example.com".into(),
            token_id: Some("t".into()),
            action_type: "toggle_enabled".into(),
            entity_type: "feature_flag".into(),
            entity_id: Some("e".into()),
            entity_key: "k-1".into(),
            entity_name: "two\nlines, \"quoted\"".into(),
            old_value: Some("x".into()),
            new_value: Some("{\"a\":\"\\n\"}".into()),
            reason: Some("'; DROP TABLE audit_logs; --\r\n".into()),
            request_id: Some("r".into()),
            method: "m".into(),
            peer: Some("p".into()),
            user_agent: Some("\u{85}".into()),
            previous_entity_revision: Some(3),
            reverts: Some("v".into()),
            environment: Some("w".into()),
            hash_version: 1,
            hash: vec![10; 32],
            created_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        }
    }

    fn file_of(log_id: &str, format: Format, revisions: &[Revision]) -> Vec<u8> {
        let mut file = record::header(format).unwrap();
        revisions.iter().for_each(|revision| {
            record::write(format, CsvCells::Raw, log_id, &entry(*revision), &mut file).ok().unwrap()
        });
        file
    }

    fn file(format: Format, revisions: &[Revision]) -> Vec<u8> {
        file_of(LOG, format, revisions)
    }

    #[test]
    fn both_formats_have_exactly_the_fields_of_an_entry() {
        let json: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&file(Format::Ndjson, &[7])).unwrap();
        let csv = file(Format::Csv, &[7]);
        let mut reader = csv::Reader::from_reader(&csv[..]);
        let cells: HashMap<String, String> = reader.deserialize().next().unwrap().unwrap();
        let values = json
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
        assert_eq!(values.collect::<HashMap<_, _>>(), cells);
        assert_eq!((cells.len(), cells["timestamp"].as_str()), (25, "2023-11-14T22:13:20.000001Z"));
        assert_eq!(
            (cells["created_at"].as_str(), cells["hash"].as_str()),
            ("2023-11-14T22:13:20.000000Z", &*"0a".repeat(32))
        );
    }

    #[test]
    fn complete_entries_are_found_wherever_file_is_cut() {
        for format in [Format::Ndjson, Format::Csv] {
            let whole = file(format, &[2, 5, 6]);
            let ends = [file(format, &[2]).len(), file(format, &[2, 5]).len(), whole.len()];
            let header = record::header(format).unwrap().len();
            for cut in 0..=whole.len() {
                let entries = FileEntries::read(&whole[..cut], format, CsvCells::Raw, &Default::default()).unwrap();
                let count = ends.iter().filter(|end| **end <= cut).count();
                let bytes = if count > 0 {
                    ends[count - 1]
                } else if cut >= header {
                    header
                } else {
                    0
                };
                assert_eq!((entries.count, entries.bytes), (count as u64, bytes as u64), "{format:?} cut at {cut}");
                assert_eq!(entries.last.map(|last| last.revision), [2, 5, 6].get(count.wrapping_sub(1)).copied());
                assert_eq!(entries.first, (count > 0).then_some(2));
            }
        }
    }

    #[test]
    fn file_is_continued_as_it_was_written() {
        let read = |texts: &[&str], written: CsvCells, expected: CsvCells| {
            let mut file = record::header(Format::Csv).unwrap();
            for (text, revision) in texts.iter().zip(2..) {
                let entry = AuditLog { reason: Some((*text).to_owned()), ..entry(revision) };
                record::write(Format::Csv, written, LOG, &entry, &mut file).ok().unwrap();
            }
            FileEntries::read(&file[..], Format::Csv, expected, &Default::default())
        };
        let formula = ["plain", "=1+1"];
        let refused = read(&formula, CsvCells::Raw, CsvCells::Defused).unwrap_err();
        assert!(matches!(refused, NotContinuable::RawCells(3)), "{refused}");
        let refused = read(&formula, CsvCells::Defused, CsvCells::Raw).unwrap_err();
        assert!(matches!(refused, NotContinuable::DefusedCells(3)), "{refused}");
        for cells in [CsvCells::Raw, CsvCells::Defused] {
            assert_eq!(read(&formula, cells, cells).unwrap().count, 2);
            // A text that looks defused, before one that shows that it is not.
            assert_eq!(read(&["'=1", "=1+1"], cells, cells).unwrap().count, 2);
        }
    }

    #[test]
    fn file_that_was_not_exported_is_refused() {
        for format in [Format::Ndjson, Format::Csv] {
            let whole = file(format, &[2, 5]);
            let other = if format == Format::Csv { Format::Ndjson } else { Format::Csv };
            let mut others = vec![
                b"hello".to_vec(),
                b"hello\n".to_vec(),
                b"{}\n".to_vec(),
                vec![0; 100],
                [&whole[..], b"hello"].concat(),
                [&whole[..], b"hello\n"].concat(),
                file(other, &[2]),
                file(format, &[5, 2]),
                file(format, &[2, 2]),
            ];
            let header = record::header(format).unwrap().len();
            others.push([&whole[..], &file_of(&LOG.replace('7', "8"), format, &[6])[header..]].concat());
            for file in others {
                let refused = FileEntries::read(&file[..], format, CsvCells::Raw, &Default::default());
                assert!(
                    matches!(refused, Err(NotContinuable::NotExported(..))),
                    "{refused:?}: {}",
                    String::from_utf8_lossy(&file)
                );
            }
        }
    }

    #[test]
    fn file_is_continued_with_the_filters_it_was_written_with() {
        type Filter = fn(&mut ListAuditLogsRequest, String);
        let filters: [(Filter, [&str; 2]); 8] = [
            (|filters, user| filters.user_email = Some(user), ["ANN@example.com", "bob@example.com"]),
            (|filters, kind| filters.entity_type = Some(kind), ["feature_flag", "user"]),
            (|filters, id| filters.entity_id = Some(id), ["e", "f"]),
            (|filters, action| filters.action_type = Some(action), ["toggle_enabled", "toggle_disabled"]),
            (|filters, environment| filters.environment = Some(environment), ["w", "x"]),
            (|filters, key| filters.entity_key = Some(key), ["k-1", "k-"]),
            (|filters, prefix| filters.key_prefix = Some(prefix), ["k-", "k-11"]),
            (
                |filters, action| filters.action_types = vec!["flag_created".into(), action],
                ["toggle_enabled", "toggle_disabled"],
            ),
        ];
        for (format, (set, [same, other])) in
            [Format::Ndjson, Format::Csv].into_iter().flat_map(|f| filters.map(|x| (f, x)))
        {
            let read = |value: &str| {
                let mut filters = ListAuditLogsRequest::default();
                set(&mut filters, value.to_owned());
                FileEntries::read(&file(format, &[1, 2])[..], format, CsvCells::Raw, &filters)
            };
            assert_eq!(read(same).unwrap().count, 2, "{same}");
            let (refused, line) = (read(other).unwrap_err(), if format == Format::Csv { 2 } else { 1 });
            assert!(matches!(refused, NotContinuable::OtherFilters(found) if found == line), "{other}: {refused}");
        }
    }
}

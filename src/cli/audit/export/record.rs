//! Entries as lines of an exported file, with every field that the hash covers, so that the chain can be recomputed from the
//! file alone (`docs/audit-proof.md`).

use csv::{ReaderBuilder, StringRecord, WriterBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::Format;
use super::file_entries::EntryPosition;
use crate::api::pb::AuditLog;
use crate::cli::Failure;
use crate::cli::output::{self, CsvCells, Printable};
use crate::domain::Revision;
use crate::domain::hex::parse_hex;

/// The CSV columns: `log_id`, then the fields of the message `AuditLog`.
const COLUMNS: [&str; 25] = [
    "log_id",
    "id",
    "revision",
    "timestamp",
    "user_id",
    "user_email",
    "token_id",
    "action_type",
    "entity_type",
    "entity_id",
    "entity_key",
    "entity_name",
    "old_value",
    "new_value",
    "reason",
    "request_id",
    "method",
    "peer",
    "user_agent",
    "previous_entity_revision",
    "hash_version",
    "hash",
    "created_at",
    "reverts",
    "environment",
];

/// One line: the log id and the entry.
#[derive(Serialize)]
struct Line<'a, T> {
    log_id: &'a str,
    #[serde(flatten)]
    entry: T,
}

/// Appends an entry as a line. Absent fields are left out in JSON and empty in CSV; an optional field is never empty when
/// present.
pub(super) fn write(
    format: Format,
    csv_cells: CsvCells,
    log_id: &str,
    entry: &AuditLog,
    to: &mut Vec<u8>,
) -> Result<(), Failure> {
    let line = Line { log_id, entry: entry.json() };
    match format {
        Format::Ndjson => {
            to.extend_from_slice(output::to_json(&line)?.as_bytes());
            to.push(b'\n');
        }
        Format::Csv => {
            let fields = serde_json::to_value(&line)?;
            let cell = |name| match fields.get(name) {
                Some(Value::String(text)) => csv_cells.write(text).into_owned(),
                Some(number) => number.to_string(),
                None => String::new(),
            };
            cells(to, COLUMNS.map(cell))?;
        }
    }
    Ok(())
}

/// The first line of a file: the column names in CSV, nothing in NDJSON.
pub(super) fn header(format: Format) -> std::io::Result<Vec<u8>> {
    let mut header = Vec::new();
    if format == Format::Csv {
        cells(&mut header, COLUMNS)?;
    }
    Ok(header)
}

/// Whether this is the first line of a CSV file of an older version, without `environment` or `reverts`.
pub(super) fn is_older_header(line: &[u8]) -> bool {
    [1, 2].into_iter().any(|newer| {
        let mut older = Vec::new();
        cells(&mut older, &COLUMNS[..COLUMNS.len() - newer]).is_ok() && line == older
    })
}

fn cells<I: AsRef<[u8]>>(to: &mut Vec<u8>, cells: impl IntoIterator<Item = I>) -> std::io::Result<()> {
    let mut writer = WriterBuilder::new().from_writer(to);
    writer.write_record(cells)?;
    writer.flush()
}

/// The required fields of a line.
#[derive(Deserialize)]
struct PositionFields {
    log_id: Uuid,
    revision: Revision,
    hash: String,
}

/// A line of a file.
pub(super) struct RecordedEntry {
    pub position: EntryPosition,
    /// Whether a cell is a formula: then the file has raw cells.
    pub has_formula: bool,
    /// Whether a cell looks defused.
    pub has_defused: bool,
}

/// The entry of a line; `None` for any other line.
pub(super) fn read(format: Format, line: &[u8]) -> Option<RecordedEntry> {
    let (mut has_formula, mut has_defused) = (false, false);
    let PositionFields { log_id, revision, hash } = match format {
        Format::Ndjson => serde_json::from_slice(line).ok()?,
        Format::Csv => {
            let mut reader = ReaderBuilder::new().has_headers(false).from_reader(line);
            let cells = reader.records().next()?.ok().filter(|cells| cells.len() == COLUMNS.len())?;
            has_formula = cells.iter().any(output::has_formula);
            has_defused = cells.iter().any(output::has_defused_part);
            cells.deserialize(Some(&StringRecord::from(COLUMNS.to_vec()))).ok()?
        }
    };
    let position = EntryPosition { log_id, revision, hash: parse_hex(&hash)? };
    Some(RecordedEntry { position, has_formula, has_defused })
}

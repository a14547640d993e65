//! Entries as lines of an exported file, with every field that the hash covers, so that the chain can be recomputed from the
//! file alone (`docs/audit-proof.md`).

use csv::{ReaderBuilder, StringRecord, WriterBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::Format;
use super::file_entries::EntryPosition;
use crate::api::pb::{AuditLog, ListAuditLogsRequest};
use crate::cli::Failure;
use crate::cli::output::{self, CsvCells, Printable};
use crate::domain::Revision;
use crate::domain::audit::Action;
use crate::domain::hex::parse_hex;
use crate::domain::state::EnvironmentScope;

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

/// The fields of a line that an export reads. An absent one is empty.
#[derive(Deserialize)]
struct LineFields {
    log_id: Uuid,
    revision: Revision,
    hash: String,
    #[serde(default)]
    user_email: String,
    #[serde(default)]
    entity_type: String,
    #[serde(default)]
    entity_id: String,
    #[serde(default)]
    entity_key: String,
    #[serde(default)]
    action_type: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    environment: String,
}

impl LineFields {
    /// Whether an export with these filters, except those by time, has the entry.
    fn passes(&self, filters: &ListAuditLogsRequest, cells: CsvCells) -> bool {
        let is = |filter: &Option<String>, value: &str| filter.as_deref().is_none_or(|filter| filter == value);
        let is_by = |email: &String| email.eq_ignore_ascii_case(&cells.read(&self.user_email));
        let is_in = |scope: &String| scope == EnvironmentScope::ALL || *scope == self.environment;
        filters.user_email.as_ref().is_none_or(is_by)
            && is(&filters.entity_type, &self.entity_type)
            && is(&filters.entity_id, &self.entity_id)
            && self.has_key(filters, cells)
            && is(&filters.action_type, &self.action_type)
            && (filters.action_types.is_empty() || filters.action_types.contains(&self.action_type))
            && (!filters.without_reason || self.is_flip_without_reason())
            && filters.environment.as_ref().is_none_or(is_in)
    }

    fn has_key(&self, filters: &ListAuditLogsRequest, cells: CsvCells) -> bool {
        let key = cells.read(&self.entity_key);
        filters.entity_key.as_deref().is_none_or(|exact| key == exact)
            && filters.key_prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix))
    }

    fn is_flip_without_reason(&self) -> bool {
        self.reason.is_empty() && Action::parse(&self.action_type).is_some_and(Action::is_flip)
    }
}

/// A line of a file.
pub(super) struct RecordedEntry {
    pub position: EntryPosition,
    /// Whether an export with the same filters has it.
    pub passes: bool,
    /// Whether a cell is a formula: then the file has raw cells.
    pub has_formula: bool,
    /// Whether a cell looks defused.
    pub has_defused: bool,
}

/// The entry of a line; `None` for any other line.
pub(super) fn read(
    format: Format,
    csv_cells: CsvCells,
    line: &[u8],
    filters: &ListAuditLogsRequest,
) -> Option<RecordedEntry> {
    let (mut has_formula, mut has_defused) = (false, false);
    let fields: LineFields = match format {
        Format::Ndjson => serde_json::from_slice(line).ok()?,
        Format::Csv => {
            let mut reader = ReaderBuilder::new().has_headers(false).from_reader(line);
            let cells = reader.records().next()?.ok().filter(|cells| cells.len() == COLUMNS.len())?;
            has_formula = cells.iter().any(output::has_formula);
            has_defused = cells.iter().any(output::has_defused_part);
            cells.deserialize(Some(&StringRecord::from(COLUMNS.to_vec()))).ok()?
        }
    };
    let passes = match format {
        Format::Ndjson => fields.passes(filters, CsvCells::Raw),
        Format::Csv => fields.passes(filters, csv_cells),
    };
    let position = EntryPosition { log_id: fields.log_id, revision: fields.revision, hash: parse_hex(&fields.hash)? };
    Some(RecordedEntry { position, passes, has_formula, has_defused })
}

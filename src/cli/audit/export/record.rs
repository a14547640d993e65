//! An entry as a file holds it: with all that its hash covers, exactly, so that the chain can be recomputed from the file
//! alone (`docs/audit-proof.md`).

use csv::{ReaderBuilder, StringRecord, WriterBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::Format;
use super::held::Cursor;
use crate::api::pb::AuditLog;
use crate::cli::Failure;
use crate::cli::output::{self, Item};
use crate::domain::Revision;
use crate::domain::hash::parse_hex;

/// The columns of CSV: the fields of the message `AuditLog`, in its order, after the id of the log.
const COLUMNS: [&str; 24] = [
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
];

/// One line: an entry as everywhere else, and which log it is of.
#[derive(Serialize)]
struct Line<'a, T> {
    log_id: &'a str,
    #[serde(flatten)]
    entry: T,
}

/// Writes an entry down. What is absent is left out in JSON and empty in CSV, where nothing is lost by it: of the fields
/// that may be absent, no present one is empty.
pub(super) fn write(format: Format, log_id: &str, entry: &AuditLog, to: &mut Vec<u8>) -> Result<(), Failure> {
    let line = Line { log_id, entry: entry.json() };
    match format {
        Format::Ndjson => {
            to.extend_from_slice(output::json(&line)?.as_bytes());
            to.push(b'\n');
        }
        Format::Csv => {
            let fields = serde_json::to_value(&line)?;
            let cell = |name| match fields.get(name) {
                Some(Value::String(text)) => text.clone(),
                Some(number) => number.to_string(),
                None => String::new(),
            };
            cells(to, COLUMNS.map(cell))?;
        }
    }
    Ok(())
}

/// What a file begins with: in CSV, the names of the columns.
pub(super) fn head(format: Format) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    if format == Format::Csv {
        cells(&mut head, COLUMNS)?;
    }
    Ok(head)
}

/// Whether that is what an older version began a CSV file with: `reverts` came last.
pub(super) fn is_older_head(line: &[u8]) -> bool {
    let mut older = Vec::new();
    cells(&mut older, &COLUMNS[..COLUMNS.len() - 1]).is_ok() && line == older
}

fn cells<I: AsRef<[u8]>>(to: &mut Vec<u8>, cells: impl IntoIterator<Item = I>) -> std::io::Result<()> {
    let mut writer = WriterBuilder::new().from_writer(to);
    writer.write_record(cells)?;
    writer.flush()
}

/// What must be in a line, and tells where in which log it stands.
#[derive(Deserialize)]
struct Place {
    log_id: Uuid,
    revision: Revision,
    hash: String,
}

/// Where in which log a line stands; nothing for what is no line of ours.
pub(super) fn read(format: Format, line: &[u8]) -> Option<Cursor> {
    let Place { log_id, revision, hash } = match format {
        Format::Ndjson => serde_json::from_slice(line).ok()?,
        Format::Csv => {
            let mut reader = ReaderBuilder::new().has_headers(false).from_reader(line);
            let cells = reader.records().next()?.ok().filter(|cells| cells.len() == COLUMNS.len())?;
            cells.deserialize(Some(&StringRecord::from(COLUMNS.to_vec()))).ok()?
        }
    };
    Some(Cursor { log_id, revision, hash: parse_hex(&hash)? })
}

//! `toggled audit export`: writes the log to a file, which a later run continues.

mod file_entries;
mod record;
mod target;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{Args, ValueEnum};
pub(super) use file_entries::FileEntries;
use indicatif::ProgressBar;
use serde::Serialize;
pub(super) use target::ExportTarget;

use super::filters::{Filters, move_cursor, stream_request};
use crate::api::pb::{StreamAuditLogsRequest, StreamAuditLogsResponse};
use crate::cli::output::{self, CellOptions, OutputOptions};
use crate::cli::remote::{ConnectionOptions, ServiceClients, StreamOptions};
use crate::cli::{Failure, progress};
use crate::domain::Revision;
use crate::domain::state::EnvironmentScope;

/// Arguments of `toggled audit export`.
#[derive(Args)]
#[command(mut_arg("output", |arg| arg.help("The format of the summary on standard error")))]
// A variable that is meant for the commands on flags would leave a gap in the archive.
#[command(mut_arg("environment", |arg| arg.env(Resettable::Reset).help("Only entries about this environment, by its key; \"-\", the default: the whole log, \
which alone can be verified")))]
pub(super) struct AuditExportArgs {
    /// Write to this file. One that holds part of the log is continued after its last complete entry. Default: standard
    /// output
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    /// The format of the file
    #[arg(long, value_enum, default_value = "ndjson")]
    format: Format,
    /// Start after this revision; only for a file without entries
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<Revision>,
    #[command(flatten)]
    cells: CellOptions,
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// The format of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One JSON object per line
    Ndjson,
    /// Comma-separated columns, with their names in the first line
    Csv,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "NDJSON",
            Self::Csv => "CSV",
        }
    }
}

impl AuditExportArgs {
    pub async fn run(self) -> Result<(), Failure> {
        // A progress bar would mix with entries on the same terminal.
        let is_bar_hidden = self.output_file.is_none() && io::stdout().is_terminal();
        let cells = self.cells.cells(self.format == Format::Csv)?;
        let filtered = self.filters.any();
        let client = self.connection.connect().await?;
        let list = self.filters.list_request(&client, Some(EnvironmentScope::All)).await?;
        let mut target = ExportTarget::open(self.output_file, self.format, cells, &list)?;
        if target.entries().has_holes() && !filtered {
            return Err(Failure::usage(format!(
                "{}: entries are missing in it, as after an export with filters; pass the same filters, or name another file",
                target.name()
            )));
        }
        if self.after.is_some() && target.entries().last.is_some() {
            let name = target.name();
            return Err(Failure::usage(format!(
                "--after needs a file without entries, and {name} holds some; omit --after or name another file"
            )));
        }
        let mut request = StreamAuditLogsRequest { after_revision: self.after, ..stream_request(&list) };
        if let Some(last) = target.entries().last {
            request.after_revision = Some(last.revision);
            request.log_id = Some(last.log_id.to_string());
            request.after_hash = Some(last.hash.to_vec());
        }
        let bar = if is_bar_hidden { ProgressBar::hidden() } else { progress::bar(0, "revisions") };
        bar.set_position(request.after_revision.unwrap_or_default().unsigned_abs());
        bar.reset_eta();
        let cursor_origin = target.entries().last.map(|_| target.name());
        let mut last = None;
        let take = |request: &mut StreamAuditLogsRequest, message: StreamAuditLogsResponse| {
            target.write(&message)?;
            bar.set_length(message.head_revision.unsigned_abs());
            bar.set_position(message.through_revision.unsigned_abs());
            move_cursor(request, &message);
            last = Some(StreamAuditLogsResponse { items: Vec::new(), ..message });
            Ok(())
        };
        let reading = StreamOptions { endless: false, cursor_origin };
        let open = async |clients: &mut ServiceClients, request| clients.audit.stream_audit_logs(request).await;
        let exported = client.follow_stream(request, reading, open, take).await;
        bar.finish_and_clear();
        let synced = target.finish();
        exported.and(synced)?;
        last.map_or(Ok(()), |message| print(self.output, target.entries(), filtered, &message))
    }
}

#[derive(Serialize)]
struct Summary<'a> {
    entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_revision: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_revision: Option<Revision>,
    log_id: &'a str,
    filtered: bool,
    through_revision: Revision,
    through_hash: &'a str,
}

/// Prints a summary of the file to standard error; standard output may be the file.
fn print(
    output: OutputOptions,
    file: &FileEntries,
    filtered: bool,
    message: &StreamAuditLogsResponse,
) -> Result<(), Failure> {
    let (first_revision, last_revision) = (file.first, file.last.map(|last| last.revision));
    let (entries, log_id, through_revision) = (file.count, &message.log_id, message.through_revision);
    let through_hash = &hex::encode(&message.through_hash);
    if output.format == output::OutputFormat::Json {
        let summary =
            Summary { entries, first_revision, last_revision, log_id, filtered, through_revision, through_hash };
        output::print_note(&output::to_json(&summary)?);
        return Ok(());
    }
    let range = first_revision.zip(last_revision).map(|(first, last)| format!(", revisions {first}..{last}"));
    let range = range.unwrap_or_default();
    let filtered = if filtered { ", filtered and so not verifiable" } else { "" };
    output::print_note(&format!(
        "entries {entries}{range} of log {log_id}{filtered}, through {through_revision}:{through_hash}"
    ));
    Ok(())
}

//! `toggled audit trim`: exports the oldest entries to a file, verifies the file, and only then removes them from the log.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::checkpoint::verified_checkpoint;
use super::export::{ExportTarget, FileEntries, Format};
use super::filters::{move_cursor, whole_log};
use super::list::newest;
use crate::api::pb::*;
use crate::cli::output::{self, CsvCells, OutputOptions};
use crate::cli::remote::{ApiClient, ConnectionOptions, ServiceClients, StreamOptions, request_id};
use crate::cli::time_argument::{self, DayBoundary};
use crate::cli::{EXIT_FAILURE, Failure, file, progress};
use crate::domain::audit::{Action, Entry, LogStart};
use crate::domain::hash::GENESIS;
use crate::domain::hex::hex_digits;
use crate::domain::{Hash, Revision};
use crate::verify::{ArchiveError, Chain, Start, Verified, find_in_archive};

/// Arguments of `toggled audit trim`.
#[derive(Args)]
#[command(mut_arg("output", |arg| arg.help("The format of the summary")))]
pub(super) struct TrimArgs {
    /// Trim entries before this revision or time: 2026-01-31T12:00:00Z, 2026-01-31 (its start in UTC: that day is kept), or 90d
    /// for 90 days ago
    #[arg(long, value_name = "REVISION|TIME", value_parser = before)]
    before: Before,
    /// Write the entries to this NDJSON file; a file that holds earlier entries is continued. A signed checkpoint is
    /// written to FILE.checkpoint
    #[arg(long, value_name = "FILE")]
    output_file: PathBuf,
    /// Remove the entries from the log for good. Without it, the file and its checkpoint are written, and the log stays as it
    /// is
    #[arg(long)]
    remove: bool,
    /// A reason for the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Debug, Clone, Copy)]
enum Before {
    Revision(Revision),
    Time(prost_types::Timestamp),
}

fn before(text: &str) -> Result<Before, String> {
    match text.parse() {
        Ok(revision) if revision >= 1 => Ok(Before::Revision(revision)),
        Ok(_) => Err("a revision is at least 1".to_owned()),
        Err(_) => time_argument::parse(text, DayBoundary::Start, Timestamp::now()).map(Before::Time),
    }
}

/// What was removed, or would be.
#[derive(Serialize)]
struct Summary {
    removed: bool,
    entries: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_revision: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_revision: Option<Revision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_id: Option<Uuid>,
    oldest_revision: Revision,
}

impl TrimArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let mut target = ExportTarget::open(
            Some(self.output_file.clone()),
            Format::Ndjson,
            CsvCells::Defused,
            &ListAuditLogsRequest::default(),
        )?;
        if target.entries().has_holes() {
            let name = target.name();
            return Err(Failure::usage(format!("{name}: entries are missing in it; name another file")));
        }
        let client = self.connection.connect().await?;
        let log = log_start(&client).await?;
        let last = last_to_remove(&client, self.before).await?;
        if last <= log.floor {
            return print(self.output, &nothing_to_remove(log));
        }
        let path = &self.output_file;
        let verified = verify_file(path, target.entries(), log, last)?.map(|(verified, _)| verified);
        let exported = export(&client, &mut target, verified, log, last).await;
        let synced = target.finish();
        exported.and(synced)?;
        // Read from disk again: only what was verified there is removed from the log.
        let Some((verified, Some(hash))) = verify_file(path, target.entries(), log, last)? else {
            return Err(failed(format!("{}: revision {last} is missing in it; nothing was removed", target.name())));
        };
        let log_id = verified.log_id;
        save_checkpoint(&client, path, log_id, last, hash).await?;
        let oldest = if self.remove { self.remove(&client, last, hash).await? } else { log.floor + 1 };
        let summary = Summary {
            removed: self.remove,
            entries: last - log.floor,
            first_revision: Some(log.floor + 1),
            last_revision: Some(last),
            last_hash: Some(hex_digits(&hash)),
            log_id: Some(log_id),
            oldest_revision: oldest,
        };
        print(self.output, &summary)
    }

    async fn remove(&self, client: &ApiClient, last: Revision, hash: Hash) -> Result<Revision, Failure> {
        let request = TrimAuditLogsRequest {
            through_revision: last,
            through_hash: hash.to_vec(),
            reason: self.reason.clone(),
            request_id: request_id(),
            validate_only: false,
        };
        let trim = async |clients: &mut ServiceClients, request| clients.audit.trim_audit_logs(request).await;
        Ok(client.call(request, trim).await?.oldest_revision)
    }
}

/// The start of the log, from its newest `log_trimmed` entry.
async fn log_start(client: &ApiClient) -> Result<LogStart, Failure> {
    let trims = ListAuditLogsRequest {
        action_type: Some(Action::LogTrimmed.as_str().to_owned()),
        environment: whole_log(),
        ..Default::default()
    };
    let (trims, _) = newest(client, trims, 1).await?;
    let Some(trim) = trims.first() else { return Ok(LogStart { floor: 0, hash: GENESIS }) };
    let start = trim.new_value.as_deref().and_then(LogStart::from_json);
    start.ok_or_else(|| {
        failed(format!(
            "the log_trimmed entry at revision {} does not say at which revision the log begins; run toggled audit verify",
            trim.revision
        ))
    })
}

/// The revision of the last entry to remove; 0 for none.
async fn last_to_remove(client: &ApiClient, before: Before) -> Result<Revision, Failure> {
    let time = match before {
        Before::Revision(revision) => return Ok(revision - 1),
        Before::Time(time) => time,
    };
    // `to_date` is inclusive, so it is one microsecond earlier: the log has times in microseconds.
    let earlier = match time.nanos {
        0 => prost_types::Timestamp { seconds: time.seconds - 1, nanos: 999_999_000 },
        nanos => prost_types::Timestamp { nanos: nanos - 1_000, ..time },
    };
    let older = ListAuditLogsRequest { to_date: Some(earlier), environment: whole_log(), ..Default::default() };
    let (older, _) = newest(client, older, 1).await?;
    Ok(older.first().map_or(0, |last| last.revision))
}

/// Verifies the complete lines of the file, which must start where the log does or with revision 1. Returns the hash at
/// `last` too, if the file holds it.
fn verify_file(
    path: &Path,
    entries: &FileEntries,
    log: LogStart,
    last: Revision,
) -> Result<Option<(Verified, Option<Hash>)>, Failure> {
    let name = path.display().to_string();
    let Some((first, end)) = entries.first.zip(entries.last) else { return Ok(None) };
    let start = match first {
        first if first == log.floor + 1 => Start::After(log.floor, log.hash),
        1 => Start::After(0, GENESIS),
        first => {
            return Err(Failure::usage(format!(
                "{name}: it begins with revision {first}, but the log with {}; name another file",
                log.floor + 1
            )));
        }
    };
    let file = File::open(path).map_err(|error| file::io_failure(&name, &error))?;
    let (report, hash) =
        find_in_archive(file.take(entries.bytes), end.log_id, start, last).map_err(|error| match error {
            ArchiveError::Io(error) => file::io_failure(&name, &error),
            error => failed(format!("{name}: {error}")),
        })?;
    match report.fault {
        None => Ok(Some((report.verified, hash))),
        Some(fault) => Err(failed(format!("{name}: not intact: {fault}; name another file"))),
    }
}

/// Appends the entries up to `last` to the file, and verifies each before it is written. `verified` is what the file has already.
async fn export(
    client: &ApiClient,
    target: &mut ExportTarget,
    verified: Option<Verified>,
    log: LogStart,
    last: Revision,
) -> Result<(), Failure> {
    let (from, hash) = verified.map_or((log.floor, log.hash), |file| (file.last, file.hash));
    if from >= last {
        return Ok(());
    }
    let mut end = from;
    let request = StreamAuditLogsRequest {
        after_revision: Some(from),
        after_hash: Some(hash.to_vec()),
        log_id: verified.map(|file| file.log_id.to_string()),
        limit: Some(last - from),
        environment: whole_log(),
        ..Default::default()
    };
    let bar = progress::bar((last - from).unsigned_abs(), "revisions");
    let cursor_origin = target.entries().last.map(|_| target.name());
    let mut chain = verified.map(|file| Chain::after(file.log_id, file.last, file.hash));
    let take = |request: &mut StreamAuditLogsRequest, message: StreamAuditLogsResponse| {
        let chain = match &mut chain {
            Some(chain) => chain,
            none => none.insert(Chain::after(Uuid::try_parse(&message.log_id)?, log.floor, log.hash)),
        };
        for item in &message.items {
            let entry = Entry::try_from(item);
            let entry = entry.map_err(|field| failed(format!("revision {}: invalid {field}", item.revision)))?;
            chain.push(&entry).map_err(|fault| failed(format!("the log is not intact: {fault}")))?;
        }
        target.write(&message)?;
        move_cursor(request, &message);
        end = message.through_revision;
        // At least 1, for a stream that breaks right after the last entry; 0 would be refused.
        request.limit = Some((last - end).max(1));
        bar.set_position((end - from).unsigned_abs());
        Ok(())
    };
    let open = async |clients: &mut ServiceClients, request| clients.audit.stream_audit_logs(request).await;
    let read = client.follow_stream(request, StreamOptions { endless: false, cursor_origin }, open, take).await;
    bar.finish_and_clear();
    read?;
    if end < last {
        return Err(Failure::usage(format!(
            "--before: revision {last} is beyond the end of the log; use at most {}",
            end + 1
        )));
    }
    Ok(())
}

/// Gets a signed checkpoint at `last` and writes it beside the file.
async fn save_checkpoint(
    client: &ApiClient,
    path: &Path,
    log_id: Uuid,
    last: Revision,
    hash: Hash,
) -> Result<(), Failure> {
    let request = GetAuditCheckpointRequest { revision: Some(last) };
    let sign = async |clients: &mut ServiceClients, request| clients.audit.get_audit_checkpoint(request).await;
    let answer = client.call(request, sign).await.map_err(|failure| {
        let message = format!("nothing was removed: the server signed no checkpoint: {}", failure.message);
        Failure { message, ..failure }
    })?;
    let (checkpoint, signed) = verified_checkpoint(&answer, Some(last))?;
    if (signed.checkpoint.log_id, signed.checkpoint.hash) != (log_id, hash) {
        return Err(failed(format!(
            "nothing was removed: the server signed another hash than the log has at revision {last}; run toggled audit verify"
        )));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".checkpoint");
    let beside = Path::new(&beside);
    file::replace_file(beside, checkpoint.note.as_bytes())
        .map_err(|error| file::io_failure(&beside.display().to_string(), &error))
}

fn nothing_to_remove(log: LogStart) -> Summary {
    Summary {
        removed: false,
        entries: 0,
        first_revision: None,
        last_revision: None,
        last_hash: None,
        log_id: None,
        oldest_revision: log.floor + 1,
    }
}

fn failed(message: String) -> Failure {
    Failure { code: EXIT_FAILURE, message }
}

fn print(output: OutputOptions, summary: &Summary) -> Result<(), Failure> {
    if output.format == output::OutputFormat::Json {
        return output::print_line(&output::to_json(summary)?);
    }
    let Summary { removed, entries, oldest_revision, .. } = summary;
    let Some((first, last)) = summary.first_revision.zip(summary.last_revision) else {
        return output::print_line(&format!("nothing to remove: the log begins with revision {oldest_revision}"));
    };
    let log = summary.log_id.map(|id| format!(" of log {id}")).unwrap_or_default();
    let range = format!("entries {entries}, revisions {first}..{last}{log}");
    output::print_line(&if *removed {
        format!("removed: {range}; the log begins with revision {oldest_revision} now")
    } else {
        format!("would be removed with --remove: {range}")
    })
}

//! `toggled audit trim`: the oldest part of the log into a file that is verified, and only then out of the log.

mod archive;

use std::path::{Path, PathBuf};

use archive::{failed, verify};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::checkpoint::signed;
use super::export::{Format, Held, Target};
use super::filters::advance;
use super::list::newest;
use crate::api::pb::*;
use crate::cli::output::{self, Output};
use crate::cli::remote::{Caller, Clients, Reading, Remote, request_id};
use crate::cli::when::{self, End};
use crate::cli::{Failure, file, progress};
use crate::domain::audit::{Action, Entry, LogStart};
use crate::domain::hash::GENESIS;
use crate::domain::{Hash, Revision};
use crate::verify::Chain;

/// Arguments of `toggled audit trim`.
#[derive(Args)]
pub(super) struct Trim {
    /// Up to where: before this revision, or before this time: 2026-01-31T12:00:00Z, 2026-01-31 (UTC), or 90d for ninety
    /// days ago
    #[arg(long, value_name = "REVISION|TIME", value_parser = before)]
    before: Before,
    /// The file that keeps what is removed, as NDJSON; one that holds the part before is gone on with. What the server has
    /// signed of it goes into FILE.checkpoint
    #[arg(long, value_name = "FILE")]
    output_file: PathBuf,
    /// Remove it from the log for good; without this, only say what would be removed
    #[arg(long)]
    remove: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    output: Output,
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
        Err(_) => when::parse(text, End::From, Timestamp::now()).map(Before::Time),
    }
}

/// What is to be removed, and what became of it.
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

impl Trim {
    pub async fn run(self) -> Result<(), Failure> {
        let mut target = Target::open(Some(self.output_file.clone()), Format::Ndjson)?;
        if target.held().has_holes() {
            let name = target.name();
            return Err(Failure::usage(format!("{name}: entries are missing in it; name another file")));
        }
        let remote = self.caller.connect().await?;
        let log = beginning(&remote).await?;
        let last = last(&remote, self.before).await?;
        if last <= log.floor {
            return tell(self.output, &nothing(log));
        }
        let path = &self.output_file;
        let held = verified(path, target.held(), log, last)?;
        let kept = keep(&remote, &mut target, held.chain, log, last).await;
        let synced = target.finish();
        kept.and(synced)?;
        // From the disk, not from memory: what is removed is what was read here.
        let archive = verified(path, target.held(), log, last)?;
        let (Some(chain), Some(hash)) = (archive.chain, archive.wanted) else {
            return Err(failed(format!("{}: revision {last} is not in it", target.name())));
        };
        let log_id = chain.log_id();
        keep_checkpoint(&remote, path, log_id, last, hash).await?;
        let oldest = if self.remove { self.remove(&remote, last, hash).await? } else { log.floor + 1 };
        let summary = Summary {
            removed: self.remove,
            entries: last - log.floor,
            first_revision: Some(log.floor + 1),
            last_revision: Some(last),
            last_hash: Some(output::hex(&hash)),
            log_id: Some(log_id),
            oldest_revision: oldest,
        };
        tell(self.output, &summary)
    }

    async fn remove(&self, remote: &Remote, last: Revision, hash: Hash) -> Result<Revision, Failure> {
        let request = TrimAuditLogsRequest {
            through_revision: last,
            through_hash: hash.to_vec(),
            reason: self.reason.clone(),
            request_id: request_id(),
            validate_only: false,
        };
        let trim = async |clients: &mut Clients, request| clients.audit.trim_audit_logs(request).await;
        Ok(remote.retrying(request, trim).await?.oldest_revision)
    }
}

/// Where the log begins, by its newest entry that tells it.
async fn beginning(remote: &Remote) -> Result<LogStart, Failure> {
    let trims =
        ListAuditLogsRequest { action_type: Some(Action::LogTrimmed.as_str().to_owned()), ..Default::default() };
    let (trims, _) = newest(remote, trims, 1).await?;
    let Some(trim) = trims.first() else { return Ok(LogStart { floor: 0, hash: GENESIS }) };
    let told = trim.new_value.as_deref().and_then(LogStart::from_json);
    told.ok_or_else(|| failed(format!("the entry at revision {} does not tell where the log begins", trim.revision)))
}

/// The last entry to remove; 0 for none.
async fn last(remote: &Remote, before: Before) -> Result<Revision, Failure> {
    let time = match before {
        Before::Revision(revision) => return Ok(revision - 1),
        Before::Time(time) => time,
    };
    // The log knows microseconds, and its `to_date` is included.
    let earlier = match time.nanos {
        0 => prost_types::Timestamp { seconds: time.seconds - 1, nanos: 999_999_000 },
        nanos => prost_types::Timestamp { nanos: nanos - 1_000, ..time },
    };
    let older = ListAuditLogsRequest { to_date: Some(earlier), ..Default::default() };
    let (older, _) = newest(remote, older, 1).await?;
    Ok(older.first().map_or(0, |last| last.revision))
}

fn verified(path: &Path, held: &Held, log: LogStart, last: Revision) -> Result<archive::Archive, Failure> {
    match held.last {
        Some(_) => verify(path, held.bytes, log, last),
        None => Ok(archive::Archive { chain: None, wanted: None }),
    }
}

/// Writes down what the file does not hold yet, up to the entry at `last`, and verifies it as it comes.
async fn keep(
    remote: &Remote,
    target: &mut Target,
    mut chain: Option<Chain>,
    log: LogStart,
    last: Revision,
) -> Result<(), Failure> {
    let (from, hash) = chain.map_or((log.floor, log.hash), |chain| (chain.revision(), chain.hash()));
    if from >= last {
        return Ok(());
    }
    let mut end = from;
    let request = StreamAuditLogsRequest {
        after_revision: Some(from),
        after_hash: Some(hash.to_vec()),
        log_id: chain.map(|chain| chain.log_id().to_string()),
        limit: Some(last - from),
        ..Default::default()
    };
    let bar = progress::bar((last - from).unsigned_abs(), "revisions");
    let cursor = target.held().last.map(|_| target.name());
    let take = |request: &mut StreamAuditLogsRequest, part: StreamAuditLogsResponse| {
        let chain = match &mut chain {
            Some(chain) => chain,
            none => none.insert(Chain::behind(Uuid::try_parse(&part.log_id)?, log.floor, log.hash)),
        };
        for item in &part.items {
            let entry = Entry::try_from(item);
            let entry = entry.map_err(|field| failed(format!("revision {}: {field} is not valid", item.revision)))?;
            chain.take(&entry).map_err(|fault| failed(format!("the log is not intact: {fault}")))?;
        }
        target.take(&part)?;
        advance(request, &part);
        end = part.through_revision;
        // One more does no harm where the stream broke right behind the last.
        request.limit = Some((last - end).max(1));
        bar.set_position((end - from).unsigned_abs());
        Ok(())
    };
    let open = async |clients: &mut Clients, request| clients.audit.stream_audit_logs(request).await;
    let read = remote.following(request, Reading { endless: false, cursor }, open, take).await;
    bar.finish_and_clear();
    read?;
    if end < last {
        return Err(Failure::usage(format!("--before: revision {last} is beyond the end of the log, {end}")));
    }
    Ok(())
}

/// Has the server sign what the log was at `last`, and keeps that beside the file.
async fn keep_checkpoint(
    remote: &Remote,
    path: &Path,
    log_id: Uuid,
    last: Revision,
    hash: Hash,
) -> Result<(), Failure> {
    let request = GetAuditCheckpointRequest { revision: Some(last) };
    let sign = async |clients: &mut Clients, request| clients.audit.get_audit_checkpoint(request).await;
    let answer = remote.retrying(request, sign).await.map_err(|failure| {
        let line = format!("nothing was removed: the server does not sign what the log was: {}", failure.line);
        Failure { line, ..failure }
    })?;
    let (checkpoint, signed) = signed(&answer, Some(last))?;
    if (signed.checkpoint.log_id, signed.checkpoint.hash) != (log_id, hash) {
        return Err(failed(format!(
            "the server has signed another hash than the log has at revision {last}: nothing is removed"
        )));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".checkpoint");
    let beside = Path::new(&beside);
    file::replace(beside, checkpoint.note.as_bytes())
        .map_err(|error| file::failed(&beside.display().to_string(), &error))
}

fn nothing(log: LogStart) -> Summary {
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

fn tell(output: Output, summary: &Summary) -> Result<(), Failure> {
    if output.output == output::Format::Json {
        return output::line(&output::json(summary)?);
    }
    let Summary { removed, entries, oldest_revision, .. } = summary;
    let Some((first, last)) = summary.first_revision.zip(summary.last_revision) else {
        return output::line(&format!("nothing to remove: the log begins with revision {oldest_revision}"));
    };
    let log = summary.log_id.map(|id| format!(" of log {id}")).unwrap_or_default();
    let range = format!("entries {entries}, revisions {first}..{last}{log}");
    output::line(&if *removed {
        format!("removed: {range}; the log begins with revision {oldest_revision} now")
    } else {
        format!("would be removed with --remove: {range}")
    })
}

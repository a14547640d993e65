//! The log as a stream, beside what the databases' own programs write of the same rows.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use tempfile::TempDir;
use toggled::api::pb::StreamAuditLogsRequest;
use toggled::domain::Revision;
use tokio::process::Command;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::callers::Callers;
use crate::rig::raw::Raw;
use crate::rig::requests::{token, with_token};
use crate::rig::{Rig, Served, fill};

/// What an entry is sent as.
const COLUMNS: &str = "id, revision, timestamp, user_id, user_email, token_id, action_type, entity_type, entity_id, \
    entity_key, entity_name, old_value, new_value, reason, request_id, method, peer, user_agent, \
    previous_entity_revision, reverts, hash_version, hash, created_at";

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    from_postgres(rig, report).await?;
    all_of_it(rig, report).await?;
    from_sqlite(rig, report).await
}

async fn from_postgres(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, streamed) = (rig.scale.rounds, rig.scale.streamed);
    let psql = rig.cluster.program("psql");
    let large = rig.large().await?;
    let what = format!("StreamAuditLogs from PostgreSQL, {streamed} entries");
    let mut row = Row::beside(what, "psql, COPY of the same rows to STDOUT", "/s", Goal::AtLeast(0.3, 0.6));
    for _ in 0..rounds {
        let head = large.callers.flag_1().await?.revision;
        let ours = stream(&large.callers, head - streamed, streamed).await?;
        let copy = format!(
            "COPY (SELECT {COLUMNS} FROM audit_logs WHERE revision > {} ORDER BY revision) TO STDOUT",
            head - streamed
        );
        let mut command = Command::new(&psql);
        command.args(["--no-psqlrc", "--quiet", "--command", &copy, &large.url]);
        row.add(ours, printed(command, streamed).await?);
    }
    report.add(row);
    Ok(())
}

/// Memory while all of the log is streamed.
async fn all_of_it(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let large = rig.large().await?;
    let head = large.callers.flag_1().await?.revision;
    let before = large.server.resident_mib()?;
    let mut looks = Vec::new();
    let streaming = stream(&large.callers, 0, head);
    tokio::pin!(streaming);
    let per_second = loop {
        match tokio::time::timeout(LOOK, &mut streaming).await {
            Ok(streamed) => break streamed?,
            Err(_) => looks.push(large.server.resident_mib()?),
        }
    };
    let most = |looks: &[f64]| looks.iter().copied().fold(before, f64::max);
    let (early, late) = looks.split_at(looks.len() / 4);
    let what = |part: &str| format!("memory: streaming {head} entries, {part}");
    report.add(Row::alone(what("first quarter"), " MiB", Goal::Told).with(most(early)));
    let flat = Goal::AtMost(most(early) + 8.0, most(early));
    report.add(Row::alone(what("the rest"), " MiB", flat).with(most(late)));
    println!("  {per_second:.0} entries a second, {before:.0} MiB before");
    Ok(())
}

async fn from_sqlite(rig: &Rig, report: &mut Report) -> Result<()> {
    let (folder, streamed) = (TempDir::new()?, rig.scale.sqlite_entries);
    let file = folder.path().join("large.db");
    let url = format!("sqlite://{}", file.display());
    Served::start(&rig.current, url.clone()).await?.server.stop().await?;
    fill::fill(&url, streamed + 1).await?;
    let served = Served::start(&rig.current, url).await?;
    let what = format!("StreamAuditLogs from SQLite, {streamed} entries");
    let mut row = Row::beside(what, "the sqlite3 shell, CSV of the same rows", "/s", Goal::AtLeast(0.1, 0.4));
    for _ in 0..rig.scale.rounds {
        let head = served.callers.flag_1().await?.revision;
        let ours = stream(&served.callers, head - streamed, streamed).await?;
        row.add(ours, printed(shell(&file, head - streamed), streamed).await?);
    }
    report.add(row);
    Ok(())
}

fn shell(file: &Path, after: Revision) -> Command {
    let mut command = Command::new("sqlite3");
    let query = format!("SELECT {COLUMNS} FROM audit_logs WHERE revision > {after} ORDER BY revision");
    command.args(["-readonly", "-csv"]).arg(file).arg(query);
    command
}

/// How many rows a second a program prints; nobody reads them.
async fn printed(mut command: Command, rows: Revision) -> Result<f64> {
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).status().await?;
    if !status.success() {
        return Err(format!("{:?} ended with {status}", command.as_std().get_program()).into());
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

/// Streams so many entries after a revision, and all of them; entries a second.
async fn stream(callers: &Callers, after: Revision, entries: Revision) -> Result<f64> {
    let request = StreamAuditLogsRequest { after_revision: Some(after), limit: Some(entries), ..Default::default() };
    let request = with_token(request.encode_to_vec().into(), &token()?);
    let mut client = Grpc::new(callers.channel(0));
    client.ready().await?;
    let began = Instant::now();
    let path = PathAndQuery::from_static("/toggled.v1.AuditService/StreamAuditLogs");
    let mut messages = client.server_streaming(request, path, RawCodec).await?.into_inner();
    let mut received = 0;
    while let Some(message) = messages.message().await? {
        received += count(message, 1)?;
    }
    let length = began.elapsed();
    if received as i64 != entries {
        return Err(format!("{received} entries were streamed, not {entries}").into());
    }
    Ok(entries as f64 / length.as_secs_f64())
}

/// How often a message has a field, by its number.
pub fn count(mut message: Bytes, field: u32) -> Result<usize> {
    let mut count = 0;
    while message.has_remaining() {
        let (tag, wire_type): (u32, WireType) = decode_key(&mut message)?;
        count += usize::from(tag == field);
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
    }
    Ok(count)
}

//! Streams of the log, compared with the databases' own programs that print the same rows.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use toggled::api::pb::StreamAuditLogsRequest;
use toggled::domain::Revision;
use tokio::process::Command;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::callers::Callers;
use crate::rig::raw_codec::RawCodec;
use crate::rig::requests::{token, with_token};

/// Columns that the service sends.
const COLUMNS: &str = "id, revision, timestamp, user_id, user_email, token_id, action_type, entity_type, entity_id, \
    entity_key, entity_name, old_value, new_value, reason, request_id, method, peer, user_agent, \
    previous_entity_revision, reverts, environment, hash_version, hash, created_at";

/// Time between two samples of memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    from_postgres(rig, report).await?;
    memory_of_whole_log(rig, report).await?;
    from_sqlite(rig, report).await
}

async fn from_postgres(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, streamed) = (rig.scale.rounds, rig.scale.streamed);
    let psql = rig.cluster.program("psql");
    let large = rig.large_log().await?;
    let name = format!("StreamAuditLogs from PostgreSQL, {streamed} entries");
    let mut row = Row::compared(name, "psql, COPY of the same rows to STDOUT", "/s", Goal::AtLeast(0.5, 0.8));
    for _ in 0..rounds {
        let head = large.callers.flag_1().await?.revision;
        let service = stream(&large.callers, head - streamed, streamed).await?;
        let copy = format!(
            "COPY (SELECT {COLUMNS} FROM audit_logs WHERE revision > {} ORDER BY revision) TO STDOUT",
            head - streamed
        );
        let mut command = Command::new(&psql);
        command.args(["--no-psqlrc", "--quiet", "--command", &copy, &large.url]);
        row.add(service, rows_per_second(command, streamed).await?);
    }
    report.add(row);
    Ok(())
}

/// Memory while the whole log is streamed.
async fn memory_of_whole_log(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let large = rig.large_log().await?;
    let head = large.callers.flag_1().await?.revision;
    let before = large.server.resident_mib()?;
    let mut samples = Vec::new();
    let streaming = stream(&large.callers, 0, head);
    tokio::pin!(streaming);
    let per_second = loop {
        match tokio::time::timeout(SAMPLE_INTERVAL, &mut streaming).await {
            Ok(streamed) => break streamed?,
            Err(_) => samples.push(large.server.resident_mib()?),
        }
    };
    let most = |samples: &[f64]| samples.iter().copied().fold(before, f64::max);
    let (early, late) = samples.split_at(samples.len() / 4);
    let name = |part: &str| format!("memory: streaming {head} entries, {part}");
    report.add(Row::single(name("first quarter"), " MiB", Goal::Informational).with(most(early)));
    let flat = Goal::AtMost(most(early) + 8.0, most(early));
    report.add(Row::single(name("the rest"), " MiB", flat).with(most(late)));
    println!("  {per_second:.0} entries a second, {before:.0} MiB before");
    Ok(())
}

async fn from_sqlite(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, streamed) = (rig.scale.rounds, rig.scale.sqlite_entries);
    let served = rig.large_sqlite().await?;
    let file = Path::new(served.url.trim_start_matches("sqlite://"));
    let name = format!("StreamAuditLogs from SQLite, {streamed} entries");
    let mut row = Row::compared(name, "the sqlite3 shell, CSV of the same rows", "/s", Goal::AtLeast(0.1, 0.4));
    for _ in 0..rounds {
        let head = served.callers.flag_1().await?.revision;
        let service = stream(&served.callers, head - streamed, streamed).await?;
        row.add(service, rows_per_second(shell(file, head - streamed), streamed).await?);
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

/// Rows per second that a program prints. The output is discarded.
async fn rows_per_second(mut command: Command, rows: Revision) -> Result<f64> {
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).status().await?;
    if !status.success() {
        return Err(format!("{:?} ended with {status}", command.as_std().get_program()).into());
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

/// Streams this many entries after a revision. Returns entries per second. Fails if any are missing.
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
        return Err(format!("streamed {received} entries instead of {entries}").into());
    }
    Ok(entries as f64 / length.as_secs_f64())
}

/// Counts how often a message has the field with this number.
pub fn count(mut message: Bytes, field: u32) -> Result<usize> {
    let mut count = 0;
    while message.has_remaining() {
        let (tag, wire_type): (u32, WireType) = decode_key(&mut message)?;
        count += usize::from(tag == field);
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
    }
    Ok(count)
}

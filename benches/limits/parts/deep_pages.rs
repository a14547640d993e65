//! The far end of a filtered list by page number: what it takes, and what flips keep beside callers who ask for it all the time. The
//! service may refuse such a page, which must then say so at once.

use std::time::{Duration, Instant};

use toggled::api::pb::ListAuditLogsRequest;
use toggled::api::pb::audit_service_client::AuditServiceClient;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::call_load::CallLoad;
use crate::rig::callers::{Callers, join_all};
use crate::rig::requests::{token, with_token};
use crate::stats::percentile;

/// Callers who ask for deep pages beside flips, and each one's pause before it asks again.
const CALLERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(10);

const IN_FLIGHT: usize = 64;

/// Entries of a page.
const LIMIT: i32 = 50;

/// Calls of which the slowest is reported.
const CALLS: usize = 5;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, entries) = (rig.scale.rounds, rig.scale.entries);
    let load = CallLoad::flips(IN_FLIGHT, rig.scale.turn);
    let page = i32::try_from(entries)? / LIMIT;
    let callers = &rig.large_log().await?.callers;
    let mut durations = Vec::new();
    for _ in 0..CALLS {
        let began = Instant::now();
        let is_refused = !ask(&mut client(callers, 0), page).await?;
        durations.push(began.elapsed());
        println!("  page {page} by type: {:?}{}", began.elapsed(), if is_refused { ", refused" } else { "" });
    }
    durations.sort_unstable();
    let name = format!("ListAuditLogs of {entries} entries by type, page {page}, slowest of {CALLS}");
    let slowest = percentile(&durations, 1.0).as_secs_f64() * 1_000.0;
    report.add(Row::single(name, " ms", Goal::AtMost(100.0, 10.0)).with(slowest));
    let name = format!("flips, {IN_FLIGHT} in flight, {CALLERS} callers of that page");
    let mut row = Row::compared(name, "the same without them", "/s", Goal::AtLeast(0.8, 0.9));
    for _ in 0..rounds {
        let alone = callers.flip(&load).await?.per_second;
        let (mut asking, stop) = (JoinSet::new(), CancellationToken::new());
        for caller in 0..CALLERS {
            asking.spawn(ask_until_stopped(client(callers, caller), page, stop.clone()));
        }
        let flips = callers.flip(&load).await?.per_second;
        stop.cancel();
        join_all(asking).await?;
        row.add(flips, alone);
    }
    report.add(row);
    Ok(())
}

fn client(callers: &Callers, number: usize) -> AuditServiceClient<Channel> {
    AuditServiceClient::new(callers.channel(number))
}

/// Asks for a page. Returns whether it was answered; the service may refuse it as invalid, or because too many ask.
async fn ask(client: &mut AuditServiceClient<Channel>, page: i32) -> Result<bool> {
    let request = ListAuditLogsRequest {
        entity_type: Some("feature_flag".to_owned()),
        page: Some(page),
        limit: Some(LIMIT),
        ..Default::default()
    };
    let is_refusal = |status: &Status| matches!(status.code(), Code::InvalidArgument | Code::ResourceExhausted);
    match client.list_audit_logs(with_token(request, &token()?)).await {
        Ok(_) => Ok(true),
        Err(status) if is_refusal(&status) => Ok(false),
        Err(status) => Err(status.into()),
    }
}

async fn ask_until_stopped(mut client: AuditServiceClient<Channel>, page: i32, stop: CancellationToken) -> Result<()> {
    // A question in progress is dropped, as when a caller gives up.
    while let Some(asked) = stop.run_until_cancelled(ask(&mut client, page)).await {
        asked?;
        if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            break;
        }
    }
    Ok(())
}

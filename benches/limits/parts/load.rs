//! Load: a minute of it on a long log, 64 who flip and 4 who read pages, all at once; and more than is taken. Nobody who is
//! let in waits long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use toggled::api::pb::ListAuditLogsRequest;
use toggled::api::pb::audit_service_client::AuditServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::Rig;
use crate::rig::callers::{Callers, all};
use crate::rig::flip_load::FlipLoad;
use crate::rig::requests::{token, with_token};
use crate::rig::server::Server;
use crate::stats::percentile;

const FLIPPING: usize = 64;
const READING: usize = 4;

/// So many flip where only a few changes may wait.
const CROWD: usize = 512;
const ROOM: usize = 64;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    for_a_while(rig, report).await?;
    too_much(rig, report).await
}

async fn for_a_while(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (length, entries) = (rig.scale.load, rig.scale.entries);
    let callers = &rig.large().await?.callers;
    let (over, mut readers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for reader in 0..READING {
        readers.spawn(read_until_over(AuditServiceClient::new(callers.channel(reader)), Arc::clone(&over)));
    }
    let flips = callers.flip(&FlipLoad::of_all_flags(FLIPPING, length)).await?;
    over.store(true, Ordering::Relaxed);
    let mut pages = all(readers).await?.concat();
    pages.sort_unstable();
    println!("  {:.0} flips and {:.0} pages a second", flips.per_second, pages.len() as f64 / length.as_secs_f64());
    let what = |what: &str| format!("{length:?} of load, {entries} entries: {what}, 99.9th percentile");
    let row = |what, lengths: &[Duration], most| {
        Row::alone(what, " s", Goal::AtMost(most, 0.05)).with(percentile(lengths, 0.999).as_secs_f64())
    };
    report.add(row(what("flips"), &flips.durations, 3.0));
    report.add(row(what("pages of the log"), &pages, 2.0));
    Ok(())
}

/// Reads one page after the other: the newest entries, and those further back.
async fn read_until_over(mut client: AuditServiceClient<Channel>, over: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let (token, mut lengths) = (token()?, Vec::new());
    for page in (1..=100).cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let request = ListAuditLogsRequest { page: Some(page), limit: Some(100), ..Default::default() };
        let began = Instant::now();
        client.list_audit_logs(with_token(request, &token)).await?;
        lengths.push(began.elapsed());
    }
    Ok(lengths)
}

/// What is turned away is turned away at once, so that those who are let in do not wait for it.
async fn too_much(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let served = rig.on_postgres("crowded").await?;
    served.server.stop().await?;
    let server = Server::start_with_max_queue(&rig.current, &served.url, ROOM).await?;
    let callers = Callers::connect(server.address).await?;
    let flips = callers.flip_with_refusals(&FlipLoad::of_all_flags(CROWD, rig.scale.turn * 2)).await?;
    println!("  {} flips were let in, {} turned away", flips.succeeded, flips.refused);
    if flips.refused == 0 {
        return Err("nobody was turned away: that was not too much".into());
    }
    let what = format!("{CROWD} flip where {ROOM} may wait: those let in, 99.9th percentile");
    report.add(Row::alone(what, " s", Goal::AtMost(3.0, 0.5)).with(percentile(&flips.durations, 0.999).as_secs_f64()));
    Ok(())
}

//! Load: flips and reads of pages together on a long log, and more flips than the queue holds. Accepted calls must not wait
//! long.

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
use crate::rig::call_load::CallLoad;
use crate::rig::callers::{Callers, join_all};
use crate::rig::requests::{token, with_token};
use crate::rig::server::Server;
use crate::stats::percentile;

const FLIPS_IN_FLIGHT: usize = 64;
const READERS: usize = 4;

/// Flips in flight that overload a server whose queue holds [`MAX_QUEUE`] changes.
const OVERLOAD: usize = 512;
const MAX_QUEUE: usize = 64;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    sustained_load(rig, report).await?;
    overload(rig, report).await
}

async fn sustained_load(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (length, entries) = (rig.scale.load, rig.scale.entries);
    let callers = &rig.large_log().await?.callers;
    let (over, mut readers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    for reader in 0..READERS {
        readers.spawn(read_until_over(AuditServiceClient::new(callers.channel(reader)), Arc::clone(&over)));
    }
    let flips = callers.flip(&CallLoad::flips(FLIPS_IN_FLIGHT, length)).await?;
    over.store(true, Ordering::Relaxed);
    let mut pages = join_all(readers).await?.concat();
    pages.sort_unstable();
    println!("  {:.0} flips and {:.0} pages a second", flips.per_second, pages.len() as f64 / length.as_secs_f64());
    let name = |subject: &str| format!("{length:?} of load, {entries} entries: {subject}, 99.9th percentile");
    let row = |name, durations: &[Duration], most| {
        Row::single(name, " s", Goal::AtMost(most, 0.05)).with(percentile(durations, 0.999).as_secs_f64())
    };
    report.add(row(name("flips"), &flips.durations, 3.0));
    report.add(row(name("pages of the log"), &pages, 2.0));
    Ok(())
}

/// Reads pages 1 to 100 repeatedly until `over` is set.
async fn read_until_over(mut client: AuditServiceClient<Channel>, over: Arc<AtomicBool>) -> Result<Vec<Duration>> {
    let (token, mut durations) = (token()?, Vec::new());
    for page in (1..=100).cycle() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let request = ListAuditLogsRequest { page: Some(page), limit: Some(100), ..Default::default() };
        let began = Instant::now();
        client.list_audit_logs(with_token(request, &token)).await?;
        durations.push(began.elapsed());
    }
    Ok(durations)
}

/// A refusal must be immediate, so that accepted flips do not wait for it.
async fn overload(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let served = rig.new_on_postgres("crowded").await?;
    served.server.stop().await?;
    let server = Server::start_with_max_queue(&rig.current, &served.url, MAX_QUEUE).await?;
    let callers = Callers::connect(server.address).await?;
    let flips = callers.flip_with_refusals(&CallLoad::flips(OVERLOAD, rig.scale.turn * 2)).await?;
    println!("  {} flips accepted, {} refused", flips.succeeded, flips.refused);
    if flips.refused == 0 {
        return Err("no flip was refused; the load is too small for this machine".into());
    }
    let name = format!("{OVERLOAD} flips in flight, queue of {MAX_QUEUE}: accepted flips, 99.9th percentile");
    report.add(Row::single(name, " s", Goal::AtMost(3.0, 0.5)).with(percentile(&flips.durations, 0.999).as_secs_f64()));
    Ok(())
}

//! PageReader of the log: their duration must not grow with the log.

use std::time::{Duration, Instant};

use toggled::api::pb::audit_service_client::AuditServiceClient;
use toggled::api::pb::{ListAuditLogsRequest, StreamAuditLogsRequest};
use toggled::domain::Revision;
use tonic::transport::Channel;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::callers::Callers;
use crate::rig::requests::{token, with_token};
use crate::rig::{Deployment, Rig, fill};
use crate::stats::percentile;

/// Calls with a filter. The slowest is reported.
const FILTERED: usize = 10;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    page_1_of_long_log(rig, report).await?;
    far_page(rig, report).await?;
    filtered(rig, report).await
}

/// Page 1 with its total, of a long log compared with a short one.
async fn page_1_of_long_log(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, calls, entries, few) = (rig.scale.rounds, rig.scale.calls, rig.scale.entries, rig.scale.few_entries);
    let small = rig.new_on_postgres("small").await?;
    small.server.stop().await?;
    fill::fill(&small.url, few).await?;
    rig.cluster.vacuum_and_checkpoint(&small.url).await?;
    let served = Deployment::start(&rig.current, small.url).await?;
    let small = PageReader::of(&served.callers, few).await?;
    let large = PageReader::of(&rig.large_log().await?.callers, entries).await?;
    let against = format!("the same of {few} entries");
    for (filter, dates) in [("no filter", false), ("dates only", true)] {
        let name = format!("ListAuditLogs, page 1 of {entries} entries, {filter}");
        let mut row = Row::compared(name, &against, " ms", Goal::AtMost(1.5, 1.1));
        for _ in 0..rounds {
            let [of_large, of_small] = [&large, &small].map(|pages| pages.page_1(dates));
            row.add(large.median_ms(&of_large, calls).await?, small.median_ms(&of_small, calls).await?);
        }
        report.add(row);
    }
    Ok(())
}

/// A far page compared with page 1.
async fn far_page(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, calls, page, entries) = (rig.scale.rounds, rig.scale.calls, rig.scale.far_page, rig.scale.entries);
    let pages = PageReader::of(&rig.large_log().await?.callers, entries).await?;
    let mut row = Row::compared(format!("ListAuditLogs, page {page} of 100"), "page 1", " ms", Goal::AtMost(1.5, 1.1));
    let of = |page| ListAuditLogsRequest { page: Some(page), limit: Some(100), ..Default::default() };
    for _ in 0..rounds {
        row.add(pages.median_ms(&of(page), calls).await?, pages.median_ms(&of(1), calls).await?);
    }
    report.add(row);
    Ok(())
}

/// Page 1 with its total, of a filtered log.
async fn filtered(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let entries = rig.scale.entries;
    let callers = &rig.large_log().await?.callers;
    let flag = callers.flag_1().await?.feature_flag.ok_or("flag-1 does not exist")?;
    let filters = [
        ("user", ListAuditLogsRequest { user_email: Some(fill::email(3)), ..Default::default() }),
        (
            "entity",
            ListAuditLogsRequest {
                entity_type: Some("feature_flag".to_owned()),
                entity_id: Some(flag.id),
                ..Default::default()
            },
        ),
        ("action", ListAuditLogsRequest { action_type: Some("toggle_enabled".to_owned()), ..Default::default() }),
    ];
    let pages = PageReader::of(callers, entries).await?;
    for (filter, request) in filters {
        let durations = pages.durations(&request, FILTERED).await?;
        let name = format!("ListAuditLogs of {entries} entries by {filter}, slowest of {FILTERED}");
        report.add(Row::single(name, " s", Goal::AtMost(2.0, 0.2)).with(percentile(&durations, 1.0).as_secs_f64()));
    }
    Ok(())
}

/// Reads pages. The dates are the timestamps at one quarter and three quarters of the log.
struct PageReader {
    client: AuditServiceClient<Channel>,
    dates: [prost_types::Timestamp; 2],
}

impl PageReader {
    async fn of(callers: &Callers, entries: Revision) -> Result<Self> {
        let mut client = AuditServiceClient::new(callers.channel(0));
        let dates = [time_of(&mut client, entries / 4).await?, time_of(&mut client, entries * 3 / 4).await?];
        Ok(Self { client, dates })
    }

    fn page_1(&self, dates: bool) -> ListAuditLogsRequest {
        let [from, to] = self.dates.map(|date| Some(date).filter(|_| dates));
        ListAuditLogsRequest { from_date: from, to_date: to, limit: Some(100), ..Default::default() }
    }

    async fn median_ms(&self, request: &ListAuditLogsRequest, calls: usize) -> Result<f64> {
        Ok(percentile(&self.durations(request, calls).await?, 0.5).as_secs_f64() * 1_000.0)
    }

    /// Durations of consecutive calls, shortest first. Fails unless every page is full.
    async fn durations(&self, request: &ListAuditLogsRequest, calls: usize) -> Result<Vec<Duration>> {
        let (mut client, token, mut durations) = (self.client.clone(), token()?, Vec::new());
        for _ in 0..calls {
            let began = Instant::now();
            let page = client.list_audit_logs(with_token(request.clone(), &token)).await?.into_inner();
            durations.push(began.elapsed());
            if page.items.len() != usize::try_from(request.limit.unwrap_or(50))? || page.total.is_none() {
                return Err(format!("a page has {} entries and the total {:?}", page.items.len(), page.total).into());
            }
        }
        durations.sort_unstable();
        Ok(durations)
    }
}

async fn time_of(client: &mut AuditServiceClient<Channel>, revision: Revision) -> Result<prost_types::Timestamp> {
    let request = StreamAuditLogsRequest { after_revision: Some(revision), limit: Some(1), ..Default::default() };
    let mut stream = client.stream_audit_logs(with_token(request, &token()?)).await?.into_inner();
    let entry = stream.message().await?.and_then(|message| message.items.into_iter().next());
    Ok(entry.and_then(|entry| entry.timestamp).ok_or("an entry has no timestamp")?)
}

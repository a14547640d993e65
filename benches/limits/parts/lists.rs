//! Pages of the log: they take no longer where it is long.

use std::time::{Duration, Instant};

use toggled::api::pb::audit_service_client::AuditServiceClient;
use toggled::api::pb::{ListAuditLogsRequest, StreamAuditLogsRequest};
use toggled::domain::Revision;
use tonic::transport::Channel;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::callers::Callers;
use crate::rig::requests::{token, with_token};
use crate::rig::{Rig, Served, fill};
use crate::stats::percentile;

/// Calls with a filter, of which the slowest counts.
const FILTERED: usize = 10;

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    grown(rig, report).await?;
    far(rig, report).await?;
    filtered(rig, report).await
}

/// Page 1 with its total, of a long log and of a short one.
async fn grown(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, calls, entries, few) = (rig.scale.rounds, rig.scale.calls, rig.scale.entries, rig.scale.few_entries);
    let small = rig.on_postgres("small").await?;
    small.server.stop().await?;
    fill::fill(&small.url, few).await?;
    rig.cluster.settle(&small.url).await?;
    let served = Served::start(&rig.current, small.url).await?;
    let small = Pages::of(&served.callers, few).await?;
    let large = Pages::of(&rig.large().await?.callers, entries).await?;
    let against = format!("the same of {few} entries");
    for (what, dates) in [("no filter", false), ("dates only", true)] {
        let what = format!("ListAuditLogs, page 1 of {entries} entries, {what}");
        let mut row = Row::beside(what, &against, " ms", Goal::AtMost(1.5, 1.1));
        for _ in 0..rounds {
            let [ours, theirs] = [&large, &small].map(|pages| pages.page_1(dates));
            row.add(large.median_ms(&ours, calls).await?, small.median_ms(&theirs, calls).await?);
        }
        report.add(row);
    }
    Ok(())
}

/// A page far back.
async fn far(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (rounds, calls, page, entries) = (rig.scale.rounds, rig.scale.calls, rig.scale.far_page, rig.scale.entries);
    let pages = Pages::of(&rig.large().await?.callers, entries).await?;
    let mut row = Row::beside(format!("ListAuditLogs, page {page} of 100"), "page 1", " ms", Goal::AtMost(1.5, 1.1));
    let of = |page| ListAuditLogsRequest { page: Some(page), limit: Some(100), ..Default::default() };
    for _ in 0..rounds {
        row.add(pages.median_ms(&of(page), calls).await?, pages.median_ms(&of(1), calls).await?);
    }
    report.add(row);
    Ok(())
}

/// Page 1 with its total, counted.
async fn filtered(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let entries = rig.scale.entries;
    let callers = &rig.large().await?.callers;
    let flag = callers.flag_1().await?.feature_flag.ok_or("there is no flag-1")?;
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
    let pages = Pages::of(callers, entries).await?;
    for (what, request) in filters {
        let lengths = pages.lengths(&request, FILTERED).await?;
        let what = format!("ListAuditLogs of {entries} entries by {what}, slowest of {FILTERED}");
        report.add(Row::alone(what, " s", Goal::AtMost(2.0, 0.2)).with(percentile(&lengths, 1.0).as_secs_f64()));
    }
    Ok(())
}

/// Who asks for pages, and two moments in the log, a quarter of it from its ends.
struct Pages {
    client: AuditServiceClient<Channel>,
    dates: [prost_types::Timestamp; 2],
}

impl Pages {
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
        Ok(percentile(&self.lengths(request, calls).await?, 0.5).as_secs_f64() * 1_000.0)
    }

    /// How long calls take, one after the other, shortest first. Every page is full.
    async fn lengths(&self, request: &ListAuditLogsRequest, calls: usize) -> Result<Vec<Duration>> {
        let (mut client, token, mut lengths) = (self.client.clone(), token()?, Vec::new());
        for _ in 0..calls {
            let began = Instant::now();
            let page = client.list_audit_logs(with_token(request.clone(), &token)).await?.into_inner();
            lengths.push(began.elapsed());
            if page.items.len() != usize::try_from(request.limit.unwrap_or(50))? || page.total.is_none() {
                return Err(format!("a page of {} entries, of {:?}", page.items.len(), page.total).into());
            }
        }
        lengths.sort_unstable();
        Ok(lengths)
    }
}

async fn time_of(client: &mut AuditServiceClient<Channel>, revision: Revision) -> Result<prost_types::Timestamp> {
    let request = StreamAuditLogsRequest { after_revision: Some(revision), limit: Some(1), ..Default::default() };
    let mut stream = client.stream_audit_logs(with_token(request, &token()?)).await?.into_inner();
    let entry = stream.message().await?.and_then(|message| message.items.into_iter().next());
    Ok(entry.and_then(|entry| entry.timestamp).ok_or("an entry has no time")?)
}

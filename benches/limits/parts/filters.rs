//! Lists of a long log by two filters at once, on both databases: each pair must be answered from an index, whether it matches many
//! entries, few or none.

use std::time::{Duration, Instant};

use toggled::api::pb::ListAuditLogsRequest;
use toggled::api::pb::audit_service_client::AuditServiceClient;
use tonic::transport::Channel;

use crate::Result;
use crate::report::{Goal, Report, Row};
use crate::rig::callers::Callers;
use crate::rig::requests::{token, with_token};
use crate::rig::{Rig, fill};

/// Calls of each pair. The slowest counts.
const CALLS: usize = 3;

/// A pair that takes longer than this is not asked again.
const SLOW: Duration = Duration::from_secs(1);

/// Sets one filter.
type Filter = fn(&mut ListAuditLogsRequest, flag_id: &str);

/// Filters, by the field that they set. Users flip all flags in turn; only the administrator has created flags, and no one else has made
/// any change.
const FILTERS: [(&str, &str, Filter); 7] = [
    ("user", "a user", |request, _| request.user_email = Some(fill::email(3))),
    ("user", "a user without entries", |request, _| request.user_email = Some("nobody@example.com".to_owned())),
    ("entity", "a flag", |request, flag_id| {
        request.entity_type = Some("feature_flag".to_owned());
        request.entity_id = Some(flag_id.to_owned());
    }),
    ("entity", "users", |request, _| request.entity_type = Some("user".to_owned())),
    ("action", "toggle_enabled", |request, _| request.action_type = Some("toggle_enabled".to_owned())),
    ("action", "flag_created", |request, _| request.action_type = Some("flag_created".to_owned())),
    ("action", "token_revoked", |request, _| request.action_type = Some("token_revoked".to_owned())),
];

pub async fn measure(rig: &mut Rig, report: &mut Report) -> Result<()> {
    let (entries, sqlite_entries) = (rig.scale.entries, rig.scale.sqlite_entries);
    let row = slowest_pair(&rig.large_log().await?.callers, &format!("{entries} entries on PostgreSQL")).await?;
    report.add(row);
    let row = slowest_pair(&rig.large_sqlite().await?.callers, &format!("{sqlite_entries} entries on SQLite")).await?;
    report.add(row);
    Ok(())
}

async fn slowest_pair(callers: &Callers, log: &str) -> Result<Row> {
    let mut client = AuditServiceClient::new(callers.channel(0));
    let flag = callers.flag_1().await?.feature_flag.ok_or("flag-1 does not exist")?;
    let mut slowest = Duration::ZERO;
    for (index, (field, name, filter)) in FILTERS.iter().enumerate() {
        for (other_field, other_name, other) in &FILTERS[index + 1..] {
            if field == other_field {
                continue;
            }
            let mut request = ListAuditLogsRequest::default();
            filter(&mut request, &flag.id);
            other(&mut request, &flag.id);
            let took = slowest_call(&mut client, &request).await?;
            println!("  {log} by {name} and {other_name}: {took:?}");
            slowest = slowest.max(took);
        }
    }
    let name = format!("ListAuditLogs of {log} by two filters, slowest pair");
    Ok(Row::single(name, " ms", Goal::AtMost(50.0, 20.0)).with(slowest.as_secs_f64() * 1_000.0))
}

async fn slowest_call(client: &mut AuditServiceClient<Channel>, request: &ListAuditLogsRequest) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    for _ in 0..CALLS {
        let began = Instant::now();
        client.list_audit_logs(with_token(request.clone(), &token()?)).await?;
        slowest = slowest.max(began.elapsed());
        if slowest > SLOW {
            break;
        }
    }
    Ok(slowest)
}

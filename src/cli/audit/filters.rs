//! Which entries of the log a command is about.

use clap::Args;
use jiff::Timestamp;
use uuid::Uuid;

use crate::api::pb::*;
use crate::cli::Failure;
use crate::cli::remote::Remote;
use crate::cli::when::{self, End};

/// Which entries; all that are given apply.
#[derive(Args)]
pub(in crate::cli) struct Filters {
    /// Only what this user did: their e-mail address
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// Only what was done to the flag with this key
    #[arg(long, value_name = "KEY", conflicts_with_all = ["entity_id", "entity_type"])]
    flag: Option<String>,
    /// Only what was done to this object: a flag's, user's or token's id
    #[arg(long, value_name = "UUID")]
    entity_id: Option<Uuid>,
    /// Only what was done to this kind of object: feature_flag, user, api_token or log
    #[arg(long, value_name = "TYPE")]
    entity_type: Option<String>,
    /// Only this kind of change: toggle_enabled, toggle_disabled, flag_created, access_denied, ...
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Nothing before this time: 2026-01-31T12:00:00Z, 2026-01-31 (UTC), or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = from)]
    from: Option<prost_types::Timestamp>,
    /// Nothing after this time; a date alone is all of that day
    #[arg(long, value_name = "TIME", value_parser = to)]
    to: Option<prost_types::Timestamp>,
}

fn from(text: &str) -> Result<prost_types::Timestamp, String> {
    when::parse(text, End::From, Timestamp::now())
}

fn to(text: &str) -> Result<prost_types::Timestamp, String> {
    when::parse(text, End::To, Timestamp::now())
}

impl Filters {
    /// Whether any is given.
    pub fn any(&self) -> bool {
        let Self { user, flag, entity_id, entity_type, action, from, to } = self;
        let texts = [user, flag, entity_type, action];
        texts.into_iter().any(Option::is_some) || entity_id.is_some() || from.is_some() || to.is_some()
    }

    /// A request for pages of the log, without a page yet.
    pub async fn list(self, remote: &Remote) -> Result<ListAuditLogsRequest, Failure> {
        let place = |time: prost_types::Timestamp| (time.seconds, time.nanos);
        if self.from.map(place).zip(self.to.map(place)).is_some_and(|(from, to)| from > to) {
            return Err(Failure::usage("--from is after --to: nothing is from then"));
        }
        let entity_id = self.entity(remote).await?;
        Ok(ListAuditLogsRequest {
            user_email: self.user,
            entity_type: self.entity_type,
            entity_id,
            action_type: self.action,
            from_date: self.from,
            to_date: self.to,
            ..Default::default()
        })
    }

    /// The id of the object, if there is to be but one: a flag is asked for by its key.
    async fn entity(&self, remote: &Remote) -> Result<Option<String>, Failure> {
        let Some(key) = &self.flag else { return Ok(self.entity_id.map(|id| id.to_string())) };
        let flag = Some(get_feature_flag_request::Flag::Key(key.clone()));
        let request = GetFeatureFlagRequest { flag, ..Default::default() };
        let answer =
            remote.retrying(request, async |clients, request| clients.toggle.get_feature_flag(request).await).await?;
        Ok(answer.feature_flag.map(|flag| flag.id))
    }
}

/// The same entries, as a stream.
pub(in crate::cli) fn stream(list: &ListAuditLogsRequest) -> StreamAuditLogsRequest {
    let list = list.clone();
    StreamAuditLogsRequest {
        user_email: list.user_email,
        entity_type: list.entity_type,
        entity_id: list.entity_id,
        action_type: list.action_type,
        from_date: list.from_date,
        to_date: list.to_date,
        ..Default::default()
    }
}

/// Moves the cursor of a stream behind a part of it.
pub(in crate::cli) fn advance(request: &mut StreamAuditLogsRequest, part: &StreamAuditLogsResponse) {
    request.after_revision = Some(part.through_revision);
    request.after_hash = Some(part.through_hash.clone());
    request.log_id = Some(part.log_id.clone());
}

//! The filters that select entries of the log.

use clap::Args;
use jiff::Timestamp;
use uuid::Uuid;

use crate::api::pb::*;
use crate::cli::remote::{ApiClient, EnvironmentOption};
use crate::cli::time_argument::{self, DayBoundary};
use crate::cli::{EXIT_DENIED, EXIT_NOT_FOUND, Failure, parse_uuid};
use crate::config::suggestion;
use crate::domain::audit::{Action, EntityType};
use crate::domain::error::list_of;
use crate::domain::state::EnvironmentScope;

/// Filters; an entry must pass all that are given.
#[derive(Args)]
pub(in crate::cli) struct Filters {
    /// Only changes by the user with this e-mail address
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// Only changes to the flag with this key; if several environments have it, name one with --environment
    #[arg(long, value_name = "KEY", conflicts_with_all = ["entity_id", "entity_type"])]
    flag: Option<String>,
    /// Only entries about objects with this key: a flag's or environment's key, a user's e-mail address, a token's id
    #[arg(long, value_name = "KEY", value_parser = key, conflicts_with_all = ["key_prefix", "flag"])]
    key: Option<String>,
    /// Only entries about objects whose key begins with this
    #[arg(long, value_name = "PREFIX", value_parser = key, conflicts_with = "flag")]
    key_prefix: Option<String>,
    /// Only changes to the flag, environment, user or token with this id
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    entity_id: Option<Uuid>,
    #[arg(long, value_name = "TYPE", help = one_of("Only changes to this kind of object", EntityType::ALL, EntityType::as_str))]
    entity_type: Option<String>,
    #[arg(long = "action", value_name = "ACTION", help = one_of("Only this kind of change; repeat it for several", Action::ALL, Action::as_str))]
    actions: Vec<String>,
    /// Only flips for which no reason was given
    #[arg(long)]
    without_reason: bool,
    /// Only entries from this time on: 2026-01-31T12:00:00Z, 2026-01-31 (its start in UTC), or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = from)]
    from: Option<prost_types::Timestamp>,
    /// Only entries up to this time; a date includes the whole day (UTC)
    #[arg(long, value_name = "TIME", value_parser = to)]
    to: Option<prost_types::Timestamp>,
    #[command(flatten)]
    environment: EnvironmentOption,
}

/// The help of `--environment` for reads of the log.
pub(super) const ENVIRONMENT_HELP: &str = "Only entries about this environment, by its key; \"-\" for the whole log. Default: the token's own; else the whole log";

/// How wrong this machine's clock may be, in seconds. Only a time that is further in the past has passed for certain; for any other,
/// the server is asked.
const MAX_CLOCK_ERROR: i64 = 24 * 60 * 60;

/// The help of an option with this meaning and these values.
fn one_of<T: Copy>(meaning: &str, values: &[T], name: fn(T) -> &'static str) -> String {
    let names: Vec<_> = values.iter().copied().map(name).collect();
    format!("{meaning}: {}", names.join(", "))
}

/// A key, or its beginning, of the length that the server accepts.
fn key(text: &str) -> Result<String, &'static str> {
    if (1..=1_024).contains(&text.len()) { Ok(text.to_owned()) } else { Err("must be 1 to 1,024 bytes") }
}

fn from(text: &str) -> Result<prost_types::Timestamp, String> {
    time_argument::parse(text, DayBoundary::Start, Timestamp::now())
}

fn to(text: &str) -> Result<prost_types::Timestamp, String> {
    time_argument::parse(text, DayBoundary::End, Timestamp::now())
}

impl Filters {
    /// Whether any is given.
    pub fn any(&self) -> bool {
        let Self {
            user,
            flag,
            key,
            key_prefix,
            entity_id,
            entity_type,
            actions,
            without_reason,
            from,
            to,
            environment,
        } = self;
        let texts = [user, flag, key, key_prefix, entity_type];
        let is_about_changes = !actions.is_empty() || *without_reason;
        let is_of_one = environment.named().is_some_and(|named| *named != EnvironmentScope::All);
        texts.into_iter().any(Option::is_some)
            || entity_id.is_some()
            || from.is_some()
            || to.is_some()
            || is_of_one
            || is_about_changes
    }

    /// The value of `--to`, which may be in the future.
    pub fn end(&self) -> Option<prost_types::Timestamp> {
        self.to
    }

    /// The request for the first page. A `--to` in the future means the end of the log. Without `--environment`, it is about
    /// `default_scope`; `None` means that of the credential, or else the whole log.
    pub async fn list_request(
        mut self,
        client: &ApiClient,
        default_scope: Option<EnvironmentScope>,
    ) -> Result<ListAuditLogsRequest, Failure> {
        let order = |time: prost_types::Timestamp| (time.seconds, time.nanos);
        if self.from.map(order).zip(self.to.map(order)).is_some_and(|(from, to)| from > to) {
            return Err(Failure::usage("--from is after --to; swap them"));
        }
        self.environment.set_default(default_scope);
        let flag = match &self.flag {
            Some(key) => Some(self.find_flag(client, key).await?),
            None => None,
        };
        // The log is read as the flag was: a reader of one environment names it.
        let environment = flag.as_ref().map_or_else(|| self.environment.text(), |flag| Some(flag.environment.clone()));
        self.check_names(client, environment.clone()).await?;
        let to_date = match self.to {
            Some(to) => closed_end(client, to, environment.clone()).await?,
            None => None,
        };
        let entity_id = flag.map(|flag| flag.id).or(self.entity_id.map(|id| id.to_string()));
        Ok(ListAuditLogsRequest {
            user_email: self.user,
            entity_type: self.entity_type,
            entity_id,
            entity_key: self.key,
            key_prefix: self.key_prefix,
            action_types: self.actions,
            without_reason: self.without_reason,
            from_date: self.from,
            to_date,
            environment,
            ..Default::default()
        })
    }

    /// Refuses names of which no entry can be: an empty list would say that nothing happened.
    async fn check_names(&self, client: &ApiClient, environment: Option<String>) -> Result<(), Failure> {
        for action in &self.actions {
            check_name("--action", Some(action), Action::ALL.iter().map(|action| action.as_str()))?;
        }
        check_name("--entity-type", self.entity_type.as_deref(), EntityType::ALL.iter().map(|kind| kind.as_str()))?;
        let Some(user) = &self.user else { return Ok(()) };
        let request =
            ListAuditLogsRequest { user_email: Some(user.clone()), limit: Some(1), environment, ..Default::default() };
        let answer =
            client.call(request, async |clients, request| clients.audit.list_audit_logs(request).await).await?;
        match answer.items.is_empty() {
            false => Ok(()),
            true => Err(not_found(format!("the log has no entry by {user}; check the address"))),
        }
    }

    /// The flag with this key in the named environment or, if none is named, in the credential's own. Otherwise in the only one that has
    /// it: with several, the entries of one of them would look like all.
    async fn find_flag(&self, client: &ApiClient, key: &str) -> Result<FeatureFlag, Failure> {
        let named = match self.environment.named() {
            Some(EnvironmentScope::One(environment)) => Some(environment.to_string()),
            Some(EnvironmentScope::All) => None,
            None => client.own_environment().await?,
        };
        if named.is_some() {
            return get_flag(client, key, named).await;
        }
        let (mut found, mut missing) = (Vec::new(), None);
        for environment in client.environments(true).await? {
            match get_flag(client, key, Some(environment.key)).await {
                Ok(flag) => found.push(flag),
                Err(failure) if [EXIT_NOT_FOUND, EXIT_DENIED].contains(&failure.code) => {
                    missing = missing.or(Some(failure))
                }
                Err(failure) => return Err(failure),
            }
        }
        let environments = list_of(&found.iter().map(|flag| flag.environment.clone()).collect::<Vec<_>>());
        match (<[FeatureFlag; 1]>::try_from(found), missing) {
            (Ok([flag]), _) => Ok(flag),
            (Err(found), Some(failure)) if found.is_empty() => Err(failure),
            (Err(found), None) if found.is_empty() => get_flag(client, key, None).await,
            (Err(_), _) => Err(Failure::usage(format!(
                "several environments have a flag {key}: name one of them with --environment (-e, TOGGLED_ENVIRONMENT): {environments}"
            ))),
        }
    }
}

/// Refuses a name that is none of these.
fn check_name(
    option: &str,
    name: Option<&str>,
    known: impl Iterator<Item = &'static str> + Clone,
) -> Result<(), Failure> {
    match name {
        Some(name) if !known.clone().any(|known| known == name) => {
            let hint = suggestion::nearest(name, known.clone()).map(|nearest| format!("; did you mean {nearest}?"));
            let all = || format!("; known are {}", known.collect::<Vec<_>>().join(", "));
            Err(not_found(format!("{option}: {name} does not exist{}", hint.unwrap_or_else(all))))
        }
        _ => Ok(()),
    }
}

fn not_found(message: String) -> Failure {
    Failure { code: EXIT_NOT_FOUND, message }
}

async fn get_flag(client: &ApiClient, key: &str, environment: Option<String>) -> Result<FeatureFlag, Failure> {
    let flag = Some(get_feature_flag_request::Flag::Key(key.to_owned()));
    let request = GetFeatureFlagRequest { flag, environment, ..Default::default() };
    let answer = client.call(request, async |clients, request| clients.toggle.get_feature_flag(request).await).await?;
    Ok(answer.feature_flag.unwrap_or_default())
}

/// The end of a period; `None` if it is in the future. The server refuses such an end, and the list has the same entries without it,
/// since the log has none after it yet. The server decides what the future is: this machine's clock may be wrong.
async fn closed_end(
    client: &ApiClient,
    to: prost_types::Timestamp,
    environment: Option<String>,
) -> Result<Option<prost_types::Timestamp>, Failure> {
    if to.seconds < Timestamp::now().as_second() - MAX_CLOCK_ERROR {
        return Ok(Some(to));
    }
    let request = ListAuditLogsRequest { to_date: Some(to), limit: Some(1), environment, ..Default::default() };
    let answer = client.call(request, async |clients, request| clients.audit.list_audit_logs(request).await).await;
    match answer {
        Ok(_) => Ok(Some(to)),
        Err(_) if client.refusal().is_some_and(|refusal| refusal.reason == "INVALID_FIELD") => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The request for a stream of the same entries.
pub(in crate::cli) fn stream_request(list: &ListAuditLogsRequest) -> StreamAuditLogsRequest {
    let list = list.clone();
    StreamAuditLogsRequest {
        user_email: list.user_email,
        entity_type: list.entity_type,
        entity_id: list.entity_id,
        entity_key: list.entity_key,
        key_prefix: list.key_prefix,
        action_type: list.action_type,
        action_types: list.action_types,
        without_reason: list.without_reason,
        from_date: list.from_date,
        to_date: list.to_date,
        environment: list.environment,
        ..Default::default()
    }
}

/// What requests carry that are about the whole log, whichever environment is the credential's own.
pub(in crate::cli) fn whole_log() -> Option<String> {
    Some(EnvironmentScope::ALL.to_owned())
}

/// Moves the cursor of the request after a message of the stream.
pub(in crate::cli) fn move_cursor(request: &mut StreamAuditLogsRequest, message: &StreamAuditLogsResponse) {
    request.after_revision = Some(message.through_revision);
    request.after_hash = Some(message.through_hash.clone());
    request.log_id = Some(message.log_id.clone());
}

//! Changes to a flag. Each command makes one idempotency key, so that a repeated call changes the flag once.

use clap::Args;
use prost_types::FieldMask;
use uuid::Uuid;

use super::selector::FlagSelector;
use crate::api::pb::*;
use crate::cli::output::OutputOptions;
use crate::cli::remote::{ApiClient, ConnectionOptions, SingleEnvironmentOption, request_id};
use crate::cli::{EXIT_UNAVAILABLE, Failure, parse_uuid};

/// The options of every command that changes flags or environments.
#[derive(Args)]
pub(in crate::cli) struct ChangeOptions {
    /// The reason for the change, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Check the change and show its result, but do not make it
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub connection: ConnectionOptions,
    #[command(flatten)]
    pub output: OutputOptions,
}

/// The options of every command that makes one change.
#[derive(Args)]
pub(in crate::cli) struct SingleChangeOptions {
    #[command(flatten)]
    pub change: ChangeOptions,
    /// The idempotency key of the change; default: a new one. If a command's outcome is unknown, repeat it with the same key
    /// within 24 hours: the change is made at most once
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
}

impl SingleChangeOptions {
    /// The idempotency key of the command.
    pub fn request_id(&self) -> Option<String> {
        self.request_id.clone().or_else(request_id)
    }

    /// Adds to the failure how to find out the outcome, if the change may have been made.
    pub fn failure(&self, client: &ApiClient, request_id: Option<&str>, failure: Failure) -> Failure {
        let request_id = request_id.filter(|_| client.has_lost_answer() && !self.change.dry_run);
        let Some(id) = request_id.filter(|_| failure.code == EXIT_UNAVAILABLE) else { return failure };
        let message =
            format!("{}; the change may have been made: repeat the command with --request-id {id}", failure.message);
        Failure { message, ..failure }
    }
}

/// The option for a condition on the object that is changed.
#[derive(Args)]
pub(in crate::cli) struct RevisionCondition {
    /// Make the change only if the flag is at this revision, so that no other change is overwritten
    #[arg(long, value_name = "N")]
    pub expected_revision: Option<i64>,
}

/// Builds a request for a change: its own fields, and the reason, the idempotency key and the dry run that every change
/// has. Without `$dry_run` the change is made.
macro_rules! change_request {
    ($reason:expr, $request:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $crate::cli::flag::change::change_request!($reason, false, $request { $($field $(: $value)?),* })
    };
    ($reason:expr, $dry_run:expr, $request:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $request {
            $($field $(: $value)?,)*
            reason: $reason.into(),
            request_id: $crate::cli::remote::request_id(),
            validate_only: $dry_run,
        }
    };
}
pub(in crate::cli) use change_request;

/// Makes one change, and returns the answer.
macro_rules! make_change {
    ($options:expr, $service:ident . $method:ident, $request:ident $fields:tt) => {{
        let options: &$crate::cli::flag::change::SingleChangeOptions = $options;
        let client = options.change.connection.connect().await?;
        let (reason, dry_run) = (options.change.reason.as_str(), options.change.dry_run);
        let id = options.request_id();
        let request = $request {
            request_id: id.clone(),
            ..$crate::cli::flag::change::change_request!(reason, dry_run, $request $fields)
        };
        let answer = client.call(request, async |clients, request| clients.$service.$method(request).await).await;
        answer.map_err(|failure| options.failure(&client, id.as_deref(), failure))?
    }};
}
pub(in crate::cli) use make_change;

/// Makes a change to one flag, and prints its result.
macro_rules! change_flag {
    ($options:expr, $method:ident, $request:ident $fields:tt) => {{
        let options = $options;
        let answer = $crate::cli::flag::change::make_change!(&options, toggle.$method, $request $fields);
        let options = options.change;
        options.output.print_all(&[$crate::cli::output::ChangeResult {
            flag: answer.feature_flag,
            audit_log: answer.audit_log,
            revision: answer.revision,
            dry_run: options.dry_run,
        }])
    }};
}
pub(super) use change_flag;

/// Arguments of `toggled flag create`.
#[derive(Args)]
pub(super) struct CreateArgs {
    /// The key, by which code reads the flag; it cannot be changed later
    key: String,
    /// The name for people; by default the key
    #[arg(long)]
    name: Option<String>,
    /// What the flag is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Create the flag enabled
    #[arg(long)]
    enabled: bool,
    #[command(flatten)]
    environment: SingleEnvironmentOption,
    #[command(flatten)]
    options: SingleChangeOptions,
}

impl CreateArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let status = if self.enabled { FeatureFlagStatus::Enabled } else { FeatureFlagStatus::Disabled };
        change_flag!(
            self.options,
            create_feature_flag,
            CreateFeatureFlagRequest {
                name: self.name.unwrap_or_else(|| self.key.clone()),
                key: self.key,
                description: self.description,
                status: status.into(),
                environment: self.environment.text(),
            }
        )
    }
}

/// Arguments of the commands that change one flag and need no further arguments.
#[derive(Args)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    flag: FlagSelector,
    #[command(flatten)]
    environment: SingleEnvironmentOption,
    #[command(flatten)]
    condition: RevisionCondition,
    #[command(flatten)]
    options: SingleChangeOptions,
}

impl ChangeArgs {
    pub async fn toggle(self) -> Result<(), Failure> {
        change_flag!(
            self.options,
            toggle_feature_flag,
            ToggleFeatureFlagRequest {
                flag: self.flag.into(),
                expected_revision: self.condition.expected_revision,
                environment: self.environment.text(),
            }
        )
    }

    pub async fn archive(self) -> Result<(), Failure> {
        change_flag!(
            self.options,
            archive_feature_flag,
            ArchiveFeatureFlagRequest {
                flag: self.flag.into(),
                expected_revision: self.condition.expected_revision,
                environment: self.environment.text(),
            }
        )
    }

    pub async fn unarchive(self) -> Result<(), Failure> {
        change_flag!(
            self.options,
            unarchive_feature_flag,
            UnarchiveFeatureFlagRequest {
                flag: self.flag.into(),
                expected_revision: self.condition.expected_revision,
                environment: self.environment.text(),
            }
        )
    }
}

/// Arguments of `toggled flag revert`.
#[derive(Args)]
pub(super) struct RevertArgs {
    /// The id of the flip's entry, as audit list --output json shows it
    #[arg(value_name = "AUDIT_LOG_ID", value_parser = entry_id)]
    audit_log_id: Uuid,
    #[command(flatten)]
    environment: SingleEnvironmentOption,
    #[command(flatten)]
    condition: RevisionCondition,
    #[command(flatten)]
    options: SingleChangeOptions,
}

fn entry_id(text: &str) -> Result<Uuid, String> {
    parse_uuid(text).map_err(|rule| format!("{rule}; take the id from toggled audit list --output json"))
}

impl RevertArgs {
    pub async fn run(self) -> Result<(), Failure> {
        change_flag!(
            self.options,
            revert_feature_flag,
            RevertFeatureFlagRequest {
                audit_log_id: self.audit_log_id.to_string(),
                environment: self.environment.text(),
                expected_revision: self.condition.expected_revision,
            }
        )
    }
}

/// Arguments of `toggled flag update`.
#[derive(Args)]
pub(super) struct UpdateArgs {
    #[command(flatten)]
    flag: FlagSelector,
    #[command(flatten)]
    environment: SingleEnvironmentOption,
    #[command(flatten)]
    new: NewTexts,
    #[command(flatten)]
    condition: RevisionCondition,
    #[command(flatten)]
    options: SingleChangeOptions,
}

/// The new texts, at least one.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct NewTexts {
    /// The new name
    #[arg(long)]
    name: Option<String>,
    /// The new description, which may be empty
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

impl UpdateArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let NewTexts { name, description } = self.new;
        let given = [("name", name.is_some()), ("description", description.is_some())];
        let paths = given.iter().filter(|(_, given)| *given).map(|(field, _)| (*field).to_owned()).collect();
        change_flag!(
            self.options,
            update_feature_flag,
            UpdateFeatureFlagRequest {
                flag: self.flag.into(),
                name: name.unwrap_or_default(),
                description: description.unwrap_or_default(),
                update_mask: Some(FieldMask { paths }),
                expected_revision: self.condition.expected_revision,
                environment: self.environment.text(),
            }
        )
    }
}

//! Changes to flags. Each has a `request_id`, made once a command: asked for again, it happens once.

use clap::Args;
use prost_types::FieldMask;
use uuid::Uuid;

use super::named::Named;
use crate::api::pb::*;
use crate::cli::Failure;
use crate::cli::output::Output;
use crate::cli::remote::Caller;

/// How a change is made, and why.
#[derive(Args)]
pub(super) struct Manner {
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Check and answer as if, but change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub caller: Caller,
    #[command(flatten)]
    pub output: Output,
}

/// A condition on the flag that is changed.
#[derive(Args)]
pub(super) struct Condition {
    /// Change the flag only if this is its revision: nobody else has changed it since
    #[arg(long, value_name = "N")]
    pub expected_revision: Option<i64>,
}

/// Builds a request for a change from its own fields and those that every change has. The idempotency key is made here,
/// once a command, so that a repeated call changes nothing twice. `$dry_run` is false without it.
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
pub(super) use change_request;

/// Makes a change to one flag, and prints its result.
macro_rules! change {
    ($manner:expr, $method:ident, $request:ident $fields:tt) => {{
        let manner = $manner;
        let remote = manner.caller.connect().await?;
        let request = $crate::cli::flag::change::change_request!(manner.reason, manner.dry_run, $request $fields);
        let answer = remote.retrying(request, async |clients, request| clients.toggle.$method(request).await).await?;
        manner.output.all(&[$crate::cli::output::Changed {
            flag: answer.feature_flag,
            audit_log: answer.audit_log,
            revision: answer.revision,
            dry_run: manner.dry_run,
        }])
    }};
}
pub(super) use change;

/// Arguments of `toggled flag create`.
#[derive(Args)]
pub(super) struct Create {
    /// The key that code reads the flag by; it is never changed
    key: String,
    /// What people call it; the key without it
    #[arg(long)]
    name: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Let it start on
    #[arg(long)]
    enabled: bool,
    #[command(flatten)]
    manner: Manner,
}

impl Create {
    pub async fn run(self) -> Result<(), Failure> {
        let status = if self.enabled { FeatureFlagStatus::Enabled } else { FeatureFlagStatus::Disabled };
        change!(
            self.manner,
            create_feature_flag,
            CreateFeatureFlagRequest {
                name: self.name.unwrap_or_else(|| self.key.clone()),
                key: self.key,
                description: self.description,
                status: status.into(),
            }
        )
    }
}

/// Arguments of the commands that change one flag, and need no more than its name for it.
#[derive(Args)]
pub(super) struct One {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    condition: Condition,
    #[command(flatten)]
    manner: Manner,
}

impl One {
    pub async fn toggle(self) -> Result<(), Failure> {
        change!(
            self.manner,
            toggle_feature_flag,
            ToggleFeatureFlagRequest { flag: self.named.into(), expected_revision: self.condition.expected_revision }
        )
    }

    pub async fn archive(self) -> Result<(), Failure> {
        change!(
            self.manner,
            archive_feature_flag,
            ArchiveFeatureFlagRequest { flag: self.named.into(), expected_revision: self.condition.expected_revision }
        )
    }

    pub async fn unarchive(self) -> Result<(), Failure> {
        change!(
            self.manner,
            unarchive_feature_flag,
            UnarchiveFeatureFlagRequest {
                flag: self.named.into(),
                expected_revision: self.condition.expected_revision,
            }
        )
    }
}

/// Arguments of `toggled flag revert`.
#[derive(Args)]
pub(super) struct Revert {
    /// The id of the entry, as audit list --output json tells it
    #[arg(value_name = "AUDIT_LOG_ID")]
    audit_log_id: Uuid,
    #[command(flatten)]
    condition: Condition,
    #[command(flatten)]
    manner: Manner,
}

impl Revert {
    pub async fn run(self) -> Result<(), Failure> {
        change!(
            self.manner,
            revert_feature_flag,
            RevertFeatureFlagRequest {
                audit_log_id: self.audit_log_id.to_string(),
                expected_revision: self.condition.expected_revision,
            }
        )
    }
}

/// Arguments of `toggled flag update`.
#[derive(Args)]
pub(super) struct Update {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    new: New,
    #[command(flatten)]
    condition: Condition,
    #[command(flatten)]
    manner: Manner,
}

/// What to change, one of them at the least.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct New {
    /// The new name
    #[arg(long)]
    name: Option<String>,
    /// The new description; it may be empty
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
}

impl Update {
    pub async fn run(self) -> Result<(), Failure> {
        let New { name, description } = self.new;
        let given = [("name", name.is_some()), ("description", description.is_some())];
        let paths = given.iter().filter(|(_, given)| *given).map(|(field, _)| (*field).to_owned()).collect();
        change!(
            self.manner,
            update_feature_flag,
            UpdateFeatureFlagRequest {
                flag: self.named.into(),
                name: name.unwrap_or_default(),
                description: description.unwrap_or_default(),
                update_mask: Some(FieldMask { paths }),
                expected_revision: self.condition.expected_revision,
            }
        )
    }
}

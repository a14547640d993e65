//! `toggled environment`: environments, through a server.

use clap::{Args, Subcommand};
use prost_types::FieldMask;

use super::Failure;
use super::flag::change::{RevisionCondition, SingleChangeOptions, make_change};
use super::output::{EnvironmentChange, OutputOptions};
use super::remote::{ConnectionOptions, environment_key};
use crate::api::pb::*;
use crate::domain::text::EnvironmentKey;

/// Arguments of `toggled environment`.
#[derive(Args)]
pub(super) struct EnvironmentArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Create an environment, without flags; toggled flag copy brings those of another
    Create(CreateArgs),
    /// List the environments in which the token has any permission
    List(ListArgs),
    /// Show an environment
    Show(ShowArgs),
    /// Change an environment's name, description, or whether flips need a reason
    Update(UpdateArgs),
    /// Archive an environment: its flags can be read and watched, and no longer changed
    Archive(ChangeArgs),
    /// Unarchive an environment
    Unarchive(ChangeArgs),
}

pub(super) async fn run(args: EnvironmentArgs) -> Result<(), Failure> {
    match args.action {
        Action::Create(args) => args.run().await,
        Action::List(args) => args.run().await,
        Action::Show(args) => args.run().await,
        Action::Update(args) => args.run().await,
        Action::Archive(args) => args.archive().await,
        Action::Unarchive(args) => args.unarchive().await,
    }
}

/// The help of `--expected-revision`.
const EXPECTED_REVISION_HELP: &str =
    "Make the change only if the environment is at this revision, so that no other change is overwritten";

/// The environment that a command is about.
#[derive(Args)]
struct KeyArgument {
    /// The environment's key
    #[arg(value_parser = environment_key)]
    key: EnvironmentKey,
}

/// Makes a change to one environment, and prints its result.
macro_rules! change_environment {
    ($options:expr, $method:ident, $request:ident $fields:tt) => {{
        let options = $options;
        let answer = make_change!(&options, environments.$method, $request $fields);
        let options = options.change;
        options.output.print_all(&[EnvironmentChange {
            environment: answer.environment,
            audit_log: answer.audit_log,
            revision: answer.revision,
            dry_run: options.dry_run,
        }])
    }};
}

/// Arguments of `toggled environment create`.
#[derive(Args)]
struct CreateArgs {
    /// The key, by which requests and permissions name the environment; it cannot be changed later
    #[arg(value_parser = environment_key)]
    key: EnvironmentKey,
    /// The name for people; by default the key
    #[arg(long)]
    name: Option<String>,
    /// What the environment is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Whether each flip of a flag must have a reason; creating, editing and archiving flags need none. Without a value: true
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        default_value = "false",
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    require_reason: bool,
    #[command(flatten)]
    options: SingleChangeOptions,
}

impl CreateArgs {
    async fn run(self) -> Result<(), Failure> {
        change_environment!(
            self.options,
            create_environment,
            CreateEnvironmentRequest {
                name: self.name.unwrap_or_else(|| self.key.to_string()),
                key: self.key.to_string(),
                description: self.description,
                require_reason: self.require_reason,
            }
        )
    }
}

/// Arguments of `toggled environment list`.
#[derive(Args)]
struct ListArgs {
    /// Include archived environments
    #[arg(long)]
    archived: bool,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl ListArgs {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        self.output.print_all(&client.environments(self.archived).await?)
    }
}

/// Arguments of `toggled environment show`.
#[derive(Args)]
struct ShowArgs {
    #[command(flatten)]
    environment: KeyArgument,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl ShowArgs {
    async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        let environment = Some(get_environment_request::Environment::Key(self.environment.key.to_string()));
        let request = GetEnvironmentRequest { environment, ..Default::default() };
        let answer =
            client.call(request, async |clients, request| clients.environments.get_environment(request).await).await?;
        self.output.print_all(&answer.environment.into_iter().collect::<Vec<_>>())
    }
}

/// Arguments of `toggled environment update`.
#[derive(Args)]
#[command(mut_arg("expected_revision", |arg| arg.help(EXPECTED_REVISION_HELP)))]
struct UpdateArgs {
    #[command(flatten)]
    environment: KeyArgument,
    #[command(flatten)]
    new: NewValues,
    #[command(flatten)]
    condition: RevisionCondition,
    #[command(flatten)]
    options: SingleChangeOptions,
}

/// The new values, at least one.
#[derive(Args)]
#[group(required = true, multiple = true)]
struct NewValues {
    /// The new name
    #[arg(long)]
    name: Option<String>,
    /// The new description, which may be empty
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Whether each flip of a flag must have a reason; creating, editing and archiving flags need none. Without a value: true
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    require_reason: Option<bool>,
}

impl UpdateArgs {
    async fn run(self) -> Result<(), Failure> {
        let NewValues { name, description, require_reason } = self.new;
        let given = [
            ("name", name.is_some()),
            ("description", description.is_some()),
            ("require_reason", require_reason.is_some()),
        ];
        let paths = given.iter().filter(|(_, given)| *given).map(|(field, _)| (*field).to_owned()).collect();
        change_environment!(
            self.options,
            update_environment,
            UpdateEnvironmentRequest {
                environment: Some(update_environment_request::Environment::Key(self.environment.key.to_string())),
                name: name.unwrap_or_default(),
                description: description.unwrap_or_default(),
                require_reason: require_reason.unwrap_or_default(),
                update_mask: Some(FieldMask { paths }),
                expected_revision: self.condition.expected_revision,
            }
        )
    }
}

/// Arguments of the commands that change one environment and need no further arguments.
#[derive(Args)]
#[command(mut_arg("expected_revision", |arg| arg.help(EXPECTED_REVISION_HELP)))]
struct ChangeArgs {
    #[command(flatten)]
    environment: KeyArgument,
    #[command(flatten)]
    condition: RevisionCondition,
    #[command(flatten)]
    options: SingleChangeOptions,
}

impl ChangeArgs {
    async fn archive(self) -> Result<(), Failure> {
        change_environment!(
            self.options,
            archive_environment,
            ArchiveEnvironmentRequest {
                environment: Some(archive_environment_request::Environment::Key(self.environment.key.to_string())),
                expected_revision: self.condition.expected_revision,
            }
        )
    }

    async fn unarchive(self) -> Result<(), Failure> {
        change_environment!(
            self.options,
            unarchive_environment,
            UnarchiveEnvironmentRequest {
                environment: Some(unarchive_environment_request::Environment::Key(self.environment.key.to_string())),
                expected_revision: self.condition.expected_revision,
            }
        )
    }
}

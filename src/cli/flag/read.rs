//! `toggled flag get` and `list`.

use clap::{Args, ValueEnum};

use super::as_of::AsOfOption;
use super::matrix::Matrix;
use super::selector::FlagSelector;
use crate::api::pb::{FeatureFlag, FeatureFlagStatus, GetFeatureFlagRequest, ListFeatureFlagsRequest};
use crate::cli::Failure;
use crate::cli::output::OutputOptions;
use crate::cli::remote::{ApiClient, ConnectionOptions, EnvironmentOption, SingleEnvironmentOption};
use crate::domain::state::EnvironmentScope;

/// The largest page that the server sends.
const PAGE_SIZE: i32 = 1_000;

/// Arguments of `toggled flag get`.
#[derive(Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    flag: FlagSelector,
    #[command(flatten)]
    environment: SingleEnvironmentOption,
    #[command(flatten)]
    as_of: AsOfOption,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl GetArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        let request = GetFeatureFlagRequest {
            flag: self.flag.into(),
            environment: self.environment.text(),
            as_of_revision: self.as_of.revision(),
            as_of_time: self.as_of.time(),
            ..Default::default()
        };
        let answer =
            client.call(request, async |clients, request| clients.toggle.get_feature_flag(request).await).await?;
        self.output.print_all(&answer.feature_flag.into_iter().collect::<Vec<_>>())
    }
}

/// Arguments of `toggled flag list`.
#[derive(Args)]
pub(super) struct ListArgs {
    /// Only flags with keys that begin with this text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only flags with this status
    #[arg(long)]
    status: Option<StatusFilter>,
    /// Include archived flags
    #[arg(long)]
    archived: bool,
    #[command(flatten)]
    environment: EnvironmentOption,
    #[command(flatten)]
    as_of: AsOfOption,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StatusFilter {
    Enabled,
    Disabled,
}

impl From<StatusFilter> for FeatureFlagStatus {
    fn from(status: StatusFilter) -> Self {
        match status {
            StatusFilter::Enabled => Self::Enabled,
            StatusFilter::Disabled => Self::Disabled,
        }
    }
}

impl ListArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        let is_matrix = self.environment.named() == Some(&EnvironmentScope::All);
        let request = ListFeatureFlagsRequest {
            page_size: PAGE_SIZE,
            key_prefix: self.prefix,
            as_of_revision: self.as_of.revision(),
            as_of_time: self.as_of.time(),
            environment: self.environment.text(),
            ..Default::default()
        };
        let status = self.status.map(FeatureFlagStatus::from);
        if is_matrix {
            // A key's row shows it in every environment, so its flags are filtered together.
            let request = ListFeatureFlagsRequest { include_archived: true, ..request };
            let flags = pages(&client, request).await?;
            let columns = client.environments(false).await?;
            return Matrix::new(flags, columns, status, self.archived).print(self.output);
        }
        let request = ListFeatureFlagsRequest {
            status: status.unwrap_or(FeatureFlagStatus::Unspecified).into(),
            include_archived: self.archived,
            ..request
        };
        self.output.print_all(&pages(&client, request).await?)
    }
}

/// The flags of all pages.
async fn pages(client: &ApiClient, mut request: ListFeatureFlagsRequest) -> Result<Vec<FeatureFlag>, Failure> {
    let mut flags = Vec::new();
    loop {
        let page = request.clone();
        let page = client.call(page, async |clients, page| clients.toggle.list_feature_flags(page).await).await?;
        flags.extend(page.feature_flags);
        request.page_token = page.next_page_token;
        // Another replica may send the next page: it must not be behind the one that sent this page.
        request.min_revision = Some(page.revision);
        if request.page_token.is_empty() {
            return Ok(flags);
        }
    }
}

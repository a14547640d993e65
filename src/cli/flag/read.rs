//! `toggled flag get` and `list`.

use clap::{Args, ValueEnum};

use super::as_of::AsOfOption;
use super::selector::FlagSelector;
use crate::api::pb::{FeatureFlagStatus, GetFeatureFlagRequest, ListFeatureFlagsRequest};
use crate::cli::Failure;
use crate::cli::output::OutputOptions;
use crate::cli::remote::ConnectionOptions;

/// The largest page that the server sends.
const PAGE_SIZE: i32 = 1_000;

/// Arguments of `toggled flag get`.
#[derive(Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    flag: FlagSelector,
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
    as_of: AsOfOption,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
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
        let mut request = ListFeatureFlagsRequest {
            page_size: PAGE_SIZE,
            status: self.status.map_or(FeatureFlagStatus::Unspecified, Into::into).into(),
            key_prefix: self.prefix,
            include_archived: self.archived,
            as_of_revision: self.as_of.revision(),
            as_of_time: self.as_of.time(),
            ..Default::default()
        };
        let mut flags = Vec::new();
        loop {
            let page = request.clone();
            let page = client.call(page, async |clients, page| clients.toggle.list_feature_flags(page).await).await?;
            flags.extend(page.feature_flags);
            request.page_token = page.next_page_token;
            // Another replica may send the next page: it must not be behind the one that sent this page.
            request.min_revision = Some(page.revision);
            if request.page_token.is_empty() {
                return self.output.print_all(&flags);
            }
        }
    }
}

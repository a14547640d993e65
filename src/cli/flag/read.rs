//! `toggled flag get` and `list`.

use clap::{Args, ValueEnum};

use super::as_of::Moment;
use super::named::Named;
use crate::api::pb::{FeatureFlagStatus, GetFeatureFlagRequest, ListFeatureFlagsRequest};
use crate::cli::Failure;
use crate::cli::output::Output;
use crate::cli::remote::Caller;

/// As many flags a page as there may be.
const PAGE: i32 = 1_000;

/// Arguments of `toggled flag get`.
#[derive(Args)]
pub(super) struct Get {
    #[command(flatten)]
    named: Named,
    #[command(flatten)]
    moment: Moment,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    output: Output,
}

impl Get {
    pub async fn run(self) -> Result<(), Failure> {
        let remote = self.caller.connect().await?;
        let request = GetFeatureFlagRequest {
            flag: self.named.into(),
            as_of_revision: self.moment.revision(),
            as_of_time: self.moment.time(),
            ..Default::default()
        };
        let answer =
            remote.retrying(request, async |clients, request| clients.toggle.get_feature_flag(request).await).await?;
        self.output.all(&answer.feature_flag.into_iter().collect::<Vec<_>>())
    }
}

/// Arguments of `toggled flag list`.
#[derive(Args)]
pub(super) struct List {
    /// Only flags whose key begins so
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only flags that are on, or only those that are off
    #[arg(long)]
    status: Option<Status>,
    /// Archived flags as well
    #[arg(long)]
    archived: bool,
    #[command(flatten)]
    moment: Moment,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Enabled,
    Disabled,
}

impl From<Status> for FeatureFlagStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Enabled => Self::Enabled,
            Status::Disabled => Self::Disabled,
        }
    }
}

impl List {
    pub async fn run(self) -> Result<(), Failure> {
        let remote = self.caller.connect().await?;
        let mut request = ListFeatureFlagsRequest {
            page_size: PAGE,
            status: self.status.map_or(FeatureFlagStatus::Unspecified, Into::into).into(),
            key_prefix: self.prefix,
            include_archived: self.archived,
            as_of_revision: self.moment.revision(),
            as_of_time: self.moment.time(),
            ..Default::default()
        };
        let mut flags = Vec::new();
        loop {
            let page = request.clone();
            let page =
                remote.retrying(page, async |clients, page| clients.toggle.list_feature_flags(page).await).await?;
            flags.extend(page.feature_flags);
            request.page_token = page.next_page_token;
            // Pages of one listing may come from several replicas: none may be behind the one before.
            request.min_revision = Some(page.revision);
            if request.page_token.is_empty() {
                return self.output.all(&flags);
            }
        }
    }
}

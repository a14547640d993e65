//! `toggled audit list`: the newest entries.

use clap::Args;

use super::filters::{ENVIRONMENT_HELP, Filters};
use crate::api::pb::{AuditLog, ListAuditLogsRequest};
use crate::cli::Failure;
use crate::cli::output::OutputOptions;
use crate::cli::remote::{ApiClient, ConnectionOptions};

/// The largest page that the server allows.
const PAGE_SIZE: u32 = 100;

/// Arguments of `toggled audit list`.
#[derive(Args)]
#[command(mut_arg("environment", |arg| arg.help(ENVIRONMENT_HELP)))]
pub(super) struct AuditListArgs {
    #[command(flatten)]
    filters: Filters,
    /// The maximum number of entries
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl AuditListArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        let request = self.filters.list_request(&client, None).await?;
        let (entries, _) = newest(&client, request, self.limit).await?;
        self.output.print_all(&entries)
    }
}

/// The newest entries, newest first, and the revision that the log was read at.
pub(super) async fn newest(
    client: &ApiClient,
    mut request: ListAuditLogsRequest,
    limit: u32,
) -> Result<(Vec<AuditLog>, i64), Failure> {
    let most = usize::try_from(limit)?;
    request.limit = Some(i32::try_from(limit.min(PAGE_SIZE))?);
    let mut entries = Vec::new();
    loop {
        let page = request.clone();
        let page = client.call(page, async |clients, page| clients.audit.list_audit_logs(page).await).await?;
        entries.extend(page.items);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || entries.len() >= most {
            entries.truncate(most);
            return Ok((entries, page.as_of_revision));
        }
    }
}

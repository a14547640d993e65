//! `toggled audit tail`: the last entries, then new ones.

use clap::Args;

use super::filters::{ENVIRONMENT_HELP, Filters, move_cursor, stream_request};
use super::list::newest;
use crate::api::pb::{StreamAuditLogsRequest, StreamAuditLogsResponse};
use crate::cli::Failure;
use crate::cli::output::OutputOptions;
use crate::cli::remote::{ConnectionOptions, ServiceClients, StreamOptions, until_interrupted};

/// Arguments of `toggled audit tail`.
#[derive(Args)]
#[command(mut_arg("environment", |arg| arg.help(ENVIRONMENT_HELP)))]
pub(super) struct TailArgs {
    #[command(flatten)]
    filters: Filters,
    /// Start with this many of the last entries, oldest first
    #[arg(long, value_name = "N", default_value = "10", conflicts_with = "after")]
    lines: u32,
    /// Start after this revision instead
    #[arg(long, value_name = "REVISION")]
    after: Option<i64>,
    /// Stop at the end of the log
    #[arg(long)]
    no_follow: bool,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl TailArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        let mut printer = self.output.stream();
        let end = self.filters.end();
        let list = self.filters.list_request(&client, None).await?;
        let mut request = StreamAuditLogsRequest { follow: !self.no_follow, ..stream_request(&list) };
        // A stream that follows may end in the future, where a list may not.
        if request.follow {
            request.to_date = end;
        }
        request.after_revision = self.after;
        if self.after.is_none() {
            // Even with --lines 0 one entry is read, for the revision to start after.
            let (entries, revision) = newest(&client, list, self.lines.max(1)).await?;
            let lines = usize::try_from(self.lines)?;
            printer.print(entries.iter().take(lines).rev())?;
            // The hash lets the server detect that its log was replaced by another.
            request.after_hash = entries.first().map(|last| last.hash.clone());
            request.after_revision = entries.first().map(|last| last.revision).or(Some(revision));
        }
        let take = |request: &mut StreamAuditLogsRequest, message: StreamAuditLogsResponse| {
            printer.print(message.items.iter())?;
            move_cursor(request, &message);
            Ok(())
        };
        let cursor_origin = self.after.is_none().then(|| "the output so far".to_owned());
        let reading = StreamOptions { endless: !self.no_follow, cursor_origin };
        let open = async |clients: &mut ServiceClients, request| clients.audit.stream_audit_logs(request).await;
        let tailing = client.follow_stream(request, reading, open, take);
        until_interrupted(tailing).await
    }
}

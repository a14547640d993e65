//! `toggled audit tail`: the last entries, then new ones.

use clap::Args;

use super::filters::{Filters, advance, stream};
use super::list::newest;
use crate::api::pb::{StreamAuditLogsRequest, StreamAuditLogsResponse};
use crate::cli::Failure;
use crate::cli::output::{Feed, Output};
use crate::cli::remote::{Caller, Clients, Reading, until_interrupted};

/// Arguments of `toggled audit tail`.
#[derive(Args)]
pub(super) struct Tail {
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
    caller: Caller,
    #[command(flatten)]
    output: Output,
}

impl Tail {
    pub async fn run(self) -> Result<(), Failure> {
        let remote = self.caller.connect().await?;
        let mut feed: Feed<6> = self.output.feed();
        let list = self.filters.list(&remote).await?;
        let mut request = StreamAuditLogsRequest { follow: !self.no_follow, ..stream(&list) };
        request.after_revision = self.after;
        if self.after.is_none() {
            // Even with --lines 0 one entry is read, for the revision to start after.
            let (entries, revision) = newest(&remote, list, self.lines.max(1)).await?;
            let lines = usize::try_from(self.lines)?;
            entries.iter().take(lines).rev().try_for_each(|entry| feed.tell(entry))?;
            // With the hash the server detects a log that was replaced by another.
            request.after_hash = entries.first().map(|last| last.hash.clone());
            request.after_revision = entries.first().map(|last| last.revision).or(Some(revision));
        }
        let take = |request: &mut StreamAuditLogsRequest, part: StreamAuditLogsResponse| {
            part.items.iter().try_for_each(|entry| feed.tell(entry))?;
            advance(request, &part);
            Ok(())
        };
        let cursor = self.after.is_none().then(|| "what was shown".to_owned());
        let reading = Reading { endless: !self.no_follow, cursor };
        let open = async |clients: &mut Clients, request| clients.audit.stream_audit_logs(request).await;
        let tailing = remote.following(request, reading, open, take);
        until_interrupted(tailing).await
    }
}

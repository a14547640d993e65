//! `toggled flag watch`: flags as they are, and then every change.

use clap::Args;

use crate::api::pb::{WatchFeatureFlagsRequest, WatchFeatureFlagsResponse};
use crate::cli::Failure;
use crate::cli::output::{Feed, Output, Seen};
use crate::cli::remote::{Caller, Clients, Reading, until_interrupted};

/// Arguments of `toggled flag watch`.
#[derive(Args)]
pub(super) struct Watch {
    /// Only the flags with these keys, whether they exist yet or not; all without any
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// Only changes from now on, and not how the flags are to begin with
    #[arg(long)]
    changes_only: bool,
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    output: Output,
}

impl Watch {
    pub async fn run(self) -> Result<(), Failure> {
        let remote = self.caller.connect().await?;
        let mut feed: Feed<4> = self.output.feed();
        let mut silent = self.changes_only;
        let request = WatchFeatureFlagsRequest { keys: self.keys, ..Default::default() };
        let take = |request: &mut WatchFeatureFlagsRequest, message: WatchFeatureFlagsResponse| {
            if !silent {
                message.feature_flags.into_iter().try_for_each(|flag| feed.tell(&Seen(flag)))?;
            }
            silent &= !message.caught_up;
            request.after_revision = Some(message.revision);
            request.log_id = Some(message.log_id);
            request.after_hash = message.hash;
            Ok(())
        };
        let reading = Reading { endless: true, cursor: None };
        let open = async |clients: &mut Clients, request| clients.toggle.watch_feature_flags(request).await;
        let watching = remote.following(request, reading, open, take);
        until_interrupted(watching).await
    }
}

//! `toggled flag watch`: the flags, and then every flag that changes.

use clap::Args;

use crate::api::pb::{WatchFeatureFlagsRequest, WatchFeatureFlagsResponse};
use crate::cli::Failure;
use crate::cli::output::{OutputOptions, WatchedFlag};
use crate::cli::remote::{ConnectionOptions, EnvironmentOption, ServiceClients, StreamOptions, until_interrupted};

/// Arguments of `toggled flag watch`.
#[derive(Args)]
pub(super) struct WatchArgs {
    /// Only the flags with these keys, even if they do not exist yet; by default all flags
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    /// Only changes from now on, without the current flags
    #[arg(long)]
    changes_only: bool,
    #[command(flatten)]
    environment: EnvironmentOption,
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl WatchArgs {
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.connection.connect().await?;
        let mut printer = self.output.stream();
        // Until it has caught up, the stream sends the current flags.
        let mut skip = self.changes_only;
        let request =
            WatchFeatureFlagsRequest { keys: self.keys, environment: self.environment.text(), ..Default::default() };
        let take = |request: &mut WatchFeatureFlagsRequest, message: WatchFeatureFlagsResponse| {
            if !skip {
                let flags: Vec<_> = message.feature_flags.into_iter().map(WatchedFlag).collect();
                printer.print(flags.iter())?;
            }
            skip &= !message.caught_up;
            request.after_revision = Some(message.revision);
            request.log_id = Some(message.log_id);
            request.after_hash = message.hash;
            Ok(())
        };
        let options = StreamOptions { endless: true, cursor_origin: None };
        let open = async |clients: &mut ServiceClients, request| clients.toggle.watch_feature_flags(request).await;
        let watching = client.follow_stream(request, options, open, take);
        until_interrupted(watching).await
    }
}

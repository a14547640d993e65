//! `toggled whoami`: who the caller is to the server, and what they may do.

use clap::Args;

use super::Failure;
use super::output::Output;
use super::remote::Caller;
use crate::api::pb::WhoAmIRequest;

/// Arguments of `toggled whoami`.
#[derive(Args)]
pub(super) struct WhoAmI {
    #[command(flatten)]
    caller: Caller,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(settings: WhoAmI) -> Result<(), Failure> {
    let remote = settings.caller.connect().await?;
    let me = remote.retrying(WhoAmIRequest {}, async |clients, request| clients.access.who_am_i(request).await).await?;
    settings.output.all(&[me])
}

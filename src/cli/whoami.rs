//! `toggled whoami`: the user and the permissions of the token.

use clap::Args;

use super::Failure;
use super::output::OutputOptions;
use super::remote::ConnectionOptions;
use crate::api::pb::WhoAmIRequest;

/// Arguments of `toggled whoami`.
#[derive(Args)]
pub(super) struct WhoAmIArgs {
    #[command(flatten)]
    connection: ConnectionOptions,
    #[command(flatten)]
    output: OutputOptions,
}

pub(super) async fn run(args: WhoAmIArgs) -> Result<(), Failure> {
    let client = args.connection.connect().await?;
    let me = client.call(WhoAmIRequest {}, async |clients, request| clients.access.who_am_i(request).await).await?;
    args.output.print_all(&[me])
}

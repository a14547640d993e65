//! `toggled health`: whether a server is serving, for probes of containers and systemd. It needs no token.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::output::{OutputOptions, Printable};
use super::remote::{ApiClient, ServerAddress, timeout};
use super::table::Cell;
use super::{EXIT_UNAVAILABLE, Failure};
use crate::api::pb::health::HealthCheckRequest;
use crate::api::pb::health::health_check_response::ServingStatus;

/// Arguments of `toggled health`.
#[derive(Args)]
pub(super) struct HealthArgs {
    /// The service to check, such as toggled.v1.ToggleService; by default the whole server
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    service: String,
    /// How long the check may take
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = timeout)]
    timeout: Duration,
    #[command(flatten)]
    address: ServerAddress,
    #[command(flatten)]
    output: OutputOptions,
}

#[derive(Serialize)]
struct HealthStatus {
    status: &'static str,
}

impl Printable<1> for HealthStatus {
    const HEADER: [&str; 1] = ["HEALTH"];

    fn row(&self) -> [Cell; 1] {
        [Cell::from(self.status)]
    }

    fn json(&self) -> impl Serialize {
        self
    }
}

pub(super) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let client = ApiClient::anonymous(&args.address, args.timeout).await?;
    let request = HealthCheckRequest { service: args.service };
    let answer = client.call_once(request, async |clients, request| clients.health.check(request).await).await?;
    let status = answer.status();
    args.output.print_one(&HealthStatus { status: status.as_str_name() })?;
    if status == ServingStatus::Serving {
        return Ok(());
    }
    Err(Failure {
        code: EXIT_UNAVAILABLE,
        message: "the server is not serving: it is starting, stopping, or cannot read or write its database; its log and /readyz of its --metrics-listen \
                  address name the cause"
            .to_owned(),
    })
}

//! `toggled health`: whether a server serves, for probes of containers and of systemd. It needs no token.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::output::{Item, Output};
use super::remote::{Place, Remote, timeout};
use super::table::Cell;
use super::{EXIT_UNAVAILABLE, Failure};

/// Arguments of `toggled health`.
#[derive(Args)]
pub(super) struct Health {
    /// One service, like toggled.v1.ToggleService; the server as a whole without it
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    service: String,
    /// How long it may take
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = timeout)]
    timeout: Duration,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Answer {
    status: &'static str,
}

impl Item<1> for Answer {
    const HEAD: [&str; 1] = ["HEALTH"];

    fn row(&self) -> [Cell; 1] {
        [Cell::from(self.status)]
    }

    fn json(&self) -> impl Serialize {
        self
    }
}

pub(super) async fn run(settings: Health) -> Result<(), Failure> {
    let remote = Remote::anonymous(&settings.place, settings.timeout).await?;
    let request = HealthCheckRequest { service: settings.service };
    let answer = remote.once(request, async |clients, request| clients.health.check(request).await).await?;
    let status = answer.status();
    settings.output.word(&Answer { status: status.as_str_name() })?;
    if status == ServingStatus::Serving {
        return Ok(());
    }
    Err(Failure { code: EXIT_UNAVAILABLE, line: "the server does not serve now".to_owned() })
}

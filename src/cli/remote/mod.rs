//! The server as a client sees it: where it is, who calls, and what becomes of a call that fails. Of the command line
//! this folder alone knows tonic.

mod caller;
mod failure;
mod flags;
mod place;
mod retry;

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use super::Failure;
use crate::api::pb::access_service_client::AccessServiceClient;
use crate::api::pb::audit_service_client::AuditServiceClient;
use crate::api::pb::toggle_service_client::ToggleServiceClient;
use crate::config::duration::parse_within;
use caller::Bearer;

pub(super) use caller::Caller;
pub(super) use failure::{Refusal, exit_code_of};
pub(super) use place::Place;
pub(super) use retry::{Reading, until_interrupted};

type Service = InterceptedService<Channel, Bearer>;

/// A server, and who calls it.
pub(super) struct Remote {
    clients: Clients,
    /// What it is called in words to a person.
    name: String,
    timeout: Duration,
    /// Where the token came from, as a person knows it; nothing without a token.
    token_origin: Option<String>,
    /// Whether to wait for as long as the server's limits demand.
    patient: bool,
    /// Whether such a limit was met, ...
    limited: AtomicBool,
    /// ... and whoever waits was told of it.
    told: AtomicBool,
    /// Whether the server has answered any call: then it is there, and is waited for if it goes away.
    answered: AtomicBool,
    /// Why the server last refused a call.
    refused: Mutex<Option<Refusal>>,
    /// What to say of connections that are lost for no known reason, before any answer.
    lost_hint: &'static str,
}

/// The services that are called, all on one connection.
#[derive(Clone)]
pub(super) struct Clients {
    pub toggle: ToggleServiceClient<Service>,
    pub audit: AuditServiceClient<Service>,
    pub access: AccessServiceClient<Service>,
    pub health: HealthClient<Channel>,
}

impl Remote {
    /// Without a token, for what needs none.
    pub async fn anonymous(place: &Place, timeout: Duration) -> Result<Self, Failure> {
        Self::connect(place, timeout, Bearer::default()).await
    }

    async fn connect(place: &Place, timeout: Duration, bearer: Bearer) -> Result<Self, Failure> {
        let channel = place.channel(timeout).await?;
        let clients = Clients {
            toggle: ToggleServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            audit: AuditServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            access: AccessServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            health: HealthClient::new(channel),
        };
        Ok(Self {
            clients,
            name: place.name(),
            timeout,
            token_origin: bearer.origin,
            patient: false,
            limited: AtomicBool::new(false),
            told: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            refused: Mutex::default(),
            lost_hint: place.lost_hint(),
        })
    }
}

/// A name for a change, so that it can be asked for again and happens once.
pub(super) fn request_id() -> Option<String> {
    Some(Uuid::now_v7().to_string())
}

/// The timeout of one attempt, from 10 ms to 1 h.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    parse_within(text, Duration::from_millis(10)..=Duration::from_secs(3_600), "10s")
}

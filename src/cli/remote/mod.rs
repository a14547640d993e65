//! The client of a server: its address, the caller's token, calls with retries, and what a failed call means. In the
//! command line only this folder knows tonic and hyper.

mod address;
mod call;
mod environments;
mod failure;
mod options;
mod plain;
mod retry;
mod snapshot;

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use uuid::Uuid;

use super::Failure;
use crate::api::pb::access_service_client::AccessServiceClient;
use crate::api::pb::audit_service_client::AuditServiceClient;
use crate::api::pb::environment_service_client::EnvironmentServiceClient;
use crate::api::pb::health::health_client::HealthClient;
use crate::api::pb::toggle_service_client::ToggleServiceClient;
use crate::config::duration::parse_within;
use options::BearerToken;
use plain::OtherProtocol;

pub(super) use address::ServerAddress;
pub(super) use call::{StreamOptions, until_interrupted};
pub(super) use failure::{ServerRefusal, exit_code_of};
pub(super) use options::{ConnectionOptions, EnvironmentOption, SingleEnvironmentOption, environment_key};

type Service = InterceptedService<Channel, BearerToken>;

/// A client of one server, with the token of one caller.
pub(super) struct ApiClient {
    clients: ServiceClients,
    /// The server's address, for messages.
    address: String,
    /// How long one attempt of a call may take. Streams have no limit.
    timeout: Duration,
    /// The setting that the token was taken from, for messages; `None` without a token.
    token_origin: Option<String>,
    /// Whether rate-limited calls are retried after the delay that the server names, for as long as it takes.
    waits_for_rate_limits: bool,
    /// Whether any call was rate-limited.
    has_been_rate_limited: AtomicBool,
    /// Whether a change may have been made by a call that failed.
    has_lost_answer: AtomicBool,
    /// Whether a long wait for a rate limit was reported. Only the first one is.
    rate_limit_reported: AtomicBool,
    /// Whether the server has answered any call. If so, calls are retried while it is unreachable.
    has_answered: AtomicBool,
    /// Why the server last refused a call.
    last_refusal: Mutex<Option<ServerRefusal>>,
    /// What to try if connections are lost before the first answer.
    connection_lost_hint: &'static str,
    /// Whether the server was found to speak another protocol than HTTP/2.
    other_protocol: OtherProtocol,
}

/// The clients of each service, on one connection.
#[derive(Clone)]
pub(super) struct ServiceClients {
    pub toggle: ToggleServiceClient<Service>,
    pub audit: AuditServiceClient<Service>,
    pub access: AccessServiceClient<Service>,
    pub environments: EnvironmentServiceClient<Service>,
    pub health: HealthClient<Channel>,
}

impl ApiClient {
    /// A client without a token, for methods that need none.
    pub async fn anonymous(address: &ServerAddress, timeout: Duration) -> Result<Self, Failure> {
        Self::connect(address, timeout, BearerToken::default()).await
    }

    async fn connect(address: &ServerAddress, timeout: Duration, token: BearerToken) -> Result<Self, Failure> {
        let other_protocol = OtherProtocol::default();
        let channel = address.channel(timeout, &other_protocol).await?;
        let clients = ServiceClients {
            toggle: ToggleServiceClient::with_interceptor(channel.clone(), token.clone()),
            audit: AuditServiceClient::with_interceptor(channel.clone(), token.clone()),
            access: AccessServiceClient::with_interceptor(channel.clone(), token.clone()),
            environments: EnvironmentServiceClient::with_interceptor(channel.clone(), token.clone()),
            health: HealthClient::new(channel),
        };
        Ok(Self {
            clients,
            address: address.to_string(),
            timeout,
            token_origin: token.origin,
            waits_for_rate_limits: false,
            has_been_rate_limited: AtomicBool::new(false),
            has_lost_answer: AtomicBool::new(false),
            rate_limit_reported: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            last_refusal: Mutex::default(),
            connection_lost_hint: address.connection_lost_hint(),
            other_protocol,
        })
    }
}

/// A new idempotency key: a change that is sent again with the same key is made once.
pub(super) fn request_id() -> Option<String> {
    Some(Uuid::now_v7().to_string())
}

/// The timeout of one attempt, from 10 ms to 1 h.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    parse_within(text, Duration::from_millis(10)..=Duration::from_secs(3_600), "10s")
}

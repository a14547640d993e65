//! The server as a client sees it: where it is, who calls, and what becomes of a call that fails. Of the command line
//! this folder alone knows tonic.

mod failure;
mod flags;
mod place;
mod retry;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_health::pb::health_client::HealthClient;
use uuid::Uuid;

use super::Failure;
use crate::grpc::pb::access_service_client::AccessServiceClient;
use crate::grpc::pb::audit_service_client::AuditServiceClient;
use crate::grpc::pb::toggle_service_client::ToggleServiceClient;

pub(super) use failure::exit_code_of;
pub(super) use place::Place;
pub(super) use retry::until_interrupted;

type Service = InterceptedService<Channel, Bearer>;

/// What every command has that calls a server as somebody.
#[derive(Args)]
pub(super) struct Caller {
    #[command(flatten)]
    place: Place,
    /// The token to show
    // Not parsed here: an error would repeat it. Nor shown by a derived Debug.
    #[arg(long, value_name = "TOKEN", env = "TOGGLED_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<String>,
    /// The file that holds the token
    #[arg(long, value_name = "FILE", env = "TOGGLED_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// How long one attempt of a call may take, streams apart: 500ms, 10s
    #[arg(long, value_name = "DURATION", env = "TOGGLED_TIMEOUT", default_value = "10s", value_parser = timeout)]
    timeout: Duration,
}

impl Caller {
    /// A server to call. The connection is made with the first call.
    pub async fn connect(&self) -> Result<Remote, Failure> {
        let bearer = match (&self.token, &self.token_file) {
            (Some(token), _) => Bearer::new("--token (TOGGLED_TOKEN)", token)?,
            (None, Some(path)) => {
                let named = |rule: String| {
                    Failure::usage(format!("--token-file (TOGGLED_TOKEN_FILE) {}: {rule}", path.display()))
                };
                let token = tokio::fs::read_to_string(path).await.map_err(|error| named(error.to_string()))?;
                if token.trim().is_empty() {
                    return Err(named("it is empty".to_owned()));
                }
                Bearer::new("--token-file (TOGGLED_TOKEN_FILE)", &token)?
            }
            (None, None) => Bearer(None),
        };
        Remote::connect(&self.place, self.timeout, bearer).await
    }
}

/// A server, and who calls it.
pub(super) struct Remote {
    clients: Clients,
    /// What it is called in words to a person.
    name: String,
    timeout: Duration,
    has_token: bool,
    /// Whether the server has answered any call: then it is there, and is waited for if it goes away.
    answered: AtomicBool,
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
        Self::connect(place, timeout, Bearer(None)).await
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
            has_token: bearer.0.is_some(),
            answered: AtomicBool::new(false),
            lost_hint: place.lost_hint(),
        })
    }
}

/// A name for a change, so that it can be asked for again and happens once.
pub(super) fn request_id() -> Option<String> {
    Some(Uuid::now_v7().to_string())
}

/// The token, in every call.
#[derive(Clone)]
pub(in crate::cli) struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// None, if the setting is empty.
    fn new(setting: &str, token: &str) -> Result<Self, Failure> {
        let token = token.trim();
        if token.is_empty() {
            return Ok(Self(None));
        }
        let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| Failure::usage(format!("{setting} holds what no token does")))?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.0 {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        Ok(request)
    }
}

/// A time to wait for an answer.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|length| Duration::try_from(length).ok());
    let limits = Duration::from_millis(10)..=Duration::from_secs(3_600);
    parsed.filter(|length| limits.contains(length)).ok_or_else(|| "must be a time from 10ms to 1h, like 10s".to_owned())
}

//! The generated clients, with a token on every call.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use toggled::api::pb::access_service_client::AccessServiceClient;
use toggled::api::pb::audit_service_client::AuditServiceClient;
use toggled::api::pb::environment_service_client::EnvironmentServiceClient;
use toggled::api::pb::flagd::evaluation::v1::service_client::ServiceClient as EvaluationV1Client;
use toggled::api::pb::flagd::evaluation::v2::service_client::ServiceClient as EvaluationV2Client;
use toggled::api::pb::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use toggled::api::pb::toggle_service_client::ToggleServiceClient;
use toggled::api::pb::*;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use super::{TOKEN, with_timeout};

type Service = InterceptedService<Channel, Token>;

#[derive(Clone)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// All services, called on one connection with one token.
#[derive(Clone)]
pub struct Client {
    pub toggle: ToggleServiceClient<Service>,
    pub audit: AuditServiceClient<Service>,
    pub access: AccessServiceClient<Service>,
    pub environments: EnvironmentServiceClient<Service>,
    pub evaluation_v1: EvaluationV1Client<Service>,
    pub evaluation_v2: EvaluationV2Client<Service>,
    pub sync: FlagSyncServiceClient<Service>,
}

impl Client {
    pub async fn connect(address: SocketAddr, token: Option<&str>) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().user_agent("tests").unwrap();
        let channel = with_timeout("a connection", endpoint.connect()).await.unwrap();
        Self::with_channel(channel, token)
    }

    /// The administrator's client, with a small flow control window for each stream: what it does not read stays in the
    /// server.
    pub async fn with_window(address: SocketAddr, bytes: u32) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().initial_stream_window_size(bytes);
        Self::with_channel(with_timeout("a connection", endpoint.connect()).await.unwrap(), Some(TOKEN))
    }

    /// A client on an existing connection.
    pub fn with_channel(channel: Channel, token: Option<&str>) -> Self {
        let token = Token(token.map(|token| format!("Bearer {token}").parse().unwrap()));
        Self {
            toggle: ToggleServiceClient::with_interceptor(channel.clone(), token.clone()),
            audit: AuditServiceClient::with_interceptor(channel.clone(), token.clone()),
            access: AccessServiceClient::with_interceptor(channel.clone(), token.clone()),
            environments: EnvironmentServiceClient::with_interceptor(channel.clone(), token.clone()),
            evaluation_v1: EvaluationV1Client::with_interceptor(channel.clone(), token.clone()),
            evaluation_v2: EvaluationV2Client::with_interceptor(channel.clone(), token.clone()),
            sync: FlagSyncServiceClient::with_interceptor(channel, token),
        }
    }

    /// Creates a disabled flag.
    pub async fn create(&mut self, key: &str) -> FeatureFlag {
        let request = CreateFeatureFlagRequest { key: key.into(), name: format!("Flag {key}"), ..Default::default() };
        self.toggle.create_feature_flag(request).await.unwrap().into_inner().feature_flag.unwrap()
    }

    /// Creates an environment.
    pub async fn new_environment(&mut self, key: &str) -> Environment {
        let request = CreateEnvironmentRequest { key: key.into(), name: key.into(), ..Default::default() };
        self.environments.create_environment(request).await.unwrap().into_inner().environment.unwrap()
    }

    /// Creates a disabled flag in an environment.
    pub async fn create_in(&mut self, environment: &str, key: &str) -> FeatureFlag {
        let request = CreateFeatureFlagRequest {
            key: key.into(),
            name: format!("Flag {key}"),
            environment: Some(environment.into()),
            ..Default::default()
        };
        self.toggle.create_feature_flag(request).await.unwrap().into_inner().feature_flag.unwrap()
    }

    pub async fn flip(&mut self, key: &str) -> ToggleFeatureFlagResponse {
        self.toggle.toggle_feature_flag(toggle(key)).await.unwrap().into_inner()
    }

    pub async fn archive(&mut self, key: &str) -> FeatureFlag {
        self.toggle.archive_feature_flag(archive(key)).await.unwrap().into_inner().feature_flag.unwrap()
    }

    pub async fn get(&mut self, key: &str) -> FeatureFlag {
        let flag = Some(get_feature_flag_request::Flag::Key(key.into()));
        let request = GetFeatureFlagRequest { flag, ..Default::default() };
        self.toggle.get_feature_flag(request).await.unwrap().into_inner().feature_flag.unwrap()
    }

    /// Creates a user with these permissions and a token for them. Returns the token's secret.
    pub async fn new_user(&mut self, email: &str, permissions: &[&str]) -> String {
        let permissions = permissions.iter().map(|p| (*p).to_owned()).collect();
        let request = CreateUserRequest { email: email.into(), permissions, ..Default::default() };
        let user = self.access.create_user(request).await.unwrap().into_inner().user.unwrap();
        let request = CreateTokenRequest { user_id: user.id, name: "test".into(), ..Default::default() };
        self.access.create_token(request).await.unwrap().into_inner().secret
    }

    /// Waits until the server accepts the credentials. A replica may not have seen them yet.
    pub async fn wait_until_authenticated(&mut self) -> WhoAmIResponse {
        with_timeout("the credentials to be accepted", async {
            loop {
                if let Ok(me) = self.access.who_am_i(WhoAmIRequest {}).await {
                    return me.into_inner();
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// Waits until the server rejects the credentials.
    pub async fn wait_until_unauthenticated(&mut self) {
        let status = with_timeout("the credentials to be rejected", async {
            loop {
                if let Err(status) = self.access.who_am_i(WhoAmIRequest {}).await {
                    return status;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    }

    /// Reads the whole audit log, oldest entry first.
    pub async fn log(&mut self) -> Vec<AuditLog> {
        let mut stream = self.audit.stream_audit_logs(StreamAuditLogsRequest::default()).await.unwrap().into_inner();
        let mut entries = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            entries.extend(part.items);
        }
        entries
    }
}

/// A request to flip a flag.
pub fn toggle(key: &str) -> ToggleFeatureFlagRequest {
    let flag = Some(toggle_feature_flag_request::Flag::Key(key.into()));
    ToggleFeatureFlagRequest { flag, ..Default::default() }
}

/// A request to archive a flag.
pub fn archive(key: &str) -> ArchiveFeatureFlagRequest {
    ArchiveFeatureFlagRequest { flag: Some(archive_feature_flag_request::Flag::Key(key.into())), ..Default::default() }
}

/// The reason in a status's `ErrorInfo`.
pub fn reason_of(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Reads a stream until it fails, and returns the status. A stream that ends without an error fails the test.
pub async fn read_until_error<T>(stream: &mut Streaming<T>) -> Status {
    with_timeout("the stream to end", async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some(), "the stream ended without an error"),
                Err(status) => return status,
            }
        }
    })
    .await
}

/// The forms in which a token might leak: the token itself, and its hash in each usual encoding.
pub fn secret_forms(token: &str) -> Vec<String> {
    let hash = toggled::auth::hash_secret(token.as_bytes());
    let hex = hex::encode(hash);
    let bytes = format!("{hash:?}");
    let bytes = bytes.trim_matches(['[', ']']).to_owned();
    vec![token.to_owned(), hex.to_uppercase(), hex, STANDARD.encode(hash).trim_end_matches('=').to_owned(), bytes]
}

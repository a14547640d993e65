//! Every served method, as its descriptor declares it, and generic calls to any of them.

use std::net::SocketAddr;

use http::uri::PathAndQuery;
use prost::bytes::Bytes;
use prost_reflect::DescriptorPool;
use prost_types::method_options::IdempotencyLevel;
use toggled::api::pb::DESCRIPTORS;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::raw_codec::RawCodec;
use super::{Server, with_timeout};

/// All permissions, sorted.
pub const PERMISSIONS: [&str; 7] = [
    "manage_access",
    "manage_audit_retention",
    "manage_environments",
    "manage_feature_flags",
    "toggle_feature_flags",
    "view_audit_logs",
    "view_feature_flags",
];

/// A method and its policy.
pub struct Method {
    /// For example `/toggled.v1.ToggleService/ToggleFeatureFlag`.
    pub path: String,
    /// The required permission; `None` if any authenticated caller is allowed.
    pub permission: Option<String>,
    /// Whether the request has the field `validate_only`, as every change does.
    pub changes: bool,
    /// Whether the answer is a stream.
    pub is_streaming: bool,
    /// Whether the method may be called by GET, if its answer is no stream.
    pub has_no_side_effects: bool,
    /// Whether a setting can open the method to callers without credentials.
    pub anonymous_on_request: bool,
}

/// All methods, except those of gRPC's standard services.
pub fn methods() -> Vec<Method> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let policy = pool.get_extension_by_name("toggled.v1.policy").unwrap();
    let mut methods = Vec::new();
    for service in pool.services().filter(|service| !service.full_name().starts_with("grpc.")) {
        for method in service.methods() {
            let options = method.options();
            let declared = options.get_extension(&policy);
            let field = |name| declared.as_message().unwrap().get_field_by_name(name).unwrap();
            let (permission, anonymous) = (field("permission"), field("anonymous_on_request"));
            let permission = Some(permission.as_str().unwrap().to_owned()).filter(|p| !p.is_empty());
            let changes = method.input().get_field_by_name("validate_only").is_some();
            let path = format!("/{}/{}", service.full_name(), method.name());
            let anonymous_on_request = anonymous.as_bool().unwrap();
            let options = method.method_descriptor_proto().options.clone().unwrap_or_default();
            methods.push(Method {
                path,
                permission,
                changes,
                is_streaming: method.is_server_streaming(),
                has_no_side_effects: options.idempotency_level() == IdempotencyLevel::NoSideEffects,
                anonymous_on_request,
            });
        }
    }
    methods
}

/// A connection without a token.
pub async fn channel(server: &Server) -> Channel {
    channel_to(server.address).await
}

/// Like [`channel`], to any address.
pub async fn channel_to(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    with_timeout("a connection", endpoint.connect()).await.unwrap()
}

/// Calls a method with an empty request, and reads the first response. The response is not decoded.
pub async fn call(
    channel: &Channel,
    path: &str,
    authorization: impl IntoIterator<Item = MetadataValue<Ascii>>,
) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    with_timeout("the connection", grpc.ready()).await.unwrap();
    let mut request = Request::new(());
    for value in authorization {
        request.metadata_mut().append("authorization", value);
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = PathAndQuery::try_from(path).unwrap();
    let mut answer =
        with_timeout(path.as_str(), grpc.server_streaming(request, path.clone(), codec)).await?.into_inner();
    with_timeout("the first message", answer.message()).await.map(drop)
}

/// Calls a method with a token and an encoded request, and reads the first response. The response is not decoded.
pub async fn call_with(channel: &Channel, path: &str, token: &str, request: Vec<u8>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    with_timeout("the connection", grpc.ready()).await.unwrap();
    let mut request = Request::new(Bytes::from(request));
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let path = PathAndQuery::try_from(path).unwrap();
    let mut answer =
        with_timeout(path.as_str(), grpc.server_streaming(request, path.clone(), RawCodec)).await?.into_inner();
    with_timeout("the first message", answer.message()).await.map(drop)
}

/// Calls a method with a request stream that never ends.
pub async fn call_unfinished(channel: Channel, path: &'static str, token: Option<&str>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    with_timeout("the connection", grpc.ready()).await.unwrap();
    let mut request = Request::new(tokio_stream::pending::<()>());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    grpc.client_streaming(request, PathAndQuery::from_static(path), codec).await.map(drop)
}

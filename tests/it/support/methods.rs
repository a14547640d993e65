//! Every method that is served, as the descriptors have it, and calls of any of them.

use http::uri::PathAndQuery;
use prost_reflect::DescriptorPool;
use toggled::api::pb::DESCRIPTORS;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Server, soon};

/// Every permission there is, sorted.
pub const PERMISSIONS: [&str; 6] = [
    "manage_access",
    "manage_audit_retention",
    "manage_feature_flags",
    "toggle_feature_flags",
    "view_audit_logs",
    "view_feature_flags",
];

/// A method of ours.
pub struct Method {
    /// `/toggled.v1.ToggleService/ToggleFeatureFlag`, for one.
    pub path: String,
    /// What it demands; `None` for any caller.
    pub permission: Option<String>,
    /// Whether it can be asked to `validate_only`.
    pub changes: bool,
    /// Whether it may be open to callers without credentials.
    pub anonymous_on_request: bool,
}

/// All of them.
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
            methods.push(Method { path, permission, changes, anonymous_on_request });
        }
    }
    methods
}

/// A connection that anything can be called on.
pub async fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    soon("a connection", endpoint.connect()).await.unwrap()
}

/// Calls a method with an empty request, and reads the first of what comes. What the messages hold does not matter here,
/// and an empty type skips it.
pub async fn call(
    channel: &Channel,
    path: &str,
    authorization: impl IntoIterator<Item = MetadataValue<Ascii>>,
) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    soon("the connection", grpc.ready()).await.unwrap();
    let mut request = Request::new(());
    for value in authorization {
        request.metadata_mut().append("authorization", value);
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = PathAndQuery::try_from(path).unwrap();
    let mut answer = soon(path.as_str(), grpc.server_streaming(request, path.clone(), codec)).await?.into_inner();
    soon("the first message", answer.message()).await.map(drop)
}

/// Calls a method with a request that never arrives whole.
pub async fn endless(channel: Channel, path: &'static str, token: Option<&str>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    soon("the connection", grpc.ready()).await.unwrap();
    let mut request = Request::new(tokio_stream::pending::<()>());
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    grpc.client_streaming(request, PathAndQuery::from_static(path), codec).await.map(drop)
}

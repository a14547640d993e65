//! Requests of the benchmark's clients, and their connections.

use std::net::SocketAddr;

use prost::Message;
use prost::bytes::{BufMut, Bytes, BytesMut};
use toggled::api::pb::{
    GetFeatureFlagRequest, ToggleFeatureFlagRequest, get_feature_flag_request, toggle_feature_flag_request,
};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::server::TOKEN;
use crate::Result;

/// Length of gRPC's message prefix, in bytes.
pub const GRPC_PREFIX: usize = 5;

/// Paths of methods that light clients call.
pub const FLIP: &str = "/toggled.v1.ToggleService/ToggleFeatureFlag";
pub const GET: &str = "/toggled.v1.ToggleService/GetFeatureFlag";
pub const WATCH: &str = "/toggled.v1.ToggleService/WatchFeatureFlags";

type Token = MetadataValue<Ascii>;

/// A flag of the benchmark.
pub struct NumberedFlag {
    pub key: String,
    /// The environment, if there are several.
    pub environment: Option<String>,
}

impl NumberedFlag {
    /// The flag with this number among flags that are spread over environments: `flag-1` of each, then `flag-2` of each, and so on.
    pub fn among(environments: usize, number: usize) -> Self {
        let (round, environment) = ((number - 1) / environments, (number - 1) % environments);
        Self { environment: Some(environment_key(environment)), ..Self::from(round + 1) }
    }
}

/// `flag-NUMBER` of `default`.
impl From<usize> for NumberedFlag {
    fn from(number: usize) -> Self {
        Self { key: format!("flag-{number}"), environment: None }
    }
}

/// The key of an environment; the first is `default`.
pub fn environment_key(number: usize) -> String {
    if number == 0 { "default".to_owned() } else { format!("environment-{number}") }
}

/// Flips a flag.
pub fn flip_request(flag: impl Into<NumberedFlag>) -> ToggleFeatureFlagRequest {
    let NumberedFlag { key, environment } = flag.into();
    ToggleFeatureFlagRequest {
        flag: Some(toggle_feature_flag_request::Flag::Key(key)),
        reason: "quick benchmark".to_owned(),
        environment,
        ..Default::default()
    }
}

/// Reads a flag.
pub fn get_request(flag: impl Into<NumberedFlag>) -> GetFeatureFlagRequest {
    let NumberedFlag { key, environment } = flag.into();
    let flag = Some(get_feature_flag_request::Flag::Key(key));
    GetFeatureFlagRequest { flag, environment, ..Default::default() }
}

/// Reads `flag-1`.
pub fn read_request() -> GetFeatureFlagRequest {
    get_request(1)
}

/// Opens a connection.
pub async fn connect(address: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.user_agent("quick")?.connect().await?)
}

/// The `authorization` header of every request.
pub fn token() -> Result<Token> {
    Ok(format!("Bearer {TOKEN}").parse()?)
}

pub fn with_token<T>(message: T, token: &Token) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.clone());
    request
}

/// Encodes a message with gRPC's prefix: a byte for no compression, then the length.
pub fn encode_grpc(message: &impl Message) -> Result<Bytes> {
    let length = message.encoded_len();
    let mut encoded = BytesMut::with_capacity(GRPC_PREFIX + length);
    encoded.put_u8(0);
    encoded.put_u32(u32::try_from(length)?);
    message.encode(&mut encoded)?;
    Ok(encoded.freeze())
}

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

/// Flips the flag with this number.
pub fn flip_request(number: usize) -> ToggleFeatureFlagRequest {
    ToggleFeatureFlagRequest {
        flag: Some(toggle_feature_flag_request::Flag::Key(format!("flag-{number}"))),
        reason: "quick benchmark".to_owned(),
        ..Default::default()
    }
}

/// Reads the flag with this number.
pub fn get_request(number: usize) -> GetFeatureFlagRequest {
    let flag = get_feature_flag_request::Flag::Key(format!("flag-{number}"));
    GetFeatureFlagRequest { flag: Some(flag), ..Default::default() }
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

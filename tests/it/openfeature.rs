//! Environments, by flagd's services and OFREP: each client reads one of them, and nothing of any other.

mod access;
mod anonymous;
mod selectors;
mod streams;

use std::collections::BTreeMap;

use http::uri::PathAndQuery;
use serde_json::Value;
use toggled::api::pb::flagd::evaluation::v1::service_client::ServiceClient as EvaluationV1Client;
use toggled::api::pb::flagd::evaluation::v2::service_client::ServiceClient as EvaluationV2Client;
use toggled::api::pb::flagd::evaluation::{v1, v2};
use toggled::api::pb::flagd::sync::v1 as sync;
use toggled::api::pb::flagd::sync::v1::flag_sync_service_client::FlagSyncServiceClient;
use toggled::api::pb::*;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use crate::support::http::{Http, json};
use crate::support::methods::channel;
use crate::support::{Backend, Client, Database, Server, TOKEN, on_both_databases, reason_of, with_timeout};

const FLAGS: &str = "/ofrep/v1/evaluate/flags";

/// The refusal of a read, by code and message.
type Refusal = (Code, String);

/// The flags of an environment, or why they are refused.
type Flags = Result<BTreeMap<String, bool>, Refusal>;

/// The metadata of every call.
#[derive(Clone)]
struct Headers(Vec<(&'static str, MetadataValue<Ascii>)>);

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in &self.0 {
            request.metadata_mut().append(*name, value.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Headers>;

/// A client of all OpenFeature protocols, with one token and one selector on every call.
#[derive(Clone)]
struct Reader {
    channel: Channel,
    headers: Headers,
    v1: EvaluationV1Client<Service>,
    v2: EvaluationV2Client<Service>,
    sync: FlagSyncServiceClient<Service>,
}

impl Reader {
    async fn new(server: &Server, token: Option<&str>, selector: &str) -> Self {
        let selectors = if selector.is_empty() { &[][..] } else { &[selector] };
        Self::with_selectors(server, token, selectors).await
    }

    async fn with_selectors(server: &Server, token: Option<&str>, selectors: &[&str]) -> Self {
        let channel = channel(server).await;
        let token = token.map(|token| ("authorization", format!("Bearer {token}").parse().unwrap()));
        let selectors =
            selectors.iter().map(|selector| ("flagd-selector", MetadataValue::try_from(selector.as_bytes()).unwrap()));
        let headers = Headers(token.into_iter().chain(selectors).collect());
        Self {
            v1: EvaluationV1Client::with_interceptor(channel.clone(), headers.clone()),
            v2: EvaluationV2Client::with_interceptor(channel.clone(), headers.clone()),
            sync: FlagSyncServiceClient::with_interceptor(channel.clone(), headers.clone()),
            channel,
            headers,
        }
    }

    /// The flags, by every method, which all agree. `absent` is a key that must not be found; `field` is the selector in the requests that
    /// have a field for it.
    async fn flags(&mut self, field: &str, absent: &str) -> Flags {
        let (provider_id, selector) = (String::new(), field.to_owned());
        let request = sync::FetchAllFlagsRequest { provider_id, selector };
        let fetched = self.sync.fetch_all_flags(request).await;
        let flags = fetched.map(|answer| configured(&answer.into_inner().flag_configuration)).map_err(refusal);
        let synced = match self.sync(field).await {
            Ok(mut stream) => next(&mut stream).await.map(|message| configured(&message.flag_configuration)),
            Err(status) => Err(status),
        };
        assert_eq!(synced.map_err(refusal), flags, "SyncFlags");
        if !field.is_empty() {
            return flags;
        }
        let all = self.v1.resolve_all(v1::ResolveAllRequest::default()).await;
        let value = |flag: v1::AnyFlag| flag.value == Some(v1::any_flag::Value::BoolValue(true));
        let resolved =
            all.map(|all| all.into_inner().flags.into_iter().map(|(key, flag)| (key, value(flag))).collect());
        assert_eq!(resolved.map_err(refusal), flags, "ResolveAll");
        let metadata = self.sync.get_metadata(sync::GetMetadataRequest {}).await;
        let is_selected = self.headers.0.iter().any(|(name, _)| *name == "flagd-selector");
        match &flags {
            // Some clients send no selector with this call.
            Err((Code::PermissionDenied, _)) if !is_selected => {
                assert_eq!(metadata.unwrap().into_inner().metadata, Some(prost_types::Struct::default()));
            }
            flags => {
                assert_eq!(metadata.map(drop).map_err(refusal).err().as_ref(), flags.as_ref().err(), "GetMetadata")
            }
        }
        assert_eq!(self.ofrep_bulk(None).await.flags(), flags, "OFREP");
        let keys = flags.as_ref().map_or_else(|_| Vec::new(), |flags| flags.keys().cloned().collect());
        for key in keys.iter().map(String::as_str).chain([absent]) {
            let expected = flags.as_ref().map(|flags| flags.get(key).copied()).map_err(Clone::clone);
            self.check_one(key, expected).await;
        }
        flags
    }

    /// Reads a flag by every method for one flag. `None`: it is not found.
    async fn check_one(&mut self, key: &str, expected: Result<Option<bool>, Refusal>) {
        let not_found = |status: Status| match reason_of(&status).as_str() {
            "FLAG_NOT_FOUND" => Ok(None),
            _ => Err(refusal(status)),
        };
        let request = v1::ResolveBooleanRequest { flag_key: key.to_owned(), context: Vec::new() };
        let v1 = self.v1.resolve_boolean(request).await.map(|answer| Some(answer.into_inner().value));
        assert_eq!(v1.or_else(not_found), expected, "ResolveBoolean v1 {key}");
        let request = v2::ResolveBooleanRequest { flag_key: key.to_owned(), context: Vec::new() };
        let v2 = self.v2.resolve_boolean(request).await.map(|answer| answer.into_inner().value);
        assert_eq!(v2.or_else(not_found), expected, "ResolveBoolean v2 {key}");
        for (version, kind) in [("v1", "String"), ("v1", "Object"), ("v2", "Int"), ("v2", "Float")] {
            let mistyped = self.resolve(version, kind, key).await.unwrap_err();
            let found = match reason_of(&mistyped).as_str() {
                "INVALID_FIELD" if mistyped.message().contains("must be read as a boolean") => {
                    Ok(expected.clone().unwrap())
                }
                _ => not_found(mistyped),
            };
            assert_eq!(found, expected, "Resolve{kind} {version} {key}");
        }
        let answer = self.ofrep(&format!("{FLAGS}/{key}"), None).await;
        let body = json(&answer.0);
        let found = match answer.0.status().as_u16() {
            200 => Ok(Some(body["value"].as_bool().unwrap())),
            404 if body["errorCode"] == "FLAG_NOT_FOUND" => Ok(None),
            _ => Err(answer.refusal()),
        };
        assert_eq!(found, expected, "OFREP {key}");
    }

    async fn resolve(&self, version: &str, kind: &str, key: &str) -> Result<(), Status> {
        let mut grpc = tonic::client::Grpc::new(InterceptedService::new(self.channel.clone(), self.headers.clone()));
        with_timeout("the connection", grpc.ready()).await.unwrap();
        let request = Request::new(v1::ResolveBooleanRequest { flag_key: key.into(), context: Vec::new() });
        let path = PathAndQuery::try_from(format!("/flagd.evaluation.{version}.Service/Resolve{kind}")).unwrap();
        let codec = tonic_prost::ProstCodec::<v1::ResolveBooleanRequest, ()>::default();
        with_timeout("an answer", grpc.unary(request, path, codec)).await.map(drop)
    }

    async fn sync(&mut self, field: &str) -> Result<Streaming<sync::SyncFlagsResponse>, Status> {
        let request = sync::SyncFlagsRequest { provider_id: String::new(), selector: field.to_owned() };
        self.sync.sync_flags(request).await.map(tonic::Response::into_inner)
    }

    /// OFREP's answer with all flags, unless they have this tag.
    async fn ofrep_bulk(&self, tag: Option<&str>) -> OfrepAnswer {
        self.ofrep(FLAGS, tag).await
    }

    async fn ofrep(&self, path: &str, tag: Option<&str>) -> OfrepAnswer {
        let mut request = http::Request::post(path).header("content-type", "application/json");
        for (name, value) in &self.headers.0 {
            request = request.header(*name, value.as_bytes());
        }
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        OfrepAnswer(Http::Two(self.channel.clone()).send(request.body("{}".to_owned()).unwrap()).await)
    }
}

/// An answer by OFREP.
struct OfrepAnswer(http::Response<Vec<u8>>);

impl OfrepAnswer {
    fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    fn header(&self, name: &str) -> String {
        self.0.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap().to_owned()
    }

    fn flags(&self) -> Flags {
        if self.status() != 200 {
            return Err(self.refusal());
        }
        let value = |flag: &Value| (flag["key"].as_str().unwrap().to_owned(), flag["value"].as_bool().unwrap());
        Ok(json(&self.0)["flags"].as_array().unwrap().iter().map(value).collect())
    }

    fn refusal(&self) -> Refusal {
        let code = match self.status() {
            400 => Code::InvalidArgument,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            other => panic!("{other}: {:?}", self.0),
        };
        (code, json(&self.0)["errorDetails"].as_str().unwrap().to_owned())
    }
}

fn refusal(status: Status) -> Refusal {
    (status.code(), status.message().to_owned())
}

async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    with_timeout("a message", stream.message()).await.map(|message| message.unwrap())
}

/// The flags in a configuration of flagd.
fn configured(configuration: &str) -> BTreeMap<String, bool> {
    let configuration: Value = serde_json::from_str(configuration).unwrap();
    let flags = configuration["flags"].as_object().unwrap().iter();
    flags.map(|(key, flag)| (key.clone(), flag["defaultVariant"] == "on")).collect()
}

fn flags<const N: usize>(flags: [(&str, bool); N]) -> BTreeMap<String, bool> {
    flags.map(|(key, on)| (key.to_owned(), on)).into()
}

/// The refusal for lack of the permission in an environment, whether that exists or not.
fn denied(environment: &str) -> Refusal {
    (Code::PermissionDenied, format!("Insufficient permissions: view_feature_flags@{environment} required"))
}

/// A server with two more environments than `default`. The flag `shared` is off in `default`, and on in `staging`. Each environment has a
/// flag that only it has, by its name.
struct World {
    _database: Database,
    server: Server,
    admin: Client,
}

impl World {
    async fn new(backend: Backend, settings: &[(&str, &str)]) -> Self {
        let database = Database::new(backend).await;
        let server = Server::start_with(&database, settings).await;
        let mut world = Self { _database: database, admin: server.admin().await, server };
        for environment in ["staging", "production"] {
            world.admin.new_environment(environment).await;
        }
        for environment in ["default", "staging", "production"] {
            world.admin.create_in(environment, environment).await;
        }
        world.admin.create_in("default", "shared").await;
        world.admin.create_in("staging", "shared").await;
        world.flip("staging", "shared").await;
        world
    }

    async fn flip(&mut self, environment: &str, key: &str) -> i64 {
        let flag = Some(toggle_feature_flag_request::Flag::Key(key.into()));
        let request = ToggleFeatureFlagRequest { environment: Some(environment.into()), flag, ..Default::default() };
        self.admin.toggle.toggle_feature_flag(request).await.unwrap().into_inner().feature_flag.unwrap().revision
    }

    /// The administrator's reader of an environment.
    async fn reader(&self, selector: &str) -> Reader {
        Reader::new(&self.server, Some(TOKEN), selector).await
    }
}

//! Reflection shows tools everything that they need: services, and the types of the details of errors.

use std::collections::{HashMap, VecDeque};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::{Any, FileDescriptorProto};
use tonic::transport::Channel;

use crate::support::methods::channel;
use crate::support::{Backend, Database, Server, toggle, with_timeout};

/// Asks for the files of symbols, and for all files that these import, in one call as grpcurl does.
macro_rules! files_of {
    ($version:ident, $channel:expr, $symbols:expr) => {{
        use reflection::server_reflection_request::MessageRequest;
        use reflection::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as reflection;
        let mut client = reflection::server_reflection_client::ServerReflectionClient::new($channel);
        let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
        let requests = tokio_stream::wrappers::UnboundedReceiverStream::new(requests);
        let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
        let mut wanted: VecDeque<_> =
            $symbols.iter().map(|name| MessageRequest::FileContainingSymbol((*name).to_owned())).collect();
        let mut files: HashMap<String, Vec<u8>> = HashMap::new();
        while let Some(next) = wanted.pop_front() {
            let request = reflection::ServerReflectionRequest { host: String::new(), message_request: Some(next) };
            sender.send(request).unwrap();
            let answer = with_timeout("a file", answers.message()).await.unwrap().unwrap();
            let Some(MessageResponse::FileDescriptorResponse(found)) = answer.message_response else {
                panic!("no file: {answer:?}")
            };
            for encoded in found.file_descriptor_proto {
                let file = FileDescriptorProto::decode(&encoded[..]).unwrap();
                if files.insert(file.name().to_owned(), encoded).is_none() {
                    wanted.extend(file.dependency.into_iter().map(MessageRequest::FileByFilename));
                }
            }
        }
        files
    }};
}

async fn files(channel: Channel, version: &str, symbols: &[&str]) -> HashMap<String, Vec<u8>> {
    match version {
        "v1" => files_of!(v1, channel, symbols),
        _ => files_of!(v1alpha, channel, symbols),
    }
}

/// A set of files, encoded.
fn set(files: &HashMap<String, Vec<u8>>) -> Vec<u8> {
    let mut set = Vec::new();
    for file in files.values() {
        prost::encoding::bytes::encode(1, file, &mut set);
    }
    set
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn details_of_errors_can_be_decoded_by_reflection() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let errors = [
        admin.toggle.toggle_feature_flag(toggle("nothing")).await.unwrap_err(),
        admin.toggle.toggle_feature_flag(toggle("not a key")).await.unwrap_err(),
    ];
    for version in ["v1", "v1alpha"] {
        let mut shown = Vec::new();
        for error in &errors {
            let status = tonic_types::pb::Status::decode(error.details()).unwrap();
            for Any { type_url, value } in status.details {
                let name = type_url.rsplit('/').next().unwrap();
                let files = files(channel(&server).await, version, &[name]).await;
                let pool = DescriptorPool::decode(&set(&files)[..]).unwrap();
                let descriptor = pool.get_message_by_name(name).unwrap();
                shown.push(DynamicMessage::decode(descriptor, &value[..]).unwrap().to_string());
            }
        }
        let shown = shown.join("\n");
        for text in ["reason:\"FLAG_NOT_FOUND\",domain:\"toggled\"", "resource_name:\"nothing\"", "field_violations:"] {
            assert!(shown.contains(text), "{version}: {text} in {shown}");
        }
    }
}

/// A tool asks for any of these, and for the files that they import.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_types_that_answers_use_are_served() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let details = ["ErrorInfo", "BadRequest", "RetryInfo", "PreconditionFailure", "ResourceInfo", "Status"];
    let details = details.map(|name| format!("google.rpc.{name}"));
    let others = ["toggled.v1.ErrorReason", "toggled.v1.ToggleService", "grpc.health.v1.Health.List"];
    let symbols: Vec<_> = details.iter().map(String::as_str).chain(others).collect();
    for version in ["v1", "v1alpha"] {
        let files = files(channel(&server).await, version, &symbols).await;
        let pool = DescriptorPool::decode(&set(&files)[..]).unwrap();
        assert!(pool.get_enum_by_name("toggled.v1.ErrorReason").is_some(), "{version}");
        assert!(pool.get_message_by_name("google.protobuf.Duration").is_some(), "{version}");
    }
}

/// Asks in one call, and returns the answers as text, without the requests that they repeat.
macro_rules! answers_to {
    ($version:ident, $channel:expr, $requests:expr) => {{
        use tonic_reflection::pb::$version as reflection;
        let mut client = reflection::server_reflection_client::ServerReflectionClient::new($channel);
        let requests = $requests
            .map(|message_request| reflection::ServerReflectionRequest { host: "host".to_owned(), message_request });
        let mut answers =
            client.server_reflection_info(tokio_stream::iter(requests.clone())).await.unwrap().into_inner();
        let mut received = Vec::new();
        for request in requests {
            let answer = with_timeout("an answer", answers.message()).await.unwrap().unwrap();
            assert_eq!((answer.valid_host, answer.original_request), ("host".to_owned(), Some(request)));
            received.push(answer.message_response.unwrap());
        }
        assert_eq!(with_timeout("the end", answers.message()).await.unwrap(), None);
        received
    }};
}

macro_rules! unknown_names_are_answered_in_the_stream {
    ($version:ident, $server:expr) => {{
        use reflection::server_reflection_request::MessageRequest::*;
        use reflection::server_reflection_response::MessageResponse;
        use tonic_reflection::pb::$version as reflection;
        let extension = |extension_number| {
            let containing_type = "google.protobuf.MethodOptions".to_owned();
            Some(FileContainingExtension(reflection::ExtensionRequest { containing_type, extension_number }))
        };
        let requests = [
            Some(FileByFilename("no.proto".to_owned())),
            Some(FileContainingSymbol("toggled.v1.Nothing".to_owned())),
            extension(1),
            Some(AllExtensionNumbersOfType("toggled.v1.Nothing".to_owned())),
            None,
            Some(AllExtensionNumbersOfType("google.protobuf.MethodOptions".to_owned())),
            Some(AllExtensionNumbersOfType("toggled.v1.FeatureFlag".to_owned())),
            // The extension of the API: the policy of a method.
            extension(50_710),
            Some(FileContainingSymbol("toggled.v1.policy".to_owned())),
            Some(FileContainingSymbol("toggled.v1.ToggleService.ToggleFeatureFlag".to_owned())),
            Some(FileContainingSymbol("toggled.v1.FeatureFlag.key".to_owned())),
            Some(ListServices(String::new())),
        ];
        let mut answers = answers_to!($version, channel(&$server).await, requests).into_iter();
        for code in [5, 5, 5, 5, 3] {
            match answers.next() {
                Some(MessageResponse::ErrorResponse(error)) => {
                    assert_eq!(error.error_code, code, "{error:?}");
                    assert!(!error.error_message.is_empty());
                }
                other => panic!("no error: {other:?}"),
            }
        }
        for (name, expected) in [("google.protobuf.MethodOptions", &[50_710][..]), ("toggled.v1.FeatureFlag", &[])] {
            match answers.next() {
                Some(MessageResponse::AllExtensionNumbersResponse(found)) => {
                    assert_eq!((&*found.base_type_name, &*found.extension_number), (name, expected));
                }
                other => panic!("no numbers: {other:?}"),
            }
        }
        let mut file = || match answers.next() {
            Some(MessageResponse::FileDescriptorResponse(found)) => {
                FileDescriptorProto::decode(&found.file_descriptor_proto[0][..]).unwrap().name().to_owned()
            }
            other => panic!("no file: {other:?}"),
        };
        for name in ["policy", "policy", "toggle_service", "feature_flag"] {
            assert_eq!(file(), format!("toggled/v1/{name}.proto"));
        }
        match answers.next() {
            Some(MessageResponse::ListServicesResponse(list)) => {
                let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
                for served in ["toggled.v1.ToggleService", "flagd.sync.v1.FlagSyncService", "grpc.health.v1.Health"] {
                    assert!(names.contains(&served), "{served}");
                }
            }
            other => panic!("no services: {other:?}"),
        }
    }};
}

/// Tools ask for names that they guess, such as extensions of every type, and go on in the same stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_name_is_an_error_within_the_stream() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    unknown_names_are_answered_in_the_stream!(v1, server);
    unknown_names_are_answered_in_the_stream!(v1alpha, server);
}

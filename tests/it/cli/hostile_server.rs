//! A server that puts characters into every text that hide, or control a terminal: no command prints one of them.

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Request, Response};

use http_body_util::{BodyExt, Full};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use toggled::api::pb::DESCRIPTORS;
use toggled::visible::is_hidden;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::Shell;

/// An escape sequence, a C1 control, a bidirectional override, a zero-width space, a tag, and a new line.
const HOSTILE: &str = "evil\u{1b}[31m\u{9b}1m\u{202e}\u{200b}\u{e0061}\nforged";

/// The fields without which the client reads on for ever.
const LAST_PAGE: [&str; 1] = ["next_page_token"];

/// How the text looks up to its line break, which is a space in errors.
const SHOWN: &str = r"evil\u{1b}[31m\u{9b}1m\u{202e}\u{200b}\u{e0061}";

/// A message with one item in every list, and this text in every string.
fn hostile_message(message: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut hostile = DynamicMessage::new(message.clone());
    let is_time = message.full_name() == "google.protobuf.Timestamp";
    for field in message.fields().filter(|field| !is_time && !LAST_PAGE.contains(&field.name())) {
        let Some(value) = hostile_value(&field, depth) else { continue };
        hostile.set_field(&field, if field.is_list() { Value::List(vec![value]) } else { value });
    }
    hostile
}

fn hostile_value(field: &FieldDescriptor, depth: usize) -> Option<Value> {
    Some(match field.kind() {
        Kind::String => Value::String(HOSTILE.to_owned()),
        Kind::Bytes => Value::Bytes(Bytes::from_static(&[7; 32])),
        Kind::Bool => Value::Bool(true),
        Kind::Int64 => Value::I64(1),
        Kind::Int32 => Value::I32(1),
        Kind::Enum(_) => Value::EnumNumber(1),
        Kind::Message(inner) if depth < 4 && !field.is_map() => Value::Message(hostile_message(&inner, depth + 1)),
        _ => return None,
    })
}

/// An answer of one message.
fn answer(message: &impl Message) -> Response<tonic::body::Body> {
    let bytes = message.encode_to_vec();
    let frame = [&[0][..], &u32::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes].concat();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from(frame)).with_trailers(async { Some(Ok(trailers)) });
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(tonic::body::Body::new(body)).unwrap()
}

/// Serves hostile answers, or hostile errors with this code.
async fn serve(code: Code) -> SocketAddr {
    serve_without(code, "").await
}

/// The same, with empty lists in this field.
async fn serve_without(code: Code, omitted: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let methods: Vec<_> = methods
        .map(|method| (format!("/{}/{}", method.parent_service().full_name(), method.name()), method.output()))
        .collect();
    let respond = async move |request: Request<Body>| {
        if code != Code::Ok {
            let mut details =
                ErrorDetails::with_error_info(HOSTILE, HOSTILE, [("head_revision".into(), HOSTILE.into())]);
            if code == Code::InvalidArgument {
                details.add_bad_request_violation(HOSTILE, HOSTILE);
            }
            return Status::with_error_details(code, HOSTILE, details).into_http::<tonic::body::Body>();
        }
        match methods.iter().find(|(path, _)| path == request.uri().path()) {
            Some((_, output)) => {
                let mut message = hostile_message(output, 0);
                message.clear_field_by_name(omitted);
                answer(&message)
            }
            None => Status::unimplemented(HOSTILE).into_http(),
        }
    };
    let routes = Routes::from(Router::new().fallback(respond));
    tokio::spawn(
        tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(TcpIncoming::from(listener)),
    );
    address
}

const COMMANDS: [&[&str]; 20] = [
    &["whoami"],
    &["health"],
    &["flag", "create", "a"],
    &["flag", "get", "a"],
    &["flag", "get", "a", "--as-of", "1"],
    &["flag", "list"],
    &["flag", "toggle", "a"],
    &["flag", "enable", "a"],
    &["flag", "disable", "a", "b"],
    &["flag", "update", "a", "--name", "A"],
    &["flag", "archive", "a"],
    &["flag", "export"],
    &["flag", "export", "--format", "csv"],
    &["flag", "export", "--format", "flagd"],
    &["audit", "list"],
    &["audit", "tail", "--no-follow"],
    &["audit", "export"],
    &["audit", "export", "--format", "csv"],
    &["audit", "checkpoint"],
    &["audit", "verify"],
];

/// Whether a command writes a file to standard output, which keeps its exact content.
fn writes_file(arguments: &[&str]) -> bool {
    arguments.contains(&"csv")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_server_hides_nothing_in_any_output() {
    let mut shown = 0;
    for code in [Code::Ok, Code::InvalidArgument, Code::Internal] {
        let shell = Shell::new(serve(code).await);
        for arguments in COMMANDS {
            for format in ["table", "json"] {
                let takes_format = arguments[1..].first() != Some(&"export") || arguments[0] == "audit";
                let more: &[&str] = if takes_format { &["--output", format] } else { &[] };
                let (_, out, error) = shell.run(&[arguments, more].concat()).await;
                let hidden = |c: char| c != '\n' && is_hidden(c);
                assert!(writes_file(arguments) || !out.contains(hidden), "{code:?} {arguments:?}: {out:?}");
                assert!(!error.contains(hidden) && !error.contains("\nforged"), "{code:?} {arguments:?}: {error:?}");
                shown += usize::from(out.contains(SHOWN)) + usize::from(error.contains(SHOWN));
            }
        }
    }
    assert!(shown > 40, "the text is shown, escaped: {shown}");
}

/// The log's id in the last line of both exports, which stands on standard error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_show_the_log_id_of_a_hostile_server() {
    let shell = Shell::new(serve(Code::Ok).await);
    let (code, _, error) = shell.run(&["flag", "export", "--archived"]).await;
    assert_eq!((code, error), (0, format!("1 flag at revision 1 of log {SHOWN}\\nforged\n")));
    let (_, out, error) = shell.run(&["audit", "export"]).await;
    assert!(error.contains(&format!("of log {SHOWN} forged")), "{error}");
    assert_eq!(out, "", "nothing of a log without an id is written");
    // Of a log without entries, only the id is printed.
    let shell = Shell::new(serve_without(Code::Ok, "items").await);
    let (code, out, error) = shell.run(&["audit", "export"]).await;
    assert_eq!((code, out.as_str()), (0, ""), "{error}");
    assert!(error.starts_with(&format!("entries 0 of log {SHOWN}\\nforged, through 1:")), "{error}");
}

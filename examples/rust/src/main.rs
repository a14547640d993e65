//! Flips a flag, reads it, then watches it and follows its audit log until Ctrl-C.

use std::env;
use std::error::Error;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use pb::audit_service_client::AuditServiceClient;
use pb::toggle_service_client::ToggleServiceClient;
use pb::{FeatureFlag, FeatureFlagStatus};

#[allow(clippy::all, dead_code, reason = "generated, and used in part")]
mod pb {
    tonic::include_proto!("toggled.v1");
}

/// After these a call is repeated. The change may have been made, so a repeated one needs the same request_id.
const RETRYABLE: [Code; 6] = [
    Code::Unavailable,
    Code::DeadlineExceeded,
    Code::ResourceExhausted,
    Code::Unknown,
    Code::Internal,
    Code::Cancelled,
];
/// The log no longer has the cursor: it was trimmed, or restored from a backup.
const CURSOR_LOST: [Code; 2] = [Code::OutOfRange, Code::FailedPrecondition];
const ATTEMPTS: u32 = 20;

/// A channel to `TOGGLED_ADDR`. Pings find a lost connection, on which a stream would wait for ever.
fn connect() -> Result<Channel, Box<dyn Error>> {
    let address = env::var("TOGGLED_ADDR").unwrap_or("http://localhost:50051".into());
    let endpoint = Endpoint::new(address.clone())?.http2_keep_alive_interval(Duration::from_secs(30));
    if !address.starts_with("https:") {
        return Ok(endpoint.connect_lazy());
    }
    let tls = match env::var("TOGGLED_CA_CERTIFICATE") {
        Ok(authority) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(authority)?)),
        Err(_) => ClientTlsConfig::new().with_native_roots(),
    };
    Ok(endpoint.tls_config(tls)?.connect_lazy())
}

/// Reports an error, or returns it if no retry can mend it.
fn check(error: Status) -> Result<(), Status> {
    if !RETRYABLE.contains(&error.code()) {
        return Err(error);
    }
    eprintln!("{error}; retrying");
    Ok(())
}

/// Waits before the next attempt, up to 5 seconds.
async fn pause(attempt: u32) {
    let delay = (0.2 * 2_f64.powi(attempt as i32)).min(5.0);
    tokio::time::sleep(Duration::from_secs_f64(delay * (0.5 + fastrand::f64() / 2.0))).await;
}

/// Sends a request until it is answered.
async fn retry<Q: Clone, M>(
    request: Q,
    call: impl AsyncFn(Request<Q>) -> Result<Response<M>, Status>,
) -> Result<M, Status> {
    for attempt in 0.. {
        let mut request = Request::new(request.clone());
        request.set_timeout(Duration::from_secs(10));
        match call(request).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(error) => check(error)?,
        }
        pause(attempt).await;
    }
    unreachable!()
}

/// Reads a stream for ever. When it breaks, opens it again with the request, in which `handle` keeps the cursor.
async fn resume<Q: Clone, M>(
    mut request: Q,
    open: impl AsyncFn(Q) -> Result<Response<Streaming<M>>, Status>,
    mut handle: impl FnMut(&mut Q, M),
) -> Result<(), Status> {
    let mut attempt = 0;
    loop {
        let read = async {
            let mut messages = open(request.clone()).await?.into_inner();
            while let Some(message) = messages.message().await? {
                handle(&mut request, message);
                attempt = 0;
            }
            Ok(())
        };
        if let Err(error) = read.await {
            check(error)?;
        }
        pause(attempt).await;
        attempt += 1;
    }
}

fn show(what: &str, flag: &FeatureFlag) {
    let status = if flag.status() == FeatureFlagStatus::Enabled { "enabled" } else { "disabled" };
    println!("{what} {}: {status} at revision {}", flag.key, flag.revision);
}

#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Authorized = InterceptedService<Channel, Bearer>;

/// Prints the flag's state, and each change of it.
async fn watch(toggles: ToggleServiceClient<Authorized>, key: &str) -> Result<(), Status> {
    loop {
        let request = pb::WatchFeatureFlagsRequest { keys: vec![key.into()], ..Default::default() };
        let open = async |request| toggles.clone().watch_feature_flags(request).await;
        let watched = resume(request, open, |request, message: pb::WatchFeatureFlagsResponse| {
            message.feature_flags.iter().for_each(|flag| show("watched", flag));
            (request.after_revision, request.after_hash) = (Some(message.revision), message.hash);
            request.log_id = Some(message.log_id);
        });
        match watched.await {
            Err(error) if CURSOR_LOST.contains(&error.code()) => {}
            ended => return ended,
        }
    }
}

/// Prints the flag's audit entries, and each new one. Ends if the log is not the one it was.
async fn follow(audits: AuditServiceClient<Authorized>, flag_id: String) -> Result<(), Status> {
    let request = pb::StreamAuditLogsRequest { entity_id: Some(flag_id), follow: true, ..Default::default() };
    let open = async |request| audits.clone().stream_audit_logs(request).await;
    let followed = resume(request, open, |request, message: pb::StreamAuditLogsResponse| {
        for entry in &message.items {
            let pb::AuditLog { entity_key, action_type, revision, user_email, .. } = entry;
            println!("audited {entity_key}: {action_type} at revision {revision} by {user_email}");
        }
        request.after_revision = Some(message.through_revision);
        (request.after_hash, request.log_id) = (Some(message.through_hash), Some(message.log_id));
    });
    followed.await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let key = env::args().nth(1).unwrap_or("checkout".into());
    let (channel, bearer) = (connect()?, Bearer(format!("Bearer {}", env::var("TOGGLED_TOKEN")?).parse()?));
    let toggles = ToggleServiceClient::with_interceptor(channel.clone(), bearer.clone());
    let audits = AuditServiceClient::with_interceptor(channel, bearer);

    // All attempts have one request_id, so the flag is flipped once.
    let flip = pb::ToggleFeatureFlagRequest {
        flag: Some(pb::toggle_feature_flag_request::Flag::Key(key.clone())),
        reason: "an example".into(),
        request_id: Some(Uuid::new_v4().to_string()),
        ..Default::default()
    };
    let flipped = retry(flip, async |request| toggles.clone().toggle_feature_flag(request).await).await?;
    show("flipped", &flipped.feature_flag.unwrap_or_default());
    // Another server may answer: min_revision makes it wait for the flip.
    let read = pb::GetFeatureFlagRequest {
        flag: Some(pb::get_feature_flag_request::Flag::Key(key.clone())),
        min_revision: Some(flipped.revision),
        ..Default::default()
    };
    let read = retry(read, async |request| toggles.clone().get_feature_flag(request).await).await?;
    let flag = read.feature_flag.unwrap_or_default();
    show("read", &flag);
    tokio::try_join!(watch(toggles, &key), follow(audits, flag.id))?;
    Ok(())
}

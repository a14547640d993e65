//! Refused changes, recorded in the log.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http_body_util::{BodyExt, Limited};
use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use tonic::body::Body;
use uuid::Uuid;

use crate::api::call::Call;
use crate::api::errors::status;
use crate::api::middleware::idempotency as replay;
use crate::api::middleware::limits::{Admitted, Windows};
use crate::auth::policy::Method;
use crate::committer::Proposals;
use crate::domain::access::Permission;
use crate::domain::advance::{Command, Denial, Named, Proposal};
use crate::domain::error::Error;
use crate::domain::text::{Email, FlagKey, RequestId};
use crate::domain::time::Clock;
use crate::store::Store;

/// As much of a refused request as is read to learn what it was about, in bytes.
const BODY_LIMIT: usize = 16 * 1024;

/// How long to wait for that much of it, and for the database to say whether it is a retry.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a refusal waits for its record. Past it the caller is answered, and the record is still written.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// Records refusals: a few a minute of each caller, so that nobody can flood the log.
#[derive(Clone)]
pub(in crate::api) struct Denials {
    proposals: Proposals,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    windows: Arc<Windows>,
}

impl Denials {
    /// Refusals that are recorded through `proposals`; `store` knows which requests were let in before.
    pub fn new(proposals: Proposals, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { proposals, store, clock, windows: Arc::default() }
    }

    /// Answers a call whose caller lacks `permission`: a retry of one that was let in as that was, since retries come before
    /// every rule but who calls; anything else with a refusal, which is recorded. Whoever goes away does not stop that.
    pub(super) async fn answer(
        self,
        call: Call,
        method: Arc<Method>,
        permission: Permission,
        body: Body,
    ) -> Response<Body> {
        let answer = tokio::spawn(async move {
            // One who is refused again and again costs nothing more: neither their body nor the database is read.
            let admitted = self.admit(&call)?;
            let message = match &method.input {
                Some(input) => read(body, input).await,
                None => None,
            };
            let replayed = match &message {
                Some(message) => self.replayed(&call, message).await,
                None => None,
            };
            match replayed {
                Some(_) => self.windows.give_back(&admitted),
                None => {
                    let named = match &message {
                        Some(message) => self.named(message).await,
                        None => None,
                    };
                    self.write(&call, permission, named, admitted).await;
                }
            }
            replayed
        });
        let replayed = answer.await.unwrap_or_default();
        replayed.unwrap_or_else(|| status(Error::PermissionDenied(permission)).into_http())
    }

    /// Records that `call` was refused, unless its caller has been refused too often lately.
    pub async fn record(&self, call: &Call, permission: Permission, named: Option<Named>) {
        if let Some(admitted) = self.admit(call) {
            self.write(call, permission, named, admitted).await;
        }
    }

    fn admit(&self, call: &Call) -> Option<Admitted> {
        self.windows.admit(call.caller.key()?, self.clock.now())
    }

    /// Waits for the record, for a while; whoever stops waiting does not stop it.
    async fn write(&self, call: &Call, permission: Permission, named: Option<Named>, admitted: Admitted) {
        let Ok(actor) = call.actor() else { return };
        let command = Command::RecordDenial(Denial { permission, named, suppressed: admitted.suppressed });
        let proposal = Proposal::unnamed(actor, command, call.source.origin());
        let (proposals, windows) = (self.proposals.clone(), Arc::clone(&self.windows));
        let write = tokio::spawn(async move {
            if let Err(error) = proposals.propose(proposal, None).await {
                tracing::warn!(%error, "a refusal was not recorded");
                windows.suppress(&admitted);
            }
        });
        let _ = tokio::time::timeout(RECORD_PATIENCE, write).await;
    }

    /// The object that a request is about; of one that names an entry of the log, what that is about.
    async fn named(&self, message: &DynamicMessage) -> Option<Named> {
        let Some(id) = message.get_field_by_name("audit_log_id") else { return named(message) };
        let id = Uuid::try_parse(id.as_str()?).ok()?;
        let entry = tokio::time::timeout(PATIENCE, self.store.entry(id)).await.ok()?.ok()??;
        entry.entity_id.map(Named::Id)
    }

    /// The answer of the first time, if this is a retry.
    async fn replayed(&self, call: &Call, message: &DynamicMessage) -> Option<Response<Body>> {
        let id = message.get_field_by_name("request_id").filter(|_| message.has_field_by_name("request_id"))?;
        let id = RequestId::parse(id.as_str()?).ok()?;
        let mut unnamed = message.clone();
        unnamed.clear_field_by_name("request_id");
        let digest = replay::digest(&call.source.method, &unnamed.encode_to_vec());
        let keys = [(call.caller.user()?.id, id)];
        let stored = tokio::time::timeout(PATIENCE, self.store.requests(&keys)).await.ok()?.ok()?;
        stored.into_iter().find(|stored| stored.digest == digest).map(|stored| replay::response(stored.response))
    }
}

/// The message in a refused request. What is longer than the limit, slow, compressed or no message of the method tells
/// nothing.
async fn read(body: Body, input: &MessageDescriptor) -> Option<DynamicMessage> {
    let collected = tokio::time::timeout(PATIENCE, Limited::new(body, BODY_LIMIT).collect()).await.ok()?.ok()?;
    DynamicMessage::decode(input.clone(), plain(collected.to_bytes())?).ok()
}

/// The one message in a gRPC body: a byte that says whether it is compressed, four of its length, and it.
fn plain(mut body: Bytes) -> Option<Bytes> {
    let (compressed, length) = (body.try_get_u8().ok()?, body.try_get_u32().ok()?);
    (compressed == 0 && body.len() == length as usize).then_some(body)
}

/// The object that a request is about: whichever of these fields it has.
fn named(message: &DynamicMessage) -> Option<Named> {
    let text = |field: &str| match message.get_field_by_name(field)?.as_ref() {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let id = |field: &str| text(field).and_then(|id| Uuid::try_parse(&id).ok()).map(Named::Id);
    let only_item = || match message.get_field_by_name("items")?.as_list()? {
        [Value::Message(item)] => named(item),
        _ => None,
    };
    id("id")
        .or_else(|| id("user_id"))
        .or_else(|| text("key").and_then(|key| FlagKey::parse(&key).ok()).map(Named::Key))
        .or_else(|| text("email").and_then(|email| Email::parse(&email).ok()).map(Named::Email))
        .or_else(only_item)
}

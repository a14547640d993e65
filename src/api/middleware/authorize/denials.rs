//! Changes refused for lack of a permission: recorded in the audit log, within limits.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use tokio::time::timeout;
use tonic::body::Body;
use uuid::Uuid;

use crate::api::call::Call;
use crate::api::errors::status;
use crate::api::middleware::idempotency::{digest, name_environment};
use crate::api::middleware::limits::{AdmittedDenial, DenialLimiter};
use crate::api::protocol::connect::{ConnectCall, grpc_body};
use crate::api::protocol::grpc::{replayed_response, single_message};
use crate::auth::policy::ServedMethod;
use crate::committer::{ChangeStart, Proposals};
use crate::domain::access::{Permission, ScopedPermission};
use crate::domain::advance::{Command, Denial, ObjectRef, Proposal};
use crate::domain::audit::EntityType;
use crate::domain::error::Error;
use crate::domain::text::{Email, EnvironmentKey, FlagKey, RequestId};
use crate::domain::time::Clock;
use crate::store::Store;

/// How much of a refused request is read to find out what it was about, in bytes.
const BODY_LIMIT: usize = 16 * 1024;

/// How long to wait for that body, and for the database to say whether the request is a retry.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a refusal waits for its record. After that the caller is answered, and the record is still written.
const RECORD_TIMEOUT: Duration = Duration::from_secs(2);

/// Records refused changes: a few a minute for each caller, so that no caller can flood the log.
#[derive(Clone)]
pub(in crate::api) struct Denials {
    proposals: Proposals,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    limiter: Arc<DenialLimiter>,
}

impl Denials {
    /// Records through `proposals`; `store` holds the requests that were granted earlier.
    pub fn new(proposals: Proposals, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { proposals, store, clock, limiter: Arc::default() }
    }

    /// Answers a call whose caller lacks `permission`. A retry of a change that was granted gets its first answer, since a replay
    /// comes before the check of permissions. Any other call is refused and recorded, even if its caller disconnects. A caller who
    /// was refused too often lately is refused without either.
    pub(super) async fn answer(
        self,
        call: Call,
        method: Arc<ServedMethod>,
        permission: Permission,
        mut request: Request<Body>,
    ) -> Response<Body> {
        let connect = request.extensions_mut().remove::<ConnectCall>();
        let body = match connect {
            Some(call) => grpc_body(&call, request.into_body(), BODY_LIMIT),
            None => request.into_body(),
        };
        let answer = tokio::spawn(async move { self.replay_or_record(call, &method, permission, body).await });
        let replayed = answer.await.unwrap_or_default();
        replayed.unwrap_or_else(|| status(Error::PermissionDenied(permission.into())).into_http())
    }

    async fn replay_or_record(
        &self,
        call: Call,
        method: &ServedMethod,
        permission: Permission,
        body: Body,
    ) -> Option<Response<Body>> {
        // A caller who is refused again and again costs no more than this: neither body nor database is read.
        let admitted = self.admit(&call)?;
        let mut message = match &method.input {
            Some(input) => read_message(body, input).await,
            None => None,
        };
        if let Some((message, own)) = message.as_mut().zip(call.own_environment()) {
            name_environment(message, own);
        }
        let replayed = match &message {
            Some(message) => self.replayed(&call, message).await,
            None => None,
        };
        if replayed.is_some() {
            self.limiter.give_back(&admitted);
            return replayed;
        }
        let object = match &message {
            Some(message) => self.object(message, permission.governs()).await,
            None => None,
        };
        let environment = message.as_ref().and_then(common_environment);
        let denial = Denial { permission: permission.into(), object, environment, suppressed: 0 };
        self.write(&call, denial, admitted).await;
        None
    }

    /// Records that `call` was refused, unless its caller was refused too often lately.
    pub async fn record(&self, call: &Call, permission: ScopedPermission, object: Option<ObjectRef>) {
        if let Some(admitted) = self.admit(call) {
            let denial = Denial { permission, object, environment: None, suppressed: 0 };
            self.write(call, denial, admitted).await;
        }
    }

    fn admit(&self, call: &Call) -> Option<AdmittedDenial> {
        self.limiter.admit(call.caller.key()?, self.clock.now())
    }

    /// Writes the record in a task of its own, and waits for it for a limited time. Refusals that were not recorded may have been about
    /// any environment, so their count has an entry of its own, about none.
    async fn write(&self, call: &Call, denial: Denial, mut admitted: AdmittedDenial) {
        let Ok(actor) = call.actor() else { return };
        let count = Denial {
            permission: denial.permission.permission().into(),
            object: None,
            environment: None,
            suppressed: admitted.suppressed,
        };
        let records = [Some(count).filter(|count| count.suppressed > 0), Some(denial)].into_iter().flatten();
        let origin = call.source.origin();
        let (proposals, limiter) = (self.proposals.clone(), Arc::clone(&self.limiter));
        let write = tokio::spawn(async move {
            for record in records {
                let counted = record.suppressed;
                let command = Command::RecordDenial(record);
                let proposal = Proposal::without_request_id(actor.clone(), command, origin.clone());
                if let Err(error) = proposals.propose(proposal, ChangeStart::at_any_time()).await {
                    tracing::warn!(%error, "refused change not recorded");
                    return limiter.suppress(&admitted);
                }
                admitted.suppressed -= counted;
            }
        });
        let _ = timeout(RECORD_TIMEOUT, write).await;
    }

    /// The object that a request is about. A request that names an audit entry is about that entry's object.
    async fn object(&self, message: &DynamicMessage, kind: EntityType) -> Option<ObjectRef> {
        let Some(id) = message.get_field_by_name("audit_log_id") else { return object_in(message, kind) };
        let id = Uuid::try_parse(id.as_str()?).ok()?;
        let entry = timeout(READ_TIMEOUT, self.store.entry(id)).await.ok()?.ok()??;
        entry.entity_id.map(ObjectRef::Id)
    }

    /// The first answer, if this is a retry.
    async fn replayed(&self, call: &Call, message: &DynamicMessage) -> Option<Response<Body>> {
        let id = message.get_field_by_name("request_id").filter(|_| message.has_field_by_name("request_id"))?;
        let id = RequestId::parse(id.as_str()?).ok()?;
        let mut without_id = message.clone();
        without_id.clear_field_by_name("request_id");
        let digest = digest(&call.source.method, &without_id.encode_to_vec());
        let keys = [(call.caller.user()?.id, id)];
        let stored = timeout(READ_TIMEOUT, self.store.requests(&keys)).await.ok()?.ok()?;
        stored.into_iter().find(|stored| stored.digest == digest).map(|stored| replayed_response(stored.response))
    }
}

/// The message in a refused request; `None` if it is too long, slow or malformed.
async fn read_message(body: Body, input: &MessageDescriptor) -> Option<DynamicMessage> {
    let collected = timeout(READ_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await.ok()?.ok()?;
    DynamicMessage::decode(input.clone(), single_message(collected.to_bytes(), BODY_LIMIT)?).ok()
}

/// The environment of all items of a batch, if each names the same one.
fn common_environment(message: &DynamicMessage) -> Option<EnvironmentKey> {
    let items = message.get_field_by_name("items")?;
    let named = |item: &Value| Some(item.as_message()?.get_field_by_name("environment")?.as_str()?.to_owned());
    let mut environments = items.as_list()?.iter().map(named);
    let first = environments.next()??;
    environments.all(|other| other.as_ref() == Some(&first)).then(|| EnvironmentKey::parse(&first).ok())?
}

/// The object that a request names in one of these fields. A key is that of an environment, if the required permission is about these.
fn object_in(message: &DynamicMessage, kind: EntityType) -> Option<ObjectRef> {
    let text = |field: &str| match message.get_field_by_name(field)?.as_ref() {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let id = |field: &str| text(field).and_then(|id| Uuid::try_parse(&id).ok()).map(ObjectRef::Id);
    let by_key = || {
        let key = text("key")?;
        if kind == EntityType::Environment {
            return EnvironmentKey::parse(&key).ok().map(ObjectRef::Environment);
        }
        let environment = match message.has_field_by_name("environment") {
            true => Some(EnvironmentKey::parse(&text("environment")?).ok()?),
            false => None,
        };
        FlagKey::parse(&key).ok().map(|key| ObjectRef::Key(environment, key))
    };
    let only_item = || match message.get_field_by_name("items")?.as_list()? {
        [Value::Message(item)] => object_in(item, kind),
        _ => None,
    };
    id("id")
        .or_else(|| id("user_id"))
        .or_else(by_key)
        .or_else(|| text("email").and_then(|email| Email::parse(&email).ok()).map(ObjectRef::Email))
        .or_else(only_item)
}

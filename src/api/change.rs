//! The path that all changing methods share: request to proposal, and reply to response.

use std::future::ready;
use std::sync::Arc;

use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::call::Call;
use super::middleware::authorize::Denials;
use super::middleware::idempotency::digest;
use super::middleware::limits::ChangeRateLimiter;
use super::protocol::grpc::REPLAYED;
use super::validate::RequestValidator;
use crate::committer::{Proposals, Reply};
use crate::domain::advance::{Answer, Command, EnvironmentUpdate, ObjectRef, Proposal, RequestKey, SetStatus};
use crate::domain::error::Error;
use crate::domain::text::{Reason, RequestId};
use crate::telemetry::request::record_revision;

/// A request that changes something.
pub(super) trait Change: Message + Default {
    type Response: Message + Default;

    fn reason(&self) -> &str;
    fn take_request_id(&mut self) -> Option<String>;
    fn validate_only(&self) -> bool;
    /// The field `environment` of each flag that is named by key.
    fn environments(&mut self) -> Vec<&mut Option<String>>;
    fn response(answer: &Answer) -> Self::Response;
}

/// Implements [`Change`] for a request and its response.
macro_rules! change {
    ($request:ident => $response:ident, $answer:ident => $make:expr) => {
        change!($request => $response, _request => Vec::new(), $answer => $make);
    };
    ($request:ident => $response:ident, $named:ident => $environments:expr, $answer:ident => $make:expr) => {
        impl $crate::api::change::Change for pb::$request {
            type Response = pb::$response;

            fn reason(&self) -> &str {
                &self.reason
            }

            fn take_request_id(&mut self) -> Option<String> {
                self.request_id.take()
            }

            fn validate_only(&self) -> bool {
                self.validate_only
            }

            fn environments(&mut self) -> Vec<&mut Option<String>> {
                let $named = self;
                $environments
            }

            fn response($answer: &$crate::domain::advance::Answer) -> pb::$response {
                $make
            }
        }
    };
}
pub(super) use change;

/// Makes changes for callers, within their rate limit.
#[derive(Clone)]
pub struct Changes {
    proposals: Proposals,
    denials: Denials,
    rate_limiter: Arc<ChangeRateLimiter>,
}

impl Changes {
    /// Changes that go to the committer through `proposals`, limited by `rate_limiter`. Changes that a permission is missing
    /// for are recorded in `denials`.
    pub fn new(proposals: Proposals, denials: Denials, rate_limiter: ChangeRateLimiter) -> Self {
        Self { proposals, denials, rate_limiter: Arc::new(rate_limiter) }
    }

    /// Makes the change that `parse` reads from the request.
    pub(super) async fn make<R: Change>(
        &self,
        request: Request<R>,
        parse: impl FnOnce(&R, &mut RequestValidator) -> Option<Command>,
    ) -> Result<Response<R::Response>, Status> {
        self.make_with_lookup(request, parse, |command| ready(Ok(command))).await
    }

    /// As [`make`](Self::make), but `look_up` adds data to the command before it is proposed, for example an entry from the database.
    /// The request is parsed and dropped before `look_up` is awaited: a message may be large, and the database may take long.
    pub(super) async fn make_with_lookup<R: Change, F>(
        &self,
        request: Request<R>,
        parse: impl FnOnce(&R, &mut RequestValidator) -> Option<Command>,
        look_up: impl FnOnce(Command) -> F,
    ) -> Result<Response<R::Response>, Status>
    where
        F: Future<Output = Result<Command, Status>>,
    {
        let (call, message) = Call::take(request)?;
        let mut proposal = proposal(&call, message, parse)?;
        let caller = call.caller.key().ok_or_else(|| Error::internal("a change without a caller"))?;
        self.rate_limiter.check(&caller, &proposal.command)?;
        proposal.command = look_up(proposal.command).await?;
        let (object, is_change) = (object(&proposal.command), !proposal.validate_only);
        let reply = self.proposals.propose(proposal, Arc::clone(&call.start)).await;
        if let Err(Error::PermissionDenied(missing)) = &reply {
            // For example, the caller granted a permission that they do not hold.
            self.denials.record(&call, missing.clone(), object).await;
        }
        match reply? {
            Reply::Answer(answer) => {
                if is_change {
                    record_revision(answer.revision);
                }
                Ok(Response::new(R::response(&answer)))
            }
            Reply::Replayed(bytes) => {
                let stored = R::Response::decode(&bytes[..]).map_err(Error::internal)?;
                let mut response = Response::new(stored);
                response.metadata_mut().insert(REPLAYED, MetadataValue::from_static("true"));
                Ok(response)
            }
        }
    }
}

/// The object that a change is about; `None` if there are several or none.
fn object(command: &Command) -> Option<ObjectRef> {
    match command {
        Command::Toggle { flag, .. }
        | Command::SetStatus(SetStatus { flag, .. })
        | Command::UpdateFlag { flag, .. }
        | Command::SetArchived { flag, .. } => Some(flag.clone().into()),
        Command::BatchSet(items) => match items.as_slice() {
            [only] => Some(only.flag.clone().into()),
            _ => None,
        },
        Command::Revert(revert) => revert.flag().map(Into::into),
        Command::CreateFlag(new) => Some(ObjectRef::Key(new.environment.clone(), new.key.clone())),
        Command::BatchCreate(items) => match items.as_slice() {
            [only] => Some(ObjectRef::Key(only.environment.clone(), only.key.clone())),
            _ => None,
        },
        Command::CreateEnvironment(new) => Some(ObjectRef::Environment(new.key.clone())),
        Command::UpdateEnvironment(EnvironmentUpdate { environment, .. })
        | Command::SetEnvironmentArchived { environment, .. } => Some(environment.clone().into()),
        Command::CreateUser { email, .. } => Some(ObjectRef::Email(email.clone())),
        Command::UpdateUser { id, .. } | Command::DeactivateUser { id, .. } | Command::RevokeToken { id, .. } => {
            Some(ObjectRef::Id(*id))
        }
        Command::CreateToken(new) => Some(ObjectRef::Id(new.user_id)),
        Command::CreateAdministrator { .. } | Command::TrimLog(_) | Command::RecordDenial(_) => None,
    }
}

fn proposal<R: Change>(
    call: &Call,
    mut body: R,
    parse: impl FnOnce(&R, &mut RequestValidator) -> Option<Command>,
) -> Result<Proposal, Error> {
    let (actor, origin) = (call.actor()?, call.source.origin());
    if let Some(own) = call.own_environment() {
        // Before the digest is taken: the request is the same as one that names the environment.
        body.environments().into_iter().for_each(|named| _ = named.get_or_insert_with(|| own.to_string()));
    }
    let mut validator = RequestValidator::default();
    let request_id = body.take_request_id();
    let key = request_id
        .and_then(|id| validator.parse("request_id", &id, RequestId::parse))
        .map(|id| RequestKey { id, digest: digest(&origin.method, &body.encode_to_vec()) });
    let text = Some(body.reason()).filter(|reason| !reason.is_empty());
    let reason = text.and_then(|reason| validator.parse("reason", reason, Reason::parse));
    let command = parse(&body, &mut validator);
    let command = validator.finish(command)?;
    let encode = |answer: &Answer| R::response(answer).encode_to_vec();
    Ok(Proposal { actor, command, reason, request: key, validate_only: body.validate_only(), origin, encode })
}

//! What all changing methods have in common: from a request to a proposal, and from its reply to a response.

use std::sync::Arc;

use prost::Message;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::call::Call;
use super::errors::status;
use super::middleware::authorize::Denials;
use super::middleware::idempotency::{REPLAYED, digest};
use super::middleware::limits::Fairness;
use super::validate::Fields;
use crate::committer::{Proposals, Reply};
use crate::domain::advance::{Answer, Command, Named, Proposal, RequestKey, SetStatus};
use crate::domain::error::Error;
use crate::domain::text::{Reason, RequestId};
use crate::telemetry::request::note_revision;

/// A request to change something.
pub(super) trait Change: Message + Default {
    type Response: Message + Default;

    fn reason(&self) -> &str;
    fn take_request_id(&mut self) -> Option<String>;
    fn validate_only(&self) -> bool;
    fn response(answer: &Answer) -> Self::Response;
}

/// Says how a request and its response fit into [`Change`].
macro_rules! change {
    ($request:ident => $response:ident, $answer:ident => $make:expr) => {
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

            fn response($answer: &$crate::domain::advance::Answer) -> pb::$response {
                $make
            }
        }
    };
}
pub(super) use change;

/// Makes changes on behalf of callers.
#[derive(Clone)]
pub struct Changes {
    proposals: Proposals,
    denials: Denials,
    fairness: Arc<Fairness>,
}

impl Changes {
    /// Changes that are handed in at `proposals`, as many a second as `fairness` has of one caller.
    pub fn new(proposals: Proposals, denials: Denials, fairness: Fairness) -> Self {
        Self { proposals, denials, fairness: Arc::new(fairness) }
    }

    /// Makes the change that `parse` finds in the request.
    pub(super) async fn make<R: Change>(
        &self,
        request: Request<R>,
        parse: impl FnOnce(&R, &mut Fields) -> Option<Command>,
    ) -> Result<Response<R::Response>, Status> {
        let (call, message) = Call::take(request).map_err(status)?;
        let proposal = proposal(&call, message, parse).map_err(status)?;
        let caller = call.caller.key().ok_or_else(|| status(Error::Internal("a change by nobody".to_owned())))?;
        self.fairness.admit(&caller, &proposal.command).map_err(status)?;
        let (named, is_change) = (named(&proposal.command), !proposal.validate_only);
        let reply = self.proposals.propose(proposal, Some(call.deadline)).await;
        if let Err(Error::PermissionDenied(missing)) = reply {
            // To grant what one does not hold, for one.
            self.denials.record(&call, missing, named).await;
        }
        match reply.map_err(status)? {
            Reply::Answer(answer) => {
                if is_change {
                    note_revision(answer.revision);
                }
                Ok(Response::new(R::response(&answer)))
            }
            Reply::Replayed(bytes) => {
                let stored = R::Response::decode(&bytes[..])
                    .map_err(|e| status(Error::Internal(format!("a stored response does not decode: {e}"))))?;
                let mut response = Response::new(stored);
                response.metadata_mut().insert(REPLAYED, MetadataValue::from_static("true"));
                Ok(response)
            }
        }
    }
}

/// The one object that a change is about.
fn named(command: &Command) -> Option<Named> {
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
        Command::CreateFlag(new) => Some(Named::Key(new.key.clone())),
        Command::CreateUser { email, .. } => Some(Named::Email(email.clone())),
        Command::UpdateUser { id, .. } | Command::DeactivateUser { id, .. } | Command::RevokeToken { id, .. } => {
            Some(Named::Id(*id))
        }
        Command::CreateToken(new) => Some(Named::Id(new.user_id)),
        Command::CreateAdministrator { .. } | Command::TrimLog(_) | Command::RecordDenial(_) => None,
    }
}

fn proposal<R: Change>(
    call: &Call,
    mut body: R,
    parse: impl FnOnce(&R, &mut Fields) -> Option<Command>,
) -> Result<Proposal, Error> {
    let (actor, origin) = (call.actor()?, call.source.origin());
    let mut fields = Fields::default();
    let request_id = body.take_request_id();
    let key = request_id
        .and_then(|id| fields.parse("request_id", &id, RequestId::parse))
        .map(|id| RequestKey { id, digest: digest(&origin.method, &body.encode_to_vec()) });
    let given = Some(body.reason()).filter(|reason| !reason.is_empty());
    let reason = given.and_then(|reason| fields.parse("reason", reason, Reason::parse));
    let command = parse(&body, &mut fields);
    let command = fields.finish(command)?;
    let encode = |answer: &Answer| R::response(answer).encode_to_vec();
    Ok(Proposal { actor, command, reason, request: key, validate_only: body.validate_only(), origin, encode })
}

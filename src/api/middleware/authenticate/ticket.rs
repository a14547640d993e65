//! The caller of a stream of events, whose ticket is in the address.

use super::{AuthFailure, Authenticator, IdentifiedCaller};
use crate::api::call::CallSource;
use crate::api::errors::ApiError;
use crate::api::protocol::ofrep::EventsQuery;
use crate::auth::Caller;
use crate::auth::jwt::SignOnProof;
use crate::auth::ticket::{Ticket, TicketRejection};
use crate::domain::access::Credential;
use crate::domain::error::Error;
use crate::domain::state::State;

impl Authenticator {
    /// Identifies the caller of a stream of events by its ticket, and by nothing else that the request may carry.
    ///
    /// # Errors
    /// As [`Authenticator::identify`].
    pub fn identify_by_ticket(&self, query: &EventsQuery, source: &CallSource) -> Result<IdentifiedCaller, ApiError> {
        let key = self.ticket_key.get().ok_or(Error::DatabaseUnavailable)?;
        let now = self.clock.now();
        let ticket = query.ticket.as_deref().ok_or_else(|| self.failed(AuthFailure::Missing, source))?;
        let Ticket { credential, signing_key, .. } = key.open(ticket, now).map_err(|rejection| {
            let failure = match rejection {
                TicketRejection::Forged => AuthFailure::Unknown,
                TicketRejection::Expired => AuthFailure::TicketExpired,
            };
            self.failed(failure, source)
        })?;
        let sign_on = signing_key.map(SignOnProof::Key);
        if let Some(proof) = &sign_on {
            let method = self.methods.sign_on.as_ref().ok_or_else(|| self.failed(AuthFailure::Unknown, source))?;
            if !method.has_read_keys() {
                return Err(ApiError::IssuerUnavailable);
            }
            if !method.is_signed(proof, now) {
                return Err(self.failed(AuthFailure::NoLongerValid, source).into());
            }
        }
        let caller = self.mirror.read(|state| {
            let is_mapped = self.still_stands_for_user(state, &credential);
            Caller::authenticate(state, credential, now).filter(|_| is_mapped)
        });
        let caller = caller.ok_or(Error::DatabaseUnavailable)?;
        let caller = caller.ok_or_else(|| self.failed(AuthFailure::NoLongerValid, source))?;
        let identified = IdentifiedCaller { caller, sign_on, at: now };
        self.record(&identified);
        Ok(identified)
    }

    /// Whether the settings still map some certificate to the user of this one. Other credentials need no mapping.
    fn still_stands_for_user(&self, state: &State, credential: &Credential) -> bool {
        let Credential::Certificate { user_id, .. } = credential else { return true };
        let is_user =
            |email| state.user_by_email(email).is_some_and(|user| user.id == *user_id && user.account.is_none());
        self.methods.certificate_users.values().any(is_user)
    }
}

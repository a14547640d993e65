//! Issues tickets for streams of events.

use std::sync::Arc;

use crate::api::call::Call;
use crate::auth::jwt::{SignOn, SignOnProof};
use crate::auth::ticket::{SharedTicketKey, Ticket};
use crate::domain::error::Error;
use crate::domain::text::EnvironmentKey;
use crate::domain::time::Clock;

/// Issues tickets, and reads the environment of one.
#[derive(Clone)]
pub(in crate::api) struct Tickets {
    pub key: SharedTicketKey,
    pub sign_on: Option<Arc<SignOn>>,
    pub clock: Arc<dyn Clock>,
}

impl Tickets {
    /// A ticket for a caller's stream of an environment. `None` if there can be none: then the client has to ask for changes itself.
    ///
    /// # Errors
    /// [`Error::DatabaseUnavailable`] before the database was opened.
    pub fn issue(&self, call: &Call, environment: &EnvironmentKey) -> Result<Option<String>, Error> {
        let key = self.key.get().ok_or(Error::DatabaseUnavailable)?;
        let signing_key = match (&call.sign_on, &self.sign_on) {
            (Some(SignOnProof::Token(hash)), Some(sign_on)) => sign_on.signing_key(hash),
            _ => None,
        };
        let ticket =
            Ticket { credential: call.caller.credential.clone(), signing_key, environment: environment.clone() };
        Ok(key.seal(&ticket, self.clock.now()))
    }

    /// The environment of a ticket that authenticated its caller.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] if it expired since.
    pub fn environment(&self, ticket: &str) -> Result<EnvironmentKey, Error> {
        let opened = self.key.get().and_then(|key| key.open(ticket, self.clock.now()).ok());
        opened.map(|ticket| ticket.environment).ok_or(Error::Unauthenticated)
    }
}

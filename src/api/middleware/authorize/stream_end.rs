//! The end of an open stream: when its caller loses access, at its deadline, and when the server stops.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::authorizer::Authorizer;
use crate::api::call::Call;
use crate::api::errors::ApiError;
use crate::auth::Caller;
use crate::auth::policy::ServedMethod;
use crate::domain::access::{Grant, ScopedPermission};
use crate::domain::error::Error;
use crate::domain::flag_access::FlagAccess;
use crate::domain::state::EnvironmentScope;
use crate::domain::time::Timestamp;
use crate::mirror::ClientConnection;

/// The longest time between two checks of a stream's expiry: setting the system clock forward wakes no timer.
const EXPIRY_CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// What the caller of an open stream needs.
pub(super) struct StreamAccess {
    pub call: Call,
    /// The environments that the stream is about: there the permission must be held, as long as it is open.
    pub scope: EnvironmentScope,
}

impl StreamAccess {
    /// The permission that the caller holds no longer.
    fn missing(&self, grant: &Grant) -> Option<ScopedPermission> {
        let permission = self.call.permission?;
        FlagAccess::new(&grant.permissions, Some(permission)).missing(self.scope.of_permission())
    }
}

impl Authorizer {
    /// Waits until an open stream has to end, and returns the reason. An anonymous stream has no caller.
    pub(super) async fn stream_end(
        &self,
        access: Option<StreamAccess>,
        method: &ServedMethod,
        deadline: Option<Instant>,
        connection: ClientConnection,
    ) -> ApiError {
        let access_lost = async {
            match access {
                Some(access) => self.access_lost(access, method, connection).await,
                None => std::future::pending().await,
            }
        };
        let deadline = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.closing.cancelled() => Error::Draining.into(),
            () = deadline => ApiError::DeadlineExceeded,
            error = access_lost => error.into(),
        }
    }

    /// Waits until a stream's caller loses access, or the mirror is stale and the stream needs the database.
    async fn access_lost(&self, access: StreamAccess, method: &ServedMethod, connection: ClientConnection) -> Error {
        let stale = async {
            if method.is_served_from_memory() {
                std::future::pending().await
            } else {
                self.authenticator.mirror.until_stale().await
            }
        };
        tokio::select! {
            () = stale => Error::Stale,
            error = self.credentials_ended(access, connection) => error,
        }
    }

    /// Waits until the caller's credentials or permission end. Checks again after each change of users or tokens, after a change
    /// of the issuer's keys, and when the credentials expire.
    async fn credentials_ended(&self, access: StreamAccess, connection: ClientConnection) -> Error {
        let call = &access.call;
        let authenticator = &self.authenticator;
        let mut changes = authenticator.mirror.subscribe_to_access(connection);
        let sign_on = authenticator.methods.sign_on.as_ref().filter(|_| call.sign_on.is_some());
        let mut keys = sign_on.map(|sign_on| sign_on.key_changes());
        // Checked at the start and after a change of keys, not each time. The cache drops valid tokens when it is full, and their streams
        // would end.
        let mut must_check_signature = true;
        loop {
            let now = authenticator.clock.now();
            if std::mem::take(&mut must_check_signature) && !self.has_valid_signature(call, now) {
                return Error::Unauthenticated;
            }
            let credential = call.caller.credential.clone();
            let caller = authenticator.mirror.read(|state| Caller::authenticate(state, credential, now)).flatten();
            let Some(caller) = caller else { return Error::Unauthenticated };
            if let Some(missing) = access.missing(&caller.grant) {
                return Error::PermissionDenied(missing);
            }
            let time_left = caller.grant.until.map_or(EXPIRY_CHECK_INTERVAL, |end| now.until(end));
            let next_keys = async {
                match &mut keys {
                    Some(keys) => keys.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changes.changed() => {}
                changed = next_keys => if changed.is_ok() { must_check_signature = true } else { return Error::Draining },
                () = tokio::time::sleep(time_left.min(EXPIRY_CHECK_INTERVAL)) => {}
            }
        }
    }

    /// Whether the issuer still has the key that signed the caller's token. Other credentials have no signature.
    fn has_valid_signature(&self, call: &Call, now: Timestamp) -> bool {
        match call.sign_on.as_ref().zip(self.authenticator.methods.sign_on.as_ref()) {
            Some((proof, sign_on)) => sign_on.is_signed(proof, now),
            None => true,
        }
    }
}

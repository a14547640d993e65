//! Refused changes, recorded in the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use prost::bytes::{Buf, Bytes};
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use tonic::body::Body;
use uuid::Uuid;

use super::call::Call;
use crate::auth::CallerKey;
use crate::committer::Proposals;
use crate::domain::access::Permission;
use crate::domain::advance::{Command, Denial, Named, Proposal};
use crate::domain::text::{Email, FlagKey};
use crate::domain::time::{Clock, Timestamp};

/// As much of a refused request as is read to learn what it was about, in bytes.
const BODY_LIMIT: usize = 16 * 1024;

/// How long to wait for that much of it.
const BODY_PATIENCE: Duration = Duration::from_secs(2);

/// How long a refusal waits for its record. Past it the caller is answered, and the record is still written.
const RECORD_PATIENCE: Duration = Duration::from_secs(2);

/// Refusals of one caller that are recorded ...
const RECORDED: u32 = 5;
/// ... in so many seconds.
const WINDOW_SECONDS: i64 = 60;

/// Callers that are remembered before those are forgotten who have not been refused for a while.
const REMEMBERED: usize = 10_000;

/// Records refusals: a few a minute of each caller, so that nobody can flood the log.
#[derive(Clone)]
pub(in crate::grpc) struct Denials {
    proposals: Proposals,
    clock: Arc<dyn Clock>,
    windows: Arc<Mutex<HashMap<CallerKey, Window>>>,
}

/// What was refused to one caller lately.
struct Window {
    began: Timestamp,
    recorded: u32,
    /// Not recorded since the last that was.
    suppressed: u64,
}

impl Denials {
    /// Refusals that are recorded through `proposals`.
    pub fn new(proposals: Proposals, clock: Arc<dyn Clock>) -> Self {
        Self { proposals, clock, windows: Arc::default() }
    }

    /// Records that `call` was refused, unless its caller has been refused too often lately. Waits for the record, for a
    /// while; whoever stops waiting does not stop it.
    pub(in crate::grpc) async fn record(&self, call: &Call, permission: Permission, named: Option<Named>) {
        let Some((key, actor)) = call.caller.key().zip(call.actor().ok()) else { return };
        let Some(suppressed) = self.admit(&key) else { return };
        let proposal = Proposal {
            actor,
            command: Command::RecordDenial(Denial { permission, named, suppressed }),
            reason: None,
            request: None,
            validate_only: false,
            origin: call.origin.clone(),
            encode: |_| Vec::new(),
        };
        let (proposals, windows) = (self.proposals.clone(), Arc::clone(&self.windows));
        let record = tokio::spawn(async move {
            if let Err(error) = proposals.propose(proposal, None).await {
                tracing::warn!(%error, "a refusal was not recorded");
                let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(window) = windows.get_mut(&key) {
                    window.suppressed += suppressed + 1;
                }
            }
        });
        let _ = tokio::time::timeout(RECORD_PATIENCE, record).await;
    }

    /// Whether to record another refusal, and how many were suppressed since the last that was.
    fn admit(&self, key: &CallerKey) -> Option<u64> {
        let now = self.clock.now();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= REMEMBERED {
            windows.retain(|_, window| !window.is_over(now) || window.suppressed > 0);
        }
        let fresh = || Window { began: now, recorded: 0, suppressed: 0 };
        windows.entry(key.clone()).or_insert_with(fresh).admit(now)
    }
}

impl Window {
    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.began.plus_seconds(WINDOW_SECONDS) || now < self.began
    }

    fn admit(&mut self, now: Timestamp) -> Option<u64> {
        if self.is_over(now) {
            (self.began, self.recorded) = (now, 0);
        }
        if self.recorded == RECORDED {
            self.suppressed += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// What could be learnt of a refused request.
#[derive(Default)]
pub(super) struct Refused {
    /// The object that it named.
    pub named: Option<Named>,
    /// The whole of it, if it named itself: then it may be a retry of one that was let in.
    pub retry: Option<Body>,
}

/// Reads a refused request as far as the limit. What is longer, slow, compressed or no message of the method tells
/// nothing.
pub(super) async fn read(body: Body, input: &MessageDescriptor) -> Refused {
    let collected = Limited::new(body, BODY_LIMIT).collect();
    let Ok(Ok(collected)) = tokio::time::timeout(BODY_PATIENCE, collected).await else { return Refused::default() };
    let bytes = collected.to_bytes();
    let message = plain(bytes.clone()).and_then(|message| DynamicMessage::decode(input.clone(), message).ok());
    let Some(message) = message else { return Refused::default() };
    let retry = message.has_field_by_name("request_id").then(|| Body::new(Full::new(bytes)));
    Refused { named: named(&message), retry }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_refusals_a_minute_are_recorded_and_the_next_tells_how_many_were_not() {
        let at = |seconds| Timestamp::default().plus_seconds(seconds);
        let mut window = Window { began: at(0), recorded: 0, suppressed: 0 };
        for _ in 0..RECORDED {
            assert_eq!(window.admit(at(1)), Some(0));
        }
        assert_eq!((window.admit(at(2)), window.admit(at(59))), (None, None));
        assert_eq!(window.admit(at(60)), Some(2));
        assert_eq!(window.admit(at(61)), Some(0));
        // A clock that is set back begins anew, rather than silence somebody until it has caught up.
        assert_eq!(window.admit(at(0)), Some(0));
    }
}

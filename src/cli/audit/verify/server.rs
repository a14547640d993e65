//! Verifies the log that a server streams. Nothing that the server claims is trusted: each hash is computed again.

use indicatif::ProgressBar;
use uuid::Uuid;

use super::report::trimmed;
use crate::api::pb::*;
use crate::checkpoint::VerifierKey;
use crate::cli::audit::filters::{move_cursor, whole_log};
use crate::cli::remote::{ApiClient, ServerRefusal, ServiceClients, StreamOptions};
use crate::cli::{EXIT_FAILURE, EXIT_SUCCESS, EXIT_UNAVAILABLE, Failure, progress};
use crate::domain::audit::Entry;
use crate::store::StoredCheckpoint;
use crate::verify::{
    Bounds, DatabaseError, Fault, GivenCheckpoint, HashSource, KnownHash, Problem, Report, Start, Stop, Verified,
    Verifier, parse_keys,
};

/// The largest page of checkpoints that the server allows.
const PAGE_SIZE: i32 = 1_000;

/// Verifies the log of a server.
pub(super) async fn verify(bounds: &Bounds, client: &ApiClient) -> Result<Report, Failure> {
    let stored = StoredCheckpoints::list(client, bounds.since.as_ref()).await?;
    let mut reader = StreamReader { bounds, stored, verifier: None, forged: None, stop: None, end: None };
    let since = bounds.since.as_ref();
    let request = StreamAuditLogsRequest {
        after_revision: since.map(|since| since.revision),
        after_hash: since.filter(|since| since.revision > 0).map(|since| since.hash.to_vec()),
        log_id: since.and_then(GivenCheckpoint::log_id).map(|id| id.to_string()),
        environment: whole_log(),
        ..Default::default()
    };
    let bar = progress::bar(0, "revisions");
    bar.set_position(request.after_revision.unwrap_or_default().unsigned_abs());
    bar.reset_eta();
    let mut read = reader.read(client, request.clone(), &bar).await;
    let refusal = client.refusal().filter(|_| read.is_err());
    // The server cannot read some entry. The entries before it may have an earlier fault, so read up to there. If nothing was
    // received yet, that takes two requests: the first entry alone shows where the log starts.
    for _ in 0..2 {
        let earlier = refusal.as_ref().and_then(|refusal| reader.earlier_entries(refusal, request.clone()));
        let Some(earlier) = earlier else { break };
        if let Err(failure) = reader.read(client, earlier, &bar).await {
            if is_stop(&failure) {
                read = Err(failure);
            }
            break;
        }
    }
    bar.finish_and_clear();
    reader.conclude(read, refusal)
}

/// The checkpoints stored with the log, and the keys that it lists.
#[derive(Default)]
struct StoredCheckpoints {
    checkpoints: Vec<StoredCheckpoint>,
    keys: Vec<VerifierKey>,
}

impl StoredCheckpoints {
    async fn list(client: &ApiClient, since: Option<&GivenCheckpoint>) -> Result<Self, Failure> {
        let from_revision = since.map(|since| since.revision);
        let mut request = ListAuditCheckpointsRequest { page_size: PAGE_SIZE, from_revision, ..Default::default() };
        let mut stored = Self::default();
        loop {
            let call = async |clients: &mut ServiceClients, page| clients.audit.list_audit_checkpoints(page).await;
            let page = match client.call(request.clone(), call).await {
                // An older server has neither the method nor checkpoints.
                Err(_) if client.refusal().is_some_and(|refusal| refusal.is_unimplemented) => return Ok(stored),
                page => page?,
            };
            let checkpoints = page.checkpoints.into_iter();
            let checkpoints =
                checkpoints.map(|AuditCheckpoint { revision, note, .. }| StoredCheckpoint { revision, note });
            stored.checkpoints.extend(checkpoints);
            stored.keys = parse_keys(page.keys.iter().map(|key| key.verifier_key.as_str()));
            if page.next_page_token.is_empty() {
                return Ok(stored);
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// Ends the stream early without an error. No other failure of this command has the exit code of a success.
fn stop_reading() -> Failure {
    Failure { code: EXIT_SUCCESS, message: String::new() }
}

fn is_stop(failure: &Failure) -> bool {
    failure.code == EXIT_SUCCESS
}

/// Verifies the log as it is received.
struct StreamReader<'a> {
    bounds: &'a Bounds,
    stored: StoredCheckpoints,
    /// `None` until the server has sent the log id.
    verifier: Option<Verifier>,
    /// The first stored checkpoint that is not authentic.
    forged: Option<Fault>,
    /// Why the stream was ended early.
    stop: Option<Stop<Failure>>,
    /// The position of the stream, as the server reports it.
    end: Option<KnownHash>,
}

impl StreamReader<'_> {
    /// Reads the stream of the request.
    async fn read(
        &mut self,
        client: &ApiClient,
        request: StreamAuditLogsRequest,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let take = |request: &mut StreamAuditLogsRequest, message: StreamAuditLogsResponse| {
            move_cursor(request, &message);
            self.receive(&message, bar)
        };
        let open = async |clients: &mut ServiceClients, request| clients.audit.stream_audit_logs(request).await;
        client.follow_stream(request, StreamOptions::default(), open, take).await
    }

    /// A request for the entries before one that the server cannot read: it may not have sent them yet, and one of them may have
    /// an earlier fault. While the start of the log is unknown, the request is for its first entry alone.
    fn earlier_entries(
        &self,
        refusal: &ServerRefusal,
        request: StreamAuditLogsRequest,
    ) -> Option<StreamAuditLogsRequest> {
        let bad = refusal.first_bad_revision.filter(|_| refusal.reason == "LOG_CORRUPT")?;
        let mut request = request;
        if let Some(end) = &self.end {
            (request.after_revision, request.after_hash) = (Some(end.revision), Some(end.hash.to_vec()));
            request.log_id = self.verifier.as_ref().map(|verifier| verifier.verified().log_id.to_string());
        }
        let limit = request.after_revision.map_or(1, |after| bad - 1 - after);
        (limit > 0).then_some(StreamAuditLogsRequest { limit: Some(limit), ..request })
    }

    /// Verifies a message of the stream. An error ends the stream.
    fn receive(&mut self, message: &StreamAuditLogsResponse, bar: &ProgressBar) -> Result<(), Failure> {
        bar.set_length(message.head_revision.unsigned_abs());
        bar.set_position(message.through_revision.unsigned_abs());
        match self.push(message) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(stop) => self.stop = Some(stop),
        }
        Err(stop_reading())
    }

    /// Verifies the entries of a message. Returns true once all that was asked for is verified, so that the rest is not read.
    fn push(&mut self, message: &StreamAuditLogsResponse) -> Result<bool, Stop<Failure>> {
        let log_id = Uuid::try_parse(&message.log_id).map_err(|_| Failure {
            code: EXIT_FAILURE,
            message: "the server sent no valid log_id; nothing was verified".to_owned(),
        })?;
        let verifier = match &mut self.verifier {
            Some(verifier) => verifier,
            none => {
                let (known, forged) = self.bounds.stored_hashes(log_id, &self.stored.checkpoints, &self.stored.keys);
                self.forged = forged;
                let verifier = none.insert(self.bounds.verifier(log_id, Start::Anywhere, known));
                self.bounds.check(log_id)?;
                verifier
            }
        };
        for item in &message.items {
            let Ok(entry) = Entry::try_from(item) else { return Err(verifier.invalid_entry().into()) };
            verifier.push(entry)?;
        }
        let hash = message.through_hash.as_slice().try_into();
        self.end =
            hash.ok().map(|hash| KnownHash { revision: message.through_revision, hash, source: HashSource::Head });
        Ok(verifier.is_done())
    }

    fn conclude(self, read: Result<(), Failure>, refusal: Option<ServerRefusal>) -> Result<Report, Failure> {
        let Self { bounds, verifier, forged, stop, end, .. } = self;
        let (ended, was_done) = match (stop, read) {
            (Some(stop), _) => (Err(stop), false),
            (None, Err(failure)) if !is_stop(&failure) => {
                (Err(refused(bounds.since.as_ref(), verifier.as_ref(), failure, refusal)), false)
            }
            // Even an empty log has a message with its log id.
            (None, Ok(())) if verifier.is_none() => {
                let message =
                    "the server ended the stream without sending any of the log; nothing was verified".to_owned();
                (Err(Failure { code: EXIT_FAILURE, message }.into()), false)
            }
            (None, read) => (Ok(()), read.is_err()),
        };
        let Some(mut verifier) = verifier else {
            let log_id = bounds.since.as_ref().and_then(GivenCheckpoint::log_id).unwrap_or_default();
            let since = bounds.since.as_ref().map(|since| (since.revision, since.hash)).unwrap_or_default();
            let verified = Verified { log_id, entries: 0, after: since.0, last: since.0, hash: since.1 };
            return Report::new(verified, ended, None);
        };
        let ended = ended.and_then(|()| {
            if let Some(end) = end.filter(|_| !was_done) {
                verifier.add_known_hash(end);
            }
            Ok(verifier.finish().map(drop)?)
        });
        let ended = ended.map_err(|stop| stop.or_earlier_fault(&verifier));
        Report::new(verifier.verified(), ended, forged)
    }
}

/// What a refused stream means. Once entries were received, the given checkpoint is not the cause.
fn refused(
    since: Option<&GivenCheckpoint>,
    received: Option<&Verifier>,
    failure: Failure,
    refusal: Option<ServerRefusal>,
) -> Stop<Failure> {
    let Some(refusal) = refusal else { return failure.into() };
    let last = received.map(Verifier::revision).or(since.map(|since| since.revision)).unwrap_or_default();
    let fault = |revision, problem| Fault { revision, problem }.into();
    match (refusal.reason.as_str(), since, received) {
        ("LOG_CORRUPT", ..) => fault(refusal.first_bad_revision.unwrap_or(last + 1), Problem::Altered),
        ("CURSOR_TOO_OLD", _, Some(_)) => {
            Failure { code: EXIT_UNAVAILABLE, message: DatabaseError::TrimmedMeanwhile.to_string() }.into()
        }
        ("CURSOR_TOO_OLD", Some(since), None) => trimmed("--since", since.revision).into(),
        ("CURSOR_IN_FUTURE", Some(since), None) => {
            let (end, known) = (refusal.head_revision.unwrap_or(since.revision - 1), since.revision);
            fault(end + 1, Problem::Truncated { end, known_by: HashSource::Given, known })
        }
        ("LOG_MISMATCH", Some(since), None) => fault(since.revision, Problem::Forked(HashSource::Given)),
        _ => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{EXIT_CONFLICT, EXIT_USAGE};
    use crate::domain::Revision;

    /// What the refusal means: a fault by its kind, a failure by its exit code.
    fn meaning(
        since: Option<&GivenCheckpoint>,
        received: Option<&Verifier>,
        reason: &str,
    ) -> Result<(Revision, &'static str), u8> {
        let refusal = ServerRefusal {
            reason: reason.to_owned(),
            head_revision: Some(5),
            first_bad_revision: None,
            is_unimplemented: false,
        };
        let failure = Failure { code: EXIT_CONFLICT, message: String::new() };
        match refused(since, received, failure, Some(refusal)) {
            Stop::Fault(fault) => Ok((fault.revision, fault.problem.kind())),
            Stop::Error(failure) => Err(failure.code),
        }
    }

    #[test]
    fn given_checkpoint_is_at_fault_before_first_entry() {
        let since = GivenCheckpoint::parse(&format!("7:{}", "0".repeat(64)));
        let (since, received) =
            (since.as_ref(), Verifier::new(Uuid::nil(), Start::After(9, [0; 32]), None, Vec::new()));
        assert_eq!(meaning(since, None, "CURSOR_IN_FUTURE"), Ok((6, "truncated")));
        assert_eq!(meaning(since, None, "LOG_MISMATCH"), Ok((7, "forked")));
        assert_eq!(meaning(since, None, "CURSOR_TOO_OLD"), Err(EXIT_USAGE));
        assert_eq!(meaning(since, None, "LOG_CORRUPT"), Ok((8, "altered")));
        for since in [since, None] {
            assert_eq!(meaning(since, Some(&received), "CURSOR_IN_FUTURE"), Err(EXIT_CONFLICT));
            assert_eq!(meaning(since, Some(&received), "LOG_MISMATCH"), Err(EXIT_CONFLICT));
            assert_eq!(meaning(since, Some(&received), "CURSOR_TOO_OLD"), Err(EXIT_UNAVAILABLE));
            assert_eq!(meaning(since, Some(&received), "LOG_CORRUPT"), Ok((10, "altered")));
        }
    }
}

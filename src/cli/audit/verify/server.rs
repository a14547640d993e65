//! The log as a server gives it. Of what the server says nothing is believed but what the hashes say too.

use indicatif::ProgressBar;
use uuid::Uuid;

use super::checkpoints::{Given, Plan};
use super::database::trimmed;
use super::report::{Halt, Report};
use crate::api::pb::*;
use crate::cli::audit::filters::advance;
use crate::cli::remote::{Clients, Reading, Refusal, Remote};
use crate::cli::{EXIT_DONE, EXIT_FAILURE, EXIT_UNAVAILABLE, Failure, progress};
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::verify::{Fault, Mark, Problem, Start, Verified, Verifier, Witness};

/// As many checkpoints a page as there may be.
const PAGE: i32 = 1_000;

/// Verifies the log of a server.
pub(super) async fn verify(plan: &Plan, remote: &Remote) -> Result<Report, Failure> {
    let stored = Stored::list(remote, plan.since.as_ref()).await?;
    let mut taking = Taking { plan, stored, verifier: None, forged: None, halt: None, end: None };
    let since = plan.since.as_ref();
    let request = StreamAuditLogsRequest {
        after_revision: since.map(|since| since.revision),
        after_hash: since.filter(|since| since.revision > 0).map(|since| since.hash.to_vec()),
        log_id: since.and_then(Given::log_id).map(|id| id.to_string()),
        ..Default::default()
    };
    let bar = progress::bar(0, "revisions");
    bar.set_position(request.after_revision.unwrap_or_default().unsigned_abs());
    bar.reset_eta();
    let mut read = taking.read(remote, request.clone(), &bar).await;
    let refusal = remote.refusal().filter(|_| read.is_err());
    // First the first entry, where nothing has come yet, and then the rest.
    for _ in 0..2 {
        let before = refusal.as_ref().and_then(|refusal| taking.before(refusal, request.clone()));
        let Some(before) = before else { break };
        if let Err(failure) = taking.read(remote, before, &bar).await {
            if failure.code == EXIT_DONE {
                read = Err(failure);
            }
            break;
        }
    }
    bar.finish_and_clear();
    taking.conclude(read, refusal)
}

/// The checkpoints that are stored with the log, and what it says that they were signed with.
#[derive(Default)]
struct Stored {
    notes: Vec<(Revision, String)>,
    keys: Vec<String>,
}

impl Stored {
    async fn list(remote: &Remote, since: Option<&Given>) -> Result<Self, Failure> {
        let from_revision = since.map(|since| since.revision);
        let mut request = ListAuditCheckpointsRequest { page_size: PAGE, from_revision, ..Default::default() };
        let mut stored = Self::default();
        loop {
            let call = async |clients: &mut Clients, page| clients.audit.list_audit_checkpoints(page).await;
            let page = match remote.retrying(request.clone(), call).await {
                // An older server has none.
                Err(_) if remote.refusal().is_some_and(|refusal| refusal.is_unimplemented) => return Ok(stored),
                page => page?,
            };
            stored.notes.extend(page.checkpoints.into_iter().map(|checkpoint| (checkpoint.revision, checkpoint.note)));
            stored.keys = page.keys.into_iter().map(|key| key.verifier_key).collect();
            if page.next_page_token.is_empty() {
                return Ok(stored);
            }
            request.page_token = page.next_page_token;
        }
    }
}

/// What has come so far.
struct Taking<'a> {
    plan: &'a Plan,
    stored: Stored,
    /// None until the server has said which log it is.
    verifier: Option<Verifier>,
    forged: Option<Fault>,
    halt: Option<Halt>,
    /// Where the server says that the log ends.
    end: Option<Mark>,
}

impl Taking<'_> {
    /// Reads the log from where the request says.
    async fn read(
        &mut self,
        remote: &Remote,
        request: StreamAuditLogsRequest,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let take = |request: &mut StreamAuditLogsRequest, part: StreamAuditLogsResponse| {
            advance(request, &part);
            self.take(&part, bar)
        };
        let open = async |clients: &mut Clients, request| clients.audit.stream_audit_logs(request).await;
        remote.following(request, Reading::default(), open, take).await
    }

    /// What to read again where the server cannot read an entry: it may not have sent those right before that either, and
    /// what comes first counts. As long as nothing tells where the log begins, that is its first entry alone.
    fn before(&self, refusal: &Refusal, request: StreamAuditLogsRequest) -> Option<StreamAuditLogsRequest> {
        let bad = refusal.first_bad_revision.filter(|_| refusal.reason == "LOG_CORRUPT")?;
        let mut request = request;
        if let Some(end) = &self.end {
            (request.after_revision, request.after_hash) = (Some(end.revision), Some(end.hash.to_vec()));
            request.log_id = self.verifier.as_ref().map(|verifier| verifier.verified().log_id.to_string());
        }
        let limit = request.after_revision.map_or(1, |after| bad - 1 - after);
        (limit > 0).then_some(StreamAuditLogsRequest { limit: Some(limit), ..request })
    }

    /// Takes a part of the log; a failure ends the stream.
    fn take(&mut self, part: &StreamAuditLogsResponse, bar: &ProgressBar) -> Result<(), Failure> {
        bar.set_length(part.head_revision.unsigned_abs());
        bar.set_position(part.through_revision.unsigned_abs());
        match self.examine(part) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(halt) => self.halt = Some(halt),
        }
        Err(Failure { code: EXIT_DONE, line: String::new() })
    }

    /// Whether that is all that is of interest.
    fn examine(&mut self, part: &StreamAuditLogsResponse) -> Result<bool, Halt> {
        let nonsense = || Failure { code: EXIT_FAILURE, line: "the server does not say which log this is".to_owned() };
        let log_id = Uuid::try_parse(&part.log_id).map_err(|_| nonsense())?;
        let verifier = match &mut self.verifier {
            Some(verifier) => verifier,
            none => {
                let (marks, forged) = self.plan.stored(log_id, &self.stored.notes, &self.stored.keys);
                self.forged = forged;
                let verifier = none.insert(self.plan.verifier(log_id, Start::Anywhere, marks));
                self.plan.check(log_id)?;
                verifier
            }
        };
        for item in &part.items {
            let Ok(entry) = Entry::try_from(item) else { return Err(verifier.take_garbled().into()) };
            verifier.take(entry)?;
        }
        let hash = part.through_hash.as_slice().try_into();
        self.end = hash.ok().map(|hash| Mark { revision: part.through_revision, hash, witness: Witness::Head });
        Ok(verifier.is_done())
    }

    fn conclude(self, read: Result<(), Failure>, refusal: Option<Refusal>) -> Result<Report, Failure> {
        let Self { plan, verifier, forged, halt, end, .. } = self;
        let (ended, was_done) = match (halt, read) {
            (Some(halt), _) => (Err(halt), false),
            (None, Err(failure)) if failure.code != EXIT_DONE => {
                (Err(refused(plan.since.as_ref(), verifier.as_ref(), failure, refusal)), false)
            }
            // A server that has a log says at least which one it is.
            (None, Ok(())) if verifier.is_none() => {
                let line = "the server ended the log without a word of it: nothing is verified".to_owned();
                (Err(Failure { code: EXIT_FAILURE, line }.into()), false)
            }
            (None, read) => (Ok(()), read.is_err()),
        };
        let Some(mut verifier) = verifier else {
            let log_id = plan.since.as_ref().and_then(Given::log_id).unwrap_or_default();
            let since = plan.since.as_ref().map(|since| (since.revision, since.hash)).unwrap_or_default();
            let verified = Verified { log_id, entries: 0, after: since.0, last: since.0, hash: since.1 };
            return Report::new(verified, ended, None);
        };
        let ended = ended.and_then(|()| {
            if let Some(end) = end.filter(|_| !was_done) {
                verifier.expect(end);
            }
            Ok(verifier.finish().map(drop)?)
        });
        let ended = ended.map_err(|halt| halt.judged(&verifier));
        Report::new(verifier.verified(), ended, forged)
    }
}

/// What it means that the server does not go on. Once something has come, it went on from what was given.
fn refused(since: Option<&Given>, come: Option<&Verifier>, failure: Failure, refusal: Option<Refusal>) -> Halt {
    let Some(refusal) = refusal else { return failure.into() };
    let last = come.map(Verifier::revision).or(since.map(|since| since.revision)).unwrap_or_default();
    let fault = |revision, problem| Fault { revision, problem }.into();
    match (refusal.reason.as_str(), since, come) {
        ("LOG_CORRUPT", ..) => fault(refusal.first_bad_revision.unwrap_or(last + 1), Problem::Altered),
        ("CURSOR_TOO_OLD", _, Some(_)) => {
            Failure { code: EXIT_UNAVAILABLE, line: "the log was trimmed meanwhile; verify it once more".to_owned() }
                .into()
        }
        ("CURSOR_TOO_OLD", Some(since), None) => trimmed(since.revision).into(),
        ("CURSOR_IN_FUTURE", Some(since), None) => {
            let (end, known) = (refusal.head_revision.unwrap_or(since.revision - 1), since.revision);
            fault(end + 1, Problem::Truncated { end, witness: Witness::Given, known })
        }
        ("LOG_MISMATCH", Some(since), None) => fault(since.revision, Problem::Forked(Witness::Given)),
        _ => failure.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{EXIT_CONFLICT, EXIT_USAGE};

    /// What it means: a finding by its word, a failure by its status.
    fn told(since: Option<&Given>, come: Option<&Verifier>, reason: &str) -> Result<(Revision, &'static str), u8> {
        let refusal = Refusal {
            reason: reason.to_owned(),
            head_revision: Some(5),
            first_bad_revision: None,
            is_unimplemented: false,
        };
        let failure = Failure { code: EXIT_CONFLICT, line: String::new() };
        match refused(since, come, failure, Some(refusal)) {
            Halt::Fault(fault) => Ok((fault.revision, fault.problem.kind())),
            Halt::Failure(failure) => Err(failure.code),
        }
    }

    #[test]
    fn what_was_given_is_blamed_only_while_nothing_has_come() {
        let since = Given::read("--since", &format!("7:{}", "0".repeat(64))).ok();
        let (since, come) = (since.as_ref(), Verifier::new(Uuid::nil(), Start::Behind(9, [0; 32]), None, Vec::new()));
        assert_eq!(told(since, None, "CURSOR_IN_FUTURE"), Ok((6, "truncated")));
        assert_eq!(told(since, None, "LOG_MISMATCH"), Ok((7, "forked")));
        assert_eq!(told(since, None, "CURSOR_TOO_OLD"), Err(EXIT_USAGE));
        assert_eq!(told(since, None, "LOG_CORRUPT"), Ok((8, "altered")));
        for since in [since, None] {
            assert_eq!(told(since, Some(&come), "CURSOR_IN_FUTURE"), Err(EXIT_CONFLICT));
            assert_eq!(told(since, Some(&come), "LOG_MISMATCH"), Err(EXIT_CONFLICT));
            assert_eq!(told(since, Some(&come), "CURSOR_TOO_OLD"), Err(EXIT_UNAVAILABLE));
            assert_eq!(told(since, Some(&come), "LOG_CORRUPT"), Ok((10, "altered")));
        }
    }
}

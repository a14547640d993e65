//! The log as a server gives it. Of what the server says nothing is believed but what the hashes say too.

use indicatif::ProgressBar;
use uuid::Uuid;

use super::checkpoints::{Given, Plan};
use super::database::trimmed;
use super::report::{Halt, Report};
use crate::cli::audit::filters::advance;
use crate::cli::remote::{Clients, Reading, Remote};
use crate::cli::{EXIT_DONE, EXIT_FAILURE, Failure, progress};
use crate::domain::Revision;
use crate::domain::audit::Entry;
use crate::domain::verify::{Fault, Mark, Problem, Start, Verified, Verifier, Witness};
use crate::grpc::pb::*;

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
    let take = |request: &mut StreamAuditLogsRequest, part: StreamAuditLogsResponse| {
        advance(request, &part);
        taking.take(&part, &bar)
    };
    let open = async |clients: &mut Clients, request| clients.audit.stream_audit_logs(request).await;
    let read = remote.following(request, Reading::default(), open, take).await;
    bar.finish_and_clear();
    taking.conclude(read, remote)
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

    fn conclude(self, read: Result<(), Failure>, remote: &Remote) -> Result<Report, Failure> {
        let Self { plan, verifier, forged, halt, end, .. } = self;
        let (ended, was_done) = match (halt, read) {
            (Some(halt), _) => (Err(halt), false),
            (None, Err(failure)) if failure.code != EXIT_DONE => (Err(refused(plan, failure, remote)), false),
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
        Report::new(verifier.verified(), ended, forged)
    }
}

/// What it means that the server does not go on from what was kept.
fn refused(plan: &Plan, failure: Failure, remote: &Remote) -> Halt {
    let Some((since, refusal)) = plan.since.as_ref().zip(remote.refusal()) else { return failure.into() };
    let known = since.revision;
    match refusal.reason.as_str() {
        "CURSOR_IN_FUTURE" => {
            let end = refusal.head_revision.unwrap_or(known - 1);
            let problem = Problem::Truncated { end, witness: Witness::Given, known };
            Fault { revision: end + 1, problem }.into()
        }
        "LOG_MISMATCH" => Fault { revision: known, problem: Problem::Forked(Witness::Given) }.into(),
        "CURSOR_TOO_OLD" => trimmed(known).into(),
        _ => failure.into(),
    }
}

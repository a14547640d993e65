//! Calls that fail for a while only are made again, and streams that break go on where they were.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::failure::{Fault, is_limited, is_refused, passes};
use super::{Clients, Refusal, Remote};
use crate::cli::{Failure, complain};

/// A server that refuses connections may just be starting: it is waited for so long.
const MOST_REFUSED: Duration = Duration::from_secs(2);

/// A longer wait than this, for a limit of the server's, is told.
const TOLD_WAIT: Duration = Duration::from_secs(1);

/// A call is made so often at the most, ...
const MOST_ATTEMPTS: u32 = 6;
/// ... and not again after so long.
const MOST_TIME: Duration = Duration::from_secs(30);

/// How long to wait after the first failure, where the server says nothing of it; twice as long after each other one, ...
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// ... but no longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Remote {
    /// Makes a call, and makes it again while it fails for a reason that passes. A change is safe in here if it has a
    /// `request_id`. A server that cannot be reached to begin with is hardly waited for.
    pub async fn retrying<Q: Clone, A>(
        &self,
        request: Q,
        call: impl AsyncFn(&mut Clients, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let mut clients = self.clients.clone();
        let mut attempts = Attempts { patient: self.patient, ..Attempts::new(self.has_answered(), false) };
        loop {
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(self.timeout);
            let status = match call(&mut clients, attempt).await {
                Ok(answer) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            self.note(&status);
            let Some(wait) = attempts.wait_after(&status) else { return Err(self.failure(&status)) };
            if is_limited(&status) && wait >= TOLD_WAIT && self.patient && !self.told.swap(true, Ordering::Relaxed) {
                complain(&format!("the server lets no more changes through for now: waiting {}s", wait.as_secs()));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The same server, waited for as long as it says wherever it lets no more changes through.
    pub fn patient(self) -> Self {
        Self { patient: true, ..self }
    }

    /// Whether the server has refused anything because there was too much of it.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    fn note(&self, status: &Status) {
        if Fault::of(status) == Fault::Server {
            self.answered.store(true, Ordering::Relaxed);
            self.limited.fetch_or(is_limited(status), Ordering::Relaxed);
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Refusal::of(status));
        }
    }

    /// Why the server last refused a call.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the server has said anything yet, be it no.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Makes a call once.
    pub async fn once<Q, A>(
        &self,
        request: Q,
        call: impl AsyncFn(&mut Clients, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let mut request = Request::new(request);
        request.set_timeout(self.timeout);
        let answer = call(&mut self.clients.clone(), request).await;
        answer.map(Response::into_inner).map_err(|status| self.failure(&status))
    }

    /// Reads a stream to its end. `take` has each message and moves the request's cursor behind it: where the stream
    /// breaks, it goes on there. A stream that has no end is waited for however long the server is away, once it has
    /// answered at all; one that has an end no longer than any other call.
    pub async fn following<Q: Clone, A>(
        &self,
        mut request: Q,
        reading: Reading,
        open: impl AsyncFn(&mut Clients, Request<Q>) -> Result<Response<Streaming<A>>, Status>,
        mut take: impl FnMut(&mut Q, A) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut clients = self.clients.clone();
        let Reading { endless, mut cursor } = reading;
        let mut begun = false;
        let mut attempts = Attempts::new(self.has_answered(), endless && self.has_answered());
        loop {
            let status = match open(&mut clients, Request::new(request.clone())).await {
                Err(status) => status,
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    self.answered.store(true, Ordering::Relaxed);
                    (attempts.reached, attempts.endless, begun) = (true, endless, true);
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => take(&mut request, message)?,
                            Ok(None) => return Ok(()),
                            Err(status) => break status,
                        }
                        attempts = Attempts::new(true, endless);
                        cursor.get_or_insert_with(|| "what was shown".to_owned());
                    }
                }
            };
            self.note(&status);
            let Some(wait) = attempts.wait_after(&status) else {
                return Err(self.stranded(&status, cursor.as_deref()).unwrap_or_else(|| self.failure(&status)));
            };
            if (begun || attempts.endless) && attempts.made == 1 {
                complain(&format!("{}; going on where it stopped", self.failure(&status).line));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// How a stream is read.
#[derive(Debug, Default)]
pub(in crate::cli) struct Reading {
    /// Whether it has no end.
    pub endless: bool,
    /// What its cursor was taken from, as a person knows it; nothing for one that was typed.
    pub cursor: Option<String>,
}

/// What has been tried.
struct Attempts {
    made: u32,
    begun: Instant,
    /// Whether something answered, or at least took the call.
    reached: bool,
    /// Whether there is no end to it.
    endless: bool,
    /// Whether to come back whenever the server says, if it is for its limits.
    patient: bool,
}

impl Attempts {
    fn new(reached: bool, endless: bool) -> Self {
        Self { made: 0, begun: Instant::now(), reached, endless, patient: false }
    }

    /// How long to wait before the next one; nothing if there is to be none.
    fn wait_after(&mut self, status: &Status) -> Option<Duration> {
        let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
        // Those who were sent away together do not come back together.
        let spread = |wait: Duration| wait + wait.min(LONGEST_WAIT).mul_f64(share() / 2.0);
        if self.patient && is_limited(status) {
            // Whoever is told when to come back is let in some time: that is no failure, and takes none of the time for one.
            self.begun = Instant::now() + told.unwrap_or_default();
            return told.map(spread);
        }
        // One that says when to come back is there: a patient caller has but the time against them.
        self.made += u32::from(!(self.patient && told.is_some()));
        let doubled = FIRST_WAIT.saturating_mul(1 << self.made.saturating_sub(1).min(10)).min(LONGEST_WAIT);
        let wait = spread(told.unwrap_or(doubled));
        let again = match Fault::of(status) {
            Fault::Server => passes(status),
            Fault::Unreachable if self.reached => true,
            Fault::Unreachable => is_refused(status) && self.begun.elapsed() + wait < MOST_REFUSED,
            Fault::Lost | Fault::Silent | Fault::Dead => true,
            Fault::Foreign => false,
        };
        self.reached |= Fault::of(status) != Fault::Unreachable;
        let bounded = self.made < MOST_ATTEMPTS && self.begun.elapsed() + wait < MOST_TIME;
        (again && (self.endless || bounded)).then_some(wait)
    }
}

/// A number from 0 to 1, by chance.
fn share() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}

/// For what has no end by itself: Ctrl-C ends it, and is no failure.
pub(in crate::cli) async fn until_interrupted(
    endless: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        done = endless => done,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, ConnectError};
    use tonic_types::ErrorDetails;

    fn unreachable() -> Status {
        Status::from_error(Box::new(ConnectError("refused".into())))
    }

    fn unavailable(delay: Option<Duration>) -> Status {
        let mut details = ErrorDetails::with_error_info("QUEUE_FULL", "toggled", []);
        if let Some(delay) = delay {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(Code::Unavailable, "not now", details)
    }

    #[test]
    fn a_server_that_was_never_there_is_not_waited_for() {
        assert_eq!(Attempts::new(false, false).wait_after(&unreachable()), None);
        assert!(Attempts::new(true, false).wait_after(&unreachable()).is_some());
        let mut attempts = Attempts::new(false, false);
        assert!(attempts.wait_after(&unavailable(None)).is_some());
        assert!(attempts.wait_after(&unreachable()).is_some(), "it was there before");
    }

    #[test]
    fn a_server_that_may_be_starting_is_waited_for_a_little() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let refused = Status::from_error(Box::new(ConnectError(refused.into())));
        let mut attempts = Attempts::new(false, false);
        assert!(attempts.wait_after(&refused).is_some());
        attempts.begun = attempts.begun.checked_sub(MOST_REFUSED).unwrap();
        assert_eq!(attempts.wait_after(&refused), None);
    }

    #[test]
    fn a_patient_caller_comes_back_whenever_the_server_says() {
        let details = ErrorDetails::with_retry_info(Some(MOST_TIME * 10));
        let limited = Status::with_error_details(Code::ResourceExhausted, "too much", details);
        let mut patient = Attempts { patient: true, ..Attempts::new(true, false) };
        for _ in 0..10 * MOST_ATTEMPTS {
            let wait = patient.wait_after(&limited).unwrap();
            assert!((MOST_TIME * 10..=MOST_TIME * 10 + LONGEST_WAIT).contains(&wait), "{wait:?}");
        }
        let busy = unavailable(Some(FIRST_WAIT));
        for _ in 0..10 * MOST_ATTEMPTS {
            assert!(patient.wait_after(&busy).is_some());
        }
        patient.begun = Instant::now().checked_sub(MOST_TIME).unwrap();
        assert_eq!(patient.wait_after(&busy), None, "there is an end to what is no limit");
        assert_eq!(Attempts::new(true, false).wait_after(&limited), None, "nobody else waits for minutes");
    }

    #[test]
    fn it_waits_as_long_as_the_server_says_or_longer_each_time() {
        let told = Duration::from_secs(2);
        let wait = Attempts::new(true, false).wait_after(&unavailable(Some(told))).unwrap();
        assert!((told..=told.mul_f64(1.5)).contains(&wait), "{wait:?}");
        let mut attempts = Attempts::new(true, true);
        for doubled in [1, 2, 4, 8, 16, 25, 25].map(|n| FIRST_WAIT * n) {
            let wait = attempts.wait_after(&unavailable(None)).unwrap();
            assert!((doubled..=doubled.mul_f64(1.5)).contains(&wait), "{wait:?}");
        }
    }

    #[test]
    fn there_is_an_end_to_it_unless_it_is_a_stream() {
        let mut attempts = Attempts::new(true, false);
        for _ in 1..MOST_ATTEMPTS {
            assert!(attempts.wait_after(&unavailable(None)).is_some());
        }
        assert_eq!(attempts.wait_after(&unavailable(None)), None);
        assert_eq!(Attempts::new(true, false).wait_after(&unavailable(Some(MOST_TIME))), None);
        assert!(Attempts::new(true, true).wait_after(&unavailable(Some(MOST_TIME))).is_some());
    }

    #[test]
    fn only_what_passes_is_tried_again() {
        for code in [Code::PermissionDenied, Code::NotFound, Code::Aborted, Code::Internal, Code::Unknown] {
            assert_eq!(Attempts::new(true, true).wait_after(&Status::new(code, "no")), None, "{code}");
        }
        let details = ErrorDetails::with_error_info("COMMIT_OUTCOME_UNKNOWN", "toggled", []);
        let unknown = Status::with_error_details(Code::Unknown, "it could not be learnt", details);
        assert!(Attempts::new(true, false).wait_after(&unknown).is_some());
        let limited = |details| Status::with_error_details(Code::ResourceExhausted, "too much", details);
        assert_eq!(Attempts::new(true, true).wait_after(&limited(ErrorDetails::new())), None);
        let soon = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
        assert!(Attempts::new(true, false).wait_after(&limited(soon)).is_some());
    }
}

//! Calls that fail for a while only are made again, and streams that break go on where they were.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt;

use super::failure::{Fault, passes};
use super::{Clients, Remote};
use crate::cli::{Failure, complain};

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
    /// `request_id`. A server that cannot be reached to begin with is not waited for.
    pub async fn retrying<Q: Clone, A>(
        &self,
        request: Q,
        call: impl AsyncFn(&mut Clients, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let mut clients = self.clients.clone();
        let mut attempts = Attempts::new(self.has_answered(), false);
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
            match attempts.wait_after(&status) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(self.failure(&status)),
            }
        }
    }

    fn note(&self, status: &Status) {
        if Fault::of(status) == Fault::Server {
            self.answered.store(true, Ordering::Relaxed);
        }
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
    /// breaks, it goes on there, however long the server is away, once it has answered at all.
    pub async fn following<Q: Clone, A>(
        &self,
        mut request: Q,
        open: impl AsyncFn(&mut Clients, Request<Q>) -> Result<Response<Streaming<A>>, Status>,
        mut take: impl FnMut(&mut Q, A) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut clients = self.clients.clone();
        let mut attempts = Attempts::new(self.has_answered(), self.has_answered());
        loop {
            let status = match open(&mut clients, Request::new(request.clone())).await {
                Err(status) => status,
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    self.answered.store(true, Ordering::Relaxed);
                    (attempts.reached, attempts.endless) = (true, true);
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => take(&mut request, message)?,
                            Ok(None) => return Ok(()),
                            Err(status) => break status,
                        }
                        attempts = Attempts::new(true, true);
                    }
                }
            };
            self.note(&status);
            let Some(wait) = attempts.wait_after(&status) else { return Err(self.failure(&status)) };
            if attempts.endless && attempts.made == 1 {
                complain(&format!("{}; going on where it stopped", self.failure(&status).line));
            }
            tokio::time::sleep(wait).await;
        }
    }
}

/// What has been tried.
struct Attempts {
    made: u32,
    begun: Instant,
    /// Whether something answered, or at least took the call.
    reached: bool,
    /// Whether there is no end to it.
    endless: bool,
}

impl Attempts {
    fn new(reached: bool, endless: bool) -> Self {
        Self { made: 0, begun: Instant::now(), reached, endless }
    }

    /// How long to wait before the next one; nothing if there is to be none.
    fn wait_after(&mut self, status: &Status) -> Option<Duration> {
        self.made += 1;
        let again = match Fault::of(status) {
            Fault::Server => passes(status),
            Fault::Unreachable => self.reached,
            Fault::Lost | Fault::Silent => true,
            Fault::Foreign => false,
        };
        self.reached |= Fault::of(status) != Fault::Unreachable;
        let told = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let doubled = FIRST_WAIT.saturating_mul(1 << (self.made - 1).min(10)).min(LONGEST_WAIT);
        // Those who were sent away together do not come back together.
        let wait = told.unwrap_or(doubled).mul_f64(1.0 + share() / 2.0);
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

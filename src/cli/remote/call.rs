//! Calls that are repeated after a transient failure, and streams that are resumed.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tonic::{Request, Response, Status, Streaming};

use super::failure::{CallFailure, change_may_have_been_made, is_rate_limited};
use super::retry::{Retries, RetryPolicy};
use super::{ApiClient, ServerRefusal, ServiceClients};
use crate::cli::{Failure, output, print_error};

/// A wait for a rate limit is reported if it is at least this long.
const MIN_REPORTED_WAIT: Duration = Duration::from_secs(1);

impl ApiClient {
    /// Makes a call, and repeats it after transient failures. A change is repeated safely if it has a `request_id`. A
    /// server that cannot be reached at first is retried only briefly.
    pub async fn call<Q: Clone, A>(
        &self,
        request: Q,
        call: impl AsyncFn(&mut ServiceClients, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let mut clients = self.clients.clone();
        let policy = if self.waits_for_rate_limits { RetryPolicy::WaitForRateLimits } else { RetryPolicy::Bounded };
        let mut retries = Retries::new(policy, self.has_answered());
        loop {
            let mut attempt = Request::new(request.clone());
            attempt.set_timeout(self.timeout);
            let status = match call(&mut clients, attempt).await {
                Ok(answer) => {
                    self.has_answered.store(true, Ordering::Relaxed);
                    return Ok(answer.into_inner());
                }
                Err(status) => self.with_cause(status),
            };
            self.record(&status);
            let Some(wait) = retries.wait_after(&status) else { return Err(self.failure(&status)) };
            if self.waits_for_rate_limits && is_rate_limited(&status) {
                self.report_rate_limit_wait(wait);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Makes a call once.
    pub async fn call_once<Q, A>(
        &self,
        request: Q,
        call: impl AsyncFn(&mut ServiceClients, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let mut request = Request::new(request);
        request.set_timeout(self.timeout);
        let answer = call(&mut self.clients.clone(), request).await;
        answer.map(Response::into_inner).map_err(|status| self.failure(&self.with_cause(status)))
    }

    /// Reads a stream to its end. `take` receives each message and moves the request's cursor past it, so that a broken
    /// stream is resumed there. An endless stream is resumed however long the server is away, once the server has answered.
    pub async fn follow_stream<Q: Clone, A>(
        &self,
        mut request: Q,
        options: StreamOptions,
        open: impl AsyncFn(&mut ServiceClients, Request<Q>) -> Result<Response<Streaming<A>>, Status>,
        mut take: impl FnMut(&mut Q, A) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut clients = self.clients.clone();
        let StreamOptions { endless, mut cursor_origin } = options;
        let resume_policy = if endless { RetryPolicy::Unbounded } else { RetryPolicy::Bounded };
        let policy = if self.has_answered() { resume_policy } else { RetryPolicy::Bounded };
        let mut opened = false;
        let mut retries = Retries::new(policy, self.has_answered());
        loop {
            let status = match open(&mut clients, Request::new(request.clone())).await {
                Err(status) => status,
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    self.has_answered.store(true, Ordering::Relaxed);
                    retries.mark_accepted(resume_policy);
                    opened = true;
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => take(&mut request, message)?,
                            Ok(None) => return Ok(()),
                            Err(status) => break status,
                        }
                        retries = Retries::new(resume_policy, true);
                        cursor_origin.get_or_insert_with(|| "the output so far".to_owned());
                    }
                }
            };
            let status = self.with_cause(status);
            self.record(&status);
            let Some(wait) = retries.wait_after(&status) else {
                return Err(self
                    .cursor_failure(&status, cursor_origin.as_deref())
                    .unwrap_or_else(|| self.failure(&status)));
            };
            if (opened || retries.is_unbounded()) && retries.is_first_failure() {
                print_error(&format!("{}; resuming where it stopped", self.failure(&status).message));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The same client, but rate-limited calls are retried after the delay that the server names, for as long as it takes.
    pub fn waiting_for_rate_limits(self) -> Self {
        Self { waits_for_rate_limits: true, ..self }
    }

    /// Whether any call was rate-limited.
    pub fn is_rate_limited(&self) -> bool {
        self.has_been_rate_limited.load(Ordering::Relaxed)
    }

    /// Why the server last refused a call.
    pub fn refusal(&self) -> Option<ServerRefusal> {
        self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the server has answered any call, even if with an error.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Whether a change may have been made by a call that failed. Repeated with the same `request_id`, it reports the outcome.
    pub fn has_lost_answer(&self) -> bool {
        self.has_lost_answer.load(Ordering::Relaxed)
    }

    /// Records what a failed call says about the server.
    fn record(&self, status: &Status) {
        self.has_lost_answer.fetch_or(change_may_have_been_made(status), Ordering::Relaxed);
        if CallFailure::of(status) == CallFailure::Status {
            self.has_answered.store(true, Ordering::Relaxed);
            self.has_been_rate_limited.fetch_or(is_rate_limited(status), Ordering::Relaxed);
            *self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(ServerRefusal::of(status));
        }
    }

    /// Reports the first long wait for a rate limit.
    fn report_rate_limit_wait(&self, wait: Duration) {
        if wait >= MIN_REPORTED_WAIT && !self.rate_limit_reported.swap(true, Ordering::Relaxed) {
            print_error(&format!("the server limits the rate of changes: waiting {}s", wait.as_secs()));
        }
    }
}

/// How a stream is read.
#[derive(Debug, Default)]
pub(in crate::cli) struct StreamOptions {
    /// Whether the stream follows new entries without an end.
    pub endless: bool,
    /// What the request's cursor was taken from, for messages; `None` for one that the user typed.
    pub cursor_origin: Option<String>,
}

/// Runs an endless command until Ctrl-C, or until nobody reads its output any more. Both are a success.
pub(in crate::cli) async fn until_interrupted(
    endless: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    tokio::select! {
        done = endless => done,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        () = output::closed() => Ok(()),
    }
}

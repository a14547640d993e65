//! The task of one HTTP/2 stream, which can reset it.
//!
//! hyper polls the body of an answer only while the client takes data. A body whose client takes nothing therefore cannot end itself, and
//! would keep its memory for as long as the client likes. The stream's task can end it: when the task is dropped, `h2` drops what is
//! unsent and resets the stream.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::Executor;
use pin_project_lite::pin_project;

type Reset = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    /// The reset of the stream whose task this thread runs; `None` if it runs no such task.
    static CURRENT: RefCell<Option<Option<Reset>>> = const { RefCell::new(None) };
}

/// Resets the current stream when `reset` completes, whatever its client does. Poll `reset` once before: from now on it is polled before
/// each poll of the stream.
///
/// # Errors
/// Returns `reset` if this is not the task of an HTTP/2 stream.
pub(in crate::api) fn reset_when(reset: Reset) -> Result<(), Reset> {
    CURRENT.with_borrow_mut(|current| match current {
        Some(current) => {
            *current = Some(reset);
            Ok(())
        }
        None => Err(reset),
    })
}

/// Runs the tasks of streams.
#[derive(Clone, Copy)]
pub(super) struct StreamExecutor;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        tokio::spawn(StreamTask { stream, reset: None });
    }
}

pin_project! {
    struct StreamTask<F> {
        #[pin]
        stream: F,
        reset: Option<Reset>,
    }
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.reset.as_mut().is_some_and(|reset| reset.as_mut().poll(context).is_ready()) {
            return Poll::Ready(());
        }
        let scope = Scope::enter();
        let polled = this.stream.poll(context);
        if let Some(reset) = scope.leave() {
            *this.reset = Some(reset);
        }
        polled
    }
}

/// Marks the thread as running the task of a stream, also if that panics.
struct Scope;

impl Scope {
    fn enter() -> Self {
        CURRENT.set(Some(None));
        Self
    }

    fn leave(self) -> Option<Reset> {
        CURRENT.take().flatten()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

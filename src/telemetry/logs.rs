//! Log lines, on standard error.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::traces;

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Words, coloured on a terminal.
    Human,
    /// One JSON object, with `timestamp`, `level`, `target` and `message` beside the fields.
    Json,
}

impl Format {
    /// Whatever the reader is likely to be: a person at a terminal, a program otherwise.
    pub fn of_the_reader() -> Self {
        if io::stderr().is_terminal() { Self::Human } else { Self::Json }
    }
}

/// Logs what passes `filter`, for a command that tells nothing else.
pub fn start(filter: &str) {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let _ = tracing_subscriber::registry().with(layer(filter, Format::Human)).try_init();
}

/// Writes what passes `filter`.
pub(super) fn layer<S>(filter: &str, format: Format) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    // Requests' spans are for the collector of traces; without one, nobody makes them.
    let not_traces = filter_fn(|metadata| metadata.target() != traces::TARGET).with_max_level_hint(LevelFilter::TRACE);
    let filter = EnvFilter::builder().parse_lossy(filter).and(not_traces);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match format {
        Format::Human => lines.with_filter(filter).boxed(),
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines.with_filter(filter).boxed()
        }
    }
}

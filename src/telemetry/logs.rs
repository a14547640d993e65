//! Log lines, on standard error.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use super::traces;
use crate::visible::{escape, is_hidden, visible_json};

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text, coloured on a terminal.
    Human,
    /// One JSON object, with `timestamp`, `level`, `target` and `message` beside the fields.
    Json,
}

impl LogFormat {
    /// `Human` if standard error is a terminal, `Json` otherwise.
    pub fn auto() -> Self {
        if io::stderr().is_terminal() { Self::Human } else { Self::Json }
    }
}

/// Starts logging alone, for commands that need no traces or error reports.
pub fn start(filter: &str) {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    let _ = tracing_subscriber::registry().with(layer(filter, LogFormat::Human)).try_init();
}

/// The layer that writes the log lines that pass `filter`.
pub(super) fn layer<S>(filter: &str, format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    // Spans of requests are for the trace collector alone; this filter keeps them from being created without one.
    // The database driver's pool logs each lost connection, with lines of PostgreSQL's source code. They are left out: the call
    // that needs a connection reports the failure.
    let is_log_line = filter_fn(|metadata| {
        let is_pool = metadata.target().starts_with("sqlx_core::pool") && *metadata.level() >= Level::INFO;
        metadata.target() != traces::TARGET && !is_pool
    });
    let is_log_line = is_log_line.with_max_level_hint(LevelFilter::TRACE);
    let filter = EnvFilter::builder().parse_lossy(filter).and(is_log_line);
    let lines = fmt::layer().with_writer(move || VisibleLines { format }).with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Human => lines.with_filter(filter).boxed(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            lines.with_filter(filter).boxed()
        }
    }
}

/// Writes log lines to standard error with hidden characters and line breaks escaped: the text of a database's error, for example,
/// may hold any character.
struct VisibleLines {
    format: LogFormat,
}

impl Write for VisibleLines {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(lines);
        io::stderr().write_all(shown(&text, self.format).as_bytes())?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A line as it is written. The subscriber passes a whole line at once, and has escaped U+001B in values: the others are its own
/// colour codes.
fn shown(line: &str, format: LogFormat) -> Cow<'_, str> {
    let (content, end) = line.strip_suffix('\n').map_or((line, ""), |content| (content, "\n"));
    let shown = match format {
        LogFormat::Json => visible_json(content),
        LogFormat::Human => escape(content, |c| c != '\u{1b}' && is_hidden(c), |c, to| to.extend(c.escape_default())),
    };
    match shown {
        Cow::Borrowed(_) => Cow::Borrowed(line),
        Cow::Owned(shown) => Cow::Owned(shown + end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_line_stays_one_line_and_hides_nothing() {
        let line = "\u{1b}[31mERROR\u{1b}[0m a\u{202e}b\nWARN forged\u{200b}\n";
        assert_eq!(shown(line, LogFormat::Human), "\u{1b}[31mERROR\u{1b}[0m a\\u{202e}b\\nWARN forged\\u{200b}\n");
        assert_eq!(shown("{\"a\":\"\u{202e}\u{e0061}\"}\n", LogFormat::Json), "{\"a\":\"\\u202e\\udb40\\udc61\"}\n");
        assert!(matches!(shown("plain ✓\n", LogFormat::Human), Cow::Borrowed("plain ✓\n")));
    }
}

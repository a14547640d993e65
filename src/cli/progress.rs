//! Progress of long commands, shown on standard error if it is a terminal.

use std::fmt::Write;
use std::sync::LazyLock;

use indicatif::style::TemplateError;
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

/// All bars on the terminal. They must be hidden while a line is written.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Hides all bars while `write` writes to the terminal.
pub(super) fn with_bars_hidden(write: impl FnOnce()) {
    BARS.suspend(write);
}

/// A bar for a known number of items.
pub(super) fn bar(length: u64, items: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} {msg}, {rate}, {eta} left");
    let rate = |state: &ProgressState, to: &mut dyn Write| {
        let _ = write!(to, "{:.0}/s", state.per_sec());
    };
    add(ProgressBar::new(length), style.map(|style| style.with_key("rate", rate)), items)
}

/// A spinner for an unknown number of items.
pub(super) fn spinner(activity: &str) -> ProgressBar {
    add(ProgressBar::new_spinner(), ProgressStyle::with_template("{spinner} {msg}: {human_pos}"), activity)
}

fn add(bar: ProgressBar, style: Result<ProgressStyle, TemplateError>, message: &str) -> ProgressBar {
    let bar = BARS.add(bar).with_message(message.to_owned());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

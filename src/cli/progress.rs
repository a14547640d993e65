//! How far long work is, on standard error, while it is a terminal; nothing is shown elsewhere.

use std::fmt::Write;
use std::sync::LazyLock;

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

/// What is shown now: lines that are written meanwhile must not run into it.
static SHOWN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Writes to a terminal on which progress may be shown.
pub(super) fn beside(write: impl FnOnce()) {
    SHOWN.suspend(write);
}

/// Work of which it is known how much there is.
pub(super) fn bar(length: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} {msg}, {rate}, {eta} left");
    let rate = |state: &ProgressState, to: &mut dyn Write| {
        let _ = write!(to, "{:.0}/s", state.per_sec());
    };
    styled(ProgressBar::new(length), style.map(|style| style.with_key("rate", rate))).with_message(what.to_owned())
}

/// Work of which it is not known.
pub(super) fn spinner(what: &str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), ProgressStyle::with_template("{spinner} {msg}: {human_pos}"))
        .with_message(what.to_owned())
}

fn styled(bar: ProgressBar, style: Result<ProgressStyle, indicatif::style::TemplateError>) -> ProgressBar {
    let bar = SHOWN.add(bar);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

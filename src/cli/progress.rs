//! How far long work is, on standard error, while it is a terminal; nothing is shown elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// Work of which it is known how much there is.
pub(super) fn bar(length: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} {msg}, {per_sec}, {eta} left");
    styled(ProgressBar::new(length), style).with_message(what.to_owned())
}

/// Work of which it is not known.
pub(super) fn spinner(what: &str) -> ProgressBar {
    styled(ProgressBar::new_spinner(), ProgressStyle::with_template("{spinner} {msg}: {human_pos}"))
        .with_message(what.to_owned())
}

fn styled(bar: ProgressBar, style: Result<ProgressStyle, indicatif::style::TemplateError>) -> ProgressBar {
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

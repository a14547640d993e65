//! Bar charts of the results as SVG: how much of its goal each row reaches.

use std::fmt::Write;

use super::Row;

/// A chart and the filter for its rows.
pub struct Chart {
    pub file: &'static str,
    title: &'static str,
    shows: fn(&Row) -> bool,
}

/// All charts.
pub const CHARTS: [Chart; 2] = [
    Chart { file: "limits.svg", title: "Compared with this machine's limits", shows: |row| row.limit().is_some() },
    Chart { file: "goals.svg", title: "Goals without a limit to compare with", shows: |row| row.limit().is_none() },
];

/// In pixels.
const WIDTH: f64 = 960.0;
const TEXT: f64 = 480.0;
const LINE: f64 = 26.0;
const TOP: f64 = 56.0;

/// The largest share of a goal that is drawn. Longer bars are cut.
const MAX_SHARE: f64 = 3.0;

impl Chart {
    /// Draws the rows of this chart that have a goal.
    pub fn draw(&self, rows: &[Row]) -> String {
        let rows: Vec<_> =
            rows.iter().filter(|row| (self.shows)(row)).filter_map(|row| Some((row, row.goal_share()?))).collect();
        let height = TOP + LINE * rows.len() as f64 + 12.0;
        let at = |share: f64| TEXT + (WIDTH - TEXT - 90.0) * share.min(MAX_SHARE) / MAX_SHARE;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"12\" y=\"24\" font-size=\"16\">{}</text>\n\
             <text x=\"{}\" y=\"46\" text-anchor=\"middle\" fill=\"#555\">required</text>\n",
            self.title,
            at(1.0)
        );
        for (index, (row, share)) in rows.iter().enumerate() {
            let top = TOP + LINE * index as f64;
            let colour = if row.meets_goal() { "#2a7f62" } else { "#b3362b" };
            let label = if row.limit().is_some() { format!("{:.2} x", row.value()) } else { row.number(row.value()) };
            // Writing to a string cannot fail.
            let _ = writeln!(
                svg,
                "<text x=\"12\" y=\"{}\">{}</text><rect x=\"{TEXT}\" y=\"{}\" width=\"{:.0}\" height=\"16\" \
                 fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{}\">{label}</text>",
                top + 13.0,
                escaped(&row.name),
                top,
                at(*share) - TEXT,
                at(*share) + 6.0,
                top + 13.0,
            );
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{0}\" x2=\"{0}\" y1=\"{TOP}\" y2=\"{height}\" stroke=\"#555\" stroke-dasharray=\"4 3\"/>\n</svg>",
            at(1.0)
        );
        svg
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

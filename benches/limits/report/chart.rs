//! Charts of what was measured: how far each row is beyond what it must be. One SVG each, drawn here, since bars with a line
//! of text are all that is in them.

use std::fmt::Write;

use super::Row;

/// A chart, and which rows are in it.
pub struct Chart {
    pub file: &'static str,
    title: &'static str,
    shows: fn(&Row) -> bool,
}

/// All of them.
pub const CHARTS: [Chart; 2] = [
    Chart { file: "limits.svg", title: "Beside what this machine can do", shows: |row| row.limit().is_some() },
    Chart { file: "goals.svg", title: "Within bounds", shows: |row| row.limit().is_none() },
];

/// In pixels.
const WIDTH: f64 = 960.0;
const TEXT: f64 = 480.0;
const LINE: f64 = 26.0;
const TOP: f64 = 56.0;

/// A bar ends here at the latest, however far beyond its goal a row is.
const FARTHEST: f64 = 3.0;

impl Chart {
    /// The chart, of those of all rows that are to be in it and have a goal.
    pub fn draw(&self, rows: &[Row]) -> String {
        let rows: Vec<_> =
            rows.iter().filter(|row| (self.shows)(row)).filter_map(|row| Some((row, row.reached()?))).collect();
        let height = TOP + LINE * rows.len() as f64 + 12.0;
        let at = |reached: f64| TEXT + (WIDTH - TEXT - 90.0) * reached.min(FARTHEST) / FARTHEST;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"12\" y=\"24\" font-size=\"16\">{}</text>\n\
             <text x=\"{}\" y=\"46\" text-anchor=\"middle\" fill=\"#555\">as it must be</text>\n",
            self.title,
            at(1.0)
        );
        for (index, (row, reached)) in rows.iter().enumerate() {
            let top = TOP + LINE * index as f64;
            let colour = if row.is_enough() { "#2a7f62" } else { "#b3362b" };
            let told = if row.limit().is_some() { format!("{:.2} x", row.value()) } else { row.number(row.value()) };
            // Writing to a text cannot fail.
            let _ = writeln!(
                svg,
                "<text x=\"12\" y=\"{}\">{}</text><rect x=\"{TEXT}\" y=\"{}\" width=\"{:.0}\" height=\"16\" \
                 fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{}\">{told}</text>",
                top + 13.0,
                escaped(&row.what),
                top,
                at(*reached) - TEXT,
                at(*reached) + 6.0,
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

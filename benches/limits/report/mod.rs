//! Results: a table for the terminal, JSON and charts for the documentation.

mod chart;
mod row;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Result;
pub use row::{Goal, Row};

/// All rows, in the order of the table.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a row and prints it at once, because a run takes minutes.
    pub fn add(&mut self, row: Row) {
        println!("  {}", row.summary());
        self.rows.push(row);
    }

    /// Whether every row meets its goal.
    pub fn meets_goals(&self) -> bool {
        self.rows.iter().all(Row::meets_goal)
    }

    /// The table: one line per row, then the limits.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default();
        let mut table = format!(
            "{:<width$}  {:>9}  {:>9}  {:>6}  {:>6}  {:>10}  {:>10}\n",
            "medians", "measured", "limit", "ratio", "least", "must", "aim"
        );
        for row in &self.rows {
            let limit = row.limit().map(|limit| row.number(limit)).unwrap_or_default();
            let ratio = row.limit().map(|_| format!("{:.3}", row.value())).unwrap_or_default();
            let least = row.limit().map(|_| format!("{:.3}", row.least())).unwrap_or_default();
            let [must, aim] = row.goals();
            let missed = if row.meets_goal() { "" } else { "  MISSED" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                table,
                "{:<width$}  {:>9}  {limit:>9}  {ratio:>6}  {least:>6}  {must:>10}  {aim:>10}{missed}",
                row.name,
                row.number(row.median())
            );
        }
        for row in self.rows.iter().filter(|row| !row.against.is_empty()) {
            let _ = writeln!(table, "limit for {}: {}", row.name, row.against);
        }
        table
    }

    /// Writes `results.json` and the charts.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let rows: Vec<_> = self.rows.iter().map(Row::to_json).collect();
        let json = serde_json::json!({ "machine": machine(), "rows": rows });
        fs::write(folder.join("results.json"), format!("{json:#}\n"))?;
        for chart in chart::CHARTS {
            fs::write(folder.join(chart.file), chart.draw(&self.rows))?;
        }
        Ok(())
    }
}

/// The machine: cores and processor model.
fn machine() -> serde_json::Value {
    let cores = std::thread::available_parallelism().map(usize::from).unwrap_or_default();
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    serde_json::json!({ "cores": cores, "processor": model.trim_start_matches([' ', '\t', ':']) })
}

//! What was measured: a table for people, JSON for programs, charts for both.

mod chart;
mod row;

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Result;
pub use row::{Goal, Row};

/// All that was measured, in the order of the table.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Takes a row in, and tells of it at once: a run takes minutes.
    pub fn add(&mut self, row: Row) {
        println!("  {}", row.told());
        self.rows.push(row);
    }

    /// Whether every row is as it must be.
    pub fn is_enough(&self) -> bool {
        self.rows.iter().all(Row::is_enough)
    }

    /// One line a row, and what each was measured against.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.what.chars().count()).max().unwrap_or_default();
        let mut table = format!(
            "{:<width$}  {:>9}  {:>9}  {:>6}  {:>6}  {:>10}  {:>10}\n",
            "medians", "ours", "limit", "ratio", "least", "must", "aim"
        );
        for row in &self.rows {
            let limit = row.limit().map(|limit| row.number(limit)).unwrap_or_default();
            let ratio = row.limit().map(|_| format!("{:.2}", row.value())).unwrap_or_default();
            let least = row.limit().map(|_| format!("{:.2}", row.least())).unwrap_or_default();
            let [must, aim] = row.goals();
            let missed = if row.is_enough() { "" } else { "  MISSED" };
            // Writing to a text cannot fail.
            let _ = writeln!(
                table,
                "{:<width$}  {:>9}  {limit:>9}  {ratio:>6}  {least:>6}  {must:>10}  {aim:>10}{missed}",
                row.what,
                row.number(row.ours())
            );
        }
        for row in self.rows.iter().filter(|row| !row.against.is_empty()) {
            let _ = writeln!(table, "limit of {}: {}", row.what, row.against);
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

/// What it was measured on, as far as that says anything to others.
fn machine() -> serde_json::Value {
    let cores = std::thread::available_parallelism().map(usize::from).unwrap_or_default();
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    serde_json::json!({ "cores": cores, "processor": model.trim_start_matches([' ', '\t', ':']) })
}

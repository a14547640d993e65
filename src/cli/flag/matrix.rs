//! The flags of all environments: a row for each key, a column for each environment.

use std::collections::{BTreeMap, BTreeSet};

use console::Style;
use serde::Serialize;

use crate::api::pb::{Environment, FeatureFlag, FeatureFlagStatus};
use crate::cli::Failure;
use crate::cli::output::{self, OutputOptions};
use crate::cli::table::Cell;

pub(super) struct Matrix {
    /// The keys of the environments.
    columns: BTreeSet<String>,
    /// The flags of each key, by environment.
    rows: BTreeMap<String, BTreeMap<String, FeatureFlag>>,
}

/// A flag in one environment; absent where the key has none.
#[derive(Serialize)]
pub(super) struct FlagStateJson {
    status: String,
    archived: bool,
    revision: i64,
}

#[derive(Serialize)]
struct RowJson<'a> {
    key: &'a str,
    environments: BTreeMap<&'a str, Option<FlagStateJson>>,
}

impl Matrix {
    /// The keys that have a flag with this status, if one is given, and one that is not archived, unless `with_archived`.
    pub fn new(
        flags: Vec<FeatureFlag>,
        environments: Vec<Environment>,
        status: Option<FeatureFlagStatus>,
        with_archived: bool,
    ) -> Self {
        let mut columns: BTreeSet<_> = environments.into_iter().map(|environment| environment.key).collect();
        let mut rows = BTreeMap::<String, BTreeMap<String, FeatureFlag>>::new();
        for flag in flags {
            columns.insert(flag.environment.clone());
            rows.entry(flag.key.clone()).or_default().insert(flag.environment.clone(), flag);
        }
        let is_shown = |flag: &FeatureFlag| {
            (with_archived || flag.archived_at.is_none()) && status.is_none_or(|status| flag.status() == status)
        };
        rows.retain(|_, row| row.values().any(is_shown));
        Self { columns, rows }
    }

    pub fn print(self, options: OutputOptions) -> Result<(), Failure> {
        let header = std::iter::once("KEY".to_owned()).chain(self.columns.iter().cloned());
        let rows = self.rows.iter().map(|(key, flags)| {
            let cells = self.columns.iter().map(|column| cell(flags.get(column)));
            let states = self.columns.iter().map(|column| (column.as_str(), flags.get(column).map(state)));
            (std::iter::once(Cell::from(key)).chain(cells).collect(), RowJson { key, environments: states.collect() })
        });
        options.print_rows(header, rows)
    }
}

fn cell(flag: Option<&FeatureFlag>) -> Cell {
    match flag {
        None => Cell::new("-", Style::new().dim()),
        Some(flag) if flag.archived_at.is_some() => Cell::new("archived", Style::new().dim()),
        Some(flag) => match flag.status() {
            FeatureFlagStatus::Enabled => Cell::new("on", Style::new().green()),
            FeatureFlagStatus::Disabled => Cell::new("off", Style::new().yellow()),
            FeatureFlagStatus::Unspecified => Cell::from(output::status(flag.status)),
        },
    }
}

/// The JSON object of a flag in one environment.
fn state(flag: &FeatureFlag) -> FlagStateJson {
    FlagStateJson { status: output::status(flag.status), archived: flag.archived_at.is_some(), revision: flag.revision }
}

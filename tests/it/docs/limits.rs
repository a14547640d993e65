//! The table of limits, with their defaults.

use std::collections::HashSet;

use clap::{Args, Command};
use toggled::api::{Limit, LimitRow, list_limits};
use toggled::config::Limits;

use super::markdown::{cell, table as markdown_table};
use crate::support::defaults;

/// All limits: value and what it counts, what sets it, and what happens to the excess.
pub fn table() -> String {
    let rows = list_limits(&defaults::<Limits>());
    let rows: Vec<_> = rows
        .iter()
        .map(|LimitRow { limit, set_by, effect }| [limit, set_by, effect].map(|text| cell(text)).to_vec())
        .collect();
    markdown_table(&["limit by default", "", "beyond it"], &rows)
}

/// A limit that refuses calls cannot be added without its row, nor a row name an option that does not exist.
#[test]
fn every_limit_is_listed_with_its_option() {
    let rows = list_limits(&defaults::<Limits>());
    let names: HashSet<_> = rows.iter().map(|row| row.limit.as_str()).collect();
    // CallTime and ChangeStart are the same limit, at different times.
    assert_eq!(names.len(), rows.len() - 1, "{names:?}");
    assert!(rows.len() > Limit::ALL.len());
    let options = Limits::augment_args(Command::new("limits"));
    let options: HashSet<_> = options.get_arguments().filter_map(|option| option.get_long()).collect();
    let named: HashSet<_> = rows.iter().filter_map(|row| Some(row.set_by.split_once("--")?.1)).collect();
    assert_eq!(named, options);
    assert!(rows.iter().all(|row| row.set_by == "fixed" || row.set_by.contains("--")));
}

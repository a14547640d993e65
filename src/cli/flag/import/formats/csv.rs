//! CSV: columns by the names in the first line.

use std::collections::HashSet;

use csv::{ReaderBuilder, StringRecord};

use super::{FileFormat, FileStart};
use crate::cli::flag::import::imported::{FlagCollector, FlagFields, ImportedFlags, ParseErrors};
use crate::cli::output::CsvCells;

pub(super) const FORMAT: FileFormat = FileFormat {
    name: "csv",
    help: "Columns by the names in the first line: key, and any of environment, name, description, status, archived",
    detect: has_key_column,
    selects_environments: false,
    is_csv: true,
    parse: |text, options| parse(text, CsvCells::new(options.raw_cells)),
};

/// What separates columns in files that some spreadsheets save.
const OTHER_SEPARATORS: [(char, &str); 3] = [(';', "semicolons"), ('\t', "tabs"), ('|', "vertical bars")];

const COLUMNS: [&str; 6] = ["key", "environment", "name", "description", "status", "archived"];

fn has_key_column(start: &FileStart<'_>) -> bool {
    let is_json = start.first_line.starts_with(['{', '[']);
    !is_json && (has_key(start.first_line, ',') || other_separator(start.first_line).is_some())
}

fn has_key(first_line: &str, separator: char) -> bool {
    first_line.split(separator).any(|cell| column_name(cell.trim().trim_matches('"')) == "key")
}

/// What separates the columns instead of commas.
fn other_separator(first_line: &str) -> Option<&'static str> {
    let has_columns = |separator: char| first_line.contains(separator) && has_key(first_line, separator);
    let (_, name) = OTHER_SEPARATORS.iter().find(|(separator, _)| has_columns(*separator))?;
    (!has_key(first_line, ',')).then_some(name)
}

/// A column's name without surrounding spaces, in lower case: names are compared like this.
fn column_name(cell: &str) -> String {
    cell.trim().to_ascii_lowercase()
}

fn parse(text: &str, cells: CsvCells) -> Result<ImportedFlags, ParseErrors> {
    // The reader ends an open quoted field at the end of the file, so a file that was cut there would look complete.
    if text.bytes().filter(|byte| *byte == b'"').count() % 2 == 1 {
        return Err(vec!["a quoted field is not closed; the file may be incomplete".to_owned()]);
    }
    if let Some(separator) = text.lines().next().and_then(other_separator) {
        return Err(vec![format!("line 1: the columns are separated by {separator}; save the file with commas")]);
    }
    // `flexible`, so that a record of the wrong length does not hide the other errors in its line; `add_flag` reports it.
    let mut reader = ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let headers = reader.headers().map_err(|error| vec![error.to_string()])?;
    let columns: Vec<_> = headers.iter().map(column_name).collect();
    let mut collector = FlagCollector::default();
    check_columns(&columns, &mut collector);
    if collector.has_errors() {
        return collector.finish();
    }
    for record in reader.records() {
        match record {
            Ok(record) => add_flag(&columns, &record, cells, &mut collector),
            Err(error) => collector.located_error(error),
        }
    }
    collector.finish()
}

fn check_columns(columns: &[String], collector: &mut FlagCollector) {
    let unknown: Vec<_> = columns.iter().filter(|name| !COLUMNS.contains(&name.as_str())).collect();
    if !unknown.is_empty() {
        collector.error("line 1", format_args!("unknown columns {unknown:?}; the columns are {}", COLUMNS.join(", ")));
    }
    let mut seen = HashSet::new();
    for name in columns.iter().filter(|name| !seen.insert(*name)) {
        collector.error("line 1", format_args!("duplicate column {name:?}"));
    }
    if !columns.iter().any(|name| name == "key") {
        collector.error("line 1", "the column key is missing");
    }
}

/// An empty cell leaves its field as it is, except for a description, which may be empty.
fn add_flag(columns: &[String], record: &StringRecord, cells: CsvCells, collector: &mut FlagCollector) {
    let location = record.position().map_or_else(String::new, |position| format!("line {}", position.line()));
    let position = |column| columns.iter().position(|name| name == column);
    if record.len() != columns.len() {
        collector.error(&location, format_args!("{} cells, but {} columns", record.len(), columns.len()));
    }
    let cell = |column| position(column).and_then(|index| record.get(index)).map(|cell| cells.read(cell));
    let word = |column| cell(column).map(|cell| cell.trim().to_owned()).filter(|word| !word.is_empty());
    let status = word("status").and_then(|word| collector.status(&location, &word));
    let archived = word("archived").and_then(|word| match word.to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => {
            collector.error(&location, "archived must be true or false");
            None
        }
    });
    let (key, name, description) = (cell("key"), cell("name"), cell("description"));
    let name = name.as_deref().filter(|name| !name.is_empty());
    let (key, description) = (key.as_deref().unwrap_or_default(), description.as_deref());
    let environment = word("environment");
    let environment = environment.as_deref();
    collector.add(&location, &FlagFields { environment, key, name, description, status, archived });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::flag::Status;

    fn parse_defused(text: &str) -> Result<ImportedFlags, ParseErrors> {
        parse(text, CsvCells::Defused)
    }

    #[test]
    fn columns_in_any_order_need_only_the_key() {
        let flags = parse_defused("Status,key\r\nON,a\r\n,b\r\ndisabled,c\r\n").unwrap().flags;
        let statuses: Vec<_> = flags.iter().map(|flag| (flag.key.as_str(), flag.status)).collect();
        assert_eq!(statuses, [("a", Some(Status::Enabled)), ("b", None), ("c", Some(Status::Disabled))]);
        assert!(flags.iter().all(|flag| flag.name.is_none() && flag.description.is_none()));
        assert!(flags.iter().all(|flag| flag.archived.is_none()));
    }

    #[test]
    fn quoted_cell_may_hold_any_character() {
        let flags = parse_defused("key,name,description\na,\"A, \"\"B\"\"\",\"two\nlines\"\nb,B,\n").unwrap().flags;
        assert_eq!(flags[0].name.as_ref().unwrap().as_str(), "A, \"B\"");
        assert_eq!(flags[0].description.as_ref().unwrap().as_str(), "two\nlines");
        assert_eq!(flags[1].description.as_ref().unwrap().as_str(), "");
    }

    #[test]
    fn defused_cell_is_read_as_it_was() {
        let text = "key,name,description\na,'=1,'\tx\nb,'quoted',''=1\n";
        for (cells, expected) in [
            (CsvCells::Defused, [("=1", "\tx"), ("'quoted'", "'=1")]),
            (CsvCells::Raw, [("'=1", "'\tx"), ("'quoted'", "''=1")]),
        ] {
            let flags = parse(text, cells).unwrap().flags;
            let texts: Vec<_> = flags
                .iter()
                .map(|flag| (flag.name.as_ref().unwrap().as_str(), flag.description.as_ref().unwrap().as_str()))
                .collect();
            assert_eq!(texts, expected);
        }
    }

    #[test]
    fn every_error_is_reported_with_its_line() {
        let text = format!("key,name,status,archived\na,,maybe,\n\"a b\",x,,perhaps\na,{},on,true\n", "n".repeat(256));
        let errors = parse_defused(&text).unwrap_err();
        assert_eq!(errors.len(), 5, "{errors:?}");
        for (line, words) in
            [(2, "status"), (3, "archived"), (3, "key"), (4, "duplicate key \"a\", first at line 2"), (4, "name")]
        {
            let start = format!("line {line}: ");
            assert!(errors.iter().any(|e| e.starts_with(&start) && e.contains(words)), "{line} {words}: {errors:?}");
        }
    }

    #[test]
    fn short_row_does_not_hide_other_errors() {
        let errors = parse_defused("status,key,name\nmaybe,a\non\noff,a b,A\n").unwrap_err();
        let expected = [
            "line 2: 2 cells, but 3 columns",
            "line 2: status must be",
            "line 3: 1 cells, but 3 columns",
            "line 3: key must",
            "line 4: key must",
        ];
        assert_eq!(errors.len(), expected.len(), "{errors:?}");
        assert!(errors.iter().zip(expected).all(|(error, expected)| error.starts_with(expected)), "{errors:?}");
    }

    #[test]
    fn wrong_columns_are_named() {
        for (text, expected) in [
            ("key,colour\na,red\n", "colour"),
            ("name\nA\n", "column key is missing"),
            ("key,name,name\na,b,c\n", "duplicate column \"name\""),
            ("key,name\na\n", "line 2: 1 cells, but 2 columns"),
            ("key,name\na,b,c\n", "line 2: 3 cells, but 2 columns"),
            ("key;name\na;A\n", "separated by semicolons"),
            ("\"name\"\t\"key\"\nA\ta\n", "separated by tabs"),
            ("key,name\na,\"cut", "not closed"),
        ] {
            let errors = parse_defused(text).unwrap_err();
            assert!(errors.len() == 1 && errors[0].contains(expected), "{text}: {errors:?}");
        }
    }
}

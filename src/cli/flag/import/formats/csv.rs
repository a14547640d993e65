//! CSV: columns by the names in the first line.

use std::collections::HashSet;

use csv::{ReaderBuilder, StringRecord};

use crate::cli::flag::import::imported::{Contents, Raw, status};

const COLUMNS: [&str; 5] = ["key", "name", "description", "status", "archived"];

pub(super) fn parse(text: &str) -> Contents {
    let mut contents = Contents::default();
    // A file that was cut in the middle of a field would otherwise be taken for whole.
    if text.bytes().filter(|byte| *byte == b'"').count() % 2 == 1 {
        return Contents::unusable("a quotation mark is opened that is never closed");
    }
    let mut reader = ReaderBuilder::new().from_reader(text.as_bytes());
    let head = match reader.headers() {
        Ok(head) => head.iter().map(name).collect::<Vec<_>>(),
        Err(error) => return Contents::unusable(error.to_string()),
    };
    check(&head, &mut contents);
    if contents.faults.is_empty() {
        for record in reader.records() {
            match record {
                Ok(record) => take(&head, &record, &mut contents),
                Err(error) => contents.faults.push(error.to_string()),
            }
        }
    }
    contents
}

/// The names in the first line, as they are compared.
pub(super) fn names(head: &str) -> impl Iterator<Item = String> {
    head.split(',').map(|cell| name(cell.trim().trim_matches('"')))
}

fn name(cell: &str) -> String {
    cell.trim().to_ascii_lowercase()
}

fn check(head: &[String], contents: &mut Contents) {
    let unknown: Vec<_> = head.iter().filter(|name| !COLUMNS.contains(&name.as_str())).collect();
    if !unknown.is_empty() {
        contents.fault("line 1", format_args!("there are no columns {unknown:?}, only {}", COLUMNS.join(", ")));
    }
    let mut seen = HashSet::new();
    for name in head.iter().filter(|name| !seen.insert(*name)) {
        contents.fault("line 1", format_args!("the column {name:?} is there twice"));
    }
    if !head.iter().any(|name| name == "key") {
        contents.fault("line 1", "the column key is missing");
    }
}

/// An empty cell says nothing, but for a description, which may be empty.
fn take(head: &[String], record: &StringRecord, contents: &mut Contents) {
    let place = record.position().map_or_else(String::new, |position| format!("line {}", position.line()));
    let cell = |column| head.iter().position(|name| name == column).and_then(|index| record.get(index));
    let said = |column| cell(column).filter(|cell| !cell.trim().is_empty());
    let mut fault = |fault: &str| contents.fault(&place, fault);
    let status = said("status").and_then(|word| status(word.trim()).map_err(&mut fault).ok());
    let archived = said("archived").and_then(|word| match word.trim().to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => {
            fault("archived must be true or false");
            None
        }
    });
    let name = cell("name").filter(|name| !name.is_empty());
    let key = cell("key").unwrap_or_default();
    contents.take(&place, &Raw { key, name, description: cell("description"), status, archived });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::flag::Status;

    #[test]
    fn columns_come_in_any_order_and_only_the_key_is_needed() {
        let contents = parse("Status,key\r\nON,a\r\n,b\r\ndisabled,c\r\n");
        assert_eq!(contents.faults, Vec::<String>::new());
        let told: Vec<_> = contents.flags.iter().map(|flag| (flag.key.as_str(), flag.status)).collect();
        assert_eq!(told, [("a", Some(Status::Enabled)), ("b", None), ("c", Some(Status::Disabled))]);
        assert!(contents.flags.iter().all(|flag| flag.name.is_none() && flag.description.is_none()));
        assert!(contents.flags.iter().all(|flag| flag.archived.is_none()));
    }

    #[test]
    fn a_quoted_cell_may_hold_anything() {
        let contents = parse("key,name,description\na,\"A, \"\"B\"\"\",\"two\nlines\"\nb,B,\n");
        assert_eq!(contents.faults, Vec::<String>::new());
        assert_eq!(contents.flags[0].name.as_ref().unwrap().as_str(), "A, \"B\"");
        assert_eq!(contents.flags[0].description.as_ref().unwrap().as_str(), "two\nlines");
        assert_eq!(contents.flags[1].description.as_ref().unwrap().as_str(), "");
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_line() {
        let text = format!("key,name,status,archived\na,,maybe,\n\"a b\",x,,perhaps\na,{},on,true\n", "n".repeat(256));
        let faults = parse(&text).faults;
        assert_eq!(faults.len(), 5, "{faults:?}");
        for (line, words) in [(2, "status"), (3, "archived"), (3, "key"), (4, "at line 2"), (4, "name")] {
            let start = format!("line {line}: ");
            assert!(faults.iter().any(|f| f.starts_with(&start) && f.contains(words)), "{line} {words}: {faults:?}");
        }
    }

    #[test]
    fn columns_that_are_unknown_missing_or_doubled_are_named() {
        for (text, expected) in [
            ("key,colour\na,red\n", "colour"),
            ("name\nA\n", "column key is missing"),
            ("key,name,name\na,b,c\n", "\"name\" is there twice"),
            ("key,name\na\n", "line: 2"),
            ("key,name\na,\"cut", "never closed"),
        ] {
            let faults = parse(text).faults;
            assert!(faults.len() == 1 && faults[0].contains(expected), "{text}: {faults:?}");
        }
    }
}

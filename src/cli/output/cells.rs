//! CSV cells, protected against CSV injection: a spreadsheet runs a cell that begins like a formula, and anyone who may name a flag
//! or give a reason could put one there. Such a cell, or part of a cell, is defused: it gets a `'` before it, which makes it text.
//! An import removes the `'` again.

use std::borrow::Cow;

use clap::Args;

use crate::cli::Failure;

/// The option for CSV cells in a file that is written.
#[derive(Debug, Clone, Copy, Args)]
pub(in crate::cli) struct CellOptions {
    /// Write CSV cells as they are. By default, a ' is put before a cell that a spreadsheet would run as a formula
    #[arg(long)]
    raw_cells: bool,
}

impl CellOptions {
    /// How cells are written. The option is an error for a format without cells.
    pub fn cells(self, is_csv: bool) -> Result<CsvCells, Failure> {
        match self.raw_cells {
            true if !is_csv => Err(Failure::usage("--raw-cells applies only to --format csv")),
            is_raw => Ok(CsvCells::new(is_raw)),
        }
    }
}

/// How the cells of a CSV file hold texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum CsvCells {
    /// Defused: a text that a spreadsheet would run as a formula has a `'` before it.
    Defused,
    /// The texts as they are.
    Raw,
}

impl CsvCells {
    pub fn new(is_raw: bool) -> Self {
        if is_raw { Self::Raw } else { Self::Defused }
    }

    /// The cell of a text.
    pub fn write(self, text: &str) -> Cow<'_, str> {
        if self == Self::Raw || !parts(text).any(is_formula) {
            return text.into();
        }
        parts(text).flat_map(|part| [if is_formula(part) { "'" } else { "" }, part]).collect::<String>().into()
    }

    /// The text of a cell.
    pub fn read(self, cell: &str) -> Cow<'_, str> {
        if self == Self::Raw || !has_defused_part(cell) {
            return cell.into();
        }
        parts(cell).map(|part| defused(part).unwrap_or(part)).collect::<String>().into()
    }
}

/// Whether a spreadsheet could run a part of this cell: then its file was written raw.
pub(in crate::cli) fn has_formula(cell: &str) -> bool {
    parts(cell).any(|part| is_formula(part) && !part.starts_with('\''))
}

/// Whether the cell looks like one that was defused.
pub(in crate::cli) fn has_defused_part(cell: &str) -> bool {
    parts(cell).any(|part| defused(part).is_some())
}

/// The text of a part that was defused.
fn defused(part: &str) -> Option<&str> {
    part.strip_prefix('\'').filter(|text| is_formula(text))
}

/// Splits a cell where a spreadsheet may split it: one that expects `;` reads `x;=1` as two cells, even if it is quoted. Each part
/// ends with its separator. A comma does not split: a cell that has one is quoted, and a reader that expects commas reads it whole.
fn parts(cell: &str) -> impl Iterator<Item = &str> {
    cell.split_inclusive([';', '|', '\t', '\r', '\n', '；', '﹔', '｜', '，'])
}

/// Whether a spreadsheet could run a cell with this text, after it has dropped quotes, spaces and invisible characters at its
/// start, or split it at a tab or line break there. It also counts a formula that has a `'` before it already: that gets a second
/// `'`, so that removing one restores the text.
fn is_formula(text: &str) -> bool {
    for c in text.chars() {
        match c {
            '=' | '+' | '-' | '@' => return true,
            // The same signs, full-width, small or as a mathematical minus: some programs normalize them.
            '＝' | '＋' | '－' | '＠' | '﹦' | '﹢' | '﹣' | '﹫' | '\u{2212}' => return true,
            '\t' | '\r' | '\n' => return true,
            '\'' | '"' | '`' | '＇' | '＂' | '‘' | '’' | '“' | '”' => {}
            c if c.is_whitespace() || c.is_control() || is_invisible(c) => {}
            _ => return false,
        }
    }
    false
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn formulas_are_defused() {
        for text in [
            "=1+1",
            "+1",
            "-1",
            "@SUM(A1)",
            " =1",
            "\u{a0}=1",
            "\"=1",
            "'=1",
            "''=1",
            "\u{feff}=1",
            "\u{200b}-1",
            "＝1",
            "＋1",
            "－1",
            "＠A",
            "\"＝1",
            "\tx",
            "'\tx",
            "=",
        ] {
            let cell = CsvCells::Defused.write(text);
            assert_eq!(cell, format!("'{text}"));
            assert_eq!((&*CsvCells::Defused.read(&cell), &*CsvCells::Raw.read(&cell)), (text, &*cell));
            assert!(!has_formula(&cell) && has_defused_part(&cell), "{cell:?}");
            assert!(has_formula(text) || has_defused_part(text), "{text:?}");
            assert_eq!(CsvCells::Raw.write(text), text);
        }
    }

    /// Some spreadsheets separate cells by semicolons, or normalize full-width characters.
    #[test]
    fn formulas_after_other_separators_are_defused() {
        for (text, cell) in [
            ("x;=1+1", "x;'=1+1"),
            ("x；＝1", "x；'＝1"),
            ("a;b; =1;-2", "a;b;' =1;'-2"),
            ("x|@A", "x|'@A"),
            ("x\t+1", "x\t'+1"),
            ("x\n=1", "x\n'=1"),
            ("\t=1", "'\t'=1"),
            ("\r\n=1", "'\r'\n'=1"),
            (";=1", ";'=1"),
            ("x;'=1", "x;''=1"),
            ("x;\"=1", "x;'\"=1"),
        ] {
            assert_eq!(CsvCells::Defused.write(text), cell);
            assert_eq!(CsvCells::Defused.read(cell), text);
            assert!(has_formula(text) || has_defused_part(text), "{text:?}");
            assert!(!has_formula(cell), "{cell:?}");
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in [
            "",
            "checkout",
            "a=b",
            "1-2",
            "'quoted'",
            "it's",
            "a; b",
            "a, -1",
            "x;'y'",
            "2026-01-31T12:00:00Z",
            "ann@example.com",
            "é",
            "'",
        ] {
            assert_eq!((&*CsvCells::Defused.write(text), &*CsvCells::Defused.read(text)), (text, text));
            assert!(!has_formula(text) && !has_defused_part(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn written_cell_is_read_unchanged(text in "(['\"=+@\t\r\n a;|；\u{feff}＝-]{0,6}|\\PC{0,3})\\PC{0,3}") {
            for cells in [CsvCells::Defused, CsvCells::Raw] {
                let cell = cells.write(&text);
                prop_assert_eq!(&*cells.read(&cell), &text);
                prop_assert!(cells == CsvCells::Raw || !has_formula(&cell), "{}", cell);
            }
        }
    }
}

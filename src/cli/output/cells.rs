//! CSV cells. A spreadsheet runs a cell that begins like a formula, and anyone who may name a flag or give a reason can write
//! one. Such a cell begins with `'`, which makes it text; an import removes the `'` again.

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
    /// How cells are written; refused for a file that has none.
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
    /// No cell is a formula: a text that would be one has a `'` before it.
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
        if self == Self::Defused && is_formula(text) { format!("'{text}").into() } else { text.into() }
    }

    /// The text of a cell.
    pub fn read(self, cell: &str) -> &str {
        match cell.strip_prefix('\'') {
            Some(text) if self == Self::Defused && is_formula(text) => text,
            _ => cell,
        }
    }

    /// Whether a file with such cells can have this one.
    pub fn can_hold(self, cell: &str) -> bool {
        self == Self::Raw || cell.starts_with('\'') || !is_formula(cell)
    }
}

/// Whether a spreadsheet could run a cell with this text, after it has dropped quotes, spaces and invisible characters at its
/// start, or split it at a tab or line break there. It holds for `'` and the text as well, so that `read` can tell the two.
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
            "\t=1",
            "\r=1",
            "\n=1",
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
            assert_eq!((CsvCells::Defused.read(&cell), CsvCells::Raw.read(&cell)), (text, &*cell));
            assert!(CsvCells::Defused.can_hold(&cell));
            assert_eq!(CsvCells::Raw.write(text), text);
        }
        assert!(!CsvCells::Defused.can_hold("=1") && CsvCells::Raw.can_hold("=1"));
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in
            ["", "checkout", "a=b", "1-2", "'quoted'", "it's", "2026-01-31T12:00:00Z", "ann@example.com", "é", "'"]
        {
            assert_eq!((&*CsvCells::Defused.write(text), CsvCells::Defused.read(text)), (text, text));
            assert!(CsvCells::Defused.can_hold(text));
        }
    }

    proptest! {
        #[test]
        fn written_cell_is_read_unchanged(text in "(['\"=+@\t\r\n a\u{feff}＝-]{0,4}|\\PC{0,3})\\PC{0,3}") {
            for cells in [CsvCells::Defused, CsvCells::Raw] {
                let cell = cells.write(&text);
                prop_assert_eq!(cells.read(&cell), &text);
                prop_assert!(cells.can_hold(&cell));
            }
        }
    }
}

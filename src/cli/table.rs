//! Tables for people to read: columns as wide as their widest cell.

use std::fmt;

use console::{Alignment, Style, measure_text_width, pad_str};

use crate::visible::visible;

/// The space between two columns.
const COLUMN_GAP: usize = 2;

/// One cell of a table, in one line. Hidden characters are escaped, since users may put any character into a name.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn new(text: impl AsRef<str>, style: Style) -> Self {
        Self { text: visible(text.as_ref()).into_owned(), style }
    }

    fn width(&self) -> usize {
        measure_text_width(&self.text)
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::new())
    }
}

/// Rows under a header.
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
    widths: Vec<usize>,
    has_colors: bool,
}

impl Table {
    pub fn new<T: AsRef<str>>(header: impl IntoIterator<Item = T>) -> Self {
        let header: Vec<_> = header.into_iter().map(|text| Cell::new(text, Style::new().bold())).collect();
        let mut table = Self { rows: Vec::new(), widths: vec![0; header.len()], has_colors: false };
        table.push(header);
        table
    }

    /// The same table, which prints the styles of its cells if `has_colors`. By default it does not.
    pub fn with_colors(self, has_colors: bool) -> Self {
        Self { has_colors, ..self }
    }

    /// Adds a row with a cell for each column.
    pub fn push(&mut self, row: impl Into<Vec<Cell>>) {
        let row = row.into();
        self.widen(&row);
        self.rows.push(row);
    }

    /// Makes the columns wide enough for a row without keeping it.
    pub fn widen(&mut self, row: &[Cell]) {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }

    /// A row as one line. It ends with its last cell that is not empty, without padding.
    pub fn line(&self, row: &[Cell]) -> String {
        let used = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&self.widths).enumerate().take(used) {
            let text = cell.style.clone().force_styling(self.has_colors).apply_to(&cell.text).to_string();
            let width = if column + 1 == used { 0 } else { width + COLUMN_GAP };
            line += &pad_str(&text, width, Alignment::Left, None);
        }
        line
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.rows.iter().map(|row| self.line(row)).collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: [[&str; 3]; 3]) -> Table {
        let mut table = Table::new(["KEY", "NAME", "BY"]);
        for row in rows {
            table.push(row.map(Cell::from));
        }
        table
    }

    #[test]
    fn wide_and_combining_characters_line_up() {
        let rows = [["a", "新しい", "ann"], ["b", "cafe\u{301}", "bob"], ["c", "👍 ok", "eve"]];
        let lines = table(rows).to_string();
        assert_eq!(
            lines,
            "KEY  NAME    BY\n\
             a    新しい  ann\n\
             b    cafe\u{301}    bob\n\
             c    👍 ok   eve"
        );
        for line in lines.lines() {
            let by = line.rfind(char::is_whitespace).unwrap() + 1;
            assert_eq!(measure_text_width(&line[..by]), 13, "{line}");
        }
    }

    #[test]
    fn colors_do_not_change_the_columns() {
        let row = [Cell::new("on", Style::new().green()), Cell::from("x"), Cell::from("")];
        let table = table([["a", "A", "ann"]; 3]).with_colors(true);
        assert_eq!(table.line(&row), "\u{1b}[32mon\u{1b}[0m   x");
    }

    #[test]
    fn line_ends_with_last_cell_that_is_not_empty() {
        let table = table([["a", "A", "ann"], ["b", "B", ""], ["c", "", ""]]);
        assert_eq!(table.to_string(), "KEY  NAME  BY\na    A     ann\nb    B\nc");
    }

    #[test]
    fn cell_shows_hidden_characters() {
        let table = table([["a\u{200b}", "two\nlines", "\u{1b}[31mann"], ["b", "", "bob"], ["c", "", "eve"]]);
        let lines = table.to_string();
        assert_eq!(lines.lines().nth(1), Some(r"a\u{200b}  two\nlines  \u{1b}[31mann"), "{lines}");
        assert_eq!(lines.lines().count(), 4);
    }
}

//! Columns for people to read.

use std::fmt;

use console::Style;

/// What stands in a column, and how it looks on a terminal that has colours.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Style::new())
    }
}

/// Rows under a head, padded to the widest of each column.
pub(super) struct Table<const N: usize> {
    rows: Vec<[Cell; N]>,
    widths: [usize; N],
    styled: bool,
}

impl<const N: usize> Table<N> {
    pub fn new(head: [&str; N]) -> Self {
        let mut table = Self { rows: Vec::new(), widths: [0; N], styled: false };
        table.cells(head.map(|text| Cell::new(text, Style::new().bold())));
        table
    }

    /// The same, with colours or without, as without this.
    pub fn styled(self, styled: bool) -> Self {
        Self { styled, ..self }
    }

    pub fn row(&mut self, row: [String; N]) {
        self.cells(row.map(Cell::from));
    }

    pub fn cells(&mut self, row: [Cell; N]) {
        self.widen(&row);
        self.rows.push(row);
    }

    /// Makes room for a row that is not to be kept.
    pub fn widen(&mut self, row: &[Cell; N]) {
        for (width, cell) in self.widths.iter_mut().zip(row) {
            *width = cell.text.chars().count().max(*width);
        }
    }

    /// A row as it stands under the others.
    pub fn line(&self, row: &[Cell; N]) -> String {
        let last = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
        let mut line = String::new();
        for (place, (cell, width)) in row.iter().zip(self.widths).enumerate().take(last) {
            let text = printable(&cell.text);
            let padding = if place + 1 == last { 0 } else { width.saturating_sub(text.chars().count()) + 2 };
            line += &cell.style.clone().force_styling(self.styled).apply_to(text).to_string();
            line.extend(std::iter::repeat_n(' ', padding));
        }
        line
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.rows.iter().map(|row| self.line(row)).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// A name may hold anything: what a terminal would take for a command is not passed on.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if is_unsafe(c) { '\u{fffd}' } else { c }).collect()
}

/// Whether a terminal would take it for a command, or show what follows in another order than it has.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

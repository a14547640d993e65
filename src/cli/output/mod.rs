//! What a command tells, to people in columns, to scripts in JSON: one object a line. Its fields are
//! called as those of the messages in the wire contract, and what is absent is left out.

mod caller;
mod entry;
mod fields;
mod flag;

use std::io::{self, ErrorKind, IsTerminal, Write};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::table::{Cell, Table};
use super::{EXIT_DONE, EXIT_FAILURE, Failure};

pub(super) use fields::{hex, status, time};
pub(super) use flag::{Changed, Seen, WasSet};

/// In which form to tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns, for people
    Table,
    /// JSON, one object a line
    Json,
}

/// How to tell what there is to tell.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Output {
    /// In which form to tell it
    #[arg(long, value_name = "FORMAT", env = "TOGGLED_OUTPUT", value_enum, default_value = "table")]
    pub output: Format,
}

/// What can be told in both forms.
pub(super) trait Item<const N: usize> {
    /// What is above its columns.
    const HEAD: [&'static str; N];

    /// Its columns.
    fn row(&self) -> [Cell; N];

    /// What is told to scripts: a stable shape.
    fn json(&self) -> impl Serialize;
}

impl Output {
    /// All that there is, at once.
    pub fn all<const N: usize, T: Item<N>>(self, items: &[T]) -> Result<(), Failure> {
        match self.output {
            Format::Json => items.iter().try_for_each(|item| line(&json(&item.json())?)),
            Format::Table => {
                let mut table = Table::new(T::HEAD).with_colors(has_colors());
                for item in items {
                    table.push(item.row());
                }
                line(&table.to_string())
            }
        }
    }

    /// One thing alone, which needs no head.
    pub fn word<const N: usize, T: Item<N>>(self, item: &T) -> Result<(), Failure> {
        match self.output {
            Format::Json => line(&json(&item.json())?),
            Format::Table => line(&Table::new(T::HEAD).line(&item.row())),
        }
    }

    /// One after the other, as they come.
    pub fn feed<const N: usize>(self) -> Feed<N> {
        Feed { format: self.output, table: None }
    }
}

/// A table without an end: its columns grow with what comes.
pub(super) struct Feed<const N: usize> {
    format: Format,
    table: Option<Table<N>>,
}

impl<const N: usize> Feed<N> {
    pub fn tell<T: Item<N>>(&mut self, item: &T) -> Result<(), Failure> {
        if self.format == Format::Json {
            return line(&json(&item.json())?);
        }
        let first = self.table.is_none();
        let table = self.table.get_or_insert_with(|| Table::new(T::HEAD).with_colors(has_colors()));
        table.widen(&item.row());
        if first {
            line(&table.to_string())?;
        }
        line(&table.line(&item.row()))
    }
}

/// Colours are for terminals, and not for who has asked for none (NO_COLOR).
fn has_colors() -> bool {
    io::stdout().is_terminal() && console::colors_enabled()
}

/// One JSON object.
pub(super) fn json(shape: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(shape)?;
    // JSON leaves DEL and what comes after it as it is, and a terminal takes some of that for commands.
    let escaped =
        |c: char| if c >= '\u{7f}' && super::table::is_unsafe(c) { format!("\\u{:04x}", c as u32) } else { c.into() };
    Ok(if text.is_ascii() && !text.contains('\u{7f}') { text } else { text.chars().map(escaped).collect() })
}

/// One line, or several, to standard output. Where nobody reads any more, the command is over and has not failed.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// What belongs in a file, to standard output, just as it is; but a terminal is given no commands by it.
pub(super) fn file(bytes: &[u8]) -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        let lines: Vec<_> = String::from_utf8_lossy(bytes).split('\n').map(super::table::sanitize).collect();
        return write(lines.join("\n").as_bytes());
    }
    write(bytes)
}

fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure { code: EXIT_DONE, line: String::new() },
        _ => Failure { code: EXIT_FAILURE, line: format!("standard output: {error}") },
    })
}

/// A line about what was done, to standard error, where it is in nobody's way.
pub(super) fn note(text: &str) {
    super::progress::beside(|| {
        let _ = writeln!(io::stderr(), "{text}");
    });
}

/// Asks whoever sits at the terminal.
pub(super) fn ask(question: &str) -> io::Result<bool> {
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

//! Prints results: tables for people, and JSON for scripts, one object a line. The JSON fields have the names of the
//! protocol's messages; absent values are omitted.

mod cells;
mod entry;
mod environment;
mod fields;
mod flag;
mod whoami;

use std::io::{self, ErrorKind, IsTerminal, Write};
#[cfg(unix)]
use std::os::fd::AsFd;

use clap::{Args, ValueEnum};
use serde::Serialize;
#[cfg(unix)]
use tokio::{io::Interest, net::unix::pipe::Sender};

use super::table::{Cell, Table};
use super::{EXIT_FAILURE, EXIT_SUCCESS, Failure};
use crate::visible::{visible, visible_json};

pub(super) use cells::{CellOptions, CsvCells, has_defused_part, has_formula};
pub(super) use environment::EnvironmentChange;
pub(super) use fields::{status, time};
pub(super) use flag::{ChangeResult, SetResult, WatchedFlag};

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// Columns, for people
    Table,
    /// JSON, one object a line
    Json,
}

/// The option for the output format.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputOptions {
    /// The output format
    #[arg(
        id = "output",
        long = "output",
        value_name = "FORMAT",
        env = "TOGGLED_OUTPUT",
        value_enum,
        default_value = "table"
    )]
    pub format: OutputFormat,
}

/// A result that can be printed in both formats.
pub(super) trait Printable<const N: usize> {
    /// The names of its columns.
    const HEADER: [&'static str; N];

    /// Its row in a table.
    fn row(&self) -> [Cell; N];

    /// Its JSON object. Scripts rely on its fields.
    fn json(&self) -> impl Serialize;
}

impl OutputOptions {
    /// Prints all results at once.
    pub fn print_all<const N: usize, T: Printable<N>>(self, items: &[T]) -> Result<(), Failure> {
        match self.format {
            OutputFormat::Json => items.iter().try_for_each(|item| print_line(&to_json(&item.json())?)),
            OutputFormat::Table => {
                let mut table = Table::new(T::HEADER).with_colors(has_colors());
                for item in items {
                    table.push(item.row());
                }
                print_escaped(&table.to_string())
            }
        }
    }

    /// Prints all rows of a table whose columns depend on the result, or their JSON objects.
    pub fn print_rows(
        self,
        header: impl IntoIterator<Item = String>,
        rows: impl IntoIterator<Item = (Vec<Cell>, impl Serialize)>,
    ) -> Result<(), Failure> {
        let mut rows = rows.into_iter();
        match self.format {
            OutputFormat::Json => rows.try_for_each(|(_, json)| print_line(&to_json(&json)?)),
            OutputFormat::Table => {
                let mut table = Table::new(header).with_colors(has_colors());
                rows.for_each(|(row, _)| table.push(row));
                print_escaped(&table.to_string())
            }
        }
    }

    /// Prints a single result, without a header.
    pub fn print_one<const N: usize, T: Printable<N>>(self, item: &T) -> Result<(), Failure> {
        match self.format {
            OutputFormat::Json => print_line(&to_json(&item.json())?),
            OutputFormat::Table => print_escaped(&Table::new(T::HEADER).line(&item.row())),
        }
    }

    /// A printer for results of an endless stream.
    pub fn stream(self) -> StreamPrinter {
        StreamPrinter { format: self.format, table: None }
    }
}

/// Prints results as they arrive. The columns of its table grow with their content.
pub(super) struct StreamPrinter {
    format: OutputFormat,
    /// The table, once its header is printed.
    table: Option<Table>,
}

impl StreamPrinter {
    /// Prints results that arrived together, in columns as wide as the widest of them.
    pub fn print<'a, const N: usize, T: Printable<N> + 'a>(
        &mut self,
        mut items: impl Iterator<Item = &'a T> + Clone,
    ) -> Result<(), Failure> {
        if self.format == OutputFormat::Json {
            return items.try_for_each(|item| print_line(&to_json(&item.json())?));
        }
        if items.clone().next().is_none() {
            return Ok(());
        }
        let is_first = self.table.is_none();
        let table = self.table.get_or_insert_with(|| Table::new(T::HEADER).with_colors(has_colors()));
        items.clone().for_each(|item| table.widen(&item.row()));
        if is_first {
            print_escaped(&table.to_string())?;
        }
        items.try_for_each(|item| print_escaped(&table.line(&item.row())))
    }
}

/// Whether the output has colors: on a terminal, unless `NO_COLOR` is set.
fn has_colors() -> bool {
    io::stdout().is_terminal() && console::colors_enabled()
}

/// One JSON object. Hidden characters are written as JSON escapes, which are visible and keep the exact value.
pub(super) fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    Ok(visible_json(&serde_json::to_string(value)?).into_owned())
}

/// Prints one line to standard output.
pub(super) fn print_line(text: &str) -> Result<(), Failure> {
    print_escaped(&visible(text))
}

/// Prints lines whose hidden characters are escaped already, as in the cells of a table, or that are all our own text.
pub(super) fn print_escaped(text: &str) -> Result<(), Failure> {
    write(format!("{text}\n").as_bytes())
}

/// Prints the content of a file to standard output: unchanged, or with hidden characters escaped if that is a terminal.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<_> = text.split('\n').map(visible).collect();
        return write(lines.join("\n").as_bytes());
    }
    write(bytes)
}

/// Writes to standard output. A closed pipe ends the command as a success: the reader has seen enough.
fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure { code: EXIT_SUCCESS, message: String::new() },
        _ => Failure { code: EXIT_FAILURE, message: format!("standard output: {error}") },
    })
}

/// Waits until the reader of standard output closes it, as `head` does. Without this, a command that follows would notice only when it
/// next prints. It waits without end for an output that has no reader, such as a file.
pub(super) async fn closed() {
    // Only watched, never written through: it need not be in non-blocking mode, which the processes that share it would see.
    #[cfg(unix)]
    if let Ok(out) = io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked)
        && out.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Prints a line to standard error, since standard output holds only results.
pub(super) fn print_note(text: &str) {
    super::progress::with_bars_hidden(|| {
        let _ = writeln!(io::stderr(), "{}", visible(text));
    });
}

/// Asks a question at the terminal. Any answer but yes means no.
pub(super) fn confirm(question: &str) -> io::Result<bool> {
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

//! Pieces of SQL that both databases share, made from the columns of a table. Only constants go into them.

use super::{Column, Part, Role, Table, key};

/// The columns that a statement writes, in the order in which they are bound.
pub(in crate::store) fn columns<T: Table>(part: Part) -> impl Iterator<Item = &'static Column> {
    T::COLUMNS.iter().filter(move |column| part.includes(column.role))
}

/// `id, key, name`.
pub(in crate::store) fn column_list<T: Table>(part: Part) -> String {
    join(columns::<T>(part).map(|column| column.name.to_owned()))
}

/// `SELECT id, key, name FROM feature_flags`.
pub(in crate::store) fn select<T: Table>() -> String {
    format!("SELECT {} FROM {}", column_list::<T>(Part::All), T::NAME)
}

/// `name = new.name, status = new.status`, for the columns that an update sets. `value` writes the right-hand side from
/// the column and its position among the columns of [`Part::Update`].
pub(in crate::store) fn assignments<T: Table>(mut value: impl FnMut(usize, &Column) -> String) -> String {
    let updated = columns::<T>(Part::Update).enumerate().filter(|(_, column)| column.role == Role::Updated);
    join(updated.map(|(position, column)| format!("{} = {}", column.name, value(position, column))))
}

/// The clause that makes an insert update a row that exists.
pub(in crate::store) fn conflict_update<T: Table>() -> String {
    let key = join(key::<T>().map(|column| column.name.to_owned()));
    let assignments = assignments::<T>(|_, column| format!("excluded.{}", column.name));
    format!("ON CONFLICT ({key}) DO UPDATE SET {assignments}")
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

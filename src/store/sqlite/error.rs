//! Classifies SQLite's errors. Nothing else looks at a result code.

use sqlx::Error;

use super::file::DatabaseFile;
use crate::store::error::{Cause, ErrorClass};
use crate::store::{AppendOutcome, StoreError};

/// The name for messages.
const NAME: &str = "SQLite";

/// Classifies an error of a statement that appended nothing: any but an append, or an append that was rolled back for certain.
pub(in crate::store) fn classify(error: Error) -> StoreError {
    class(&error).error(NAME, error)
}

/// The outcome of an append that failed with this error before its COMMIT: it was rolled back, or will be when the connection closes.
pub(super) fn append_outcome(error: Error) -> Result<AppendOutcome, StoreError> {
    match error.as_database_error() {
        Some(database) if database.message().contains("requests.user_id") => Ok(AppendOutcome::RequestExists),
        Some(database) if class(&error) == ErrorClass::Defect => {
            Ok(AppendOutcome::Refused(format!("{NAME}: {database}")))
        }
        _ => Err(classify(error)),
    }
}

/// Classifies an error of the first connection. What an operator must correct names the file and the cause.
pub(super) fn classify_open(error: Error, file: &DatabaseFile) -> StoreError {
    let path = file.path().display();
    match primary_code(&error) {
        Some(NOTADB) => StoreError::Misconfigured(format!("{path} is not a SQLite database").into()),
        Some(PERM | READONLY | CANTOPEN | AUTH) => {
            let cause = match file.problem() {
                Some(problem) => problem.to_string(),
                None => format!("{}; its folder must be writable too", Cause::from(error)),
            };
            StoreError::Misconfigured(format!("the database {path} cannot be opened: {cause}").into())
        }
        _ => match classify(error) {
            StoreError::Damaged(cause) => StoreError::Damaged(format!("{path}: {cause}").into()),
            error => error,
        },
    }
}

/// Whether the content of a file is to blame: it has no such table or value, is damaged or too short, or is no database.
pub(super) fn is_content(error: &Error) -> bool {
    is_damage(error) || is_undecodable(error) || matches!(primary_code(error), Some(ERROR | NOTADB))
}

/// Whether a statement of this program found content that SQLite would not have written for it.
pub(super) fn is_damaged_content(error: &StoreError) -> bool {
    match error {
        StoreError::Corrupt { .. } | StoreError::Damaged(_) => true,
        StoreError::Refused(cause) => cause.driver_error().is_some_and(is_undecodable),
        _ => false,
    }
}

fn is_undecodable(error: &Error) -> bool {
    matches!(error, Error::ColumnDecode { .. } | Error::Decode(_))
}

/// Whether the file is damaged or too short.
pub(super) fn is_damage(error: &Error) -> bool {
    matches!(primary_code(error), Some(IOERR | CORRUPT))
}

/// The outcome of an append whose COMMIT failed with this error. A busy, full or read-only database has not committed. After an error
/// while writing or syncing, the outcome is unknown.
pub(super) fn commit_outcome(error: Error) -> Result<AppendOutcome, StoreError> {
    match primary_code(&error) {
        Some(BUSY | READONLY | FULL | CORRUPT | NOTADB) => append_outcome(error),
        Some(_) if class(&error) == ErrorClass::Defect => append_outcome(error),
        _ => Err(StoreError::OutcomeUnknown(error.into())),
    }
}

const ERROR: u32 = 1;
const PERM: u32 = 3;
const BUSY: u32 = 5;
const READONLY: u32 = 8;
const IOERR: u32 = 10;
const CORRUPT: u32 = 11;
const FULL: u32 = 13;
const CANTOPEN: u32 = 14;
const AUTH: u32 = 23;
const NOTADB: u32 = 26;

fn class(error: &Error) -> ErrorClass {
    ErrorClass::of(error, |code| code.parse().map_or(ErrorClass::Defect, class_of_code))
}

fn primary_code(error: &Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse::<u32>().ok().map(primary)
}

/// The low byte of an extended result code.
fn primary(code: u32) -> u32 {
    code & 0xff
}

/// The class of each result code. An extended code has the class of its primary code: it says where something failed, not
/// whether it may succeed later.
fn class_of_code(code: u32) -> ErrorClass {
    match primary(code) {
        // ABORT, BUSY, LOCKED, NOMEM, INTERRUPT, PROTOCOL (the locks of the write-ahead log), SCHEMA (changed meanwhile).
        4 | BUSY | 6 | 7 | 9 | 15 | 17 => ErrorClass::Unavailable,
        // READONLY, IOERR (the disk, or its file system, which may be read-only), FULL.
        READONLY | IOERR | FULL => ErrorClass::Unusable,
        CORRUPT | NOTADB => ErrorClass::Damaged,
        PERM | CANTOPEN | AUTH => ErrorClass::Inaccessible,
        // ERROR, INTERNAL, NOTFOUND, EMPTY, TOOBIG, CONSTRAINT, MISMATCH, MISUSE, NOLFS, FORMAT, RANGE, NOTICE, WARNING, and
        // the codes of later versions.
        _ => ErrorClass::Defect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_code_has_its_class() {
        use ErrorClass::{Damaged, Defect, Inaccessible, Unavailable, Unusable};
        let classes = [
            (Unavailable, vec![4, 5, 6, 7, 9, 15, 17]),
            (Unusable, vec![8, 10, 13]),
            (Damaged, vec![11, 26]),
            (Inaccessible, vec![3, 14, 23]),
            (Defect, vec![1, 2, 12, 16, 18, 19, 20, 21, 22, 24, 25, 27, 28]),
        ];
        let mut codes: Vec<u32> = classes.iter().flat_map(|(_, codes)| codes.clone()).collect();
        codes.sort_unstable();
        assert_eq!(codes, (1..=28).collect::<Vec<_>>(), "each primary code of SQLite once");
        for (class, codes) in classes {
            for code in codes {
                assert_eq!(class_of_code(code), class, "{code}");
                assert_eq!(class_of_code(code | 3 << 8), class, "extended {code}");
            }
        }
    }
}

//! Classifies PostgreSQL's errors. Nothing else looks at an SQLSTATE.

use sqlx::Error;
use sqlx::postgres::PgDatabaseError;

use crate::store::error::{Cause, ErrorClass};
use crate::store::{AppendOutcome, StoreError};

/// The name for messages.
const NAME: &str = "PostgreSQL";

/// read_only_sql_transaction
const READ_ONLY: &str = "25006";

/// duplicate_prepared_statement and invalid_sql_statement_name: the session is not the one that prepared the statement.
const FOREIGN_SESSION: [&str; 2] = ["42P05", "26000"];

/// Classifies an error of a statement that appended nothing: any but an append, or an append that was rolled back for certain.
pub(in crate::store) fn classify(error: Error) -> StoreError {
    let code = error.as_database_error().and_then(|database| database.code());
    if code.is_some_and(|code| FOREIGN_SESSION.contains(&&*code)) {
        let cause = Cause::named(NAME, error);
        return StoreError::Misconfigured(
            format!("{cause}; a pooler shares sessions: use its session mode, or connect directly").into(),
        );
    }
    class(&error).error(NAME, error)
}

/// The outcome of an append that failed with this error. PostgreSQL has rolled back a statement for which it reports an error, except
/// while it shuts down. Then, as after a lost connection, it may have committed before.
pub(super) fn append_outcome(error: Error) -> Result<AppendOutcome, StoreError> {
    let Some(database) = error.as_database_error().and_then(|e| e.try_downcast_ref::<PgDatabaseError>()) else {
        return Err(StoreError::OutcomeUnknown(error.into()));
    };
    match database.code() {
        "23505" if database.constraint() == Some("requests_pkey") => Ok(AppendOutcome::RequestExists),
        // The queue of notifications is full, because a listener keeps a transaction open. The code has other meanings too.
        "54000" if database.message().contains("NOTIFY") => Err(StoreError::Unavailable(error.into())),
        code if ends_session(code) => Err(StoreError::OutcomeUnknown(error.into())),
        code if class_of_code(code) == ErrorClass::Defect => {
            Ok(AppendOutcome::Refused(format!("{NAME}: {}", database.message())))
        }
        _ => Err(classify(error)),
    }
}

/// Whether the connection must be replaced after this error: the session is lost, or is read-only as on a former primary.
pub(super) fn must_reconnect(error: &Error) -> bool {
    let code = error.as_database_error().and_then(|database| database.code());
    code.is_none_or(|code| ends_session(&code) || code == READ_ONLY)
}

/// Whether the session ends with this error. 25P means that a transaction took too long.
fn ends_session(code: &str) -> bool {
    ["57P", "25P", "08"].iter().any(|class| code.starts_with(class))
}

fn class(error: &Error) -> ErrorClass {
    ErrorClass::of(error, class_of_code)
}

/// The class of each SQLSTATE: first of the codes that differ from their class, then of the classes.
fn class_of_code(code: &str) -> ErrorClass {
    match code {
        // read_only_sql_transaction: a standby, or `default_transaction_read_only`; disk_full.
        READ_ONLY | "53100" => ErrorClass::Unusable,
        // io_error: the disk, or its file system.
        "58030" => ErrorClass::Unusable,
        // invalid_catalog_name: the database was dropped or renamed. insufficient_privilege: a role that may not do this, and
        // files that PostgreSQL may not open or write, as after a file system became read-only. undefined_table,
        // invalid_schema_name: the service's own tables are gone, or the role may not use their schema, which PostgreSQL does
        // not tell apart.
        "3D000" | "42501" | "42P01" | "3F000" => ErrorClass::Inaccessible,
        // cant_change_runtime_param, unsafe_new_enum_value_usage.
        "55P02" | "55P04" => ErrorClass::Defect,
        // Other states of the session: no_active_sql_transaction and the like.
        _ if code.starts_with("25") && !code.starts_with("25P") => ErrorClass::Defect,
        _ => match code.get(..2).unwrap_or_default() {
            // connection, transaction state (25P), rollback (lost race), insufficient resources, object not in its state (not
            // accepting connections, lock not available), operator intervention, system error, snapshot too old.
            "08" | "25" | "40" | "53" | "55" | "57" | "58" | "72" => ErrorClass::Unavailable,
            // invalid authorization.
            "28" => ErrorClass::Inaccessible,
            _ => ErrorClass::Defect,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A code of each class of PostgreSQL's manual, and each code that differs from its class.
    #[test]
    fn every_sqlstate_has_its_class() {
        let codes = [
            (
                ErrorClass::Unavailable,
                "08000 08006 08P01 25P02 25P03 25P04 40001 40P01 53000 53200 53300 53400 55000 55006 55P03 57014 57P01 57P02 \
                 57P03 57P04 57P05 58000 58P01 58P02 72000",
            ),
            (ErrorClass::Unusable, "25006 53100 58030"),
            (ErrorClass::Inaccessible, "28000 28P01 3D000 3F000 42501 42P01"),
            (
                ErrorClass::Defect,
                "00000 01000 02000 03000 09000 0A000 0B000 0F000 0L000 0P000 0Z000 20000 21000 22001 23505 24000 25001 26000 \
                 27000 2B000 2D000 2F000 34000 38000 39000 3B000 42601 44000 54000 55P02 55P04 F0000 HV000 P0001 \
                 XX000 XX001 XX002 \u{fc}\u{fc}",
            ),
        ];
        for (class, codes) in codes {
            for code in codes.split_whitespace() {
                assert_eq!(class_of_code(code), class, "{code}");
            }
        }
        assert_eq!(class_of_code(""), ErrorClass::Defect);
    }
}

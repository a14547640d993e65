//! What a file says about flags: the result that every format's parser returns, and the collector that builds it.

use std::collections::HashMap;
use std::fmt::Display;

use crate::domain::flag::Status;
use crate::domain::text::{Description, FlagKey, Malformed, Name};

/// The content of a file, checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImportedFlags {
    pub flags: Vec<ImportedFlag>,
    /// What the file says that no flag of toggled can hold.
    pub omissions: Vec<Omission>,
}

/// A flag as the file wants it. A field that the file does not mention is `None`, and stays as it is on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImportedFlag {
    pub key: FlagKey,
    pub name: Option<Name>,
    pub description: Option<Description>,
    pub status: Option<Status>,
    pub archived: Option<bool>,
}

/// Something that is not imported, and is reported instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Omission {
    /// The key of the flag, or `the file`.
    pub subject: String,
    pub what: String,
}

impl Omission {
    pub fn new(subject: &str, what: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), what: what.into() }
    }

    /// Something that concerns the file as a whole.
    pub fn of_file(what: impl Into<String>) -> Self {
        Self::new("the file", what)
    }
}

/// Everything that is wrong with a file, one message each. A file with any error is not imported at all.
pub(super) type ParseErrors = Vec<String>;

/// A flag as a parser read it, before its texts are checked.
#[derive(Debug, Default)]
pub(super) struct FlagFields<'a> {
    pub key: &'a str,
    pub name: Option<&'a str>,
    pub description: Option<&'a str>,
    pub status: Option<Status>,
    pub archived: Option<bool>,
}

/// Collects a file's flags, omissions and errors. Parsing continues after an error, so that all errors are reported.
#[derive(Debug, Default)]
pub(super) struct FlagCollector {
    flags: Vec<ImportedFlag>,
    omissions: Vec<Omission>,
    errors: ParseErrors,
    /// Where each key was first seen.
    locations: HashMap<String, String>,
}

impl FlagCollector {
    /// Adds a flag found at `location`: a line, or the path to the flag. Its texts are checked here.
    pub fn add(&mut self, location: &str, fields: &FlagFields<'_>) {
        if let Some(first) = self.locations.insert(fields.key.to_owned(), location.to_owned()) {
            self.error(location, format_args!("duplicate key {:?}, first at {first}", fields.key));
        }
        let key = self.checked(location, "key", Some(fields.key), FlagKey::parse);
        let name = self.checked(location, "name", fields.name, Name::parse);
        let description = self.checked(location, "description", fields.description, Description::parse);
        if let Some(key) = key {
            self.flags.push(ImportedFlag { key, name, description, status: fields.status, archived: fields.archived });
        }
    }

    /// Reports what cannot be imported of one subject, if there is anything.
    pub fn omit(&mut self, subject: &str, parts: &[String]) {
        if !parts.is_empty() {
            self.omissions.push(Omission::new(subject, parts.join("; ")));
        }
    }

    /// Reports a part of the file that cannot be imported.
    pub fn omit_from_file(&mut self, part: impl Into<String>) {
        self.omissions.push(Omission::of_file(part));
    }

    pub fn error(&mut self, location: impl Display, error: impl Display) {
        self.errors.push(format!("{location}: {error}"));
    }

    /// An error whose text says where it is.
    pub fn located_error(&mut self, error: impl Display) {
        self.errors.push(error.to_string());
    }

    /// Parses a word for a status, in upper or lower case.
    pub fn status(&mut self, location: &str, word: &str) -> Option<Status> {
        match word.to_ascii_lowercase().as_str() {
            "enabled" | "on" | "true" => Some(Status::Enabled),
            "disabled" | "off" | "false" => Some(Status::Disabled),
            _ => {
                self.error(location, "status must be enabled, disabled, on, off, true or false");
                None
            }
        }
    }

    pub fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    pub fn finish(self) -> Result<ImportedFlags, ParseErrors> {
        if self.errors.is_empty() {
            Ok(ImportedFlags { flags: self.flags, omissions: self.omissions })
        } else {
            Err(self.errors)
        }
    }

    fn checked<T>(
        &mut self,
        location: &str,
        field: &str,
        text: Option<&str>,
        parse: fn(&str) -> Result<T, Malformed>,
    ) -> Option<T> {
        match parse(text?) {
            Ok(value) => Some(value),
            Err(rule) => {
                self.error(location, format_args!("{field} {rule}"));
                None
            }
        }
    }
}

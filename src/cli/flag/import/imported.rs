//! What a file says about flags: the result that every format's parser returns, and the collector that builds it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};

use console::truncate_str;
use serde_json::Value;

use crate::cli::flag::name::FlagName;
use crate::domain::flag::Status;
use crate::domain::text::{Description, EnvironmentKey, FlagKey, Malformed, Name};

/// The width of an example in columns; a longer one is cut, and ends in `...`.
const MAX_EXAMPLE_WIDTH: usize = 60;

/// The content of a file, checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImportedFlags {
    pub flags: Vec<ImportedFlag>,
    /// Values in the file that a flag of toggled cannot have.
    pub omissions: Vec<Omission>,
}

/// A flag as the file describes it. A field that the file does not mention is `None`, and stays as it is on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::flag) struct ImportedFlag {
    /// The key of the environment. A file may leave it to the command.
    pub environment: Option<String>,
    pub key: FlagKey,
    pub name: Option<Name>,
    pub description: Option<Description>,
    pub status: Option<Status>,
    pub archived: Option<bool>,
}

impl ImportedFlag {
    pub fn full_name(&self) -> FlagName {
        FlagName { environment: self.environment.clone(), key: self.key.to_string() }
    }
}

/// Something that is not imported, and is reported instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::flag) struct Omission {
    /// The environment of the flag, if it is about one.
    pub environment: Option<String>,
    /// The key of the flag, or `the file`.
    pub subject: String,
    pub what: String,
    /// For a kind of field, which is reported once.
    pub occurrences: Option<Occurrences>,
}

impl Omission {
    /// Something that concerns one flag: a decision that its owner may want to make differently.
    pub fn new(environment: Option<&str>, key: &str, what: impl Into<String>) -> Self {
        Self {
            environment: environment.map(str::to_owned),
            subject: key.to_owned(),
            what: what.into(),
            occurrences: None,
        }
    }

    /// Flags of environments that are not imported.
    pub fn of_other_environments(count: usize, example: &FlagName) -> Self {
        let occurrences = Occurrences { count, example: example.to_string() };
        Self::of_field(("flags of other environments".to_owned(), occurrences))
    }

    /// A kind of field, wherever it occurs in the file.
    fn of_field((path, occurrences): (String, Occurrences)) -> Self {
        Self { environment: None, subject: "the file".to_owned(), what: path, occurrences: Some(occurrences) }
    }
}

impl Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.occurrences {
            Some(Occurrences { count, example }) => write!(f, "{}: {count}, such as {example}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// How often a kind of field occurs, and the first occurrence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli::flag) struct Occurrences {
    pub count: usize,
    pub example: String,
}

/// Everything that is wrong with a file, one message each. A file with any error is not imported at all.
pub(super) type ParseErrors = Vec<String>;

/// A flag as a parser read it, before its texts are checked.
#[derive(Debug, Default)]
pub(super) struct FlagFields<'a> {
    pub environment: Option<&'a str>,
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
    /// The fields that are not imported, by their paths, such as `features[].type`.
    fields: BTreeMap<String, Occurrences>,
    errors: ParseErrors,
    /// Where each key was first seen, by environment.
    locations: HashMap<(Option<String>, String), String>,
}

impl FlagCollector {
    /// Adds a flag found at `location`: a line, or the path to the flag. Its texts are checked here.
    pub fn add(&mut self, location: &str, fields: &FlagFields<'_>) {
        if let Some(first) =
            self.locations.insert((fields.environment.map(str::to_owned), fields.key.to_owned()), location.to_owned())
        {
            self.error(location, format_args!("duplicate key {:?}, first at {first}", fields.key));
        }
        let environment = self.checked(location, "environment", fields.environment, EnvironmentKey::parse);
        let key = self.checked(location, "key", Some(fields.key), FlagKey::parse);
        let name = self.checked(location, "name", fields.name, Name::parse);
        let description = self.checked(location, "description", fields.description, Description::parse);
        if let Some(key) = key {
            let environment = environment.as_ref().map(EnvironmentKey::to_string);
            let (status, archived) = (fields.status, fields.archived);
            self.flags.push(ImportedFlag { environment, key, name, description, status, archived });
        }
    }

    /// Reports what cannot be imported of one flag, if there is anything.
    pub fn omit(&mut self, environment: Option<&str>, key: &str, parts: &[String]) {
        if !parts.is_empty() {
            self.omissions.push(Omission::new(environment, key, parts.join("; ")));
        }
    }

    /// Reports a field that is not imported, unless it is empty. All fields of one path are one line of the report.
    pub fn omit_field(&mut self, path: &str, key: &str, value: &Value) {
        if is_empty(value) {
            return;
        }
        if let Some(occurrences) = self.fields.get_mut(path) {
            occurrences.count += 1;
            return;
        }
        let of_flag = if key.is_empty() { String::new() } else { format!(" of {key}") };
        let value = value.to_string();
        let example = format!("{}{of_flag}", truncate_str(&value, MAX_EXAMPLE_WIDTH, "..."));
        self.fields.insert(path.to_owned(), Occurrences { count: 1, example });
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
            let fields = self.fields.into_iter().map(Omission::of_field);
            Ok(ImportedFlags { flags: self.flags, omissions: fields.chain(self.omissions).collect() })
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

/// Whether a value holds nothing that could be lost.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

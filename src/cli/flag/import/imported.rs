//! What a file asks for, checked once.

use std::collections::HashMap;
use std::fmt::Display;

use crate::domain::flag::Status;
use crate::domain::text::{Description, FlagKey, Malformed, Name};

/// A flag as a file wants it. What the file does not say is `None`, and left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub key: FlagKey,
    pub name: Option<Name>,
    pub description: Option<Description>,
    pub status: Option<Status>,
    pub archived: Option<bool>,
}

/// The same before anything of it is checked.
#[derive(Debug, Default)]
pub(super) struct Raw<'a> {
    pub key: &'a str,
    pub name: Option<&'a str>,
    pub description: Option<&'a str>,
    pub status: Option<Status>,
    pub archived: Option<bool>,
}

/// What of a file no flag here can carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// The key of the flag, or which part of the file.
    pub of: String,
    pub what: String,
}

impl Lost {
    pub fn new(of: &str, what: impl Into<String>) -> Self {
        Self { of: of.to_owned(), what: what.into() }
    }
}

/// All of a file. With any fault nothing of it is imported.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub flags: Vec<Wanted>,
    pub lost: Vec<Lost>,
    pub faults: Vec<String>,
    /// Where each key was seen first.
    places: HashMap<String, String>,
}

impl Contents {
    /// A file that is no good as a whole.
    pub fn unusable(fault: impl Into<String>) -> Self {
        Self { faults: vec![fault.into()], ..Self::default() }
    }

    /// Something is wrong at this place: a line, or the path to a flag.
    pub fn fault(&mut self, place: impl Display, fault: impl Display) {
        self.faults.push(format!("{place}: {fault}"));
    }

    /// Takes a flag in, or notes all that is wrong with it.
    pub fn take(&mut self, place: &str, raw: &Raw<'_>) {
        if let Some(first) = self.places.insert(raw.key.to_owned(), place.to_owned()) {
            self.fault(place, format_args!("the key {:?} was at {first} already", raw.key));
        }
        let key = self.checked(place, "key", Some(raw.key), FlagKey::parse);
        let name = self.checked(place, "name", raw.name, Name::parse);
        let description = self.checked(place, "description", raw.description, Description::parse);
        if let Some(key) = key {
            self.flags.push(Wanted { key, name, description, status: raw.status, archived: raw.archived });
        }
    }

    fn checked<T>(
        &mut self,
        place: &str,
        field: &str,
        text: Option<&str>,
        parse: fn(&str) -> Result<T, Malformed>,
    ) -> Option<T> {
        match parse(text?) {
            Ok(value) => Some(value),
            Err(rule) => {
                self.fault(place, format_args!("{field} {rule}"));
                None
            }
        }
    }
}

/// A status in whichever word for it, in any case of letters.
pub(super) fn status(word: &str) -> Result<Status, &'static str> {
    match word.to_ascii_lowercase().as_str() {
        "enabled" | "on" | "true" => Ok(Status::Enabled),
        "disabled" | "off" | "false" => Ok(Status::Disabled),
        _ => Err("status must be enabled, disabled, on, off, true or false"),
    }
}

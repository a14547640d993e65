//! How each domain type is stored in one column.

use std::sync::Arc;

use uuid::Uuid;

use super::Kind;
use super::value::{PermissionList, Time, Value};
use crate::domain::Hash;
use crate::domain::access::Permissions;
use crate::domain::audit::{Action, EntityType};
use crate::domain::flag::Status;
use crate::domain::text::{Description, Email, EnvironmentKey, FlagKey, Name, RequestId};
use crate::domain::time::Timestamp;

/// A domain type that fits in one column.
pub(super) trait Field: Sized {
    /// What the database drivers encode and decode. Texts and bytes are borrowed, so that a decoded text is copied once.
    type Stored<'a>: Value<'a>
    where
        Self: 'a;

    /// The type of the column.
    const KIND: Kind;

    /// The value to bind.
    fn to_column(&self) -> Self::Stored<'_>;

    /// Checks a decoded value.
    ///
    /// # Errors
    /// What is wrong with the value.
    fn from_column(stored: Self::Stored<'_>) -> Result<Self, String>;
}

macro_rules! field {
    ($type:ty, $kind:ident, $stored:ty, |$value:ident| $to:expr, |$from:ident| $decoded:expr) => {
        impl Field for $type {
            type Stored<'a> = $stored;

            const KIND: Kind = Kind::$kind;

            fn to_column(&self) -> Self::Stored<'_> {
                let $value = self;
                $to
            }

            fn from_column($from: Self::Stored<'_>) -> Result<Self, String> {
                $decoded
            }
        }
    };
}

field!(Uuid, Uuid, Uuid, |id| *id, |stored| Ok(stored));
field!(i64, Integer, i64, |number| *number, |stored| Ok(stored));
field!(u8, SmallInteger, i16, |number| i16::from(*number), |stored| stored.try_into().map_err(text));
field!(bool, Boolean, bool, |value| *value, |stored| Ok(stored));
field!(Timestamp, Time, Time, |time| Time(*time), |stored| Ok(stored.0));
field!(Arc<str>, Text, &'a str, |text| text, |stored| Ok(stored.into()));
field!(String, Text, &'a str, |text| text, |stored| Ok(stored.to_owned()));
field!(Vec<u8>, Bytes, &'a [u8], |bytes| bytes, |stored| Ok(stored.to_vec()));
field!(Hash, Bytes, &'a [u8], |hash| hash, |stored| stored.try_into().map_err(|_| "not 32 bytes".to_owned()));
field!(Permissions, TextList, PermissionList, |list| PermissionList(list.clone()), |stored| Ok(stored.0));

field!(FlagKey, Text, &'a str, |key| key.as_str(), |stored| Self::parse(stored).map_err(text));
field!(EnvironmentKey, Text, &'a str, |key| key.as_str(), |stored| Self::parse(stored).map_err(text));
field!(Name, Text, &'a str, |name| name.as_str(), |stored| Self::parse(stored).map_err(text));
field!(Description, Text, &'a str, |description| description.as_str(), |stored| Self::parse(stored).map_err(text));
field!(Email, Text, &'a str, |email| email.as_str(), |stored| Ok(Self::stored(stored)));
field!(RequestId, Text, &'a str, |id| id.as_str(), |stored| Self::parse(stored).map_err(text));

field!(Status, Text, &'a str, |status| status.as_str(), |stored| Self::parse(stored).ok_or_else(unknown));
field!(Action, Text, &'a str, |action| action.as_str(), |stored| Self::parse(stored).ok_or_else(unknown));
field!(EntityType, Text, &'a str, |kind| kind.as_str(), |stored| Self::parse(stored).ok_or_else(unknown));

impl<F: Field> Field for Option<F> {
    type Stored<'a>
        = Option<F::Stored<'a>>
    where
        Self: 'a;

    const KIND: Kind = F::KIND;

    fn to_column(&self) -> Self::Stored<'_> {
        self.as_ref().map(F::to_column)
    }

    fn from_column(stored: Self::Stored<'_>) -> Result<Self, String> {
        stored.map(F::from_column).transpose()
    }
}

fn text(problem: impl ToString) -> String {
    problem.to_string()
}

fn unknown() -> String {
    "a value that this version does not know".to_owned()
}

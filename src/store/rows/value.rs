//! What the database drivers encode and decode, and the types that the two databases store differently.

use sqlx::encode::IsNull;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef, Postgres};
use sqlx::sqlite::{Sqlite, SqliteTypeInfo, SqliteValueRef};
use sqlx::{Decode, Encode, Type};

use super::BoxError;
use crate::domain::access::{Permissions, ScopedPermission};
use crate::domain::time::Timestamp;

/// A value that both drivers encode and decode.
pub(in crate::store) trait Value<'a>:
    Encode<'a, Postgres>
    + Decode<'a, Postgres>
    + Type<Postgres>
    + PgHasArrayType
    + Encode<'a, Sqlite>
    + Decode<'a, Sqlite>
    + Type<Sqlite>
    + 'a
{
}

impl<'a, V> Value<'a> for V where
    V: Encode<'a, Postgres>
        + Decode<'a, Postgres>
        + Type<Postgres>
        + PgHasArrayType
        + Encode<'a, Sqlite>
        + Decode<'a, Sqlite>
        + Type<Sqlite>
        + 'a
{
}

/// A time: TIMESTAMPTZ on PostgreSQL, INTEGER microseconds on SQLite.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Time(pub Timestamp);

/// PostgreSQL counts microseconds from 2000-01-01, this many after 1970-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl PgHasArrayType for Time {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_timestamptz")
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxError> {
        Encode::<Postgres>::encode(self.0.micros() - POSTGRES_EPOCH, buf)
    }
}

impl Decode<'_, Postgres> for Time {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxError> {
        match value.format() {
            PgValueFormat::Binary => {
                let micros: i64 = Decode::<Postgres>::decode(value)?;
                Ok(Self(Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH))))
            }
            PgValueFormat::Text => Err("a timestamp in text format, which is never requested".into()),
        }
    }
}

impl Type<Sqlite> for Time {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for Time {
    fn encode_by_ref(&self, buf: &mut <Sqlite as sqlx::Database>::ArgumentBuffer) -> Result<IsNull, BoxError> {
        Encode::<Sqlite>::encode(self.0.micros(), buf)
    }
}

impl<'r> Decode<'r, Sqlite> for Time {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxError> {
        <i64 as Decode<Sqlite>>::decode(value).map(|micros| Self(Timestamp::from_micros(micros)))
    }
}

/// A list of permissions: TEXT[] on PostgreSQL, a JSON array on SQLite. PostgreSQL receives it as one text (see
/// [`Kind::TextList`](super::Kind::TextList)) and returns it as an array.
#[derive(Debug, Clone)]
pub(super) struct PermissionList(pub Permissions);

impl PermissionList {
    fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, BoxError> {
        let parse = |name: &str| {
            ScopedPermission::parse(name).map_err(|rule| format!("unknown permission {name:?}: it {rule}").into())
        };
        names.into_iter().map(parse).collect::<Result<Permissions, BoxError>>().map(Self)
    }
}

impl Type<Postgres> for PermissionList {
    fn type_info() -> PgTypeInfo {
        <&str as Type<Postgres>>::type_info()
    }

    fn compatible(stored: &PgTypeInfo) -> bool {
        <Vec<String> as Type<Postgres>>::compatible(stored)
    }
}

impl PgHasArrayType for PermissionList {
    fn array_type_info() -> PgTypeInfo {
        <&str as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for PermissionList {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxError> {
        Encode::<Postgres>::encode(self.0.names().join(","), buf)
    }
}

impl<'r> Decode<'r, Postgres> for PermissionList {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxError> {
        let names: Vec<String> = Decode::<Postgres>::decode(value)?;
        Self::parse(names.iter().map(String::as_str))
    }
}

impl Type<Sqlite> for PermissionList {
    fn type_info() -> SqliteTypeInfo {
        <&str as Type<Sqlite>>::type_info()
    }
}

impl Encode<'_, Sqlite> for PermissionList {
    fn encode_by_ref(&self, buf: &mut <Sqlite as sqlx::Database>::ArgumentBuffer) -> Result<IsNull, BoxError> {
        Encode::<Sqlite>::encode(serde_json::to_string(&self.0)?, buf)
    }
}

impl<'r> Decode<'r, Sqlite> for PermissionList {
    fn decode(value: SqliteValueRef<'r>) -> Result<Self, BoxError> {
        let names: Vec<&str> = serde_json::from_str(Decode::<Sqlite>::decode(value)?)?;
        Self::parse(names)
    }
}

//! What a token must say, and what it allows.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::Rejected;
use crate::domain::access::{Identity, Permission, Permissions};
use crate::domain::text::{Email, Name};
use crate::domain::time::Timestamp;

/// How far the issuer's clock may be from ours, in seconds.
const LEEWAY: i64 = 30;

/// What each group of the issuer's allows here.
pub type Groups = HashMap<String, Permissions>;

/// What is expected of a token, and how its permissions are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Who must have issued it.
    pub issuer: Arc<str>,
    /// Whom it must be for.
    pub audience: String,
    /// The claim that holds permissions or groups: a name, or a JSON pointer (RFC 6901), which begins with `/`.
    pub permissions_claim: String,
    /// With this the claim holds groups, and only those in here count; without, it holds names of permissions.
    pub groups: Option<Groups>,
}

impl Rules {
    /// Whom a token vouches for at `now` whose signature is right and which says this, and from when on it does.
    pub(super) fn identity(&self, claims: &Value, now: Timestamp) -> Result<(Identity, Timestamp), Rejected> {
        if !claims.is_object() {
            return Err(Rejected::Malformed);
        }
        if claims.get("iss").and_then(Value::as_str) != Some(&*self.issuer) {
            return Err(Rejected::Issuer);
        }
        if !self.is_for_us(claims.get("aud")) {
            return Err(Rejected::Audience);
        }
        let Range { start, end } = validity(claims, now)?;
        let identity = Identity {
            issuer: Arc::clone(&self.issuer),
            expires_at: end,
            subject: subject(claims.get("sub"))?,
            email: email(claims)?,
            permissions: self.permissions(claims),
        };
        Ok((identity, start))
    }

    fn is_for_us(&self, audience: Option<&Value>) -> bool {
        match audience {
            Some(Value::String(one)) => *one == self.audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(&self.audience)),
            _ => false,
        }
    }

    /// What the issuer says that they may do, as far as it is known here.
    fn permissions(&self, claims: &Value) -> Permissions {
        let path = &self.permissions_claim;
        let claim = if path.starts_with('/') { claims.pointer(path) } else { claims.get(path) };
        let names = claim.and_then(names).unwrap_or_default();
        match &self.groups {
            Some(groups) => names.iter().filter_map(|name| groups.get(*name).copied()).collect(),
            None => names.into_iter().filter_map(Permission::parse).collect(),
        }
    }
}

/// A list of strings, or one with spaces between them.
fn names(claim: &Value) -> Option<Vec<&str>> {
    match claim {
        Value::String(text) => Some(text.split(' ').filter(|name| !name.is_empty()).collect()),
        Value::Array(list) => list.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// From when on the token works, and until when, if it does at `now`.
fn validity(claims: &Value, now: Timestamp) -> Result<Range<Timestamp>, Rejected> {
    let time = |name| claims.get(name).map(|value| moment(value).ok_or(Rejected::Malformed)).transpose();
    let start = |name| time(name).map(|time| time.map_or(Timestamp::MIN, |time| time.plus_seconds(-LEEWAY)));
    let end = time("exp")?.ok_or(Rejected::NoExpiry)?.plus_seconds(LEEWAY);
    if now >= end {
        return Err(Rejected::Expired);
    }
    let (valid, issued) = (start("nbf")?, start("iat")?);
    if now < valid {
        Err(Rejected::NotYetValid)
    } else if now < issued {
        Err(Rejected::IssuedInFuture)
    } else {
        Ok(valid.max(issued)..end)
    }
}

/// A NumericDate: seconds since 1970, whole or not. What lies beyond all time is held to its ends.
fn moment(value: &Value) -> Option<Timestamp> {
    let micros = match value.as_i64() {
        Some(seconds) => seconds.saturating_mul(1_000_000),
        // A conversion to an integer saturates.
        None => (value.as_f64()? * 1e6) as i64,
    };
    Some(Timestamp::from_micros(micros))
}

fn subject(claim: Option<&Value>) -> Result<Arc<str>, Rejected> {
    let subject = claim.and_then(Value::as_str).filter(|text| !text.chars().any(char::is_control));
    let name = subject.and_then(|text| Name::parse(text).ok()).ok_or(Rejected::Subject)?;
    Ok(name.shared())
}

fn email(claims: &Value) -> Result<Email, Rejected> {
    match claims.get("email_verified") {
        // Some issuers write it as a string.
        None | Some(Value::Bool(true)) => {}
        Some(Value::String(text)) if text == "true" => {}
        Some(_) => return Err(Rejected::EmailUnverified),
    }
    let email = claims.get("email").and_then(Value::as_str);
    email.and_then(|text| Email::parse(text).ok()).ok_or(Rejected::Email)
}

//! Checks the claims of a token and reads its permissions.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use super::JwtRejection;
use crate::domain::access::{Identity, Permissions, ScopedPermission};
use crate::domain::text::{Email, EnvironmentKey, Name};
use crate::domain::time::Timestamp;

/// The tolerated difference between the issuer's clock and this server's, in seconds.
const CLOCK_TOLERANCE_SECONDS: i64 = 30;

/// The permissions that each of the issuer's groups grants.
pub type GroupPermissions = HashMap<String, Permissions>;

/// What a token must contain, and how its permissions are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignOnRules {
    /// The required issuer (`iss`).
    pub issuer: Arc<str>,
    /// The required audience (`aud`).
    pub audience: String,
    /// The claim that contains permissions or groups: a name, or a JSON pointer (RFC 6901), which begins with `/`.
    pub permissions_claim: String,
    /// If set, the claim contains groups, and only the groups in this map grant permissions. If not set, the claim contains
    /// the names of permissions.
    pub groups: Option<GroupPermissions>,
    /// The claim that contains the key of the caller's own environment, named as `permissions_claim` is. If not set, no caller has one.
    pub environment_claim: Option<String>,
}

impl SignOnRules {
    /// The identity that a token with these claims grants at `now`, and the start of the token's validity. The signature must
    /// have been verified.
    pub(super) fn identity(&self, claims: &Value, now: Timestamp) -> Result<(Identity, Timestamp), JwtRejection> {
        if !claims.is_object() {
            return Err(JwtRejection::Malformed);
        }
        if claims.get("iss").and_then(Value::as_str) != Some(&*self.issuer) {
            return Err(JwtRejection::Issuer);
        }
        if !self.matches_audience(claims.get("aud")) {
            return Err(JwtRejection::Audience);
        }
        let Range { start, end } = validity(claims, now)?;
        let identity = Identity {
            issuer: Arc::clone(&self.issuer),
            expires_at: end,
            subject: subject(claims.get("sub"))?,
            email: email(claims)?,
            permissions: self.permissions(claims),
            environment: self.environment(claims)?,
        };
        Ok((identity, start))
    }

    fn matches_audience(&self, audience: Option<&Value>) -> bool {
        match audience {
            Some(Value::String(one)) => *one == self.audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(&self.audience)),
            _ => false,
        }
    }

    /// The permissions in the claims. Unknown names are ignored.
    fn permissions(&self, claims: &Value) -> Permissions {
        let names = claim(claims, &self.permissions_claim).and_then(name_list).unwrap_or_default();
        match &self.groups {
            Some(groups) => names.iter().filter_map(|name| groups.get(*name).cloned()).collect(),
            None => names.into_iter().filter_map(|name| ScopedPermission::parse(name).ok()).collect(),
        }
    }

    /// The caller's own environment. Without the claim there is none. A malformed claim is refused: without it, the caller's reads would be
    /// about another environment than the issuer meant.
    fn environment(&self, claims: &Value) -> Result<Option<EnvironmentKey>, JwtRejection> {
        match self.environment_claim.as_ref().and_then(|path| claim(claims, path)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(key)) => EnvironmentKey::parse(key).map(Some).map_err(|_| JwtRejection::Environment),
            Some(_) => Err(JwtRejection::Environment),
        }
    }
}

/// The claim with this name, or at this JSON pointer.
fn claim<'c>(claims: &'c Value, path: &str) -> Option<&'c Value> {
    if path.starts_with('/') { claims.pointer(path) } else { claims.get(path) }
}

/// The names in a list of strings, or in one string with spaces between them.
fn name_list(claim: &Value) -> Option<Vec<&str>> {
    match claim {
        Value::String(text) => Some(text.split(' ').filter(|name| !name.is_empty()).collect()),
        Value::Array(list) => list.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// The validity of the token; an error if it is not valid at `now`.
fn validity(claims: &Value, now: Timestamp) -> Result<Range<Timestamp>, JwtRejection> {
    let time = |name| claims.get(name).map(|value| numeric_date(value).ok_or(JwtRejection::Malformed)).transpose();
    let start =
        |name| time(name).map(|time| time.map_or(Timestamp::MIN, |time| time.plus_seconds(-CLOCK_TOLERANCE_SECONDS)));
    let end = time("exp")?.ok_or(JwtRejection::NoExpiry)?.plus_seconds(CLOCK_TOLERANCE_SECONDS);
    if now >= end {
        return Err(JwtRejection::Expired);
    }
    let (valid, issued) = (start("nbf")?, start("iat")?);
    if now < valid {
        Err(JwtRejection::NotYetValid)
    } else if now < issued {
        Err(JwtRejection::IssuedInFuture)
    } else {
        Ok(valid.max(issued)..end)
    }
}

/// A NumericDate: seconds since 1970, with or without a fraction. Values out of range become the nearest timestamp.
fn numeric_date(value: &Value) -> Option<Timestamp> {
    let micros = match value.as_i64() {
        Some(seconds) => seconds.saturating_mul(1_000_000),
        // The conversion to an integer saturates.
        None => (value.as_f64()? * 1e6) as i64,
    };
    Some(Timestamp::from_micros(micros))
}

fn subject(claim: Option<&Value>) -> Result<Arc<str>, JwtRejection> {
    let subject = claim.and_then(Value::as_str).filter(|text| !text.chars().any(char::is_control));
    let name = subject.and_then(|text| Name::parse(text).ok()).ok_or(JwtRejection::Subject)?;
    Ok(name.shared())
}

fn email(claims: &Value) -> Result<Email, JwtRejection> {
    match claims.get("email_verified") {
        // Some issuers write it as a string.
        None | Some(Value::Bool(true)) => {}
        Some(Value::String(text)) if text == "true" => {}
        Some(_) => return Err(JwtRejection::EmailUnverified),
    }
    let email = claims.get("email").and_then(Value::as_str).ok_or(JwtRejection::Email)?;
    Email::parse(email).map_err(|_| JwtRejection::EmailRefused)
}

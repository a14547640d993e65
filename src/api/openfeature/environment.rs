//! The environment that a request is about, if its caller may read it.

use std::borrow::Cow;
use std::sync::Arc;

use http::{Extensions, HeaderMap, HeaderValue};

use crate::api::call::Call;
use crate::auth::AnonymousReads;
use crate::domain::access::{Permission, Scope};
use crate::domain::error::{Error, Violation};
use crate::domain::text::EnvironmentKey;

/// The header that chooses the environment, and the metadata in gRPC. It is flagd's.
pub(super) const SELECTOR_HEADER: &str = "flagd-selector";

/// What flagd's selectors call a set of flags: `flagSetId=staging`.
const FLAG_SET_ID: &str = "flagSetId";

/// What a selector must be.
const RULE: &str = "must be the key of an environment, such as flagSetId=staging or staging";

/// The environment that a request is about: the selected one, or else the caller's own, or else `default`. The header counts before the
/// field `selector`, as in flagd. An environment that does not exist is one without flags.
///
/// # Errors
/// When a selector is malformed, or the caller may not read flags there. Whether the environment exists makes no difference to that, so
/// that the answer reveals nothing of it.
pub(super) fn environment<'r>(
    extensions: &'r Extensions,
    headers: &HeaderMap,
    field: &str,
) -> Result<Cow<'r, EnvironmentKey>, Error> {
    let reader = Reader::of(extensions)?;
    let environment = match (selected(headers, field)?, reader.own_environment()) {
        (Some(selected), _) => Cow::Owned(selected),
        (None, Some(own)) => Cow::Borrowed(own),
        (None, None) => Cow::Borrowed(EnvironmentKey::default_environment()),
    };
    reader.check(&environment).map(|()| environment)
}

/// Who reads.
enum Reader<'r> {
    Caller(&'r Call),
    /// A caller without credentials.
    Anonymous(&'r AnonymousReads),
}

impl<'r> Reader<'r> {
    /// The reader of a request, as the authorization layer left it.
    fn of(extensions: &'r Extensions) -> Result<Self, Error> {
        match extensions.get::<Arc<AnonymousReads>>() {
            Some(reads) => Ok(Self::Anonymous(reads)),
            None => Call::in_extensions(extensions).map(Self::Caller),
        }
    }

    fn own_environment(&self) -> Option<&'r EnvironmentKey> {
        match self {
            Self::Caller(call) => call.own_environment(),
            Self::Anonymous(reads) => Some(&reads.environment),
        }
    }

    fn check(&self, environment: &EnvironmentKey) -> Result<(), Error> {
        let scope = Scope::Environment(environment);
        match self {
            Self::Caller(call) => call.flag_access().check(scope),
            Self::Anonymous(reads) if reads.permissions.covers(Permission::ViewFeatureFlags, scope) => Ok(()),
            // As with every other call without credentials.
            Self::Anonymous(_) => Err(Error::Unauthenticated),
        }
    }
}

/// The environment that the request names. An empty selector names none.
fn selected(headers: &HeaderMap, field: &str) -> Result<Option<EnvironmentKey>, Error> {
    let mut given = headers.get_all(SELECTOR_HEADER).iter();
    match (given.next(), given.next()) {
        (None, _) => parse("selector", field),
        // Whichever of two was meant, the other would be ignored.
        (Some(_), Some(_)) => Err(malformed(SELECTOR_HEADER, "must be given once")),
        (Some(header), None) if header.is_empty() => parse("selector", field),
        (Some(header), None) => HeaderValue::to_str(header)
            .map_or_else(|_| Err(malformed(SELECTOR_HEADER, RULE)), |text| parse(SELECTOR_HEADER, text)),
    }
}

fn parse(name: &str, selector: &str) -> Result<Option<EnvironmentKey>, Error> {
    let key = match selector.split_once('=') {
        _ if selector.is_empty() => return Ok(None),
        None => Some(selector),
        Some((FLAG_SET_ID, key)) => Some(key),
        Some(_) => None,
    };
    let key = key.and_then(|key| EnvironmentKey::parse(key).ok());
    key.map(Some).ok_or_else(|| malformed(name, RULE))
}

fn malformed(name: &str, rule: &str) -> Error {
    Error::Invalid(vec![Violation { field: name.to_owned(), rule: rule.to_owned() }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::call::CallSource;
    use crate::auth::Caller;
    use crate::committer::ChangeStart;
    use crate::domain::access::{Credential, Grant, ScopedPermission};
    use uuid::Uuid;

    fn selected(headers: &[&str], field: &str) -> Result<Option<String>, Error> {
        let headers = headers
            .iter()
            .map(|value| (SELECTOR_HEADER.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()));
        super::selected(&headers.collect(), field).map(|key| key.map(|key| key.to_string()))
    }

    #[test]
    fn selector_names_an_environment() {
        for (headers, field, key) in [
            (&[][..], "", None),
            (&[""], "", None),
            (&[], "staging", Some("staging")),
            (&[], "flagSetId=staging", Some("staging")),
            (&["eu-1"], "", Some("eu-1")),
            (&["flagSetId=eu-1"], "", Some("eu-1")),
            (&["flagSetId=eu-1"], "flagSetId=staging", Some("eu-1")),
            (&["eu-1"], "no selector", Some("eu-1")),
            (&[""], "staging", Some("staging")),
        ] {
            assert_eq!(selected(headers, field), Ok(key.map(str::to_owned)), "{headers:?} {field}");
        }
    }

    #[test]
    fn malformed_selector_is_refused() {
        let malformed = [
            "flagSetId=",
            "=staging",
            "source=staging",
            "flagsetid=staging",
            "flagSetId=a,flagSetId=b",
            "flagSetId=a=b",
            "flagSetId=a&source=b",
            "a,b",
            "-",
            "*",
            "Staging",
            " staging",
            "./flags.json",
            "stäging",
            &"k".repeat(65),
        ];
        for text in malformed {
            for (name, found) in [("selector", selected(&[], text)), (SELECTOR_HEADER, selected(&[text], "a"))] {
                let Err(Error::Invalid(violations)) = found else { panic!("{text}: {found:?}") };
                assert_eq!((violations.len(), violations[0].field.as_str()), (1, name), "{text}");
            }
        }
        assert!(selected(&["a", "a"], "").is_err(), "two headers");
    }

    /// The extensions of a request by a caller with these permissions.
    fn caller(permissions: &[&str], own: Option<&str>) -> Extensions {
        let key = |key: &str| EnvironmentKey::parse(key).unwrap();
        let permissions = permissions.iter().map(|name| ScopedPermission::parse(name).unwrap()).collect();
        let grant = Grant { user: None, permissions, environment: own.map(key), until: None };
        let call = Call {
            caller: Caller { credential: Credential::Token(Uuid::nil()), grant },
            sign_on: None,
            permission: Some(Permission::ViewFeatureFlags),
            source: CallSource::of("".into(), &http::Request::new(())),
            start: ChangeStart::at_any_time(),
        };
        let mut extensions = Extensions::new();
        extensions.insert(call);
        extensions
    }

    #[test]
    fn environment_is_selected_or_own_or_default() {
        let all = &["view_feature_flags"][..];
        let some = &["view_feature_flags@staging", "toggle_feature_flags@eu"];
        for (permissions, own, selector, expected) in [
            (all, None, "", Ok("default")),
            (all, Some("staging"), "", Ok("staging")),
            (all, Some("staging"), "default", Ok("default")),
            (all, Some("staging"), "nowhere", Ok("nowhere")),
            (some, Some("staging"), "", Ok("staging")),
            (some, None, "staging", Ok("staging")),
            (some, None, "", Err("default")),
            (some, Some("eu"), "", Err("eu")),
            (some, Some("staging"), "eu", Err("eu")),
            (some, Some("staging"), "nowhere", Err("nowhere")),
        ] {
            let extensions = caller(permissions, own);
            let found = environment(&extensions, &HeaderMap::new(), selector).map(|found| found.to_string());
            let denied = |key: &str| {
                Error::PermissionDenied(ScopedPermission::parse(&format!("view_feature_flags@{key}")).unwrap())
            };
            assert_eq!(found, expected.map(str::to_owned).map_err(denied), "{permissions:?} {own:?} {selector:?}");
        }
        // A request that bypassed the authorization layer.
        assert!(matches!(environment(&Extensions::new(), &HeaderMap::new(), ""), Err(Error::Internal(_))));
    }
}

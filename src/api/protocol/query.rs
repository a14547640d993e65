//! Query strings.

use std::borrow::Cow;

use http::Uri;
use url::form_urlencoded;

/// The parameters of a query string.
pub(in crate::api) struct Parameters<'a>(&'a str);

impl<'a> Parameters<'a> {
    /// Those of an address.
    pub fn of(uri: &'a Uri) -> Self {
        Self::in_query(uri.query().unwrap_or_default())
    }

    /// Those of a query string.
    pub fn in_query(query: &'a str) -> Self {
        Self(query)
    }

    /// The first one with this name.
    pub fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        form_urlencoded::parse(self.0.as_bytes()).find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// A query string of these parameters.
pub(in crate::api) fn query_of(parameters: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

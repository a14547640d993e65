//! The caller, as the server knows it.

use serde::Serialize;

use super::Printable;
use super::fields::time;
use crate::api::pb;
use crate::cli::table::Cell;

#[derive(Serialize)]
struct UserJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    email: &'a str,
    permissions: &'a [String],
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
}

#[derive(Serialize)]
struct WhoAmIJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<UserJson<'a>>,
    permissions: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    token_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'a str>,
}

impl Printable<5> for pb::WhoAmIResponse {
    const HEADER: [&str; 5] = ["EMAIL", "PERMISSIONS", "USER", "TOKEN", "ENVIRONMENT"];

    fn row(&self) -> [Cell; 5] {
        let user = self.user.as_ref();
        let or_dash = |text: &str| Cell::from(if text.is_empty() { "-" } else { text });
        [
            or_dash(user.map_or("", |user| &user.email)),
            or_dash(&self.permissions.join(",")),
            or_dash(user.map_or("", |user| &user.id)),
            or_dash(&self.token_id),
            or_dash(self.environment()),
        ]
    }

    fn json(&self) -> impl Serialize {
        let user = self.user.as_ref().map(|user| UserJson {
            id: &user.id,
            email: &user.email,
            permissions: &user.permissions,
            revision: user.revision,
            created_at: time(user.created_at.as_ref()),
            updated_at: time(user.updated_at.as_ref()),
            issuer: user.issuer.as_deref(),
            subject: user.subject.as_deref(),
        });
        WhoAmIJson {
            user,
            permissions: &self.permissions,
            token_id: &self.token_id,
            environment: self.environment.as_deref(),
        }
    }
}

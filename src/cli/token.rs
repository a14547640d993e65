//! `toggled token`: tokens, on the database itself.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::offline::{Offline, Target, Why, permission};
use super::table::Table;
use super::{EXIT_FAILURE, Failure, complain, hand_over, say};
use crate::auth;
use crate::auth::secret::Secret;
use crate::config::duration::parse_span;
use crate::domain::access::{Permission, Token as ApiToken};
use crate::domain::advance::{Command, NewToken, Object};
use crate::domain::text::Name;
use crate::domain::time::{Clock, SystemClock, Timestamp};

/// Arguments of `toggled token`.
#[derive(Debug, Args)]
pub(super) struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a token for a user, and print its secret, this once
    Create(Create),
    /// List the tokens of a user, or all
    List {
        /// The user, by e-mail address or id
        user: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Revoke a token: running servers turn it away as soon as they see it, within their --poll-interval
    Revoke {
        /// The token's id
        id: Uuid,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// The user, by e-mail address or id
    user: String,
    /// What to call it
    #[arg(long, value_parser = Name::parse)]
    name: Name,
    /// Narrow the token to these of the user's permissions; repeat it, or separate several by commas
    #[arg(long = "permission", value_name = "PERMISSION", value_parser = permission, value_delimiter = ',')]
    permissions: Vec<Permission>,
    /// For how long it works: 90d, 12h; for ever without it
    #[arg(long, value_name = "DURATION", value_parser = expiry)]
    expires_in: Option<Timestamp>,
    #[command(flatten)]
    why: Why,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn run(settings: Token) -> Result<(), Failure> {
    match settings.action {
        Action::Create(settings) => create(settings).await,
        Action::List { user, target } => list(user, &target).await,
        Action::Revoke { id, why, target } => {
            let offline = Offline::open(&target).await?;
            let command = Command::RevokeToken { id, expected_revision: None };
            let answer = offline.change("toggled token revoke", command, why).await?;
            offline.close().await?;
            say(if answer.entry.is_some() { "revoked" } else { "it was revoked before" });
            Ok(())
        }
    }
}

async fn create(settings: Create) -> Result<(), Failure> {
    let offline = Offline::open(&settings.target).await?;
    let user = offline.user(&settings.user)?;
    let secret = Secret::generate()?;
    let command = Command::CreateToken(NewToken {
        user_id: user.id,
        name: settings.name,
        permissions: Some(settings.permissions).filter(|list| !list.is_empty()).map(|list| list.into_iter().collect()),
        expires_at: settings.expires_in,
        secret_hash: auth::hash_secret(secret.reveal().as_bytes()),
    });
    let answer = offline.change("toggled token create", command, settings.why).await?;
    let Object::Token(token) = answer.object else {
        return Err(Failure { code: EXIT_FAILURE, line: "no token was created".to_owned() });
    };
    // The secret alone goes to standard output, for a script to keep.
    complain(&format!("token {} of {}; its secret is shown this once", token.id, user.email));
    hand_over(secret.reveal()).map_err(|error| Failure {
        code: EXIT_FAILURE,
        line: format!("the secret could not be written ({error}): revoke the token {} and create another", token.id),
    })?;
    offline.close().await
}

async fn list(user: Option<String>, target: &Target) -> Result<(), Failure> {
    let offline = Offline::open(target).await?;
    let users = match &user {
        Some(named) => vec![offline.user(named)?],
        None => offline.read(|state| state.users(None).cloned().collect::<Vec<_>>())?,
    };
    let mut table = Table::new(["ID", "USER", "NAME", "STATE", "PERMISSIONS", "EXPIRES", "LAST USED"]);
    let now = SystemClock.now();
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    for user in users {
        let used: HashMap<_, _> = offline.store.last_used(user.id).await?.into_iter().collect();
        let tokens = offline.read(|state| state.tokens_of(user.id, None).cloned().collect::<Vec<_>>())?;
        for token in tokens {
            let permissions = token.permissions.map_or_else(|| "all of the user's".to_owned(), |p| p.names().join(","));
            let state = if user.is_active() { state(&token, now) } else { "user deactivated" };
            table.push([
                token.id.to_string().into(),
                user.email.as_str().into(),
                token.name.as_str().into(),
                state.into(),
                permissions.into(),
                time(token.expires_at).into(),
                time(used.get(&token.id).copied()).into(),
            ]);
        }
    }
    offline.close().await?;
    say(&table.to_string());
    Ok(())
}

fn state(token: &ApiToken, now: Timestamp) -> &'static str {
    match token {
        _ if token.is_live(now) => "works",
        ApiToken { revoked_at: Some(_), .. } => "revoked",
        _ => "expired",
    }
}

/// So long from now.
fn expiry(text: &str) -> Result<Timestamp, String> {
    let rule = || "must be a duration such as 90d or 12h".to_owned();
    let span = parse_span(text).ok_or_else(rule)?;
    let end = jiff::Timestamp::now().to_zoned(TimeZone::UTC).checked_add(span).map_err(|_| rule())?;
    Ok(Timestamp::from_micros(end.timestamp().as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_is_some_time_from_now() {
        let now = SystemClock.now();
        let day = expiry("1d").unwrap().micros() - now.micros();
        assert!((86_400_000_000..86_460_000_000).contains(&day), "{day}");
        for bad in ["", "90", "-1d", "0s", "tomorrow", "999999999y"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }
}

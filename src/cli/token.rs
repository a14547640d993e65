//! `toggled token`: API tokens, directly in the database.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::offline::{DatabaseTarget, OfflineDatabase, ReasonOption};
use super::table::Table;
use super::{EXIT_FAILURE, Failure, parse_uuid, print, print_error, try_print};
use crate::auth;
use crate::auth::secret::Secret;
use crate::config::duration::parse_span;
use crate::domain::access::{ScopedPermission, Token as ApiToken};
use crate::domain::advance::{Command, NewToken, Object};
use crate::domain::text::{EnvironmentKey, Name};
use crate::domain::time::{Clock, SystemClock, Timestamp};

/// Arguments of `toggled token`.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a token for a user, and print its secret, which is shown only once. Running servers accept it within their
    /// --poll-interval
    Create(CreateTokenArgs),
    /// List the tokens of a user, or of all users
    List {
        /// The user, by e-mail address or id
        user: Option<String>,
        #[command(flatten)]
        target: DatabaseTarget,
    },
    /// Revoke a token. Running servers refuse it within their --poll-interval
    Revoke {
        /// The token's id
        #[arg(value_parser = token_id)]
        id: Uuid,
        #[command(flatten)]
        reason: ReasonOption,
        #[command(flatten)]
        target: DatabaseTarget,
    },
}

fn token_id(text: &str) -> Result<Uuid, String> {
    parse_uuid(text).map_err(|rule| format!("{rule}; take the id from toggled token list"))
}

#[derive(Debug, Args)]
struct CreateTokenArgs {
    #[command(flatten)]
    token: RequestedToken,
    #[command(flatten)]
    reason: ReasonOption,
    #[command(flatten)]
    target: DatabaseTarget,
}

#[derive(Debug, Args)]
struct RequestedToken {
    /// The user, by e-mail address or id
    user: String,
    /// The token's name
    #[arg(long, value_parser = Name::parse)]
    name: Name,
    /// Limit the token to these of the user's permissions, each NAME or NAME@ENVIRONMENT; repeat it, or separate them by commas
    #[arg(long = "permission", value_name = "PERMISSION", value_parser = ScopedPermission::parse, value_delimiter = ',')]
    permissions: Vec<ScopedPermission>,
    /// The token's own environment, which its calls are about where they name none
    #[arg(long, value_name = "KEY", value_parser = EnvironmentKey::parse)]
    environment: Option<EnvironmentKey>,
    /// How long the token is valid: 90d, 12h; by default it does not expire
    #[arg(long, value_name = "DURATION", value_parser = expiry)]
    expires_in: Option<Timestamp>,
}

pub(super) async fn run(args: TokenArgs) -> Result<(), Failure> {
    match args.action {
        Action::Create(args) => {
            let target = args.target;
            OfflineDatabase::with(&target, async |database| create(args.token, args.reason, database).await).await
        }
        Action::List { user, target } => {
            let table = OfflineDatabase::with(&target, async |database| list(user, database).await).await?;
            print(&table.to_string());
            Ok(())
        }
        Action::Revoke { id, reason, target } => {
            let command = Command::RevokeToken { id, expected_revision: None };
            let change =
                async |database: &OfflineDatabase| database.change("toggled token revoke", command, reason).await;
            let answer = OfflineDatabase::with(&target, change).await?;
            print(if answer.entry.is_some() { "revoked" } else { "already revoked" });
            Ok(())
        }
    }
}

async fn create(args: RequestedToken, reason: ReasonOption, database: &OfflineDatabase) -> Result<(), Failure> {
    let user = database.user(&args.user)?;
    let secret = Secret::generate()?;
    let command = Command::CreateToken(NewToken {
        user_id: user.id,
        name: args.name,
        permissions: Some(args.permissions).filter(|list| !list.is_empty()).map(|list| list.into_iter().collect()),
        environment: args.environment,
        expires_at: args.expires_in,
        secret_hash: auth::hash_secret(secret.reveal().as_bytes()),
    });
    let answer = database.change("toggled token create", command, reason).await?;
    let Object::Token(token) = answer.object else {
        return Err(Failure {
            code: EXIT_FAILURE,
            message: "no token was created: the database answered with another object".to_owned(),
        });
    };
    // Only the secret goes to standard output, so that a script can store it.
    print_error(&format!("token {} of {}; the secret is shown only once", token.id, user.email));
    try_print(secret.reveal()).map_err(|error| Failure {
        code: EXIT_FAILURE,
        message: format!("cannot print the secret: {error}; revoke the token {} and create another", token.id),
    })
}

async fn list(user: Option<String>, database: &OfflineDatabase) -> Result<Table, Failure> {
    let users = match &user {
        Some(named) => vec![database.user(named)?],
        None => database.read(|state| state.users(None).cloned().collect::<Vec<_>>())?,
    };
    let mut table = Table::new(["ID", "USER", "NAME", "STATE", "PERMISSIONS", "ENVIRONMENT", "EXPIRES", "LAST USED"]);
    let now = SystemClock.now();
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    for user in users {
        let used: HashMap<_, _> = database.store.last_used(user.id).await?.into_iter().collect();
        let tokens = database.read(|state| state.tokens_of(user.id, None).cloned().collect::<Vec<_>>())?;
        for token in tokens {
            let permissions =
                token.permissions.as_ref().map_or_else(|| "all of the user's".to_owned(), |p| p.names().join(","));
            let state = if user.is_active() { state(&token, now) } else { "user deactivated" };
            table.push([
                token.id.to_string().into(),
                user.email.as_str().into(),
                token.name.as_str().into(),
                state.into(),
                permissions.into(),
                token.environment.as_ref().map_or("-", EnvironmentKey::as_str).into(),
                time(token.expires_at).into(),
                time(used.get(&token.id).copied()).into(),
            ]);
        }
    }
    Ok(table)
}

fn state(token: &ApiToken, now: Timestamp) -> &'static str {
    match token {
        _ if token.is_live(now) => "active",
        ApiToken { revoked_at: Some(_), .. } => "revoked",
        _ => "expired",
    }
}

/// Parses a duration, and adds it to the current time.
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
    fn expiry_is_duration_from_now() {
        let now = SystemClock.now();
        let day = expiry("1d").unwrap().micros() - now.micros();
        assert!((86_400_000_000..86_460_000_000).contains(&day), "{day}");
        for bad in ["", "90", "-1d", "0s", "tomorrow", "999999999y"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }
}

//! `toggled user`: users, directly in the database.

use clap::{Args, Subcommand};

use super::offline::{DatabaseTarget, OfflineDatabase, ReasonOption};
use super::table::Table;
use super::{Failure, print};
use crate::domain::access::ScopedPermission;
use crate::domain::advance::{Command, Object};
use crate::domain::state::State;
use crate::domain::text::Email;

/// Arguments of `toggled user`.
#[derive(Debug, Args)]
pub(super) struct UserArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a user, and print the id
    Create {
        /// The e-mail address
        #[arg(value_parser = Email::parse)]
        email: Email,
        /// The user's permissions, each NAME or NAME@ENVIRONMENT; default: none. Repeat it, or separate them by commas
        #[arg(long = "permission", value_name = "PERMISSION", value_parser = ScopedPermission::parse, value_delimiter = ',')]
        permissions: Vec<ScopedPermission>,
        #[command(flatten)]
        reason: ReasonOption,
        #[command(flatten)]
        target: DatabaseTarget,
    },
    /// Deactivate a user, whose tokens then no longer work. Running servers refuse them within their --poll-interval
    Deactivate {
        /// The user, by e-mail address or id
        user: String,
        #[command(flatten)]
        reason: ReasonOption,
        #[command(flatten)]
        target: DatabaseTarget,
    },
    /// List all users
    List {
        #[command(flatten)]
        target: DatabaseTarget,
    },
}

pub(super) async fn run(args: UserArgs) -> Result<(), Failure> {
    match args.action {
        Action::Create { email, permissions, reason, target } => {
            let command = Command::CreateUser { email, account: None, permissions: permissions.into_iter().collect() };
            let change =
                async |database: &OfflineDatabase| database.change("toggled user create", command, reason).await;
            let answer = OfflineDatabase::with(&target, change).await?;
            if let Object::User(user) = answer.object {
                print(&user.id.to_string());
            }
        }
        Action::Deactivate { user, reason, target } => {
            let deactivate = async |database: &OfflineDatabase| {
                let command = Command::DeactivateUser { id: database.user(&user)?.id, expected_revision: None };
                database.change("toggled user deactivate", command, reason).await
            };
            let answer = OfflineDatabase::with(&target, deactivate).await?;
            print(if answer.entry.is_some() { "deactivated" } else { "already deactivated" });
        }
        Action::List { target } => {
            let users = async |database: &OfflineDatabase| database.read(users_table);
            print(&OfflineDatabase::with(&target, users).await?.to_string());
        }
    }
    Ok(())
}

fn users_table(state: &State) -> Table {
    let mut table = Table::new(["EMAIL", "STATE", "PERMISSIONS", "ID"]);
    for user in state.users(None) {
        let state = if user.is_active() { "active" } else { "deactivated" };
        let permissions = user.permissions.names().join(",");
        table.push([user.email.as_str().into(), state.into(), permissions.into(), user.id.to_string().into()]);
    }
    table
}

//! `toggled user`: users, on the database itself.

use clap::{Args, Subcommand};

use super::offline::{Offline, Target, Why, permission};
use super::table::Table;
use super::{Failure, say};
use crate::domain::access::Permission;
use crate::domain::advance::{Command, Object};
use crate::domain::text::Email;

/// Arguments of `toggled user`.
#[derive(Debug, Args)]
pub(super) struct User {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create a user, and print their id
    Create {
        /// The e-mail address
        #[arg(value_parser = Email::parse)]
        email: Email,
        /// What the user may do; repeat it, or separate several by commas
        #[arg(long = "permission", value_name = "PERMISSION", value_parser = permission, value_delimiter = ',')]
        permissions: Vec<Permission>,
        #[command(flatten)]
        why: Why,
        #[command(flatten)]
        target: Target,
    },
    /// List all users
    List {
        #[command(flatten)]
        target: Target,
    },
}

pub(super) async fn run(settings: User) -> Result<(), Failure> {
    match settings.action {
        Action::Create { email, permissions, why, target } => {
            let offline = Offline::open(&target).await?;
            let command = Command::CreateUser { email, account: None, permissions: permissions.into_iter().collect() };
            let answer = offline.change("toggled user create", command, why).await?;
            offline.close().await?;
            if let Object::User(user) = answer.object {
                say(&user.id.to_string());
            }
        }
        Action::List { target } => {
            let offline = Offline::open(&target).await?;
            let table = offline.read(|state| {
                let mut table = Table::new(["EMAIL", "STATE", "PERMISSIONS", "ID"]);
                for user in state.users(None) {
                    let state = if user.is_active() { "active" } else { "deactivated" };
                    let permissions = user.permissions.names().join(",");
                    table.push([
                        user.email.as_str().into(),
                        state.into(),
                        permissions.into(),
                        user.id.to_string().into(),
                    ]);
                }
                table
            })?;
            offline.close().await?;
            say(&table.to_string());
        }
    }
    Ok(())
}

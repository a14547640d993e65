//! Writes a long log, or many flags, with the service's own code. Its batches are larger than those of real calls, so that it takes less time.

use std::time::Duration;

use toggled::domain::Revision;
use toggled::domain::access::{Credential, Permission, Permissions};
use toggled::domain::advance::{Actor, Command, NewEnvironment, NewFlag, Origin, Proposal, advance};
use toggled::domain::flag::Status;
use toggled::domain::state::{FlagRef, State};
use toggled::domain::text::{Description, Email, EnvironmentKey, FlagKey, Name, Reason};
use toggled::domain::time::{Clock, SystemClock, Timestamp};
use toggled::store::{AppendOutcome, Writer, open};
use uuid::Uuid;

use super::requests::{NumberedFlag, environment_key};
use crate::Result;
use crate::scale::FLAGS;

/// Users that flip flags, besides the administrator.
pub const USERS: usize = 20;

/// Entries of one append.
const BATCH: Revision = 5_000;

/// Time between the timestamps of two batches. It is short, so that the log does not reach into the future.
const STEP: Duration = Duration::from_millis(1);

/// The email address of a user.
pub fn email(number: usize) -> String {
    format!("user-{number}@example.com")
}

/// Appends flips until the log's head is at the revision `entries`. The flags must exist.
pub async fn fill(url: &str, entries: Revision) -> Result<()> {
    let store = open(url)?;
    let mut state = store.load().await?;
    let mut writer = store.writer();
    if state.users(None).count() < USERS {
        let users = (0..USERS).map(create_user).collect::<Result<Vec<_>>>()?;
        append(&mut state, &mut *writer, &users, SystemClock.now()).await?;
    }
    let users: Vec<_> = state.users(None).map(|user| user.id).collect();
    let mut now = state.head().timestamp;
    let began = state.head().revision;
    while state.head().revision < entries {
        let first = state.head().revision;
        let flips = (first..entries.min(first + BATCH)).map(|n| flip(n, &users)).collect::<Result<Vec<_>>>()?;
        now = Timestamp::from_micros(now.micros() + i64::try_from(STEP.as_micros())?);
        append(&mut state, &mut *writer, &flips, now).await?;
    }
    // A running server would do this in the background.
    while store.count_ahead().await? {}
    println!("  {} entries appended", state.head().revision - began);
    Ok(())
}

/// Creates `flag-1` to `flag-COUNT` in a database without flags.
pub async fn create_flags(url: &str, count: usize) -> Result<()> {
    create(url, (1..=count).map(NumberedFlag::from).collect()).await
}

/// Creates environments, and flags spread over them.
pub async fn create_flags_in(url: &str, environments: usize, count: usize) -> Result<()> {
    let store = open(url)?;
    let mut state = store.load().await?;
    let new = (1..environments).map(create_environment).collect::<Result<Vec<_>>>()?;
    append(&mut state, &mut *store.writer(), &new, SystemClock.now()).await?;
    create(url, (1..=count).map(|number| NumberedFlag::among(environments, number)).collect()).await
}

async fn create(url: &str, flags: Vec<NumberedFlag>) -> Result<()> {
    let store = open(url)?;
    let mut state = store.load().await?;
    let mut writer = store.writer();
    let count = flags.len();
    for batch in flags.chunks(usize::try_from(BATCH)?) {
        let flags = batch.iter().map(create_flag).collect::<Result<Vec<_>>>()?;
        append(&mut state, &mut *writer, &flags, SystemClock.now()).await?;
    }
    while store.count_ahead().await? {}
    println!("  {count} flags created");
    Ok(())
}

async fn append(state: &mut State, writer: &mut dyn Writer, proposals: &[Proposal], now: Timestamp) -> Result<()> {
    let step = advance(state, proposals, now, &mut Uuid::now_v7);
    if step.entries.len() != proposals.len() {
        return Err("a change of the long log was refused".into());
    }
    match writer.append(&step).await? {
        AppendOutcome::Appended => {}
        _ => return Err("the append did not succeed; is another server writing to this database?".into()),
    }
    state.apply(step.head, &step.delta);
    Ok(())
}

fn create_environment(number: usize) -> Result<Proposal> {
    let key = environment_key(number);
    let new = NewEnvironment {
        name: Name::parse(&key).map_err(|rule| rule.0)?,
        key: EnvironmentKey::parse(&key).map_err(|rule| rule.0)?,
        description: Description::parse("").map_err(|rule| rule.0)?,
        require_reason: false,
    };
    Ok(Proposal::without_request_id(service(), Command::CreateEnvironment(new), origin()))
}

fn create_flag(NumberedFlag { key, environment }: &NumberedFlag) -> Result<Proposal> {
    let new = NewFlag {
        environment: environment.as_deref().map(EnvironmentKey::parse).transpose().map_err(|rule| rule.0)?,
        key: FlagKey::parse(key).map_err(|rule| rule.0)?,
        name: Name::parse(key).map_err(|rule| rule.0)?,
        description: Description::parse("").map_err(|rule| rule.0)?,
        status: Status::Disabled,
    };
    Ok(Proposal::without_request_id(service(), Command::CreateFlag(new), origin()))
}

fn service() -> Actor {
    Actor::Service { name: "benchmark".into() }
}

fn create_user(number: usize) -> Result<Proposal> {
    let permissions = Permissions::all();
    let command =
        Command::CreateUser { email: Email::parse(&email(number)).map_err(|rule| rule.0)?, account: None, permissions };
    Ok(Proposal::without_request_id(service(), command, origin()))
}

/// A flip of a different flag by a different user than the entry before.
fn flip(number: Revision, users: &[Uuid]) -> Result<Proposal> {
    let number = usize::try_from(number)?;
    let credential = Credential::Certificate { user_id: users[number * 7 % users.len()], expires_at: Timestamp::MAX };
    let actor = Actor::Caller { credential, permission: Permission::ToggleFeatureFlags };
    let key = FlagKey::parse(&format!("flag-{}", number * 617 % FLAGS + 1)).map_err(|rule| rule.0)?;
    let command = Command::Toggle { flag: FlagRef::key(key), expected_revision: None };
    let reason = Some(Reason::parse("quick benchmark").map_err(|rule| rule.0)?);
    Ok(Proposal { reason, ..Proposal::without_request_id(actor, command, origin()) })
}

fn origin() -> Origin {
    Origin {
        method: "toggled.v1.ToggleService/ToggleFeatureFlag".into(),
        peer: Some("127.0.0.1:12345".into()),
        user_agent: Some("quick tonic/0.14.9".into()),
    }
}

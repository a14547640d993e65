//! Decides random batches of proposals. Checks that revisions have no gaps, hashes chain, time never decreases, and each
//! changed object has an entry.
#![no_main]

use std::collections::HashSet;
use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use toggled::domain::access::{Credential, Permission, Permissions, ScopedPermission};
use toggled::domain::advance::{
    Actor, Command, Decision, EnvironmentUpdate, NewEnvironment, NewFlag, NewToken, Origin, Proposal, RequestKey,
    Revert, SetStatus, TrimLog, advance,
};
use toggled::domain::audit::Entry;
use toggled::domain::flag::Status;
use toggled::domain::state::{EnvironmentRef, FlagRef, State};
use toggled::domain::text::{Description, Email, EnvironmentKey, FlagKey, Name, Reason, RequestId};
use toggled::domain::time::Timestamp;
use toggled::verify::Chain;
use uuid::Uuid;

const LOG_ID: Uuid = Uuid::from_u128(7);

/// A proposed operation. Keys, names and ids come from small sets, so that proposals affect the same objects.
#[derive(Debug, Arbitrary)]
enum Op {
    Create(u8, bool),
    Toggle(u8, Option<i8>),
    Set(u8, bool),
    Batch(Vec<(u8, bool)>),
    Rename(u8, u8),
    Archive(u8, bool),
    Revert(u8),
    Trim(u8, bool),
    CreateEnvironment(u8, bool),
    UpdateEnvironment(u8, u8, bool),
    ArchiveEnvironment(u8, bool),
    CreateUser(u8, u8),
    UpdateUser(u8, u8, bool),
    Deactivate(u8),
    CreateToken(u8, Option<i16>),
    Revoke(u8),
}

/// A proposal and its options.
#[derive(Debug, Arbitrary)]
struct Input {
    op: Op,
    validate_only: bool,
    /// Token of the caller. Without one, the service itself is the actor.
    token: Option<u8>,
    has_reason: bool,
    /// Idempotency key.
    request_id: Option<u8>,
}

fn key(number: u8) -> FlagKey {
    FlagKey::parse(&format!("flag-{}", number % 4)).expect("a key")
}

/// The environment that a request names for the flag with this number.
fn named_environment(number: u8) -> Option<EnvironmentKey> {
    match number / 4 % 4 {
        0 => None,
        environment => Some(environment_key(environment)),
    }
}

fn flag(number: u8) -> FlagRef {
    FlagRef::Key(named_environment(number), key(number))
}

fn environment_key(number: u8) -> EnvironmentKey {
    EnvironmentKey::parse(&format!("environment-{}", number % 3)).expect("a key")
}

fn name(number: u8) -> Name {
    Name::parse(&format!("name {number}")).expect("a name")
}

fn status(on: bool) -> Status {
    if on { Status::Enabled } else { Status::Disabled }
}

fn set(number: u8, on: bool) -> SetStatus {
    SetStatus { flag: flag(number), status: status(on), expected_revision: None }
}

fn permissions(number: u8) -> Permissions {
    let all = ["manage_access", "toggle_feature_flags", "view_audit_logs", "toggle_feature_flags@environment-0"];
    let chosen = all.into_iter().enumerate().filter(|(bit, _)| number >> bit & 1 == 1);
    chosen.map(|(_, name)| ScopedPermission::parse(name).expect("a permission")).collect()
}

/// One of these ids, or an id that does not exist.
fn id(ids: &[Uuid], number: u8) -> Uuid {
    ids.get(usize::from(number) % (ids.len() + 1)).copied().unwrap_or(Uuid::from_u128(404))
}

struct Log {
    state: State,
    entries: Vec<Arc<Entry>>,
    users: Vec<Uuid>,
    tokens: Vec<Uuid>,
    next: u128,
}

impl Log {
    fn command(&self, op: &Op, now: Timestamp) -> Command {
        match *op {
            Op::Create(number, on) => Command::CreateFlag(NewFlag {
                environment: named_environment(number),
                key: key(number),
                name: name(number),
                description: Description::parse("").expect("a description"),
                status: status(on),
            }),
            Op::Toggle(number, expected) => Command::Toggle {
                flag: flag(number),
                expected_revision: expected.map(|near| self.state.head().revision + i64::from(near)),
            },
            Op::Set(number, on) => Command::SetStatus(set(number, on)),
            Op::Batch(ref items) => Command::BatchSet(items.iter().map(|(number, on)| set(*number, *on)).collect()),
            Op::Rename(number, to) => Command::UpdateFlag {
                flag: flag(number),
                name: Some(name(to % 3)),
                description: None,
                expected_revision: None,
            },
            Op::Archive(number, archived) => {
                Command::SetArchived { flag: flag(number), archived, expected_revision: None }
            }
            Op::Revert(back) => {
                let entry = self.entries.iter().rev().nth(usize::from(back)).map(|entry| Box::new(Entry::clone(entry)));
                let id = entry.as_ref().map_or(Uuid::nil(), |entry| entry.id);
                Command::Revert(Revert { id, entry, generation: self.state.generation(), expected_revision: None })
            }
            Op::Trim(back, correct_hash) => {
                let through = self.state.head().revision - i64::from(back) + 2;
                let found_hash = self.entries.iter().find(|entry| entry.revision == through).map(|entry| entry.hash);
                let hash = found_hash.filter(|_| correct_hash).unwrap_or([1; 32]);
                Command::TrimLog(TrimLog { through, hash, found_hash, generation: self.state.generation() })
            }
            Op::CreateEnvironment(number, require_reason) => Command::CreateEnvironment(NewEnvironment {
                key: environment_key(number),
                name: name(number),
                description: Description::parse("").expect("a description"),
                require_reason,
            }),
            Op::UpdateEnvironment(number, to, require_reason) => Command::UpdateEnvironment(EnvironmentUpdate {
                environment: EnvironmentRef::Key(environment_key(number)),
                name: Some(name(to % 3)),
                description: None,
                require_reason: Some(require_reason),
                expected_revision: None,
            }),
            Op::ArchiveEnvironment(number, archived) => Command::SetEnvironmentArchived {
                environment: EnvironmentRef::Key(environment_key(number)),
                archived,
                expected_revision: None,
            },
            Op::CreateUser(number, permitted) => Command::CreateUser {
                email: Email::parse(&format!("user-{}@example.com", number % 4)).expect("an address"),
                account: None,
                permissions: permissions(permitted),
            },
            Op::UpdateUser(number, permitted, reactivate) => Command::UpdateUser {
                id: id(&self.users, number),
                account: None,
                permissions: permissions(permitted),
                reactivate,
                expected_revision: None,
            },
            Op::Deactivate(number) => Command::DeactivateUser { id: id(&self.users, number), expected_revision: None },
            Op::CreateToken(number, expires) => Command::CreateToken(NewToken {
                user_id: id(&self.users, number),
                name: name(number),
                permissions: None,
                environment: None,
                expires_at: expires.map(|seconds| now.plus_seconds(i64::from(seconds))),
                secret_hash: [number; 32],
            }),
            Op::Revoke(number) => Command::RevokeToken { id: id(&self.tokens, number), expected_revision: None },
        }
    }

    fn proposal(&self, input: &Input, now: Timestamp) -> Proposal {
        let origin = Origin { method: "fuzz".into(), peer: None, user_agent: None };
        let actor = match input.token {
            Some(number) => Actor::Caller {
                credential: Credential::Token(id(&self.tokens, number)),
                permission: Permission::ToggleFeatureFlags,
            },
            None => Actor::Service { name: "fuzz".into() },
        };
        let request = input.request_id.map(|number| RequestKey {
            id: RequestId::parse(&format!("request {}", number % 4)).expect("an id"),
            digest: [number; 32],
        });
        let unnamed = Proposal::without_request_id(actor, self.command(&input.op, now), origin);
        let reason = input.has_reason.then(|| Reason::parse("because").expect("a reason"));
        Proposal { validate_only: input.validate_only, request, reason, ..unnamed }
    }

    /// Decides a batch, checks the step and applies it.
    fn commit(&mut self, batch: &[Input], now: Timestamp) {
        let proposals: Vec<_> = batch.iter().map(|input| self.proposal(input, now)).collect();
        let mut next = self.next;
        let step = advance(&self.state, &proposals, now, &mut || {
            next += 1;
            Uuid::from_u128(next)
        });
        self.next = next;
        let before = *self.state.head();
        assert_eq!(step.base, before);
        assert_eq!(step.decisions.len(), proposals.len());
        let (mut chain, mut time) = (Chain::after(LOG_ID, before.revision, before.hash), before.timestamp);
        for entry in &step.entries {
            chain.push(entry).expect("the hash of an entry does not chain");
            assert!(entry.timestamp >= time, "an entry is older than the entry before");
            time = entry.timestamp;
        }
        assert_eq!((step.head.revision, step.head.hash), (chain.revision(), chain.hash()));
        assert!(step.head.floor >= before.floor && step.head.floor <= step.head.revision);
        for (proposal, decision) in proposals.iter().zip(&step.decisions) {
            let Decision::Accepted(answer) = decision else { continue };
            if let Actor::Caller { credential: Credential::Token(id), .. } = &proposal.actor {
                assert!(self.tokens.contains(id), "accepted a token that does not exist");
            }
            assert!(!proposal.validate_only || answer.entry.is_none(), "validate_only wrote an entry");
        }
        let changed: HashSet<_> = step.entries.iter().filter_map(|entry| entry.entity_id).collect();
        assert!(step.delta.flags.iter().all(|flag| changed.contains(&flag.id)), "changed without an entry");
        for flag in &step.delta.flags {
            let entries = step.entries.iter().filter(|entry| entry.entity_id == Some(flag.id));
            let environments: HashSet<_> = entries.map(|entry| entry.environment.as_deref()).collect();
            assert_eq!(
                environments,
                HashSet::from([Some(flag.environment.as_str())]),
                "an entry of another environment"
            );
        }
        assert!(step.delta.users.iter().all(|user| changed.contains(&user.id)), "changed without an entry");
        assert!(step.delta.tokens.iter().all(|token| changed.contains(&token.id)), "changed without an entry");
        let mut environments = step.delta.environments.iter();
        assert!(environments.all(|environment| changed.contains(&environment.id)), "changed without an entry");
        let known = |ids: &[Uuid], id: &Uuid| ids.contains(id);
        let users: Vec<_> = step.delta.users.iter().map(|user| user.id).filter(|id| !known(&self.users, id)).collect();
        let tokens: Vec<_> =
            step.delta.tokens.iter().map(|token| token.id).filter(|id| !known(&self.tokens, id)).collect();
        self.users.extend(users);
        self.tokens.extend(tokens);
        self.state.apply(step.head, &step.delta);
        self.entries.extend(step.entries);
    }
}

fuzz_target!(|batches: Vec<(Vec<Input>, i32)>| {
    let (entries, users, tokens) = (Vec::new(), Vec::new(), Vec::new());
    let mut log = Log { state: State::empty(LOG_ID), entries, users, tokens, next: 1_000 };
    for (batch, seconds) in &batches {
        log.commit(batch, Timestamp::from_micros(1_700_000_000_000_000).plus_seconds(i64::from(*seconds)));
    }
});

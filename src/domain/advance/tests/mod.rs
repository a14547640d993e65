//! The rules of changes: one test for each rule.

mod access;
mod environments;
mod flag_access;
mod log;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::domain::access::{Credential, Directory, Permission, Permissions, SecretHash, Token, User};
use crate::domain::audit::{Action, EntityType};
use crate::domain::environment::Environment;
use crate::domain::flag::{Flag, LastFlip, Status};
use crate::domain::hash;
use crate::domain::state::{Delta, FlagRef, Head};
use crate::domain::text::{Description, Email, FlagKey, Name, Reason};

/// A state to change, and a clock.
struct World {
    state: State,
    now: Timestamp,
    next_id: u128,
}

impl World {
    fn new() -> Self {
        let mut world =
            Self { state: State::empty(Uuid::from_u128(0xfeed)), now: Timestamp::from_micros(1_000), next_id: 1 };
        let default = Arc::new(Environment::sample("default"));
        let head = *world.state.head();
        world.state.apply(head, &Delta { environments: vec![default], ..Delta::default() });
        let admin = world.accept(service(Command::CreateUser {
            email: email("admin@localhost"),
            account: None,
            permissions: Permissions::all(),
        }));
        let Object::User(admin) = admin.object else { panic!("not a user") };
        world.accept(service(Command::CreateToken(new_token(admin.id, None))));
        world
    }

    fn decide(&self, proposals: &[Proposal]) -> Step {
        let mut next = self.next_id;
        advance(&self.state, proposals, self.now, &mut || {
            next += 1;
            Uuid::from_u128(next)
        })
    }

    fn commit(&mut self, proposals: &[Proposal]) -> Step {
        let step = self.decide(proposals);
        self.next_id += 10_000;
        self.state.apply(step.head, &step.delta);
        step
    }

    fn accept(&mut self, proposal: Proposal) -> Answer {
        match self.commit(&[proposal]).decisions.remove(0) {
            Decision::Accepted(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn reject(&mut self, proposal: Proposal) -> Error {
        let step = self.commit(&[proposal]);
        assert!(step.is_empty(), "a rejected proposal wrote something");
        rejected(&step, 0)
    }

    fn token(&self, email_address: &str) -> Uuid {
        let user = self.state.user_by_email(&email(email_address)).unwrap().id;
        self.state.token_by_secret(&secret(user)).unwrap().id
    }

    fn create(&mut self, key: &str) -> Arc<Flag> {
        let proposal = by(self.token("admin@localhost"), Permission::ManageFeatureFlags, create(key));
        flag_of(&self.accept(proposal))
    }

    /// Adds a user with these permissions and one token. Returns the id of the token.
    fn with_user(&mut self, address: &str, permissions: &[Permission]) -> Uuid {
        let permissions = permissions.iter().copied().collect();
        let user = self.accept(service(Command::CreateUser { email: email(address), account: None, permissions }));
        let Object::User(user) = user.object else { panic!("not a user") };
        self.accept(service(Command::CreateToken(new_token(user.id, None))));
        self.token(address)
    }
}

fn rejected(step: &Step, index: usize) -> Error {
    match &step.decisions[index] {
        Decision::Rejected(error) => error.clone(),
        other => panic!("{other:?}"),
    }
}

fn accepted(step: &Step, index: usize) -> &Answer {
    match &step.decisions[index] {
        Decision::Accepted(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn email(text: &str) -> Email {
    Email::parse(text).unwrap()
}

fn key(text: &str) -> FlagRef {
    FlagRef::key(FlagKey::parse(text).unwrap())
}

fn secret(user: Uuid) -> SecretHash {
    let mut hash = [7; 32];
    hash[..16].copy_from_slice(user.as_bytes());
    hash
}

fn new_token(user_id: Uuid, expires_at: Option<Timestamp>) -> NewToken {
    NewToken {
        user_id,
        name: Name::parse("t").unwrap(),
        permissions: None,
        environment: None,
        expires_at,
        secret_hash: secret(user_id),
    }
}

fn new_flag(key: &str) -> NewFlag {
    NewFlag {
        environment: None,
        key: FlagKey::parse(key).unwrap(),
        name: Name::parse("A flag").unwrap(),
        description: Description::parse("").unwrap(),
        status: Status::Disabled,
    }
}

fn create(key: &str) -> Command {
    Command::CreateFlag(new_flag(key))
}

fn toggle(flag: &str) -> Command {
    Command::Toggle { flag: key(flag), expected_revision: None }
}

fn set(flag: &str, status: Status) -> SetStatus {
    SetStatus { flag: key(flag), status, expected_revision: None }
}

fn proposal(actor: Actor, command: Command) -> Proposal {
    let origin = Origin { method: "test/Test".into(), peer: None, user_agent: None };
    Proposal {
        encode: |answer| format!("{answer:?}").into_bytes(),
        ..Proposal::without_request_id(actor, command, origin)
    }
}

fn service(command: Command) -> Proposal {
    proposal(Actor::Service { name: "bootstrap@localhost".into() }, command)
}

fn by(token_id: Uuid, permission: Permission, command: Command) -> Proposal {
    proposal(Actor::Caller { credential: Credential::Token(token_id), permission }, command)
}

fn with_request_id(proposal: Proposal, id: &str, digest: u8) -> Proposal {
    Proposal { request: Some(RequestKey { id: RequestId::parse(id).unwrap(), digest: [digest; 32] }), ..proposal }
}

fn flag_of(answer: &Answer) -> Arc<Flag> {
    match &answer.object {
        Object::Flag(flag) => Arc::clone(flag),
        other => panic!("{other:?}"),
    }
}

#[test]
fn toggle_flips_and_writes_an_entry() {
    let mut world = World::new();
    let before = world.create("checkout");
    let token = world.token("admin@localhost");
    let flip = Proposal {
        reason: Some(Reason::parse("'; DROP TABLE audit_logs; --").unwrap()),
        ..by(token, Permission::ToggleFeatureFlags, toggle("checkout"))
    };

    let answer = world.accept(flip);

    let flag = flag_of(&answer);
    let entry = answer.entry.unwrap();
    assert_eq!(flag.status, Status::Enabled);
    assert_eq!((flag.revision, answer.revision, entry.revision), (4, 4, 4));
    assert_eq!(entry.action, Action::ToggleEnabled);
    assert_eq!(entry.entity_type, EntityType::FeatureFlag);
    assert_eq!((entry.old_value.as_deref(), entry.new_value.as_deref()), (Some("disabled"), Some("enabled")));
    assert_eq!(entry.reason.as_deref(), Some("'; DROP TABLE audit_logs; --"));
    assert_eq!(&*entry.user_email, "admin@localhost");
    assert_eq!(entry.token_id, Some(token));
    assert_eq!(entry.previous_entity_revision, Some(before.revision));
    assert_eq!(&*flag.updated_by, "admin@localhost");
    assert_eq!(flag.last_flip.as_deref(), Some(&LastFlip::from_entry(&entry)));
}

#[test]
fn only_flips_set_the_last_flip() {
    let mut world = World::new();
    let because = |text: &str, command| Proposal { reason: Some(Reason::parse(text).unwrap()), ..service(command) };
    assert_eq!(world.create("a").last_flip, None);
    let on = NewFlag { status: Status::Enabled, ..new_flag("on") };
    assert_eq!(flag_of(&world.accept(service(Command::CreateFlag(on)))).last_flip, None, "created on, not flipped");

    let batch = Command::BatchSet(vec![set("a", Status::Enabled), set("on", Status::Enabled)]);
    let Object::Batch(results) = world.accept(because("both", batch)).object else { panic!("not a batch") };
    let flip = results[0].flag.last_flip.clone().unwrap();
    assert_eq!((flip.reason.as_deref(), Some(flip.audit_log_id)), (Some("both"), results[0].entry_id));
    assert_eq!(results[1].flag.last_flip, None, "it was on already");

    let name = Some(Name::parse("Another").unwrap());
    let archive = |archived| Command::SetArchived { flag: key("a"), archived, expected_revision: None };
    let update = Command::UpdateFlag { flag: key("a"), name, description: None, expected_revision: None };
    let no_flip = Command::SetStatus(set("a", Status::Enabled));
    for command in [update, archive(true), archive(false), no_flip] {
        let answer = world.accept(because("no flip", command));
        assert_eq!(flag_of(&answer).last_flip.as_ref(), Some(&flip));
        if let Some(entry) = answer.entry {
            assert_eq!(Flag::from_json(entry.new_value.as_deref().unwrap()).unwrap().last_flip.as_ref(), Some(&flip));
        }
    }

    let entry = world.accept(service(Command::SetStatus(set("a", Status::Disabled)))).entry.unwrap();
    let revert = Revert {
        id: entry.id,
        environment: None,
        entry: Some(Box::new(Entry::clone(&entry))),
        generation: 0,
        expected_revision: None,
    };
    let answer = world.accept(because("undo", Command::Revert(revert)));
    let last_flip = LastFlip::from_entry(answer.entry.as_ref().unwrap());
    assert_eq!((last_flip.reason.as_deref(), last_flip.revision), (Some("undo"), answer.revision));
    assert_eq!(flag_of(&answer).last_flip.as_deref(), Some(&last_flip));

    let step = world.commit(&[service(toggle("on")), because("second", toggle("on"))]);
    let last = step.delta.flags[0].last_flip.as_ref().and_then(|flip| flip.reason.clone());
    assert_eq!(last.as_deref(), Some("second"), "the last one of a batch");
}

#[test]
fn enable_of_enabled_flag_writes_nothing() {
    let mut world = World::new();
    world.create("a");
    world.accept(service(toggle("a")));
    let step = world.commit(&[service(Command::SetStatus(set("a", Status::Enabled)))]);
    assert!(step.is_empty());
    let answer = accepted(&step, 0);
    assert_eq!((answer.entry.clone(), answer.revision), (None, 4));
    assert_eq!(flag_of(answer).status, Status::Enabled);
}

#[test]
fn proposals_see_earlier_ones_in_their_batch() {
    let mut world = World::new();
    world.create("a");
    let step = world.commit(&[
        service(toggle("a")),
        service(toggle("a")),
        service(toggle("a")),
        service(create("b")),
        service(toggle("b")),
    ]);
    assert_eq!(flag_of(accepted(&step, 2)).status, Status::Enabled);
    assert_eq!(step.entries.iter().map(|e| e.revision).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
    assert_eq!(step.delta.flags.len(), 2, "each changed flag once");
    assert_eq!(step.created.flags, 1);
    assert_eq!(step.delta.flags[1].key.as_str(), "b", "new ones last");
}

#[test]
fn rejected_proposal_does_not_affect_its_batch() {
    let mut world = World::new();
    world.create("a");
    let step = world.commit(&[service(toggle("a")), service(toggle("nope")), service(toggle("a"))]);
    assert_eq!(rejected(&step, 1), Error::FlagNotFound("nope".into()));
    assert_eq!(step.head.revision, 5);
}

#[test]
fn unexpected_revision_is_rejected() {
    let mut world = World::new();
    let flag = world.create("a");
    let expecting = |revision| service(Command::Toggle { flag: key("a"), expected_revision: Some(revision) });
    assert_eq!(world.reject(expecting(99)), Error::RevisionMismatch { expected: 99, current: flag.revision });
    world.accept(expecting(flag.revision));
    assert_eq!(world.reject(expecting(flag.revision)), Error::RevisionMismatch { expected: 3, current: 4 });
}

#[test]
fn archived_flag_keeps_key_and_refuses_flips() {
    let mut world = World::new();
    world.create("a");
    let archive = |archived| service(Command::SetArchived { flag: key("a"), archived, expected_revision: None });
    assert!(flag_of(&world.accept(archive(true))).archived_at.is_some());
    assert!(world.accept(archive(true)).entry.is_none(), "archiving twice wrote an entry");
    let archived = Error::FlagArchived(FlagKey::parse("a").unwrap());
    assert_eq!(world.reject(service(toggle("a"))), archived);
    assert_eq!(world.reject(service(Command::SetStatus(set("a", Status::Disabled)))), archived);
    assert_eq!(world.reject(service(create("a"))), Error::KeyTaken(FlagKey::parse("a").unwrap()));
    assert_eq!(world.accept(archive(false)).entry.unwrap().action, Action::FlagUnarchived);
    world.accept(service(toggle("a")));
}

#[test]
fn batch_is_all_or_nothing() {
    let mut world = World::new();
    world.create("a");
    world.create("b");
    let batch = |items| service(Command::BatchSet(items));
    let on = Status::Enabled;
    assert_eq!(world.reject(batch(vec![set("a", on), set("nope", on)])), Error::FlagNotFound("nope".into()));
    let id = world.state.flag(&key("a")).unwrap().id;
    let twice = vec![set("a", on), SetStatus { flag: FlagRef::id(id), status: on, expected_revision: None }];
    assert!(matches!(world.reject(batch(twice)), Error::Invalid(_)));

    let answer = world.accept(batch(vec![set("b", on), set("a", Status::Disabled)]));

    let Object::Batch(results) = answer.object else { panic!("not a batch") };
    assert_eq!(results.iter().map(|r| r.changed).collect::<Vec<_>>(), [true, false]);
    assert!(results[0].entry_id.is_some() && results[1].entry_id.is_none());
}

#[test]
fn revert_restores_status_and_names_the_entry() {
    let mut world = World::new();
    world.create("a");
    let flip = world.accept(service(toggle("a"))).entry.unwrap();
    let revert_of = |entry: &Entry| {
        let entry = Some(Box::new(entry.clone()));
        service(Command::Revert(Revert {
            id: flip.id,
            environment: None,
            entry,
            generation: 0,
            expected_revision: None,
        }))
    };
    let validation = Proposal { validate_only: true, ..revert_of(&flip) };
    assert_eq!(flag_of(&world.accept(validation)).status, Status::Disabled);
    let answer = world.accept(revert_of(&flip));
    let entry = answer.entry.clone().unwrap();
    assert_eq!((flag_of(&answer).status, entry.action), (Status::Disabled, Action::ToggleDisabled));
    assert_eq!((entry.reverts, entry.hash_version), (Some(flip.id), 2));
    assert!(world.accept(revert_of(&flip)).entry.is_none(), "it is back already");
    let plain = world.accept(service(toggle("a"))).entry.unwrap();
    assert_eq!((plain.reverts, plain.hash_version), (None, 1));

    for action in [Action::FlagCreated, Action::AccessDenied, Action::FlagUpdated] {
        let entry = Entry { action, ..Entry::clone(&flip) };
        assert_eq!(world.reject(revert_of(&entry)), Error::NotRevertible(flip.id));
    }
    let unknown =
        Command::Revert(Revert { id: flip.id, environment: None, entry: None, generation: 0, expected_revision: None });
    assert_eq!(world.reject(service(unknown)), Error::AuditLogNotFound(flip.id));
    let trim = TrimLog { through: flip.revision, hash: flip.hash, found_hash: Some(flip.hash), generation: 0 };
    world.accept(service(Command::TrimLog(trim)));
    assert_eq!(world.reject(revert_of(&flip)), Error::AuditLogNotFound(flip.id), "trimmed since it was looked up");
}

#[test]
fn edit_without_change_writes_nothing() {
    let mut world = World::new();
    world.create("a");
    let rename = |name: &str| {
        let name = Some(Name::parse(name).unwrap());
        service(Command::UpdateFlag { flag: key("a"), name, description: None, expected_revision: None })
    };
    assert!(world.accept(rename("A flag")).entry.is_none());
    let entry = world.accept(rename("Another")).entry.unwrap();
    assert_eq!(entry.action, Action::FlagUpdated);
    assert!(entry.old_value.as_deref().unwrap().contains("\"name\":\"A flag\""));
    assert!(entry.new_value.as_deref().unwrap().contains("\"name\":\"Another\""));
}

#[test]
fn validate_only_answers_and_writes_nothing() {
    let mut world = World::new();
    world.create("a");
    let validation = Proposal { validate_only: true, ..with_request_id(service(toggle("a")), "r", 1) };
    let step = world.commit(&[validation.clone(), Proposal { command: toggle("nope"), request: None, ..validation }]);
    assert!(step.is_empty() && step.delta.flags.is_empty());
    assert_eq!(step.head, step.base);
    let answer = accepted(&step, 0);
    assert_eq!((flag_of(answer).status, answer.revision), (Status::Enabled, 3));
    assert!(answer.entry.is_none());
    assert_eq!(rejected(&step, 1), Error::FlagNotFound("nope".into()));
    assert_eq!(world.state.flag(&key("a")).unwrap().status, Status::Disabled);
}

#[test]
fn same_request_twice_in_a_batch_changes_once() {
    let mut world = World::new();
    world.create("a");
    let token = world.token("admin@localhost");
    let retry = with_request_id(by(token, Permission::ToggleFeatureFlags, toggle("a")), "r", 1);
    let other = with_request_id(by(token, Permission::ToggleFeatureFlags, toggle("a")), "r", 2);
    let step = world.commit(&[retry.clone(), retry, other]);
    assert_eq!((step.entries.len(), step.requests.len()), (1, 1));
    let Decision::Replayed(bytes) = &step.decisions[1] else { panic!("{:?}", step.decisions[1]) };
    assert_eq!(*bytes, step.requests[0].response);
    assert_eq!(rejected(&step, 2), Error::RequestIdReused);
}

#[test]
fn request_ids_are_per_user_and_unused_after_error() {
    let mut world = World::new();
    world.create("a");
    let ann = world.with_user("ann@example.com", &[Permission::ToggleFeatureFlags]);
    let bob = world.with_user("bob@example.com", &[Permission::ToggleFeatureFlags]);
    let flip = |token, flag| with_request_id(by(token, Permission::ToggleFeatureFlags, toggle(flag)), "same", 1);
    let step = world.commit(&[flip(ann, "nope"), flip(ann, "a"), flip(bob, "a")]);
    assert_eq!((step.entries.len(), step.requests.len()), (2, 2));
}

#[test]
fn permission_is_checked_at_the_head() {
    let mut world = World::new();
    world.create("a");
    let viewer = world.with_user("ann@example.com", &[Permission::ViewFeatureFlags]);
    let flip = |token| by(token, Permission::ToggleFeatureFlags, toggle("a"));
    assert_eq!(world.reject(flip(viewer)), Error::PermissionDenied(Permission::ToggleFeatureFlags.into()));
    assert_eq!(world.reject(flip(Uuid::from_u128(404))), Error::Unauthenticated);

    let toggler = world.with_user("bob@example.com", &[Permission::ToggleFeatureFlags]);
    world.accept(flip(toggler));
    let bob = world.state.user(world.state.token(toggler).unwrap().user_id).unwrap();
    let gone = User { deactivated_at: Some(world.now), ..User::clone(bob) };
    let delta = Delta { users: vec![Arc::new(gone)], ..Delta::default() };
    let head = *world.state.head();
    world.state.apply(head, &delta);
    assert_eq!(world.reject(flip(toggler)), Error::Unauthenticated);
}

#[test]
fn token_is_valid_until_expired_or_revoked() {
    let mut world = World::new();
    world.create("a");
    let admin = Arc::clone(world.state.token(world.token("admin@localhost")).unwrap());
    let end = world.now.plus_seconds(1);
    let head = *world.state.head();
    let with = |world: &mut World, token: Token| {
        world.state.apply(head, &Delta { tokens: vec![Arc::new(token)], ..Delta::default() });
    };
    let flip = by(admin.id, Permission::ToggleFeatureFlags, Command::SetStatus(set("a", Status::Disabled)));
    with(&mut world, Token { expires_at: Some(end), ..Token::clone(&admin) });
    world.accept(flip.clone());
    world.now = end;
    assert_eq!(world.reject(flip.clone()), Error::Unauthenticated);
    with(&mut world, Token { revoked_at: Some(end), ..Token::clone(&admin) });
    assert_eq!(world.reject(flip), Error::Unauthenticated);
}

#[test]
fn caller_cannot_grant_missing_permissions() {
    let mut world = World::new();
    let ann = world.with_user("ann@example.com", &[Permission::ManageAccess, Permission::ViewFeatureFlags]);
    let admin = world.state.user_by_email(&email("admin@localhost")).unwrap().id;
    let as_ann = |command| by(ann, Permission::ManageAccess, command);
    let user = |address: &str, permission| Command::CreateUser {
        account: None,
        email: email(address),
        permissions: [permission].into_iter().collect(),
    };
    let denied = Error::PermissionDenied(Permission::ToggleFeatureFlags.into());
    assert_eq!(world.reject(as_ann(user("x@example.com", Permission::ToggleFeatureFlags))), denied);
    world.accept(as_ann(user("y@example.com", Permission::ViewFeatureFlags)));
    let taken = world.reject(as_ann(user("Y@example.com", Permission::ViewFeatureFlags)));
    assert_eq!(taken, Error::EmailTaken(email("y@example.com")));
    assert!(matches!(world.reject(as_ann(Command::CreateToken(new_token(admin, None)))), Error::PermissionDenied(_)));
    let narrow = NewToken {
        permissions: Some([Permission::ViewFeatureFlags].into_iter().collect()),
        secret_hash: [9; 32],
        ..new_token(admin, None)
    };
    // Its actions would be logged as the administrator's.
    assert!(matches!(world.reject(as_ann(Command::CreateToken(narrow))), Error::PermissionDenied(_)));
    let unknown = Uuid::from_u128(404);
    assert_eq!(world.reject(as_ann(Command::CreateToken(new_token(unknown, None)))), Error::UserNotFound(unknown));
}

#[test]
fn entries_hold_no_secret_and_no_secret_hash() {
    let mut world = World::new();
    let admin = world.state.user_by_email(&email("admin@localhost")).unwrap().id;
    let answer =
        world.accept(service(Command::CreateToken(NewToken { secret_hash: [0xab; 32], ..new_token(admin, None) })));
    let text = format!("{:?} {:?}", answer.entry, answer.object);
    assert!(!text.contains("abab") && !text.contains("171, 171"), "{text}");
}

#[test]
fn timestamps_never_decrease_along_revisions() {
    let mut world = World::new();
    world.create("a");
    world.now = Timestamp::from_micros(5);
    let entry = world.accept(service(toggle("a"))).entry.unwrap();
    assert_eq!((entry.timestamp.micros(), entry.created_at.micros()), (1_000, 5));
}

#[test]
fn entries_are_dated_after_the_closed_time() {
    let mut world = World::new();
    world.create("a");
    world.state.close(Timestamp::from_micros(9_000));
    // Closing an earlier time changes nothing.
    world.state.close(Timestamp::from_micros(8_000));
    let step = world.commit(&[service(toggle("a")), service(toggle("a"))]);
    let dates: Vec<_> = step.entries.iter().map(|entry| entry.timestamp.micros()).collect();
    assert_eq!((dates, step.first_timestamp().micros()), (vec![9_001, 9_001], 9_001));
    assert_eq!(world.state.flag(&key("a")).unwrap().updated_at.micros(), 9_001);
    world.now = Timestamp::from_micros(10_000);
    assert_eq!(world.commit(&[service(toggle("a"))]).first_timestamp(), world.now);
    // Nothing is too late for a step without entries.
    assert_eq!(world.decide(&[]).first_timestamp(), Timestamp::MAX);
}

#[test]
fn time_is_closed_before_the_last_entry() {
    let mut world = World::new();
    let closed =
        |world: &World| [998, 999, 1_000, 1_001].map(|time| world.state.is_closed(Timestamp::from_micros(time)));
    // The next entry may have the date of the last one.
    assert_eq!(closed(&world), [true, true, false, false]);
    world.state.close(Timestamp::from_micros(1_000));
    assert_eq!(closed(&world), [true, true, true, false]);
}

proptest! {
    /// Whatever the input, revisions stay gap-free, the chain stays whole, and status equals the parity of flips.
    #[test]
    fn random_batches_keep_the_log_whole(batches in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..8), 1..8)) {
        let mut world = World::new();
        for name in ["a", "b"] { world.create(name); }
        let mut flips = [0usize; 2];
        let mut previous = *world.state.head();
        for batch in &batches {
            let proposals: Vec<_> = batch.iter().map(|kind| service(match kind {
                0 => toggle("a"),
                1 => toggle("b"),
                2 => toggle("missing"),
                _ => Command::SetStatus(set("a", world.state.flag(&key("b")).unwrap().status)),
            })).collect();
            let step = world.commit(&proposals);
            for entry in &step.entries {
                prop_assert_eq!(entry.revision, previous.revision + 1);
                prop_assert!(entry.timestamp >= previous.timestamp);
                prop_assert_eq!(hash::entry_hash(&previous.hash, previous.log_id, entry), entry.hash);
                previous = Head { revision: entry.revision, hash: entry.hash, timestamp: entry.timestamp, ..previous };
                flips[usize::from(&*entry.entity_key == "b")] += 1;
            }
            prop_assert_eq!(step.head, previous);
        }
        for (name, flips) in [("a", flips[0]), ("b", flips[1])] {
            prop_assert_eq!(world.state.flag(&key(name)).unwrap().status == Status::Enabled, flips % 2 == 1);
        }
    }
}

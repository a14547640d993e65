//! Rules of changes to flags of several environments.

use super::environments::{archive, environment_key, make, named, untouched};
use super::*;
use crate::domain::access::ScopedPermission;
use crate::domain::text::EnvironmentKey;

/// The environments `default`, `production` and `staging`, each with a flag `a`.
fn world() -> World {
    let mut world = World::new();
    for key in ["production", "staging"] {
        world.accept(service(make(key)));
    }
    for key in ["default", "production", "staging"] {
        world.accept(service(create_in(key, "a")));
    }
    world
}

fn in_environment(key: &str) -> Option<EnvironmentKey> {
    Some(environment_key(key))
}

fn flag_in(environment: &str, flag: &str) -> FlagRef {
    FlagRef::Key(in_environment(environment), FlagKey::parse(flag).unwrap())
}

fn create_in(environment: &str, flag: &str) -> Command {
    let Command::CreateFlag(new) = create(flag) else { unreachable!() };
    Command::CreateFlag(NewFlag { environment: in_environment(environment), ..new })
}

fn toggle_of(flag: FlagRef) -> Command {
    Command::Toggle { flag, expected_revision: None }
}

/// Each kind of change of a flag that exists.
fn changes(flag: &FlagRef) -> Vec<Command> {
    let flag = || flag.clone();
    let item = || SetStatus { flag: flag(), status: Status::Enabled, expected_revision: None };
    vec![
        toggle_of(flag()),
        Command::SetStatus(item()),
        Command::BatchSet(vec![item()]),
        Command::UpdateFlag { flag: flag(), name: None, description: None, expected_revision: None },
        Command::SetArchived { flag: flag(), archived: true, expected_revision: None },
    ]
}

fn revert_of(entry: &Arc<Entry>) -> Command {
    let id = entry.id;
    Command::Revert(Revert {
        id,
        environment: None,
        entry: Some(Box::new(Entry::clone(entry))),
        generation: 0,
        expected_revision: None,
    })
}

fn id_of(world: &World, environment: &str, flag: &str) -> Uuid {
    world.state.flag(&flag_in(environment, flag)).unwrap().id
}

/// Adds a user with these permissions. Returns the id of a token.
fn caller(world: &mut World, permissions: &[&str]) -> Uuid {
    let permissions = permissions.iter().map(|text| ScopedPermission::parse(text).unwrap()).collect();
    let address = format!("user-{}@example.com", world.next_id);
    let user = world.accept(service(Command::CreateUser { email: email(&address), account: None, permissions }));
    let Object::User(user) = user.object else { panic!("not a user") };
    world.accept(service(Command::CreateToken(new_token(user.id, None))));
    world.token(&address)
}

fn denied(permission: &str) -> Error {
    Error::PermissionDenied(ScopedPermission::parse(permission).unwrap())
}

fn invalid(field: &str, rule: &str) -> Error {
    Error::Invalid(vec![Violation { field: field.to_owned(), rule: rule.to_owned() }])
}

#[test]
fn same_key_is_another_flag_in_each_environment() {
    let mut world = world();
    let before = ["default", "production", "staging"].map(|key| world.state.flag(&flag_in(key, "a")).unwrap().clone());
    assert!(before[0].id != before[1].id && before[1].id != before[2].id);
    assert_eq!(world.reject(service(create_in("staging", "a"))), Error::KeyTaken(FlagKey::parse("a").unwrap()));
    let answer = world.accept(service(toggle_of(flag_in("staging", "a"))));
    let (flag, entry) = (flag_of(&answer), answer.entry.unwrap());
    assert_eq!((flag.id, flag.status, flag.environment.as_str()), (before[2].id, Status::Enabled, "staging"));
    assert_eq!(entry.environment.as_deref(), Some("staging"));
    for (key, before) in [("default", &before[0]), ("production", &before[1])] {
        assert_eq!(world.state.flag(&flag_in(key, "a")), Some(before));
    }
    // Within one batch as well.
    let [one, two] = ["default", "production"].map(|key| service(create_in(key, "b")));
    let step = world.commit(&[one, service(toggle_of(flag_in("production", "b"))), two.clone(), two]);
    assert_eq!(rejected(&step, 1), Error::FlagNotFound("b".into()));
    assert!(matches!(rejected(&step, 3), Error::KeyTaken(_)));
    assert_eq!(step.created.flags, 2);
    let environments: Vec<_> = step.entries.iter().map(|entry| entry.environment.as_deref()).collect();
    assert_eq!(environments, [Some("default"), Some("production")]);
}

#[test]
fn entries_carry_the_environment_they_are_about() {
    let mut world = World::new();
    let created = world.accept(service(make("staging"))).entry.unwrap();
    assert_eq!(created.environment.as_deref(), Some("staging"));
    let user = Command::CreateUser { email: email("ann@example.com"), account: None, permissions: Permissions::all() };
    assert_eq!(world.accept(service(user)).entry.unwrap().environment, None);
    world.accept(service(create_in("staging", "a")));
    let id = id_of(&world, "staging", "a");
    let token = caller(&mut world, &["view_feature_flags"]);
    let staging = ScopedPermission::parse("toggle_feature_flags@staging").unwrap();
    let everywhere = ScopedPermission::from(Permission::ToggleFeatureFlags);
    for (permission, object, expected) in [
        (&everywhere, Some(ObjectRef::Id(id)), Some("staging")),
        (&everywhere, Some(flag_in("staging", "a").into()), Some("staging")),
        (&everywhere, Some(flag_in("staging", "none").into()), Some("staging")),
        (&everywhere, Some(flag_in("nowhere", "a").into()), None),
        (&everywhere, Some(key("a").into()), Some("default")),
        (&everywhere, Some(ObjectRef::Environment(environment_key("staging"))), Some("staging")),
        (&everywhere, Some(ObjectRef::Email(email("ann@example.com"))), None),
        (&everywhere, Some(ObjectRef::Email(email("none@example.com"))), None),
        (&everywhere, None, None),
        // Where the change was refused, if the request named no environment.
        (&staging, Some(key("a").into()), Some("staging")),
        (&staging, Some(key("none").into()), Some("staging")),
        (&staging, None, Some("staging")),
        (&staging, Some(ObjectRef::Email(email("none@example.com"))), None),
    ] {
        let denial =
            Denial { permission: permission.clone(), object: object.clone(), environment: None, suppressed: 0 };
        let entry =
            world.accept(by(token, Permission::ToggleFeatureFlags, Command::RecordDenial(denial))).entry.unwrap();
        assert_eq!(entry.environment.as_deref(), expected, "{permission} {object:?}");
    }
}

#[test]
fn change_without_environment_is_about_the_only_one() {
    let mut world = World::new();
    world.create("a");
    let admin = world.token("admin@localhost");
    let flip = || by(admin, Permission::ToggleFeatureFlags, toggle("a"));
    let retried = || with_request_id(flip(), "r", 1);
    world.accept(flip());
    // The retry is in the batch that makes a second environment, after it.
    let step = world.commit(&[retried(), service(make("staging")), retried(), flip()]);
    assert!(matches!(step.decisions[2], Decision::Replayed(_)));
    let ambiguous =
        invalid("environment", "must name one of the environments in which you may do this: default, staging");
    assert_eq!(rejected(&step, 3), ambiguous);
    world.accept(service(create_in("staging", "a")));
    for command in changes(&key("a")).into_iter().chain([create("b")]) {
        assert_eq!(world.reject(by(admin, Permission::ManageFeatureFlags, command)), ambiguous);
    }
    // An archived environment counts: nothing is redirected to the other one.
    world.accept(service(archive("staging", true)));
    assert_eq!(world.reject(flip()), ambiguous);
    world.accept(service(archive("staging", false)));
    // An id is enough.
    let id = FlagRef::id(id_of(&world, "staging", "a"));
    for flag in [id, flag_in("staging", "a")] {
        let answer = world.accept(by(admin, Permission::ToggleFeatureFlags, toggle_of(flag)));
        assert_eq!(flag_of(&answer).environment.as_str(), "staging");
    }
    // Reads in other environments do not count.
    let only = caller(&mut world, &["toggle_feature_flags@staging", "view_feature_flags"]);
    let answer = world.accept(by(only, Permission::ToggleFeatureFlags, toggle("a")));
    assert_eq!(flag_of(&answer).environment.as_str(), "staging");
    let both = caller(&mut world, &["toggle_feature_flags@staging", "toggle_feature_flags@default"]);
    assert_eq!(world.reject(by(both, Permission::ToggleFeatureFlags, toggle("a"))), ambiguous);
}

#[test]
fn ambiguous_change_names_few_of_many_environments() {
    let mut world = World::new();
    let all: Vec<_> = (100..130).map(|number| service(make(&format!("e{number}")))).collect();
    world.commit(&all);
    let Error::Invalid(violations) = world.reject(service(create("a"))) else { panic!("not invalid") };
    assert!(violations[0].rule.contains(": default, e100, e101, "), "{violations:?}");
    assert!(violations[0].rule.ends_with(", e118 and 11 more"), "{violations:?}");
}

#[test]
fn scoped_permission_covers_its_environment() {
    let mut world = world();
    let token = caller(&mut world, &["manage_feature_flags@staging", "toggle_feature_flags@staging"]);
    let manage = |command| by(token, Permission::ManageFeatureFlags, command);
    world.accept(manage(create_in("staging", "b")));
    for command in changes(&flag_in("staging", "b")) {
        let permission = match command {
            Command::UpdateFlag { .. } | Command::SetArchived { .. } => Permission::ManageFeatureFlags,
            _ => Permission::ToggleFeatureFlags,
        };
        world.accept(by(token, permission, command));
    }
    // Of what a batch names, one part is elsewhere.
    let items = ["staging", "production"].map(|key| SetStatus {
        flag: FlagRef::id(id_of(&world, key, "a")),
        status: Status::Enabled,
        expected_revision: None,
    });
    let elsewhere = Error::FlagNotFound(id_of(&world, "production", "a").to_string());
    assert_eq!(world.reject(by(token, Permission::ToggleFeatureFlags, Command::BatchSet(items.to_vec()))), elsewhere);
    // Without the permission anywhere.
    let reader = caller(&mut world, &["view_feature_flags", "manage_feature_flags@staging"]);
    for flag in [flag_in("staging", "a"), flag_in("nowhere", "a"), FlagRef::id(Uuid::nil()), key("a")] {
        let flip = by(reader, Permission::ToggleFeatureFlags, toggle_of(flag));
        assert_eq!(world.reject(flip), denied("toggle_feature_flags"));
    }
    // A token has only what its user has, wherever that is.
    let user = world.state.token(token).unwrap().user_id;
    let wide = NewToken { permissions: Some(Permissions::all()), secret_hash: [3; 32], ..new_token(user, None) };
    world.accept(service(Command::CreateToken(wide)));
    let wide = world.state.token_by_secret(&[3; 32]).unwrap().id;
    let unseen = by(wide, Permission::ToggleFeatureFlags, toggle_of(flag_in("production", "a")));
    assert_eq!(world.reject(unseen), Error::EnvironmentNotFound("production".into()));
}

#[test]
fn unseen_flag_is_answered_as_a_missing_one() {
    let mut world = world();
    let flip = world.accept(service(toggle_of(flag_in("production", "a")))).entry.unwrap();
    let token = caller(&mut world, &["toggle_feature_flags@staging", "manage_feature_flags@staging", "manage_access"]);
    let (unseen, missing) = (id_of(&world, "production", "a"), Uuid::from_u128(404));
    for id in [unseen, missing] {
        for command in changes(&FlagRef::id(id)) {
            let rejected = world.reject(by(token, Permission::ToggleFeatureFlags, command));
            assert_eq!(rejected, Error::FlagNotFound(id.to_string()));
        }
    }
    let Error::AuditLogNotFound(id) = world.reject(by(token, Permission::ToggleFeatureFlags, revert_of(&flip))) else {
        panic!("the entry was found")
    };
    assert_eq!(id, flip.id);
    // Entries of users and environments.
    let user = world.accept(service(Command::CreateUser {
        email: email("new@example.com"),
        account: None,
        permissions: Permissions::default(),
    }));
    for entry in [user.entry.unwrap(), world.accept(service(make("another"))).entry.unwrap()] {
        let reverted = world.reject(by(token, Permission::ToggleFeatureFlags, revert_of(&entry)));
        assert_eq!(reverted, Error::AuditLogNotFound(entry.id));
        assert_eq!(world.reject(service(revert_of(&entry))), Error::NotRevertible(entry.id));
    }
    // By key, whether the environment and the flag exist or not.
    let without_access = caller(&mut world, &["toggle_feature_flags@staging"]);
    for environment in ["production", "nowhere"] {
        for flag in ["a", "none"] {
            for command in changes(&flag_in(environment, flag)).into_iter().chain([create_in(environment, flag)]) {
                let rejected = world.reject(by(without_access, Permission::ToggleFeatureFlags, command));
                assert_eq!(rejected, Error::EnvironmentNotFound(environment.into()));
            }
        }
    }
}

#[test]
fn seen_flag_without_permission_is_denied_there() {
    let mut world = world();
    let flip = world.accept(service(toggle_of(flag_in("production", "a")))).entry.unwrap();
    for seen in ["view_feature_flags@production", "view_audit_logs@production", "view_feature_flags"] {
        let token = caller(&mut world, &["toggle_feature_flags@staging", seen]);
        let by_caller = |command| by(token, Permission::ToggleFeatureFlags, command);
        let id = FlagRef::id(id_of(&world, "production", "a"));
        let commands = changes(&id).into_iter().chain(changes(&flag_in("production", "a")));
        for command in
            commands.chain([revert_of(&flip), create_in("production", "b"), toggle_of(flag_in("production", "none"))])
        {
            assert_eq!(world.reject(by_caller(command)), denied("toggle_feature_flags@production"), "{seen}");
        }
    }
}

#[test]
fn archived_environment_refuses_changes_of_its_flags() {
    let mut world = world();
    let flip = world.accept(service(toggle_of(flag_in("staging", "a")))).entry.unwrap();
    world.accept(service(archive("staging", true)));
    let refused = Error::EnvironmentArchived(environment_key("staging"));
    let id = FlagRef::id(id_of(&world, "staging", "a"));
    let commands = changes(&id).into_iter().chain(changes(&flag_in("staging", "a")));
    for command in commands.chain([revert_of(&flip), create_in("staging", "b"), create_in("staging", "a")]) {
        assert_eq!(world.reject(service(command)), refused);
    }
    world.accept(service(toggle_of(flag_in("production", "a"))));
    world.accept(service(archive("staging", false)));
    world.accept(service(revert_of(&flip)));
}

#[test]
fn environment_can_require_a_reason_for_flips() {
    let mut world = world();
    let flip = world.accept(service(toggle_of(flag_in("staging", "a")))).entry.unwrap();
    let update = EnvironmentUpdate { require_reason: Some(true), ..untouched(named("staging")) };
    world.accept(service(Command::UpdateEnvironment(update)));
    let missing = invalid("reason", "must be given, since the environment staging requires it");
    let flag = flag_in("staging", "a");
    // The flag is enabled already, which makes no difference.
    let flips: Vec<_> = changes(&flag).into_iter().take(3).chain([revert_of(&flip)]).collect();
    for command in &flips {
        assert_eq!(world.reject(service(command.clone())), missing);
    }
    for command in flips {
        let reason = Some(Reason::parse("because").unwrap());
        world.accept(Proposal { reason, ..service(command) });
    }
    // Other changes, and flips elsewhere, need none.
    world.accept(service(create_in("staging", "b")));
    world.accept(service(Command::SetArchived { flag, archived: true, expected_revision: None }));
    world.accept(service(toggle_of(flag_in("production", "a"))));
}

/// An id may be given with the environment of its flag, and with no other.
#[test]
fn environment_named_with_an_id_is_that_of_the_flag() {
    let mut world = world();
    let id = id_of(&world, "staging", "a");
    let with = |key: &str| toggle_of(FlagRef::Id(in_environment(key), id));
    let everywhere = caller(&mut world, &["toggle_feature_flags"]);
    let answer = world.accept(by(everywhere, Permission::ToggleFeatureFlags, with("staging")));
    assert_eq!(flag_of(&answer).environment.as_str(), "staging");
    let other = Error::Invalid(vec![Violation {
        field: "environment".to_owned(),
        rule: "must be that of the flag, staging, or absent".to_owned(),
    }]);
    assert_eq!(world.reject(by(everywhere, Permission::ToggleFeatureFlags, with("production"))), other);
    let unknown = |key: &str| Error::EnvironmentNotFound(key.to_owned());
    assert_eq!(world.reject(by(everywhere, Permission::ToggleFeatureFlags, with("nowhere"))), unknown("nowhere"));
    // One that the caller may not see does not exist, and neither does a flag there.
    let only = caller(&mut world, &["toggle_feature_flags@staging"]);
    assert_eq!(world.reject(by(only, Permission::ToggleFeatureFlags, with("production"))), unknown("production"));
    let other = caller(&mut world, &["toggle_feature_flags@production"]);
    let not_found = Error::FlagNotFound(id.to_string());
    assert_eq!(world.reject(by(other, Permission::ToggleFeatureFlags, with("production"))), not_found);
    assert_eq!(world.reject(by(other, Permission::ToggleFeatureFlags, with("staging"))), unknown("staging"));
}

fn new_in(environment: &str, key: &str) -> NewFlag {
    let Command::CreateFlag(new) = create(key) else { unreachable!() };
    NewFlag { environment: in_environment(environment), ..new }
}

#[test]
fn batch_creates_flags_in_several_environments_or_none() {
    let mut world = world();
    let admin = caller(&mut world, &["manage_feature_flags"]);
    let batch = |items: &[(&str, &str)]| {
        let items = items.iter().map(|(environment, key)| new_in(environment, key)).collect();
        by(admin, Permission::ManageFeatureFlags, Command::BatchCreate(items))
    };
    let before = world.state.head().revision;
    let refused = [
        (batch(&[("staging", "b"), ("production", "a")]), Error::KeyTaken(FlagKey::parse("a").unwrap())),
        (batch(&[("staging", "b"), ("nowhere", "b")]), Error::EnvironmentNotFound("nowhere".to_owned())),
        (batch(&[("staging", "b"), ("staging", "b")]), Error::KeyTaken(FlagKey::parse("b").unwrap())),
    ];
    for (proposal, error) in refused {
        assert_eq!(world.reject(proposal), error);
        assert_eq!((world.state.head().revision, world.state.flag(&flag_in("staging", "b"))), (before, None));
    }
    let answer = world.accept(batch(&[("staging", "b"), ("production", "b"), ("staging", "c")]));
    let Object::Batch(results) = &answer.object else { panic!("{answer:?}") };
    let created: Vec<_> =
        results.iter().map(|r| (r.flag.environment.as_str(), r.flag.key.as_str(), r.flag.revision)).collect();
    assert_eq!(created, [("staging", "b", before + 1), ("production", "b", before + 2), ("staging", "c", before + 3)]);
    assert!(results.iter().all(|result| result.changed && result.entry_id.is_some()));
    assert_eq!(world.state.head().revision, answer.revision);
    // All or none, also where one environment is not the caller's.
    let only = caller(&mut world, &["manage_feature_flags@staging"]);
    let items = vec![new_in("staging", "d"), new_in("production", "d")];
    let refused = world.reject(by(only, Permission::ManageFeatureFlags, Command::BatchCreate(items)));
    assert_eq!(refused, Error::EnvironmentNotFound("production".to_owned()));
    assert_eq!(world.state.flag(&flag_in("staging", "d")), None);
}

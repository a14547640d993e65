//! Rules of environments.

use std::collections::BTreeMap;

use super::*;
use crate::domain::access::{ScopedPermission, authenticate};
use crate::domain::environment::{Environment, MAX_ENVIRONMENTS};
use crate::domain::state::EnvironmentRef;
use crate::domain::text::EnvironmentKey;

pub fn environment_key(text: &str) -> EnvironmentKey {
    EnvironmentKey::parse(text).unwrap()
}

pub fn named(text: &str) -> EnvironmentRef {
    EnvironmentRef::Key(environment_key(text))
}

pub fn make(key: &str) -> Command {
    Command::CreateEnvironment(NewEnvironment {
        key: environment_key(key),
        name: Name::parse("An environment").unwrap(),
        description: Description::parse("").unwrap(),
        require_reason: false,
    })
}

/// An update that changes nothing.
pub fn untouched(environment: EnvironmentRef) -> EnvironmentUpdate {
    EnvironmentUpdate { environment, name: None, description: None, require_reason: None, expected_revision: None }
}

fn rename(key: &str, name: &str) -> Command {
    let name = Some(Name::parse(name).unwrap());
    Command::UpdateEnvironment(EnvironmentUpdate { name, ..untouched(named(key)) })
}

pub fn archive(key: &str, archived: bool) -> Command {
    Command::SetEnvironmentArchived { environment: named(key), archived, expected_revision: None }
}

fn environment_of(answer: &Answer) -> Arc<Environment> {
    match &answer.object {
        Object::Environment(environment) => Arc::clone(environment),
        other => panic!("{other:?}"),
    }
}

#[test]
fn creation_and_edit_write_the_whole_environment() {
    let mut world = World::new();
    let admin = world.token("admin@localhost");
    let by_admin = |command| by(admin, Permission::ManageEnvironments, command);

    let answer = world.accept(by_admin(make("staging")));

    let (created, entry) = (environment_of(&answer), answer.entry.unwrap());
    assert_eq!((entry.action, entry.entity_type), (Action::EnvironmentCreated, EntityType::Environment));
    assert_eq!(
        (entry.entity_id, &*entry.entity_key, &*entry.entity_name),
        (Some(created.id), "staging", "An environment")
    );
    assert_eq!((entry.old_value.as_deref(), entry.new_value.as_deref()), (None, Some(&*created.to_json())));
    assert_eq!((created.revision, &*created.updated_by, created.archived_at), (3, "admin@localhost", None));

    let name = Some(Name::parse("Staging").unwrap());
    let description = Some(Description::parse("Before production").unwrap());
    let update = EnvironmentUpdate {
        name,
        description,
        require_reason: Some(true),
        ..untouched(EnvironmentRef::Id(created.id))
    };
    let answer = world.accept(by_admin(Command::UpdateEnvironment(update.clone())));

    let (updated, entry) = (environment_of(&answer), answer.entry.unwrap());
    assert_eq!((entry.action, entry.previous_entity_revision), (Action::EnvironmentUpdated, Some(3)));
    assert_eq!(entry.old_value.as_deref(), Some(&*created.to_json()));
    assert_eq!(entry.new_value.as_deref(), Some(&*updated.to_json()));
    assert!(updated.require_reason && updated.description.as_str() == "Before production");
    assert_eq!((updated.id, &updated.key, updated.created_at), (created.id, &created.key, created.created_at));
    let again = world.accept(by_admin(Command::UpdateEnvironment(update)));
    assert_eq!((environment_of(&again), again.entry), (updated, None));
}

#[test]
fn key_is_taken_for_ever() {
    let mut world = World::new();
    let step = world.commit(&[service(make("a")), service(make("a"))]);
    let taken = Error::EnvironmentKeyTaken(environment_key("a"));
    assert_eq!((rejected(&step, 1), step.created.environments), (taken.clone(), 1));
    world.accept(service(archive("a", true)));
    assert_eq!(world.reject(service(make("a"))), taken);
    assert_eq!(world.reject(service(rename("b", "B"))), Error::EnvironmentNotFound("b".into()));
    let unknown = Uuid::from_u128(404);
    let by_id = Command::UpdateEnvironment(untouched(EnvironmentRef::Id(unknown)));
    assert_eq!(world.reject(service(by_id)), Error::EnvironmentNotFound(unknown.to_string()));
}

#[test]
fn archived_environment_can_only_be_unarchived() {
    let mut world = World::new();
    world.accept(service(make("a")));
    let archived = world.accept(service(archive("a", true)));
    assert_eq!(archived.entry.as_ref().unwrap().action, Action::EnvironmentArchived);
    assert_eq!(environment_of(&archived).archived_at, Some(world.now));
    assert_eq!(world.accept(service(archive("a", true))).entry, None);
    assert_eq!(world.reject(service(rename("a", "A"))), Error::EnvironmentArchived(environment_key("a")));
    let back = world.accept(service(archive("a", false)));
    assert_eq!(back.entry.as_ref().unwrap().action, Action::EnvironmentUnarchived);
    assert_eq!(environment_of(&back).archived_at, None);
    world.accept(service(rename("a", "A")));
}

#[test]
fn unexpected_revision_of_environment_is_rejected() {
    let mut world = World::new();
    let current = environment_of(&world.accept(service(make("a")))).revision;
    let mismatch = Error::RevisionMismatch { expected: 99, current };
    let name = Some(Name::parse("A").unwrap());
    let update = EnvironmentUpdate { name, expected_revision: Some(99), ..untouched(named("a")) };
    assert_eq!(world.reject(service(Command::UpdateEnvironment(update.clone()))), mismatch);
    let archive = |expected_revision| {
        service(Command::SetEnvironmentArchived { environment: named("a"), archived: true, expected_revision })
    };
    assert_eq!(world.reject(archive(Some(99))), mismatch);
    world.accept(service(Command::UpdateEnvironment(EnvironmentUpdate { expected_revision: Some(current), ..update })));
    world.accept(archive(Some(current + 1)));
}

#[test]
fn number_of_environments_is_limited() {
    let mut world = World::new();
    let number = |number: usize| service(make(&format!("e{number}")));
    let all: Vec<_> = (0..MAX_ENVIRONMENTS - 2).map(number).collect();
    world.commit(&all);
    world.accept(service(archive("e0", true)));
    let step = world.commit(&[number(MAX_ENVIRONMENTS), number(MAX_ENVIRONMENTS + 1), number(0)]);
    assert!(matches!(step.decisions[0], Decision::Accepted(_)));
    assert_eq!(rejected(&step, 1), Error::EnvironmentLimit);
    assert_eq!(rejected(&step, 2), Error::EnvironmentKeyTaken(environment_key("e0")));
    assert_eq!(world.reject(number(MAX_ENVIRONMENTS)), Error::EnvironmentKeyTaken(environment_key("e1000")));
    world.accept(service(rename("e1", "Changes are not limited")));
}

#[test]
fn environments_require_their_permission() {
    let mut world = World::new();
    world.accept(service(make("a")));
    let all_others = Permission::ALL.into_iter().filter(|permission| *permission != Permission::ManageEnvironments);
    let ann = world.with_user("ann@example.com", &all_others.collect::<Vec<_>>());
    let denied = Error::PermissionDenied(Permission::ManageEnvironments.into());
    for command in [make("b"), rename("a", "A"), archive("a", true)] {
        assert_eq!(world.reject(by(ann, Permission::ManageEnvironments, command)), denied);
    }
    let found = world.state.environment(&named("a")).unwrap().id;
    for (object, id, key) in [
        (ObjectRef::Environment(environment_key("a")), Some(found), "a"),
        (ObjectRef::Id(found), Some(found), "a"),
        (ObjectRef::Environment(environment_key("b")), None, "b"),
    ] {
        let permission = Permission::ManageEnvironments.into();
        let denial =
            Command::RecordDenial(Denial { permission, object: Some(object), environment: None, suppressed: 0 });
        let entry = world.accept(by(ann, Permission::ManageEnvironments, denial)).entry.unwrap();
        assert_eq!((entry.action, entry.entity_type), (Action::AccessDenied, EntityType::Environment));
        assert_eq!((entry.entity_id, &*entry.entity_key), (id, key));
    }
}

#[test]
fn validation_of_environment_writes_nothing() {
    let mut world = World::new();
    let step = world.commit(&[Proposal { validate_only: true, ..service(make("a")) }, service(rename("a", "A"))]);
    assert_eq!(environment_of(accepted(&step, 0)).key, environment_key("a"));
    assert_eq!(rejected(&step, 1), Error::EnvironmentNotFound("a".into()));
    assert!(step.is_empty() && step.delta.environments.is_empty());
    assert_eq!(world.state.environment(&named("a")), None);
}

#[test]
fn permissions_are_granted_in_existing_environments() {
    let mut world = World::new();
    let scoped = |text| std::iter::once(ScopedPermission::parse(text).unwrap()).collect::<Permissions>();
    let user =
        |address, permissions| service(Command::CreateUser { email: email(address), account: None, permissions });
    let early = user("early@example.com", scoped("toggle_feature_flags@a"));
    let step = world.commit(&[early, service(make("a")), user("ann@example.com", scoped("toggle_feature_flags@a"))]);
    assert!(matches!(rejected(&step, 0), Error::Invalid(_)));
    let ann = Arc::clone(world.state.user_by_email(&email("ann@example.com")).unwrap());
    assert_eq!(ann.permissions.names(), ["toggle_feature_flags@a"]);
    assert!(ann.to_json().contains(r#""permissions":["toggle_feature_flags@a"]"#));
    // An archived environment still exists.
    world.accept(service(archive("a", true)));
    let wide = NewToken { permissions: Some(scoped("toggle_feature_flags")), ..new_token(ann.id, None) };
    world.accept(service(Command::CreateToken(wide)));
    let token = world.state.token(world.token("ann@example.com")).unwrap();
    assert_eq!(token.allowed(&ann).names(), ["toggle_feature_flags@a"], "a token never exceeds its user");
}

#[test]
fn token_holds_something_in_its_own_environment() {
    let mut world = World::new();
    for key in ["a", "b"] {
        world.accept(service(make(key)));
    }
    let set = |text: &str| std::iter::once(ScopedPermission::parse(text).unwrap()).collect::<Permissions>();
    let permissions = [set("view_feature_flags@a"), set("toggle_feature_flags@b")].into_iter().collect();
    let user = Command::CreateUser { email: email("ann@example.com"), account: None, permissions };
    let Object::User(ann) = world.accept(service(user)).object else { panic!("not a user") };
    let token = |key: &str, permissions: Option<Permissions>| {
        let environment = Some(environment_key(key));
        Command::CreateToken(NewToken { environment, permissions, ..new_token(ann.id, None) })
    };
    let rule = "must be one in which the token holds a permission".to_owned();
    let refused = Error::Invalid(vec![Violation { field: "environment".to_owned(), rule }]);
    for (key, permissions) in [
        ("nowhere", None),
        ("nowhere", Some(set("view_feature_flags"))),
        ("a", Some(set("toggle_feature_flags@b"))),
        ("b", Some(set("view_feature_flags"))),
        ("b", Some(Permissions::default())),
    ] {
        assert_eq!(world.reject(service(token(key, permissions))), refused, "{key}");
    }
    let mut make_token = |key: &str, permissions| {
        let Object::Token(token) = world.accept(service(token(key, permissions))).object else { panic!("not a token") };
        token
    };
    let made = make_token("a", None);
    assert_eq!(made.environment, Some(environment_key("a")));
    assert!(made.to_json().contains(r#""environment":"a""#));
    let grant = authenticate(&world.state, &Credential::Token(made.id), world.now).unwrap();
    assert_eq!(grant.environment, Some(environment_key("a")));
}

/// A change of one of three environments.
#[derive(Debug, Clone)]
enum Op {
    Make(usize),
    Rename(usize, u8),
    Archive(usize, bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..3_usize).prop_map(Op::Make),
        (0..3_usize, 0..3_u8).prop_map(|(environment, name)| Op::Rename(environment, name)),
        (0..3_usize, any::<bool>()).prop_map(|(environment, archived)| Op::Archive(environment, archived)),
    ]
}

/// The name of each environment, and whether it is archived.
type Model = BTreeMap<String, (String, bool)>;

/// The action that an operation writes; `None` if it writes nothing.
fn expected(model: &mut Model, op: &Op) -> Option<Action> {
    let key = |environment: &usize| format!("e{environment}");
    match op {
        Op::Make(environment) => {
            let is_new = !model.contains_key(&key(environment));
            let new = || ("An environment".to_owned(), false);
            model.entry(key(environment)).or_insert_with(new);
            is_new.then_some(Action::EnvironmentCreated)
        }
        Op::Rename(environment, name) => {
            let (current, _) = model.get_mut(&key(environment)).filter(|(_, archived)| !archived)?;
            let name = format!("name {name}");
            (std::mem::replace(current, name.clone()) != name).then_some(Action::EnvironmentUpdated)
        }
        Op::Archive(environment, archived) => {
            let (_, current) = model.get_mut(&key(environment))?;
            let action = if *archived { Action::EnvironmentArchived } else { Action::EnvironmentUnarchived };
            (std::mem::replace(current, *archived) != *archived).then_some(action)
        }
    }
}

proptest! {
    /// However the operations are spread over batches, they have the effect that they have one after the other.
    #[test]
    fn batches_match_a_model(batches in prop::collection::vec(prop::collection::vec(op(), 0..6), 1..8)) {
        let mut world = World::new();
        let mut model = Model::from([("default".to_owned(), ("default".to_owned(), false))]);
        for batch in &batches {
            let proposals: Vec<_> = batch.iter().map(|op| service(match op {
                Op::Make(environment) => make(&format!("e{environment}")),
                Op::Rename(environment, name) => rename(&format!("e{environment}"), &format!("name {name}")),
                Op::Archive(environment, archived) => archive(&format!("e{environment}"), *archived),
            })).collect();
            let step = world.commit(&proposals);
            let actions: Vec<_> = step.entries.iter().map(|entry| entry.action).collect();
            prop_assert_eq!(actions, batch.iter().filter_map(|op| expected(&mut model, op)).collect::<Vec<_>>());
            let present: Model = world.state.environments(None).map(|found| {
                (found.key.to_string(), (found.name.to_string(), found.archived_at.is_some()))
            }).collect();
            prop_assert_eq!(&present, &model);
            prop_assert_eq!(world.state.environment_count(), model.len());
            for entry in &step.entries {
                let last = step.entries.iter().rfind(|other| other.entity_id == entry.entity_id).unwrap();
                let found = world.state.environment(&EnvironmentRef::Id(entry.entity_id.unwrap())).unwrap();
                prop_assert_eq!((last.revision, last.new_value.as_deref()), (found.revision, Some(&*found.to_json())));
            }
        }
    }
}

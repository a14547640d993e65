//! Rules of users, tokens, single sign-on, and denial records.

use super::*;
use crate::domain::access::{Account, Identity, ScopedPermission};

const MANAGE: Permission = Permission::ManageAccess;

fn set_of(permissions: &[Permission]) -> Permissions {
    permissions.iter().copied().collect()
}

fn update(id: Uuid, permissions: &[Permission]) -> Command {
    Command::UpdateUser {
        id,
        account: None,
        permissions: set_of(permissions),
        reactivate: false,
        expected_revision: None,
    }
}

fn reactivate(id: Uuid, permissions: &[Permission]) -> Command {
    Command::UpdateUser {
        id,
        account: None,
        permissions: set_of(permissions),
        reactivate: true,
        expected_revision: None,
    }
}

fn deactivate(id: Uuid) -> Command {
    Command::DeactivateUser { id, expected_revision: None }
}

fn revoke(id: Uuid) -> Command {
    Command::RevokeToken { id, expected_revision: None }
}

/// Gives a user a second token, with its own secret.
fn second_token(user_id: Uuid) -> Command {
    Command::CreateToken(NewToken { secret_hash: [0xcd; 32], ..new_token(user_id, None) })
}

impl World {
    fn user(&self, address: &str) -> Arc<User> {
        Arc::clone(self.state.user_by_email(&email(address)).unwrap())
    }

    /// A change by the administrator.
    fn admin(&self, command: Command) -> Proposal {
        by(self.token("admin@localhost"), MANAGE, command)
    }

    fn signed_on(&self, subject: &str, permissions: &[Permission], command: Command) -> Proposal {
        let identity = Identity {
            issuer: "https://issuer".into(),
            subject: subject.into(),
            email: email(&format!("{subject}@example.com")),
            permissions: set_of(permissions),
            environment: None,
            expires_at: self.now.plus_seconds(60),
        };
        let permission = permissions.first().copied().unwrap_or(MANAGE);
        proposal(Actor::Caller { credential: Credential::SignOn(identity.into()), permission }, command)
    }
}

#[test]
fn user_update_sets_permissions() {
    let mut world = World::new();
    world.with_user("ann@example.com", &[Permission::ViewAuditLogs]);
    let before = world.user("ann@example.com");

    let answer = world.accept(world.admin(update(before.id, &[Permission::ViewFeatureFlags])));

    let after = world.user("ann@example.com");
    assert_eq!(after.permissions, set_of(&[Permission::ViewFeatureFlags]));
    let entry = answer.entry.unwrap();
    assert_eq!((entry.action, entry.entity_id), (Action::UserUpdated, Some(before.id)));
    assert_eq!(entry.previous_entity_revision, Some(before.revision));
    assert_eq!(entry.old_value.as_deref(), Some(&*before.to_json()));
    assert_eq!(entry.new_value.as_deref(), Some(&*after.to_json()));
    let again = world.accept(world.admin(update(before.id, &[Permission::ViewFeatureFlags])));
    assert_eq!((again.entry, again.object), (None, Object::User(after)));
}

#[test]
fn missing_permissions_are_neither_granted_nor_revoked() {
    let mut world = World::new();
    let clerk = world.with_user("clerk@example.com", &[MANAGE, Permission::ViewFeatureFlags]);
    world.with_user("ann@example.com", &[Permission::ToggleFeatureFlags]);
    let (ann, own) = (world.user("ann@example.com").id, world.user("clerk@example.com").id);
    let as_clerk = |command| by(clerk, MANAGE, command);
    for (target, wanted) in [
        (ann, &[Permission::ToggleFeatureFlags, Permission::ViewAuditLogs][..]),
        (own, &[MANAGE, Permission::ViewAuditLogs]),
    ] {
        assert_eq!(
            world.reject(as_clerk(update(target, wanted))),
            Error::PermissionDenied(Permission::ViewAuditLogs.into())
        );
    }
    let kept = [Permission::ToggleFeatureFlags, Permission::ViewFeatureFlags];
    world.accept(as_clerk(update(ann, &kept)));
    assert_eq!(world.user("ann@example.com").permissions, set_of(&kept));
    let missing = Error::PermissionDenied(Permission::ToggleFeatureFlags.into());
    for rest in [&[][..], &[Permission::ViewFeatureFlags], &[MANAGE]] {
        assert_eq!(world.reject(as_clerk(update(ann, rest))), missing);
    }
    world.accept(as_clerk(update(ann, &[Permission::ToggleFeatureFlags])));
    world.accept(world.admin(update(ann, &[])));
    assert_eq!(world.reject(as_clerk(update(ann, &kept))), missing);
}

/// So that nobody learns which environments exist in which they hold nothing.
#[test]
fn unknown_environment_is_named_only_to_who_may_grant_there() {
    let mut world = World::new();
    let clerk = world.with_user("clerk@example.com", &[MANAGE]);
    world.with_user("ann@example.com", &[]);
    let toggle = ScopedPermission::parse("toggle_feature_flags@nowhere").unwrap();
    let permissions: Permissions = std::iter::once(toggle.clone()).collect();
    let (account, id) = (None, world.user("ann@example.com").id);
    let update = Command::UpdateUser {
        id,
        account,
        permissions: permissions.clone(),
        reactivate: false,
        expected_revision: None,
    };
    assert_eq!(world.reject(by(clerk, MANAGE, update.clone())), Error::PermissionDenied(toggle));
    let unknown = Error::Invalid(vec![Violation {
        field: "permissions".to_owned(),
        rule: "must not name the unknown environment nowhere".to_owned(),
    }]);
    assert_eq!(world.reject(world.admin(update)), unknown);
    let narrowed = NewToken { permissions: Some(permissions), ..new_token(id, None) };
    assert_eq!(world.reject(world.admin(Command::CreateToken(narrowed))), unknown);
}

#[test]
fn reactivation_requires_the_users_permissions() {
    let mut world = World::new();
    let ann = world.with_user("ann@example.com", &[Permission::ToggleFeatureFlags]);
    let clerk = world.with_user("clerk@example.com", &[MANAGE]);
    world.create("a");
    let id = world.user("ann@example.com").id;
    let flip = by(ann, Permission::ToggleFeatureFlags, toggle("a"));
    world.accept(flip.clone());

    let answer = world.accept(world.admin(deactivate(id)));

    assert_eq!(answer.entry.unwrap().action, Action::UserDeactivated);
    assert_eq!(world.user("ann@example.com").deactivated_at, Some(world.state.head().timestamp));
    assert_eq!(world.reject(flip.clone()), Error::Unauthenticated);
    assert_eq!(world.accept(world.admin(deactivate(id))).entry, None);
    let address = email("ann@example.com");
    assert_eq!(world.reject(world.admin(update(id, &[]))), Error::UserDeactivated(address.clone()));
    assert_eq!(world.reject(world.admin(second_token(id))), Error::UserDeactivated(address));
    let wanted = [Permission::ToggleFeatureFlags];
    assert_eq!(
        world.reject(by(clerk, MANAGE, reactivate(id, &wanted))),
        Error::PermissionDenied(Permission::ToggleFeatureFlags.into())
    );
    world.accept(world.admin(reactivate(id, &wanted)));
    world.accept(flip);
}

#[test]
fn last_access_manager_cannot_be_removed() {
    let mut world = World::new();
    let admin = world.user("admin@localhost").id;
    let last = Error::LastAccessManager(email("admin@localhost"));
    assert_eq!(world.reject(world.admin(deactivate(admin))), last);
    assert_eq!(world.reject(world.admin(update(admin, &[Permission::ViewFeatureFlags]))), last);
    assert_eq!(world.reject(service(deactivate(admin))), last);

    world.with_user("bob@example.com", &[MANAGE]);
    let bob = world.user("bob@example.com").id;
    world.accept(world.admin(deactivate(bob)));
    // A deactivated user does not count.
    assert_eq!(world.reject(world.admin(update(admin, &[]))), last);
    world.accept(world.admin(reactivate(bob, &[MANAGE])));
    // Nor may one batch take it from both.
    let both = [world.admin(update(admin, &[])), world.admin(update(bob, &[]))];
    let step = world.commit(&both);
    assert!(matches!(step.decisions[0], Decision::Accepted(_)));
    assert_eq!(rejected(&step, 1), Error::PermissionDenied(MANAGE.into()));
    assert_eq!(world.reject(service(update(bob, &[]))), Error::LastAccessManager(email("bob@example.com")));
}

#[test]
fn caller_cannot_remove_their_own_access() {
    let mut world = World::new();
    world.with_user("bob@example.com", &[MANAGE]);
    let (admin, token) = (world.user("admin@localhost").id, world.token("admin@localhost"));
    assert_eq!(world.reject(world.admin(deactivate(admin))), Error::RemovesOwnAccess);
    assert_eq!(world.reject(world.admin(revoke(token))), Error::RemovesOwnAccess);
    // Rotation: create a second token first.
    world.accept(world.admin(second_token(admin)));
    let answer = world.accept(world.admin(revoke(token)));
    assert_eq!(answer.entry.unwrap().action, Action::TokenRevoked);
    assert_eq!(world.reject(by(token, MANAGE, revoke(token))), Error::Unauthenticated);
    let second = world.state.token_by_secret(&[0xcd; 32]).unwrap().id;
    assert_eq!(world.reject(by(second, MANAGE, revoke(second))), Error::RemovesOwnAccess);
    // An expired token does not count as access, and an expired token can always be revoked.
    let dying = NewToken { secret_hash: [0xee; 32], ..new_token(admin, Some(world.now.plus_seconds(1))) };
    world.accept(by(second, MANAGE, Command::CreateToken(dying)));
    world.now = world.now.plus_seconds(2);
    assert_eq!(world.reject(by(second, MANAGE, revoke(second))), Error::RemovesOwnAccess);
    let expired = world.state.token_by_secret(&[0xee; 32]).unwrap().id;
    world.accept(by(second, MANAGE, revoke(expired)));
    assert_eq!(world.accept(by(second, MANAGE, revoke(expired))).entry, None);
    // An operator with a shell can always create another token.
    world.accept(service(revoke(second)));
}

#[test]
fn access_changes_check_expected_revision() {
    let mut world = World::new();
    let ann = world.with_user("ann@example.com", &[]);
    let (user, token) = (world.user("ann@example.com"), Arc::clone(world.state.token(ann).unwrap()));
    let expected_revision = Some(user.revision + 100);
    let permissions = Permissions::default();
    for (command, current) in [
        (
            Command::UpdateUser { id: user.id, account: None, permissions, reactivate: false, expected_revision },
            user.revision,
        ),
        (Command::DeactivateUser { id: user.id, expected_revision }, user.revision),
        (Command::RevokeToken { id: ann, expected_revision }, token.revision),
    ] {
        let expected = user.revision + 100;
        assert_eq!(world.reject(world.admin(command)), Error::RevisionMismatch { expected, current });
    }
    let unknown = Uuid::from_u128(0xdead);
    assert_eq!(world.reject(world.admin(update(unknown, &[]))), Error::UserNotFound(unknown));
    assert_eq!(world.reject(world.admin(deactivate(unknown))), Error::UserNotFound(unknown));
    assert_eq!(world.reject(world.admin(revoke(unknown))), Error::TokenNotFound(unknown));
}

#[test]
fn first_change_provisions_a_sign_on_user() {
    let mut world = World::new();
    world.create("a");
    let before = world.state.head().revision;
    let flip = |world: &World| world.signed_on("sue", &[Permission::ToggleFeatureFlags], toggle("a"));

    let step = world.commit(&[flip(&world), flip(&world)]);

    let [created, first, second] = step.entries.as_slice() else { panic!("{:?}", step.entries) };
    let sue = world.user("sue@example.com");
    assert_eq!(created.action, Action::UserCreated);
    assert_eq!(sue.account, Some(Account { issuer: "https://issuer".into(), subject: "sue".into() }));
    assert_eq!(sue.permissions, Permissions::default());
    for (at, entry) in [created, first, second].into_iter().enumerate() {
        assert_eq!(entry.revision, before + 1 + at as i64);
        assert_eq!((entry.user_id, entry.token_id), (Some(sue.id), None));
        assert_eq!(&*entry.user_email, "sue@example.com");
    }
    // The permissions come from the present token, not from earlier ones.
    let lesser = world.signed_on("sue", &[], toggle("a"));
    assert_eq!(world.reject(lesser), Error::PermissionDenied(MANAGE.into()));
    world.accept(world.admin(deactivate(sue.id)));
    assert_eq!(world.reject(flip(&world)), Error::Unauthenticated);
}

#[test]
fn rejected_change_provisions_no_user() {
    let mut world = World::new();
    world.create("a");
    let may = [Permission::ToggleFeatureFlags];
    let refused = world.signed_on("sue", &may, toggle("nope"));
    assert_eq!(world.reject(refused), Error::FlagNotFound("nope".into()));
    let only = Proposal { validate_only: true, ..world.signed_on("sue", &may, toggle("a")) };
    let head = world.state.head().revision;
    assert_eq!(world.accept(only).revision, head);
    let nothing = || Command::SetStatus(set("a", Status::Disabled));
    let answer = world.accept(world.signed_on("sue", &may, nothing()));
    assert_eq!((answer.entry, answer.revision), (None, head));
    assert!(world.state.user_by_email(&email("sue@example.com")).is_none());

    // Storing an answer requires a user.
    let step = world.commit(&[with_request_id(world.signed_on("sue", &may, nothing()), "r", 1)]);
    let sue = world.user("sue@example.com");
    assert_eq!((step.entries.len(), step.requests[0].user_id), (1, sue.id));
}

#[test]
fn sign_on_email_does_not_claim_another_user() {
    let mut world = World::new();
    world.create("a");
    world.with_user("sue@example.com", &[]);
    let flip = world.signed_on("sue", &[Permission::ToggleFeatureFlags], toggle("a"));
    assert_eq!(world.reject(flip), Error::SignOnEmailTaken(email("sue@example.com")));
    // Nor two callers with one address in the same batch: the first gets it.
    let identity = |subject: &str| Identity {
        issuer: "https://issuer".into(),
        subject: subject.into(),
        email: email("joe@example.com"),
        permissions: Permissions::all(),
        environment: None,
        expires_at: world.now.plus_seconds(60),
    };
    let by = |subject| {
        let credential = Credential::SignOn(identity(subject).into());
        proposal(Actor::Caller { credential, permission: Permission::ToggleFeatureFlags }, toggle("a"))
    };
    let step = world.commit(&[by("one"), by("two")]);
    assert_eq!(step.entries.len(), 2);
    assert_eq!(rejected(&step, 1), Error::SignOnEmailTaken(email("joe@example.com")));
}

#[test]
fn access_manager_links_one_account_per_user() {
    let mut world = World::new();
    world.create("a");
    world.with_user("sue@example.com", &[]);
    world.with_user("joe@example.com", &[]);
    let [sue, joe] = ["sue@example.com", "joe@example.com"].map(|address| world.user(address).id);
    let account = |subject: &str| Account { issuer: "https://issuer".into(), subject: subject.into() };
    let tie = |id, subject: &str| Command::UpdateUser {
        id,
        account: Some(account(subject)),
        permissions: Permissions::default(),
        reactivate: false,
        expected_revision: None,
    };
    let flip = |world: &World, subject: &str| world.signed_on(subject, &[Permission::ToggleFeatureFlags], toggle("a"));
    assert!(matches!(world.reject(flip(&world, "sue")), Error::SignOnEmailTaken(_)));

    world.accept(world.admin(tie(sue, "sue")));

    assert_eq!(world.accept(flip(&world, "sue")).entry.unwrap().user_id, Some(sue));
    assert_eq!(world.accept(world.admin(tie(sue, "sue"))).entry, None);
    assert_eq!(world.reject(world.admin(tie(joe, "sue"))), Error::AccountTaken(account("sue")));
    // Fields that are not given stay unchanged.
    world.accept(world.admin(update(sue, &[Permission::ViewAuditLogs])));
    assert_eq!(world.user("sue@example.com").account, Some(account("sue")));
    world.accept(world.admin(update(sue, &[])));
    // Linking another account frees the first one, even within the same batch.
    let step = world.commit(&[world.admin(tie(sue, "susan")), world.admin(tie(joe, "sue"))]);
    assert!(step.decisions.iter().all(|decision| matches!(decision, Decision::Accepted(_))), "{:?}", step.decisions);
    assert_eq!(world.accept(flip(&world, "sue")).entry.unwrap().user_id, Some(joe));
    assert_eq!(world.accept(flip(&world, "susan")).entry.unwrap().user_id, Some(sue));
    let (email, account) = (email("x@example.com"), Some(account("sue")));
    let new = Command::CreateUser { email, account: account.clone(), permissions: Permissions::default() };
    assert_eq!(world.reject(world.admin(new)), Error::AccountTaken(account.unwrap()));
}

/// A list that was left out looks like an empty one.
#[test]
fn permissions_are_revoked_only_by_name() {
    let mut world = World::new();
    world.with_user("sue@example.com", &[Permission::ToggleFeatureFlags, Permission::ViewFeatureFlags]);
    let sue = world.user("sue@example.com").id;
    let link = |permissions: &[Permission]| Command::UpdateUser {
        id: sue,
        account: Some(Account { issuer: "https://issuer".into(), subject: "sue".into() }),
        permissions: set_of(permissions),
        reactivate: false,
        expected_revision: None,
    };
    for command in [link(&[]), reactivate(sue, &[])] {
        let Error::Invalid(violations) = world.reject(world.admin(command)) else { panic!("another error") };
        assert_eq!(violations[0].field, "permissions");
        let rule = &violations[0].rule;
        assert!(rule.contains("(toggle_feature_flags, view_feature_flags)"), "{rule}");
    }

    world.accept(world.admin(link(&[Permission::ViewFeatureFlags])));
    world.accept(world.admin(update(sue, &[])));
    world.accept(world.admin(link(&[])));
    world.accept(world.admin(deactivate(sue)));
    world.accept(world.admin(reactivate(sue, &[])));
    assert_eq!(world.user("sue@example.com").permissions, Permissions::default());
}

/// Everything that lets someone act as a user, by a caller who lacks one of the user's permissions.
#[test]
fn acting_as_a_user_requires_all_their_permissions() {
    type Caller = Box<dyn Fn(&World, Command) -> Proposal>;
    let mut world = World::new();
    world.create("a");
    let held = [MANAGE, Permission::ViewFeatureFlags];
    let clerk = world.with_user("clerk@example.com", &held);
    world.with_user("olga@example.com", &[MANAGE, Permission::ToggleFeatureFlags]);
    world.with_user("peer@example.com", &[Permission::ViewFeatureFlags]);
    let [olga, peer] = ["olga@example.com", "peer@example.com"].map(|address| world.user(address).id);
    let own = Some(Account { issuer: "https://issuer".into(), subject: "mallory".into() });
    let link = |id, permissions: &[Permission]| Command::UpdateUser {
        id,
        account: own.clone(),
        permissions: set_of(permissions),
        reactivate: false,
        expected_revision: None,
    };
    let token = |id, list: Option<&[Permission]>| {
        Command::CreateToken(NewToken { permissions: list.map(set_of), secret_hash: [0xcd; 32], ..new_token(id, None) })
    };
    let everything = &[MANAGE, Permission::ToggleFeatureFlags];
    // A narrowed token of the administrator, and a single sign-on whose claims are few, are no more than the clerk.
    let narrowed = NewToken { permissions: Some(set_of(&held)), secret_hash: [0xab; 32], ..new_token(olga, None) };
    world.accept(world.admin(Command::CreateToken(narrowed)));
    let narrowed = world.state.token_by_secret(&[0xab; 32]).unwrap().id;
    let missing = Error::PermissionDenied(Permission::ToggleFeatureFlags.into());
    let mut callers: Vec<Caller> = vec![
        Box::new(move |_, command| by(clerk, MANAGE, command)),
        Box::new(move |world, command| world.signed_on("sid", &held, command)),
    ];
    for caller in &callers {
        for command in [
            link(olga, everything),
            // Giving up the permissions in the same change does not help.
            link(olga, &[]),
            token(olga, None),
            token(olga, Some(&[])),
            token(olga, Some(&[Permission::ViewFeatureFlags])),
        ] {
            assert_eq!(world.reject(caller(&world, command)), missing);
        }
    }
    // Nor may a narrowed token of the user give its holder another way in.
    callers.push(Box::new(move |_, command| by(narrowed, MANAGE, command)));
    assert_eq!(world.reject(callers[2](&world, link(olga, everything))), missing);
    assert_eq!(world.reject(callers[2](&world, token(olga, None))), missing);
    world.accept(world.admin(deactivate(olga)));
    for caller in &callers[..2] {
        for command in [reactivate(olga, everything), reactivate(olga, &[])] {
            assert_eq!(world.reject(caller(&world, command)), missing);
        }
    }
    world.accept(world.admin(reactivate(olga, everything)));
    // Nor may they revoke what they do not hold, and then act as the user.
    for caller in &callers {
        for rest in [&[MANAGE][..], &[]] {
            assert_eq!(world.reject(caller(&world, update(olga, rest))), missing);
        }
    }
    // A caller who holds as much may, and an emergency needs no more than before.
    world.accept(callers[0](&world, token(peer, Some(&[Permission::ViewFeatureFlags]))));
    world.accept(callers[0](&world, link(peer, &[Permission::ViewFeatureFlags])));
    world.accept(callers[0](&world, revoke(world.token("olga@example.com"))));
    world.accept(callers[0](&world, update(olga, &[Permission::ToggleFeatureFlags])));
    world.accept(world.admin(update(olga, everything)));
    world.accept(callers[0](&world, deactivate(olga)));
}

/// The permissions in the claims of an account are not known, so they may be all.
#[test]
fn acting_as_a_sign_on_user_requires_all_permissions() {
    let mut world = World::new();
    world.create("a");
    let clerk = world.with_user("clerk@example.com", &[MANAGE]);
    world.accept(world.signed_on("sue", &[Permission::ToggleFeatureFlags], toggle("a")));
    let sue = world.user("sue@example.com").id;
    let account = Some(Account { issuer: "https://issuer".into(), subject: "clerk".into() });
    let permissions = Permissions::default();
    let link = Command::UpdateUser { id: sue, account, permissions, reactivate: false, expected_revision: None };
    for command in [link, second_token(sue)] {
        assert!(matches!(world.reject(by(clerk, MANAGE, command.clone())), Error::PermissionDenied(_)), "{command:?}");
        world.accept(world.admin(command));
    }
    // A change that gives no way in does not need them.
    world.accept(by(clerk, MANAGE, update(sue, &[MANAGE])));
}

#[test]
fn own_token_gains_no_more_than_its_creators_credential() {
    let mut world = World::new();
    world.create("a");
    let full = world.with_user("ann@example.com", &[MANAGE]);
    let ann = world.user("ann@example.com").id;
    let create = |number: u8| Command::CreateToken(NewToken { secret_hash: [number; 32], ..new_token(ann, None) });
    let limited = NewToken { permissions: Some(set_of(&[MANAGE])), secret_hash: [1; 32], ..new_token(ann, None) };
    world.accept(by(full, MANAGE, Command::CreateToken(limited)));
    let limited = world.state.token_by_secret(&[1; 32]).unwrap().id;
    let linked = Command::UpdateUser {
        id: ann,
        account: Some(Account { issuer: "https://issuer".into(), subject: "ann".into() }),
        permissions: set_of(&[MANAGE]),
        reactivate: false,
        expected_revision: None,
    };
    world.accept(world.admin(linked));
    world.accept(by(full, MANAGE, create(2)));
    world.accept(by(limited, MANAGE, create(3)));
    world.accept(world.signed_on("ann", &[MANAGE], create(4)));

    world.accept(world.admin(update(ann, &[MANAGE, Permission::ToggleFeatureFlags])));

    let flip = |world: &World, number: u8| {
        let token = world.state.token_by_secret(&[number; 32]).unwrap().id;
        by(token, Permission::ToggleFeatureFlags, toggle("a"))
    };
    world.accept(flip(&world, 2));
    for number in [3, 4] {
        assert_eq!(world.reject(flip(&world, number)), Error::PermissionDenied(Permission::ToggleFeatureFlags.into()));
    }
}

#[test]
fn denied_newcomer_is_not_named_as_another_user() {
    let mut world = World::new();
    world.with_user("sue@example.com", &[]);
    let denial = Denial { permission: MANAGE.into(), object: None, environment: None, suppressed: 0 };
    let entry = world.accept(world.signed_on("sue", &[], Command::RecordDenial(denial))).entry.unwrap();
    assert_eq!((entry.user_id, &*entry.user_email), (None, "sign-on@localhost"));
    assert!(entry.new_value.as_deref().is_some_and(|details| details.contains(r#""subject":"sue""#)));
}

/// A request belongs to the user that its caller is at its position in the batch.
#[test]
fn owner_of_a_request_follows_the_batch() {
    let mut world = World::new();
    world.create("a");
    world.with_user("sue@example.com", &[]);
    let sue = world.user("sue@example.com").id;
    let tie = Command::UpdateUser {
        id: sue,
        account: Some(Account { issuer: "https://issuer".into(), subject: "sun".into() }),
        permissions: Permissions::default(),
        reactivate: false,
        expected_revision: None,
    };
    let flip = |subject: &str| {
        let flip = world.signed_on(subject, &[Permission::ToggleFeatureFlags], toggle("a"));
        with_request_id(flip, &format!("by {subject}"), 1)
    };
    let proposals = [service(toggle("a")), flip("joe"), flip("joe"), world.admin(tie), flip("sun"), flip("sun")];

    let step = world.commit(&proposals);

    let joe = world.user("joe@example.com").id;
    let owner = |user_id, is_known_at_base| Some(RequestOwner { user_id, is_known_at_base });
    let admin = world.user("admin@localhost").id;
    assert_eq!(
        step.owners,
        [None, owner(joe, false), owner(joe, false), owner(admin, true), owner(sue, false), owner(sue, false)]
    );
    let stored: Vec<_> = step.requests.iter().map(|request| (request.user_id, request.request_id.as_str())).collect();
    assert_eq!(stored, [(joe, "by joe"), (sue, "by sun")]);
}

#[test]
fn sign_on_and_certificate_expire() {
    let mut world = World::new();
    world.create("a");
    let flip = world.signed_on("sue", &[Permission::ToggleFeatureFlags], toggle("a"));
    let credential =
        Credential::Certificate { user_id: world.user("admin@localhost").id, expires_at: world.now.plus_seconds(60) };
    let by_certificate =
        proposal(Actor::Caller { credential, permission: Permission::ToggleFeatureFlags }, toggle("a"));
    world.now = world.now.plus_seconds(59);
    world.accept(flip.clone());
    let entry = world.accept(by_certificate.clone()).entry.unwrap();
    assert_eq!((&*entry.user_email, entry.token_id), ("admin@localhost", None));
    world.now = world.now.plus_seconds(1);
    assert_eq!(world.reject(flip), Error::Unauthenticated);
    assert_eq!(world.reject(by_certificate), Error::Unauthenticated);
}

#[test]
fn sign_on_manager_is_not_the_last_manager() {
    let mut world = World::new();
    let admin = world.user("admin@localhost").id;
    let by_sign_on = world.signed_on("sue", &[MANAGE], deactivate(admin));
    assert_eq!(world.reject(by_sign_on), Error::LastAccessManager(email("admin@localhost")));
}

#[test]
fn token_is_limited_to_its_creators_permissions() {
    let mut world = World::new();
    let clerk = world.with_user("clerk@example.com", &[MANAGE, Permission::ViewFeatureFlags]);
    world.accept(service(Command::CreateUser {
        email: email("ann@example.com"),
        account: None,
        permissions: Permissions::default(),
    }));
    let ann = world.user("ann@example.com").id;
    let answer = world.accept(by(clerk, MANAGE, second_token(ann)));
    let Object::Token(token) = answer.object else { panic!("not a token") };
    assert_eq!(token.permissions, Some(set_of(&[MANAGE, Permission::ViewFeatureFlags])));
    // Whatever the user is granted later, the token whose secret the clerk may know does not permit it.
    world.accept(world.admin(update(ann, &[Permission::ToggleFeatureFlags])));
    world.create("a");
    let flip = by(token.id, Permission::ToggleFeatureFlags, toggle("a"));
    assert_eq!(world.reject(flip), Error::PermissionDenied(Permission::ToggleFeatureFlags.into()));
    // A caller's own token gains with its user, and one created by an all-powerful caller needs no limit.
    let own = NewToken { secret_hash: [0xaa; 32], ..new_token(world.user("clerk@example.com").id, None) };
    let Object::Token(own) = world.accept(by(clerk, MANAGE, Command::CreateToken(own))).object else { panic!() };
    let full = NewToken { secret_hash: [0xbb; 32], ..new_token(ann, None) };
    let Object::Token(full) = world.accept(world.admin(Command::CreateToken(full))).object else { panic!() };
    assert_eq!((&own.permissions, &full.permissions), (&None, &None));
}

#[test]
fn sign_on_reactivation_takes_all_permissions() {
    let mut world = World::new();
    let clerk = world.with_user("clerk@example.com", &[MANAGE]);
    world.create("a");
    world.accept(world.signed_on("sue", &[Permission::ToggleFeatureFlags], toggle("a")));
    let sue = world.user("sue@example.com").id;
    world.accept(world.admin(deactivate(sue)));
    assert!(matches!(world.reject(by(clerk, MANAGE, reactivate(sue, &[]))), Error::PermissionDenied(_)));
    world.accept(world.admin(reactivate(sue, &[])));
}

#[test]
fn denial_record_names_the_object() {
    let mut world = World::new();
    let ann = world.with_user("ann@example.com", &[]);
    let flag = world.create("a");
    let user = world.user("ann@example.com");
    let cases = [
        (Some(FlagRef::key(flag.key.clone()).into()), EntityType::FeatureFlag, Some(flag.id), "a"),
        (Some(ObjectRef::Id(flag.id)), EntityType::FeatureFlag, Some(flag.id), "a"),
        (Some(FlagRef::key(FlagKey::parse("nope").unwrap()).into()), EntityType::FeatureFlag, None, "nope"),
        (Some(ObjectRef::Id(user.id)), EntityType::User, Some(user.id), "ann@example.com"),
        (Some(ObjectRef::Email(user.email.clone())), EntityType::User, Some(user.id), "ann@example.com"),
        (Some(ObjectRef::Id(ann)), EntityType::ApiToken, Some(ann), &ann.to_string()),
        (None, EntityType::FeatureFlag, None, ""),
    ];
    for (object, kind, id, key) in cases {
        let denial =
            Denial { permission: Permission::ToggleFeatureFlags.into(), object, environment: None, suppressed: 2 };
        let record = by(ann, Permission::ToggleFeatureFlags, Command::RecordDenial(denial));
        let answer = world.accept(record);
        let entry = answer.entry.unwrap();
        assert_eq!(entry.action, Action::AccessDenied);
        assert_eq!((entry.entity_type, entry.entity_id, &*entry.entity_key), (kind, id, key));
        assert_eq!(entry.new_value.as_deref(), Some(r#"{"permission":"toggle_feature_flags","suppressed":2}"#));
        assert_eq!((entry.user_id, &*entry.user_email), (Some(user.id), "ann@example.com"));
    }
    assert_eq!(world.create("b").revision, world.state.head().revision);
    // A denied caller who is not a user is recorded without becoming one.
    let denial = Denial { permission: MANAGE.into(), object: None, environment: None, suppressed: 0 };
    let entry = world.accept(world.signed_on("sue", &[], Command::RecordDenial(denial))).entry.unwrap();
    assert_eq!((entry.user_id, &*entry.user_email), (None, "sue@example.com"));
    let details = r#"{"issuer":"https://issuer","permission":"manage_access","subject":"sue","suppressed":0}"#;
    assert_eq!(entry.new_value.as_deref(), Some(details));
}

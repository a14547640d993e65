//! Appending: the database has what was decided, for every kind of change and every value.
//!
//! `World::commit` compares the whole content of the database with the expected content after each step.

use std::sync::Arc;

use toggled::domain::access::{Credential, Directory, Permission, Permissions, ScopedPermission, Token, User};
use toggled::domain::advance::{Command, Created, NewFlag, NewToken, Origin, Proposal};
use toggled::domain::audit::{Action, EntityType, Entry};
use toggled::domain::flag::Status;
use toggled::domain::state::Delta;
use toggled::domain::text::{Description, EnvironmentKey, FlagKey, Reason, RequestId};
use toggled::domain::time::Timestamp;
use toggled::store::AppendOutcome;

use super::world::*;
use crate::support::on_both_databases;

/// Texts that databases have mishandled before.
const NASTY: [&str; 16] = [
    "'; DROP TABLE audit_logs; --",
    r#"\ "quoted" \" 'twice'' \u0041 \n"#,
    "$1 ? ?1 :name @name %s {} {0} ${x}",
    "NULL",
    "null",
    "{\"json\":[1,null,\"x\"]}",
    "[]",
    "0123",
    "1e5",
    "true",
    " both ends ",
    "tab\tline\nreturn\r\u{1}\u{1f}\u{7f}\u{85}\u{2028}",
    "żółć 漢字 עברית e\u{301} 👩‍👩‍👧‍👦",
    "\u{feff}\u{fffd}\u{ffff}\u{10ffff}",
    "{a,b}",
    "(1,\"x\")",
];

on_both_databases! {
    async fn every_kind_of_change_reads_back_as_decided(backend: Backend) {
        let mut world = World::new(backend).await;
        let steps: Vec<Vec<Command>> = vec![
            vec![create("a")],
            vec![create_as("on", Status::Enabled)],
            vec![toggle("a")],
            vec![toggle("a"), toggle("a")],
            vec![toggle("a"), toggle("a"), toggle("a")],
            vec![toggle("a"), rename("a", "Flipped, then renamed")],
            vec![rename("a", "Renamed, then flipped"), toggle("a")],
            vec![toggle("a"), rename("a", "In between"), toggle("a")],
            vec![create("b"), toggle("b")],
            vec![create("c"), toggle("c"), rename("c", "New"), toggle("c")],
            vec![create("d"), rename("d", "Renamed at once")],
            vec![archive("b", true)],
            vec![archive("b", false)],
            vec![toggle("b"), archive("b", true), archive("b", false), toggle("b")],
            vec![Command::UpdateFlag {
                flag: flag("a"),
                name: None,
                description: Some(Description::parse("What it is for").unwrap()),
                expected_revision: None,
            }],
            vec![Command::SetStatus(set("a", Status::Enabled)), Command::SetStatus(set("a", Status::Disabled))],
            vec![Command::BatchSet(vec![
                set("a", Status::Enabled),
                set("b", Status::Disabled),
                set("d", Status::Enabled),
            ])],
            vec![toggle("a"), create("e"), toggle("b"), create("f"), toggle("f")],
            vec![
                create_user("ann@example.com", Permissions::default()),
                create_user("bob@example.com", Permissions::all()),
            ],
            vec![create_token(world.user("admin@localhost").id, 2), toggle("a"), create("g")],
            vec![create_token_in(in_default(), world.user("admin@localhost").id, 3)],
            // The environment and what belongs to it, in one step.
            vec![
                create_environment("test"),
                create_token_in(Some(EnvironmentKey::parse("test").unwrap()), world.user("admin@localhost").id, 4),
            ],
            vec![create_environment("staging")],
            vec![create_environment("dev"), update_environment("dev", "Development", true), toggle("a")],
            vec![update_environment("staging", "Staging", true), update_environment("staging", "Staging 2", true)],
            vec![archive_environment("staging", true)],
            vec![archive_environment("staging", false), create("h"), archive_environment("dev", true)],
        ];
        for commands in steps {
            let proposals: Vec<Proposal> = commands.into_iter().map(|command| world.by_admin(command)).collect();
            world.commit(&proposals).await;
        }
        let all = vec![set("a", Status::Enabled), set("on", Status::Enabled)];
        let request = in_full(world.by_admin(Command::BatchSet(all)), "everything present");
        world.commit(&[request, service(toggle("a")), in_full(world.by_admin(toggle("a")), "and again")]).await;
        assert_eq!(world.state.head().revision, i64::try_from(world.entries.len()).unwrap(), "no gaps");
    }

    /// Absent fields do not become empty, and empty ones do not become absent.
    async fn absent_fields_stay_absent(backend: Backend) {
        let mut world = World::new(backend).await;
        let bare = world.commit(&[service(create("a"))]).await.entries.remove(0);
        assert_eq!((bare.user_id, bare.token_id, &bare.reason, &bare.request_id), (None, None, &None, &None));
        assert_eq!((&bare.peer, &bare.user_agent, &bare.old_value), (&None, &None, &None));
        assert_eq!(bare.previous_entity_revision, None);
        let full = world.commit(&[in_full(world.by_admin(toggle("a")), "r")]).await.entries.remove(0);
        assert!(
            full.user_id.is_some() && full.token_id.is_some() && full.reason.is_some() && full.request_id.is_some()
        );
        assert!(full.peer.is_some() && full.user_agent.is_some() && full.old_value.is_some());
        assert!(full.previous_entity_revision.is_some());
        // An entry about the log itself names no object.
        let about_the_log = Entry {
            action: Action::LogTrimmed,
            entity_type: EntityType::Log,
            entity_id: None,
            new_value: None,
            ..Entry::clone(&bare)
        };
        let step = world.by_hand(about_the_log);
        world.append(&step).await;
        // A token with no permissions differs from a token without restrictions.
        let narrow = |secret, permissions| {
            let user_id = world.user("admin@localhost").id;
            world.by_admin(Command::CreateToken(NewToken {
                user_id,
                name: name("t"),
                permissions,
                environment: None,
                expires_at: None,
                secret_hash: [secret; 32],
            }))
        };
        let tokens = [
            narrow(2, None),
            narrow(3, Some(Permissions::default())),
            narrow(4, Some([Permission::ViewAuditLogs, Permission::ManageAccess].into_iter().collect())),
            narrow(5, Some(Permissions::all())),
        ];
        world.commit(&tokens).await;
        assert_eq!(world.token(2).permissions, None);
        assert_eq!(world.token(3).permissions, Some(Permissions::default()));
    }

    async fn permissions_in_environments_read_back_as_granted(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&["eu-1", "staging"].map(|key| service(create_environment(key)))).await;
        let names = ["toggle_feature_flags@eu-1", "toggle_feature_flags@staging", "view_feature_flags"];
        let permissions: Permissions = names.iter().map(|name| ScopedPermission::parse(name).unwrap()).collect();
        world.commit(&[service(create_user("ann@example.com", permissions.clone()))]).await;
        let new = NewToken {
            user_id: world.user("ann@example.com").id,
            name: name("t"),
            permissions: Some(permissions),
            environment: None,
            expires_at: None,
            secret_hash: [2; 32],
        };
        world.commit(&[service(Command::CreateToken(new))]).await;
        let loaded = world.store.load().await.unwrap();
        let token = loaded.token_by_secret(&[2; 32]).unwrap();
        assert_eq!(loaded.user(token.user_id).unwrap().permissions.names(), names);
        assert_eq!(token.permissions.as_ref().unwrap().names(), names);
    }

    async fn every_text_reads_back_unchanged(backend: Backend) {
        let mut world = World::new(backend).await;
        for (number, text) in NASTY.into_iter().enumerate() {
            let new = NewFlag {
                environment: in_default(),
                key: FlagKey::parse(&format!("k{number}.A-z_9")).unwrap(),
                name: name(text),
                description: Description::parse(text).unwrap(),
                status: Status::Disabled,
            };
            let key = new.key.clone();
            let mut create = in_full(world.by_admin(Command::CreateFlag(new)), text);
            create.reason = Some(Reason::parse(text).unwrap());
            create.origin = Origin { method: text.into(), peer: Some(text.into()), user_agent: Some(text.into()) };
            create.encode = |_| vec![0, 0xff, b'\'', 0, b'"'];
            let flip = Proposal {
                command: toggle(key.as_str()),
                request: None,
                reason: Some(Reason::parse(&text.repeat(20)).unwrap()),
                ..create.clone()
            };
            let environment = format!("e{number}-a");
            world.commit(&[create, flip, service(create_environment(&environment))]).await;
            world.commit(&[service(update_environment(&environment, text, true))]).await;
            assert_eq!(world.flag(key.as_str()).name.as_str(), text);
        }
        let longest = NewFlag {
            environment: in_default(),
            key: FlagKey::parse(&"k".repeat(128)).unwrap(),
            name: name(&"🦀".repeat(255)),
            description: Description::parse(&"🦀".repeat(2_000)).unwrap(),
            status: Status::Enabled,
        };
        let mut longest = in_full(world.by_admin(Command::CreateFlag(longest)), &"🦀".repeat(128));
        longest.reason = Some(Reason::parse(&"🦀".repeat(2_000)).unwrap());
        longest.encode = |_| Vec::new();
        world.commit(&[longest]).await;
    }

    async fn every_time_reads_back_to_the_microsecond(backend: Backend) {
        let mut world = World::new(backend).await;
        // The log's time stands still while the server's clock runs backwards; `created_at` is the clock's time.
        let before = world.now;
        for (number, clock) in
            [Timestamp::MIN, Timestamp::from_micros(-1), Timestamp::default()].into_iter().enumerate()
        {
            world.now = clock;
            let entry = world.commit(&[service(create(&format!("k{number}")))]).await.entries.remove(0);
            assert_eq!((entry.timestamp, entry.created_at), (before, world.now));
        }
        // PostgreSQL counts from 2000 on.
        world.now = Timestamp::MIN;
        let user_id = world.user("admin@localhost").id;
        let ends =
            [Timestamp::MIN.plus_seconds(2).micros(), -1, 0, 1, 946_684_799_999_999, 946_684_800_000_001, i64::MAX];
        let tokens = ends.map(Timestamp::from_micros).map(|end| {
            let secret_hash = std::array::from_fn(|n| end.micros().to_be_bytes()[n % 8]);
            let name = name("t");
            world.by_admin(Command::CreateToken(NewToken {
                user_id,
                name,
                permissions: None,
                environment: None,
                expires_at: Some(end),
                secret_hash,
            }))
        });
        world.commit(&tokens).await;
        world.now = Timestamp::MAX;
        world.commit(&[service(create("last"))]).await;
        world.commit(&[service(archive("last", true))]).await;
        assert_eq!(world.flag("last").archived_at, Some(Timestamp::MAX));
    }

    /// No command makes these changes, but the store supports them.
    async fn users_and_tokens_can_be_changed(backend: Backend) {
        let mut world = World::new(backend).await;
        let admin = world.user("admin@localhost").clone();
        world
            .commit(&[service(create_user("ann@example.com", Permissions::all())), service(create_token(admin.id, 2))])
            .await;
        let (created, issued) = (Entry::clone(world.entry_at(3)), Entry::clone(world.entry_at(4)));
        let ann = world.user("ann@example.com").clone();

        let mut step = world.by_hand(Entry { action: Action::UserUpdated, ..created.clone() });
        let permissions: Permissions = [Permission::ViewAuditLogs].into_iter().collect();
        let changed = User { permissions: permissions.clone(), revision: step.head.revision, updated_at: world.now, ..User::clone(&ann) };
        step.delta = Delta { users: vec![Arc::new(changed.clone())], ..Delta::default() };
        world.append(&step).await;
        assert_eq!(world.user("ann@example.com").permissions, permissions);

        let mut step = world.by_hand(Entry { action: Action::UserDeactivated, ..created });
        let gone =
            User { deactivated_at: Some(world.now), revision: step.head.revision, updated_at: world.now, ..changed };
        step.delta = Delta { users: vec![Arc::new(gone)], ..Delta::default() };
        world.append(&step).await;

        let mut step = world.by_hand(Entry { action: Action::TokenRevoked, ..issued });
        let revoked =
            Token { revoked_at: Some(world.now), revision: step.head.revision, ..Token::clone(world.token(2)) };
        step.delta = Delta { tokens: vec![Arc::new(revoked)], ..Delta::default() };
        world.append(&step).await;
        assert_eq!(world.token(2).revoked_at, Some(world.now));
        assert_eq!(world.user("ann@example.com").created_at, ann.created_at);
    }

    /// More rows than a committer's batch, and more values than a statement may have parameters.
    async fn large_batch_is_one_append(backend: Backend) {
        let mut world = World::new(backend).await;
        let keys: Vec<String> = (0..1_000).map(|n| format!("flag-{n:04}")).collect();
        let creations: Vec<_> = keys.iter().map(|key| world.by_admin(create(key))).collect();
        let step = world.commit(&creations).await;
        assert_eq!(step.created, Created { flags: 1_000, ..Created::default() });
        let items = keys.iter().map(|key| set(key, Status::Enabled)).collect();
        world.commit(&[in_full(world.by_admin(Command::BatchSet(items)), "all")]).await;
        let flips: Vec<_> =
            (0..1_500).map(|n| in_full(world.by_admin(toggle(&keys[n % 20])), &format!("r{n}"))).collect();
        let step = world.commit(&flips).await;
        assert_eq!((step.entries.len(), step.requests.len(), step.delta.flags.len()), (1_500, 1_500, 20));
        assert_eq!(world.flag("flag-0000").status, Status::Disabled, "75 flips");
    }

    /// A request that changes nothing stores its answer, for a retry, and no entry.
    async fn step_of_requests_alone_keeps_the_head(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let head = *world.state.head();
        let nothing = Command::SetStatus(set("a", Status::Disabled));
        let step = world.commit(&[in_full(world.by_admin(nothing), "no-op")]).await;
        assert_eq!((step.entries.len(), step.requests.len()), (0, 1));
        assert_eq!(*world.state.head(), head);
        world.commit(&[service(toggle("a"))]).await;
    }

    async fn empty_step_only_checks_the_head(backend: Backend) {
        let mut world = World::new(backend).await;
        let step = world.decide(&[]);
        world.append(&step).await;
        world.append(&step).await;
        world.commit(&[service(create("a"))]).await;
        assert_eq!(world.append_in_vain(&step).await, AppendOutcome::HeadMoved);
        // Nor does it change objects: without an entry there is no change.
        let commands = [toggle("a"), create("b"), create_user("ann@example.com", Permissions::all())];
        let mut step = world.decide(&commands.map(service));
        step.entries.clear();
        assert_eq!(world.writer.append(&step).await.unwrap(), AppendOutcome::Appended);
        world.verify().await;
    }

    /// Requests of two users with the same id, and ids that differ only in case or normalization.
    async fn request_ids_are_compared_exactly(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a")), service(create_user("ann@example.com", Permissions::all()))]).await;
        world.commit(&[service(create_token(world.user("ann@example.com").id, 2))]).await;
        let ann = world.token(2).id;
        let by_ann = toggled::domain::advance::Actor::Caller { credential: Credential::Token(ann), permission: Permission::ManageAccess };
        for request in ["same", "Same", "same ", "sa\u{301}me", "s\u{e1}me"] {
            let flip = in_full(world.by_admin(toggle("a")), request);
            world.commit(&[Proposal { actor: by_ann.clone(), ..flip.clone() }, flip]).await;
        }
        let key = (world.token(2).user_id, RequestId::parse("SAME").unwrap());
        assert_eq!(world.store.requests(&[key]).await.unwrap(), []);
    }
}

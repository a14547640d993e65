//! Following the log: exactly what changed, and whether it is still the known log.

use std::collections::HashSet;

use toggled::domain::access::{Directory, Permissions};
use toggled::domain::audit::EntityType;
use toggled::domain::flag::Status;
use toggled::domain::state::Head;
use toggled::store::FollowOutcome;
use uuid::Uuid;

use super::retention::trim;
use super::world::*;
use crate::support::on_both_databases;

/// Asserts that following from `known` returns the head of the log and exactly what changed.
async fn leads_to_the_end(world: &World, known: &Head) {
    let (head, delta) = match world.store.follow(known).await.unwrap().outcome {
        FollowOutcome::Changed(head, delta) => (head, delta),
        other => panic!("from {}: {other:?}", known.revision),
    };
    assert_eq!(head, *world.state.head());
    let changed: HashSet<(EntityType, Uuid)> = world
        .entries
        .iter()
        .filter(|entry| entry.revision > known.revision)
        .filter_map(|entry| Some((entry.entity_type, entry.entity_id?)))
        .collect();
    let mut found = HashSet::new();
    for flag in &delta.flags {
        assert_eq!(flag, world.flag(flag.key.as_str()));
        assert!(found.insert((EntityType::FeatureFlag, flag.id)), "{} twice", flag.key);
    }
    for environment in &delta.environments {
        assert_eq!(environment, world.environment(environment.key.as_str()));
        assert!(found.insert((EntityType::Environment, environment.id)), "{} twice", environment.key);
    }
    for user in &delta.users {
        assert_eq!(user, world.user(user.email.as_str()));
        assert!(found.insert((EntityType::User, user.id)), "{} twice", user.email);
    }
    for token in &delta.tokens {
        assert_eq!(Some(token), world.state.token(token.id));
        assert!(found.insert((EntityType::ApiToken, token.id)), "{} twice", token.id);
    }
    assert_eq!(found, changed, "from {}", known.revision);
}

/// A log with every kind of change.
async fn eventful(backend: crate::support::Backend) -> World {
    let mut world = World::new(backend).await;
    world.commit(&[service(create("a")), service(create("b")), service(create("c"))]).await;
    world.commit(&[service(toggle("a")), service(toggle("a")), service(toggle("b"))]).await;
    world.commit(&[service(create_user("ann@example.com", Permissions::all()))]).await;
    let ann = world.user("ann@example.com").id;
    world.commit(&[service(create_token(ann, 2)), service(create_token(ann, 3)), service(toggle("c"))]).await;
    world.commit(&[service(archive("c", true)), service(create("d")), service(toggle("d"))]).await;
    world.commit(&[service(create_user("bob@example.com", Permissions::default()))]).await;
    world.commit(&[service(rename("a", "Renamed"))]).await;
    world.commit(&["one", "two"].map(|key| service(create_environment(key)))).await;
    world.commit(&[service(update_environment("two", "Two", true)), service(toggle("a"))]).await;
    world.commit(&[service(archive_environment("two", true))]).await;
    world
}

on_both_databases! {
    async fn follow_returns_exactly_what_changed(backend: Backend) {
        let world = eventful(backend).await;
        let (end, earlier) = world.heads.split_last().unwrap();
        for known in earlier {
            leads_to_the_end(&world, known).await;
        }
        // Also from within a batch, where a reader may have stopped.
        for entry in &world.entries[..world.entries.len() - 1] {
            let known = Head { revision: entry.revision, hash: entry.hash, timestamp: entry.timestamp, ..*end };
            leads_to_the_end(&world, &known).await;
        }
    }

    async fn unchanged_log_is_reported_as_unchanged(backend: Backend) {
        let mut world = World::empty(backend).await;
        assert!(matches!(world.store.follow(world.state.head()).await.unwrap().outcome, FollowOutcome::Unchanged));
        world.commit(&[service(create_environment("default"))]).await;
        assert!(matches!(world.store.follow(world.state.head()).await.unwrap().outcome, FollowOutcome::Unchanged));
    }

    async fn other_log_has_diverged(backend: Backend) {
        let world = eventful(backend).await;
        let end = *world.state.head();
        let middle = world.heads[3];
        for (what, known) in [
            ("another log", Head { log_id: Uuid::now_v7(), ..end }),
            ("another log, further back", Head { log_id: Uuid::now_v7(), ..middle }),
            ("another empty log", Head { log_id: Uuid::now_v7(), ..world.heads[0] }),
            ("a log that has lost its end", Head { revision: end.revision + 1, ..end }),
            ("another end", Head { hash: [0xee; 32], ..end }),
            ("another past", Head { hash: [0xee; 32], ..middle }),
            ("another past, with the end's hash", Head { hash: end.hash, ..middle }),
        ] {
            let followed = world.store.follow(&known).await.unwrap().outcome;
            assert!(matches!(followed, FollowOutcome::Diverged), "{what}: {followed:?}");
        }
        leads_to_the_end(&world, &middle).await;
    }

    async fn follow_from_a_trimmed_entry_diverges(backend: Backend) {
        let mut world = eventful(backend).await;
        let floor = 5;
        let known: Vec<Head> = world
            .entries
            .iter()
            .map(|e| Head { revision: e.revision, hash: e.hash, timestamp: e.timestamp, ..world.heads[0] })
            .collect();
        trim(&mut world, floor).await;
        for known in known {
            let followed = world.store.follow(&known).await.unwrap().outcome;
            match followed {
                FollowOutcome::Diverged => assert!(known.revision < floor, "from {}", known.revision),
                FollowOutcome::Changed(head, _) => assert!(known.revision >= floor && head.floor == floor),
                FollowOutcome::Unchanged => panic!("from {}: current", known.revision),
            }
        }
        let elsewhere = Head { revision: floor, hash: [0xee; 32], ..world.heads[0] };
        assert!(matches!(world.store.follow(&elsewhere).await.unwrap().outcome, FollowOutcome::Diverged), "the hash there is known");
        let state = world.store.load().await.unwrap();
        assert_eq!(state.flag(&flag("b")).unwrap().status, Status::Enabled, "flags outlive their entries");
        assert!(matches!(world.store.follow(state.head()).await.unwrap().outcome, FollowOutcome::Unchanged));
    }
}

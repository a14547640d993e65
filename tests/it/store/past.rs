//! The first change of a flag after a revision, from which its earlier state follows.

use std::collections::HashMap;
use std::sync::Arc;

use toggled::domain::Revision;
use toggled::domain::access::Permission;
use toggled::domain::advance::{Command, Denial};
use toggled::domain::flag::Flag;
use toggled::domain::history::{NextChange, PastFlag, flag_as_of};
use uuid::Uuid;

use super::retention::trim;
use super::world::*;
use crate::support::{Backend, on_both_databases};

/// Every state of the flags, by revision.
type States = Vec<(Revision, Vec<Arc<Flag>>)>;

async fn step(world: &mut World, states: &mut States, command: Command) {
    world.commit(&[service(command)]).await;
    states.push((world.state.head().revision, world.state.all_flags().cloned().collect()));
}

async fn eventful(backend: Backend) -> (World, States) {
    let mut world = World::new(backend).await;
    let mut states = Vec::new();
    let denied = Denial {
        permission: Permission::ToggleFeatureFlags.into(),
        object: Some(flag("a").into()),
        environment: None,
        suppressed: 0,
    };
    for command in [
        create("a"),
        toggle("a"),
        create("b"),
        rename("a", "Second"),
        Command::RecordDenial(denied.clone()),
        toggle("b"),
        toggle("a"),
        toggle("a"),
        archive("b", true),
        rename("a", "Third"),
        Command::RecordDenial(denied),
        toggle("a"),
        rename("b", "Archived"),
        archive("b", false),
        create("c"),
        toggle("b"),
    ] {
        step(&mut world, &mut states, command).await;
    }
    (world, states)
}

/// The state of today's flags at a revision.
async fn were(world: &World, at: Revision) -> Vec<PastFlag> {
    let flags: Vec<Arc<Flag>> = world.state.all_flags().cloned().collect();
    let ids: Vec<Uuid> = flags.iter().map(|flag| flag.id).collect();
    let next = world.store.next_changes(&ids, at).await.unwrap();
    let count = next.len();
    let next: HashMap<Uuid, NextChange> = next.into_iter().map(|next| (next.flag_id, next)).collect();
    assert_eq!(next.len(), count, "each flag once");
    for flag in &flags {
        assert_eq!(next.contains_key(&flag.id), flag.revision > at, "{} at {at}", flag.key);
    }
    flags.iter().filter_map(|flag| flag_as_of(flag, at, next.get(&flag.id)).unwrap()).collect()
}

on_both_databases! {
    async fn past_states_follow_from_later_entries(backend: Backend) {
        let (world, states) = eventful(backend).await;
        assert_eq!(were(&world, 0).await, []);
        for (revision, flags) in &states {
            let dated: Vec<_> = flags.iter().cloned().map(|flag| PastFlag { flag, has_update_metadata: true }).collect();
            assert_eq!(were(&world, *revision).await, dated, "at {revision}");
        }
        // Only for the flags that were asked for.
        let [a, b] = ["a", "b"].map(|key| world.flag(key).id);
        let next = world.store.next_changes(&[a, Uuid::nil()], 0).await.unwrap();
        assert_eq!(next.iter().map(|next| next.flag_id).collect::<Vec<_>>(), [a]);
        assert_eq!(world.store.next_changes(&[], 0).await.unwrap(), []);
        // Many flags at once.
        let many: Vec<_> = (0..1_000).map(Uuid::from_u128).chain([b]).collect();
        assert_eq!(world.store.next_changes(&many, 0).await.unwrap().len(), 1);
    }

    async fn trimmed_past_lacks_only_update_and_last_flip(backend: Backend) {
        let (mut world, states) = eventful(backend).await;
        let (floor, _) = states[6];
        trim(&mut world, floor).await;
        let mut undated = 0;
        for (revision, flags) in &states[6..] {
            let were = were(&world, *revision).await;
            assert_eq!(were.len(), flags.len());
            for (was, flag) in were.iter().zip(flags) {
                undated += usize::from(!was.has_update_metadata);
                let (updated_at, updated_by, last_flip) = (flag.updated_at, Arc::clone(&flag.updated_by), flag.last_flip.clone());
                assert!(was.has_update_metadata || flag.revision <= floor, "{was:?}");
                let found = if was.has_update_metadata { Flag::clone(&was.flag) } else { Flag { updated_at, updated_by, last_flip, ..Flag::clone(&was.flag) } };
                assert_eq!(found, **flag, "at {revision}");
            }
        }
        assert!(undated > 0);
    }
}

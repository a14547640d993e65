//! Earlier states of flags, among a million entries.

use std::collections::HashMap;

use toggled::domain::Revision;
use toggled::domain::audit::EntityType;
use uuid::Uuid;

use super::log::{ENTRIES, Shape, entity_id};
use crate::store::raw::Raw;
use crate::store::world::World;

/// The text of the statement with its values.
fn statement(raw: &Raw, flags: &[Uuid], revision: Revision) -> String {
    let (text, flags) = match raw {
        Raw::Sqlite(_) => {
            let ids: Vec<_> = flags.iter().map(|id| format!("\"{}\"", id.simple())).collect();
            (include_str!("../../../../src/store/sqlite/next_changes.sql"), format!("'[{}]'", ids.join(",")))
        }
        Raw::Postgres(_) => {
            let ids: Vec<_> = flags.iter().map(Uuid::to_string).collect();
            (include_str!("../../../../src/store/postgres/next_changes.sql"), format!("'{{{}}}'", ids.join(",")))
        }
    };
    text.replace("$1", &flags).replace("$2", &revision.to_string())
}

/// Each flag is looked up in the indexes, for any number of flags and any revision; nothing is scanned.
pub async fn check(world: &mut World) {
    check_plans(world).await;
    if let Raw::Postgres(_) = world.raw {
        // The statistics of a log that is nearly all about one flag: the next entry of any flag seems close.
        let skew = "UPDATE pg_statistic SET stadistinct = 1, stakind1 = 0 WHERE starelid = 'audit_logs'::regclass
            AND staattnum = (SELECT attnum FROM pg_attribute WHERE attrelid = starelid AND attname = 'entity_id')";
        world.raw.run(skew).await;
        check_plans(world).await;
        world.raw.run("ANALYZE audit_logs (entity_id)").await;
    }
    check_results(world).await;
}

async fn check_plans(world: &mut World) {
    let flags: Vec<_> = (0..1_000).map(|number| entity_id(EntityType::FeatureFlag, number)).collect();
    world
        .raw
        .run(match world.raw {
            Raw::Sqlite(_) => "SELECT 1",
            // As in the store.
            Raw::Postgres(_) => "SET random_page_cost = 1.1",
        })
        .await;
    for revision in [0, ENTRIES / 2, ENTRIES - 10] {
        for flags in [&flags[..], &flags[..7], &flags[..1]] {
            let plan = world.raw.plan(&statement(&world.raw, flags, revision)).await;
            let entity = match world.raw {
                Raw::Sqlite(_) => "idx_audit_logs_entity_key",
                Raw::Postgres(_) => "idx_audit_logs_entity_type_entity_id",
            };
            for index in ["idx_audit_logs_edits", entity] {
                assert!(plan.contains(index), "{revision}: not {index}: {plan}");
            }
            for detour in
                ["Sort", "Seq Scan on audit_logs", "Bitmap", "Hash", "SCAN audit_logs", "SCAN next", "TEMP B-TREE"]
            {
                assert!(!plan.contains(detour), "{revision}: {plan}");
            }
        }
    }
}

async fn check_results(world: &World) {
    let flags: Vec<_> = (0..1_000).map(|number| entity_id(EntityType::FeatureFlag, number)).collect();
    for revision in [0, 300_000, ENTRIES - 5_000, ENTRIES] {
        let mut first: HashMap<Uuid, Shape> = HashMap::new();
        for shape in (revision + 1..=ENTRIES).map(Shape::of).filter(|shape| shape.kind == EntityType::FeatureFlag) {
            first.entry(entity_id(shape.kind, shape.entity)).or_insert(shape);
        }
        let next = world.store.next_changes(&flags, revision).await.unwrap();
        assert_eq!(next.len(), first.len());
        for next in next {
            let shape = &first[&next.flag_id];
            assert_eq!((next.revision, next.action), (shape.revision, shape.action));
        }
    }
}

//! Appends that are refused change nothing at all.

use std::sync::Arc;

use toggled::domain::advance::{Step, StoredRequest};
use toggled::domain::audit::Entry;
use toggled::domain::flag::{Flag, Status};
use toggled::domain::state::{Delta, Head};
use toggled::domain::time::Timestamp;
use toggled::store::{AppendOutcome, StoreError};
use uuid::Uuid;

use super::raw::Raw;
use super::world::*;
use crate::support::{Backend, on_both_databases};

/// Changes one of a step's entries.
fn entry(step: &mut Step, index: usize, change: impl FnOnce(&mut Entry)) {
    change(Arc::make_mut(&mut step.entries[index]));
}

/// Changes the flag with this key.
fn change_flag(step: &mut Step, key: &str, change: impl FnOnce(&mut Flag)) {
    let flag = step.delta.flags.iter_mut().find(|flag| flag.key.as_str() == key).unwrap();
    change(Arc::make_mut(flag));
}

/// A description, and a change that makes a good step invalid.
type Flaw = (&'static str, fn(&mut Step, &World));

/// Each of these spoils a step that flips `a`, then `b`, then creates `c`, a user and a token, in this order.
const FLAWS: [Flaw; 19] = [
    ("a flip without its entry", |step, _| {
        step.entries.remove(1);
    }),
    ("a flip whose entry says the other status", |step, _| change_flag(step, "b", |b| b.status = Status::Disabled)),
    ("a flip whose entry is about another flag", |step, world| {
        let other = world.flag("on").id;
        entry(step, 1, |e| e.entity_id = Some(other));
    }),
    ("a flip at an untouched revision", |step, world| {
        let before = world.flag("b").revision;
        change_flag(step, "b", |b| b.revision = before);
    }),
    ("a new flag without its entry", |step, _| {
        step.entries.remove(2);
    }),
    ("a new flag whose entry says the other status", |step, _| change_flag(step, "c", |c| c.status = Status::Enabled)),
    ("a flag that is not there", |step, _| change_flag(step, "a", |a| a.id = Uuid::now_v7())),
    ("a new flag whose key is taken", |step, world| {
        let taken = world.flag("on").key.clone();
        change_flag(step, "c", |c| c.key = taken);
    }),
    ("a new flag whose id is taken", |step, world| {
        let taken = world.flag("on").id;
        change_flag(step, "c", |c| c.id = taken);
    }),
    ("an empty reason", |step, _| entry(step, 0, |e| e.reason = Some("".into()))),
    ("an empty peer", |step, _| entry(step, 4, |e| e.peer = Some("".into()))),
    ("an entry that contradicts itself", |step, _| entry(step, 1, |e| e.new_value = None)),
    ("an entry at a revision that is taken", |step, _| entry(step, 4, |e| e.revision = 1)),
    ("an entry with an id that is taken", |step, world| {
        let taken = world.entry_at(1).id;
        entry(step, 4, |e| e.id = taken);
    }),
    ("an entry by a user who is not there", |step, _| entry(step, 0, |e| e.user_id = Some(Uuid::now_v7()))),
    ("a new user whose address is taken", |step, world| {
        let taken = world.user("admin@localhost").email.clone();
        Arc::make_mut(&mut step.delta.users[0]).email = taken;
    }),
    ("a token of a user who is not there", |step, _| {
        Arc::make_mut(&mut step.delta.tokens[0]).user_id = Uuid::now_v7();
    }),
    ("a token whose secret is taken", |step, _| Arc::make_mut(&mut step.delta.tokens[0]).secret_hash = [1; 32]),
    ("time that runs backwards", |step, _| {
        step.head.timestamp = Timestamp::from_micros(step.base.timestamp.micros() - 1);
    }),
];

on_both_databases! {
    /// Everything is rolled back, also when the last rows of an append fail.
    async fn refused_step_leaves_nothing(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a")), service(create("b")), service(create_as("on", Status::Enabled))]).await;
        let admin = world.user("admin@localhost").id;
        let commands = [
            toggle("a"),
            toggle("b"),
            create("c"),
            create_user("ann@example.com", Default::default()),
            create_token(admin, 2),
        ];
        let proposals: Vec<_> = commands
            .into_iter()
            .map(|command| in_full(world.by_admin(command), &format!("{}", Uuid::now_v7())))
            .collect();
        let good = world.decide(&proposals);
        for (flaw, spoil) in FLAWS {
            let mut bad = good.clone();
            spoil(&mut bad, &world);
            let outcome = world.append_in_vain(&bad).await;
            assert!(matches!(outcome, AppendOutcome::Refused(_)), "{flaw}: {outcome:?}");
        }
        // The writer is still usable.
        world.append(&good).await;
    }

    async fn appended_step_is_not_appended_again(backend: Backend) {
        let mut world = World::new(backend).await;
        let step = world.commit(&[in_full(world.by_admin(create("a")), "r")]).await;
        // Its request is stored too, but the moved head takes precedence.
        assert_eq!(world.append_in_vain(&step).await, AppendOutcome::HeadMoved);
    }

    async fn step_decided_at_another_head_is_not_appended(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let good = world.decide(&[in_full(world.by_admin(toggle("a")), "r")]);
        let nothing = world.decide(&[]);
        let only_requests = Step { entries: Vec::new(), delta: Delta::default(), head: good.base, ..good.clone() };
        for step in [&good, &nothing, &only_requests] {
            for base in [
                Head { revision: step.base.revision - 1, ..step.base },
                Head { revision: step.base.revision + 1, ..step.base },
                Head { revision: 0, ..step.base },
                Head { log_id: Uuid::now_v7(), ..step.base },
                // A log of the same length with another history, after a restored backup.
                Head { hash: [7; 32], ..step.base },
            ] {
                let elsewhere = Step { base, ..step.clone() };
                assert_eq!(world.append_in_vain(&elsewhere).await, AppendOutcome::HeadMoved);
            }
        }
        world.append(&good).await;
    }

    async fn stored_request_rejects_the_whole_step(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a")), service(create("b"))]).await;
        world.commit(&[in_full(world.by_admin(toggle("a")), "r")]).await;
        let again = in_full(world.by_admin(toggle("b")), "r");
        let step = world.decide(&[service(toggle("a")), again, service(create("c"))]);
        assert_eq!(world.append_in_vain(&step).await, AppendOutcome::RequestExists);
        let nothing = toggled::domain::advance::Command::SetStatus(set("b", Status::Disabled));
        let step = world.decide(&[in_full(world.by_admin(nothing), "r")]);
        assert!(step.entries.is_empty());
        assert_eq!(world.append_in_vain(&step).await, AppendOutcome::RequestExists);
        // Nor does one step store the same request twice.
        let mut step = world.decide(&[in_full(world.by_admin(toggle("b")), "s")]);
        step.requests.push(StoredRequest { response: b"another".to_vec(), ..step.requests[0].clone() });
        assert_eq!(world.append_in_vain(&step).await, AppendOutcome::RequestExists);
        step.requests.pop();
        world.append(&step).await;
    }

    /// The insert of the entry fails for any reason: no flip without its entry.
    async fn refused_entry_rolls_the_flip_back(backend: Backend) {
        let mut world = World::new(backend).await;
        world.commit(&[service(create("a"))]).await;
        let (refuse, relent) = match world.raw {
            Raw::Sqlite(_) => (
                "CREATE TRIGGER no_more AFTER INSERT ON audit_logs
                 BEGIN SELECT RAISE(ABORT, 'the disk of the auditors is full'); END",
                "DROP TRIGGER no_more",
            ),
            Raw::Postgres(_) => (
                "CREATE FUNCTION no_more() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN RAISE EXCEPTION 'the disk of the auditors is full'; END $$;
                 CREATE TRIGGER no_more AFTER INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION no_more()",
                "DROP TRIGGER no_more ON audit_logs; DROP FUNCTION no_more()",
            ),
        };
        world.raw.run(refuse).await;
        let step = world.decide(&[in_full(world.by_admin(toggle("a")), "r")]);
        let AppendOutcome::Refused(problem) = world.append_in_vain(&step).await else { panic!("not refused") };
        assert!(problem.contains("the disk of the auditors is full"), "{problem}");
        assert_eq!(world.flag("a").status, Status::Disabled);
        world.raw.run(relent).await;
        world.append(&step).await;
        assert_eq!(world.flag("a").status, Status::Enabled);
    }
}

/// Transient errors of PostgreSQL do not blame the step.
#[tokio::test]
async fn transient_error_is_unavailable_not_refused() {
    let mut world = World::new(Backend::Postgres).await;
    world.commit(&[service(create("a"))]).await;
    let step = world.decide(&[service(toggle("a"))]);
    let function = |code: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN RAISE EXCEPTION 'too many in the NOTIFY queue' USING ERRCODE = '{code}'; END $$"
        )
    };
    world.raw.run(&function("40001")).await;
    world.raw.run("CREATE TRIGGER fail BEFORE UPDATE ON log_head FOR EACH ROW EXECUTE FUNCTION fail()").await;
    // Serialization, deadlock, memory, connections, the queue of notifications, a lock, trouble outside.
    for code in ["40001", "40P01", "53200", "53300", "54000", "55P03", "58000"] {
        world.raw.run(&function(code)).await;
        let outcome = world.writer.append(&step).await;
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{code}: {outcome:?}");
    }
    world.raw.run("DROP TRIGGER fail ON log_head").await;
    world.append(&step).await;
}

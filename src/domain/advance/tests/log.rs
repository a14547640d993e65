//! Rules of trimming the log.

use super::*;
use crate::domain::access::Permission::ManageAuditRetention;
use crate::domain::hash::GENESIS;

fn trim(through: i64, hash: u8, found: Option<u8>) -> Command {
    Command::TrimLog(TrimLog { through, hash: [hash; 32], found_hash: found.map(|byte| [byte; 32]), generation: 0 })
}

#[test]
fn trim_writes_one_entry_with_both_starts() {
    let mut world = World::new();
    let admin = world.token("admin@localhost");
    let before = *world.state.head();
    let answer = world.accept(by(admin, ManageAuditRetention, trim(1, 7, Some(7))));
    let head = *world.state.head();
    assert_eq!((head.floor, head.floor_hash, head.revision), (1, [7; 32], before.revision + 1));
    assert_eq!(answer.object, Object::Log(2));
    let entry = answer.entry.unwrap();
    let log_id = head.log_id.to_string();
    assert_eq!(
        (entry.action, entry.entity_type, entry.entity_id),
        (Action::LogTrimmed, EntityType::Log, Some(head.log_id))
    );
    assert_eq!(
        (&*entry.entity_key, &*entry.entity_name, entry.previous_entity_revision),
        (&*log_id, "audit log", None)
    );
    let log_start = |floor, byte: &str| Some(format!("{{\"floor\":{floor},\"hash\":\"{}\"}}", byte.repeat(32)));
    assert_eq!(entry.old_value.as_deref(), log_start(0, "00").as_deref());
    assert_eq!(entry.new_value.as_deref(), log_start(1, "07").as_deref());
    assert_eq!(entry.hash, hash::entry_hash(&before.hash, head.log_id, &entry), "the chain goes on");
    // The next trim begins where this one ended; it may also remove the entry of the last trim.
    let last = head.revision;
    let second = world.accept(by(admin, ManageAuditRetention, trim(last, 8, Some(8)))).entry.unwrap();
    assert_eq!(second.old_value.as_deref(), log_start(1, "07").as_deref());
    assert_eq!(world.state.head().floor, last);
    world.create("after");
    assert_eq!((world.state.head().floor, world.state.head().floor_hash), (last, [8; 32]), "it stays there");
}

#[test]
fn impossible_trims_have_distinct_errors() {
    let mut world = World::new();
    let admin = world.token("admin@localhost");
    let by_admin = |command| by(admin, ManageAuditRetention, command);
    world.accept(by_admin(trim(1, 7, Some(7))));
    let head = world.state.head().revision;
    let future = Error::CursorInFuture { asked: head + 1, head };
    assert_eq!(world.reject(by_admin(trim(head + 1, 7, None))), future);
    assert_eq!(world.reject(by_admin(trim(1, 7, None))), Error::CursorTooOld { asked: 1, oldest: 2 });
    assert_eq!(world.reject(by_admin(trim(2, 7, Some(8)))), Error::LogMismatch("through_hash"));
    assert_eq!(world.reject(by_admin(trim(2, 7, None))), Error::LogMismatch("through_hash"));
    let viewer = world.with_user("viewer@example.com", &[Permission::ViewAuditLogs]);
    let denied = world.reject(by(viewer, ManageAuditRetention, trim(2, 7, Some(7))));
    assert_eq!(denied, Error::PermissionDenied(ManageAuditRetention.into()));
    assert_eq!(world.state.head().floor, 1);
}

/// What was looked up in a former log means nothing in the present one.
#[test]
fn lookup_before_a_restore_is_stale() {
    let mut world = World::new();
    world.create("a");
    let flip = world.accept(service(toggle("a"))).entry.unwrap();
    let reverting = |generation| {
        let entry = Some(Box::new(Entry::clone(&flip)));
        service(Command::Revert(Revert { id: flip.id, environment: None, entry, generation, expected_revision: None }))
    };
    world.state = world.state.clone().replacing(&world.state);
    assert_eq!(world.state.generation(), 1);
    let before = *world.state.head();
    for proposal in [service(trim(1, 7, Some(7))), service(trim(1, 7, None)), reverting(0)] {
        assert_eq!(world.reject(proposal), Error::Stale);
    }
    assert_eq!(*world.state.head(), before);
    assert!(world.accept(reverting(1)).entry.is_some());
}

#[test]
fn validate_only_trim_writes_nothing() {
    let mut world = World::new();
    let admin = world.token("admin@localhost");
    let before = *world.state.head();
    let checked = Proposal { validate_only: true, ..by(admin, ManageAuditRetention, trim(1, 7, Some(7))) };
    let answer = world.accept(checked);
    assert_eq!((answer.object, answer.entry), (Object::Log(2), None));
    assert_eq!((*world.state.head(), before.floor_hash), (before, GENESIS));
}

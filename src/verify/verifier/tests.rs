use super::*;
use crate::domain::audit::{Action, EntityType};
use crate::domain::hash::chain;
use crate::domain::time::Timestamp;

const LOG: Uuid = Uuid::from_u128(7);

/// A log of so many entries, of which some are `log_trimmed` and say this.
fn log(entries: usize, trims: &[(usize, Revision, Hash)]) -> Vec<Entry> {
    let mut log: Vec<Entry> = Vec::new();
    for revision in 1..=entries {
        let trim = trims.iter().find(|(at, ..)| *at == revision);
        let hash: fn(&Hash) -> String = |hash| hash.iter().map(|byte| format!("{byte:02x}")).collect();
        let said =
            trim.map(|(_, floor, of)| format!(r#"{{"entries":1,"floor":{floor},"hash":"{}"}}"#, hash(of)).into());
        let mut entry = Entry {
            id: Uuid::from_u128(revision as u128),
            revision: revision as Revision,
            timestamp: Timestamp::default(),
            user_id: None,
            user_email: "ann@example.com".into(),
            token_id: None,
            action: if said.is_some() { Action::LogTrimmed } else { Action::FlagUpdated },
            entity_type: EntityType::Log,
            entity_id: None,
            entity_key: "k".into(),
            entity_name: "n".into(),
            old_value: None,
            new_value: said,
            reason: None,
            request_id: None,
            method: "m".into(),
            peer: None,
            user_agent: None,
            previous_entity_revision: None,
            reverts: None,
            hash_version: 1,
            hash: GENESIS,
            created_at: Timestamp::default(),
        };
        entry.hash = chain(&log.last().map_or(GENESIS, |last| last.hash), LOG, &entry);
        log.push(entry);
    }
    log
}

fn told(start: Start, marks: Vec<Mark>, log: &[Entry]) -> Result<Verified, (Revision, &'static str)> {
    let mut verifier = Verifier::new(LOG, start, None, marks);
    let taken = log.iter().try_for_each(|entry| verifier.take(entry.clone()));
    taken.and_then(|()| verifier.finish()).map_err(|fault| (fault.revision, fault.problem.kind()))
}

#[test]
fn a_trimmed_log_vouches_for_its_own_beginning() {
    let hash = log(20, &[])[9].hash;
    let whole = log(20, &[(15, 10, hash)]);
    let kept = &whole[10..];
    for start in [Start::Anywhere, Start::At(11)] {
        let verified = told(start, Vec::new(), kept).unwrap();
        assert_eq!((verified.after, verified.entries, verified.last), (10, 10, 20));
        let floor = |hash| vec![Mark { revision: 10, hash, witness: Witness::Floor }];
        assert!(told(start, floor(hash), kept).is_ok());
        assert_eq!(told(start, floor([1; 32]), kept), Err((10, "forked")));
        let mut altered = kept.to_vec();
        altered[0].reason = Some("x".into());
        assert_eq!(told(start, Vec::new(), &altered), Err((11, "altered")));
    }
    assert!(told(Start::Behind(10, hash), Vec::new(), kept).is_ok());
    assert_eq!(told(Start::Behind(10, [1; 32]), Vec::new(), kept), Err((11, "altered")));
    // What says so may be the very first that was kept.
    let first = log(20, &[(11, 10, hash)]);
    assert!(told(Start::Anywhere, Vec::new(), &first[10..]).is_ok());
}

#[test]
fn a_beginning_that_nothing_vouches_for_is_missing() {
    let hash = log(20, &[])[9].hash;
    for trims in [vec![], vec![(15, 10, [1; 32])], vec![(15, 9, hash)]] {
        let whole = log(20, &trims);
        let kind = if trims.iter().any(|(_, floor, _)| *floor == 10) { (11, "altered") } else { (10, "missing") };
        assert_eq!(told(Start::Anywhere, Vec::new(), &whole[10..]), Err(kind), "{trims:?}");
        assert!(told(Start::Anywhere, Vec::new(), &whole).is_ok(), "nothing is missing: {trims:?}");
    }
    let whole = log(20, &[(15, 10, hash)]);
    assert_eq!(told(Start::At(11), Vec::new(), &whole[11..]), Err((11, "missing")));
    assert_eq!(told(Start::Behind(0, GENESIS), Vec::new(), &whole[10..]), Err((1, "missing")));
}

#[test]
fn what_stands_too_far_away_is_not_looked_for() {
    let whole = log(2 * WINDOW + 100, &[]);
    let moved = |to: usize| {
        let mut moved = whole.clone();
        let entry = moved.remove(4);
        moved.insert(to, entry);
        told(Start::Anywhere, Vec::new(), &moved)
    };
    assert_eq!(moved(4 + WINDOW - 1), Err((5, "reordered")));
    assert_eq!(moved(4 + WINDOW), Err((5, "missing")));
}

#[test]
fn blocks_are_told_apart() {
    let whole = log(40, &[]);
    let renumbered = |mut log: Vec<Entry>| {
        log.iter_mut().zip(1..).for_each(|(entry, revision)| entry.revision = revision);
        told(Start::Anywhere, Vec::new(), &log)
    };
    let forged = || (0..3).map(|at| Entry { id: Uuid::nil(), ..whole[at].clone() });
    let mut inserted = whole.clone();
    inserted.splice(9..9, forged());
    assert_eq!(renumbered(inserted), Err((10, "inserted")));
    let mut rotated = whole.clone();
    rotated[9..20].rotate_left(1);
    assert_eq!(renumbered(rotated), Err((10, "reordered")));
    let mut rotated = whole.clone();
    rotated[9..20].rotate_right(1);
    assert_eq!(renumbered(rotated), Err((10, "reordered")));
    let mut removed = whole;
    removed.remove(9);
    // What was hashed into the next is gone: that it is the next cannot be told.
    assert_eq!(renumbered(removed), Err((10, "altered")));
}

#[test]
fn a_mark_is_compared_wherever_it_lies() {
    let whole = log(20, &[]);
    let mark = |revision: usize, hash| vec![Mark { revision: revision as Revision, hash, witness: Witness::Stored }];
    for at in [1, 10, 20] {
        assert!(told(Start::Anywhere, mark(at, whole[at - 1].hash), &whole).is_ok(), "{at}");
        assert_eq!(told(Start::Anywhere, mark(at, [1; 32]), &whole), Err((at as Revision, "forked")));
    }
    assert_eq!(told(Start::Anywhere, mark(21, [1; 32]), &whole), Err((21, "truncated")));
    let start = Start::Behind(10, whole[9].hash);
    assert_eq!(told(start, mark(10, [1; 32]), &whole[10..]), Err((10, "forked")));
    assert_eq!(told(start, mark(10, [1; 32]), &[]), Err((10, "forked")));
}

#[test]
fn what_was_kept_is_compared_in_a_trimmed_log_once_its_beginning_is_vouched_for() {
    let hash = log(20, &[])[9].hash;
    let whole = log(20, &[(15, 10, hash)]);
    let told = |start, revision: usize, hash, log: &[Entry]| {
        let mark = Mark { revision: revision as Revision, hash, witness: Witness::Given };
        let mut verifier = Verifier::new(LOG, start, Some(mark.revision), vec![mark]);
        let taken = log.iter().try_for_each(|entry| verifier.take(entry.clone()));
        let ended = taken.and_then(|()| verifier.finish()).map(|verified| verified.last);
        ended.map_err(|fault| (fault.revision, fault.problem.kind()))
    };
    for start in [Start::Anywhere, Start::At(11)] {
        for at in [10, 12, 14, 15, 17] {
            let last = at.max(15) as Revision;
            assert_eq!(told(start, at, whole[at - 1].hash, &whole[10..]), Ok(last), "{at}");
            assert_eq!(told(start, at, [1; 32], &whole[10..]), Err((at as Revision, "forked")), "{at}");
        }
        // Nothing vouches for the beginning.
        for at in [10, 12, 14] {
            assert_eq!(told(start, at, whole[at - 1].hash, &whole[10..14]), Err((10, "missing")), "{at}");
            assert_eq!(told(start, at, whole[at - 1].hash, &log(20, &[])[10..]), Err((10, "missing")), "{at}");
        }
        // What is gone cannot be compared, whatever was kept of it.
        for (at, hash) in [(9, whole[8].hash), (1, [1; 32]), (0, GENESIS)] {
            assert_eq!(told(start, at, hash, &whole[10..]), Err((at as Revision, "missing")), "{at}");
        }
    }
    // Nothing is left: the hash of the beginning is that of no entry.
    assert_eq!(told(Start::At(11), 10, hash, &[]), Err((10, "missing")));
    assert_eq!(told(Start::At(11), 12, hash, &[]), Err((11, "truncated")));
}

/// The same, block by block: at once where that is possible.
fn told_in_runs(start: Start, until: Option<Revision>, marks: Vec<Mark>, blocks: &[&[Entry]]) -> (Told, usize) {
    let (mut verifier, mut at_once) = (Verifier::new(LOG, start, until, marks), 0);
    let taken = blocks.iter().try_for_each(|block| {
        let mut run = Run::new(LOG, block[0].clone());
        if block[1..].iter().all(|entry| run.take(entry).is_ok()) && verifier.take_run(&run) {
            at_once += block.len();
            return Ok(());
        }
        block.iter().try_for_each(|entry| verifier.take(entry.clone()))
    });
    let told = taken.and_then(|()| verifier.finish());
    (told.map_err(|fault| (fault.revision, fault.problem.kind())), at_once)
}

type Told = Result<Verified, (Revision, &'static str)>;

#[test]
fn entries_that_are_taken_at_once_are_told_the_same_of_as_one_by_one() {
    let hash = log(20, &[])[9].hash;
    let whole = log(20, &[(15, 10, hash)]);
    let mut altered = whole.clone();
    altered[12].reason = Some("x".into());
    let (mut swapped, mut cut) = (whole.clone(), whole.clone());
    swapped.swap(13, 14);
    cut.remove(13);
    let forged = Mark { revision: 13, hash: [1; 32], witness: Witness::Stored };
    let sound = Mark { hash: whole[12].hash, ..forged };
    let mut most = 0;
    for log in [&whole, &altered, &swapped, &cut] {
        for (kept, until) in [(0, None), (10, None), (11, None), (0, Some(13)), (10, Some(16))] {
            for marks in [vec![], vec![forged], vec![sound]] {
                for start in [Start::Anywhere, Start::At(11), Start::Behind(10, hash), Start::Behind(0, GENESIS)] {
                    let mut verifier = Verifier::new(LOG, start, until, marks.clone());
                    let taken = log[kept..].iter().try_for_each(|entry| verifier.take(entry.clone()));
                    let finished = taken.and_then(|()| verifier.finish());
                    let expected = finished.map_err(|fault| (fault.revision, fault.problem.kind()));
                    for size in 1..=8 {
                        let blocks: Vec<_> = log[kept..].chunks(size).collect();
                        let (told, at_once) = told_in_runs(start, until, marks.clone(), &blocks);
                        assert_eq!(told, expected, "{start:?} {until:?} {marks:?} by {size}");
                        most = most.max(at_once);
                    }
                }
            }
        }
    }
    assert_eq!(most, 20, "some are taken at once from the first to the last");
}

use super::*;
use crate::domain::audit::{Action, EntityType};
use crate::domain::hash::entry_hash;
use crate::domain::hex::hex_digits;
use crate::domain::time::Timestamp;

const LOG: Uuid = Uuid::from_u128(7);

/// A log of this many entries. At each `(revision, floor, hash)` stands a `log_trimmed` entry.
fn log(entries: usize, trims: &[(usize, Revision, Hash)]) -> Vec<Entry> {
    let mut log: Vec<Entry> = Vec::new();
    for revision in 1..=entries {
        let trim = trims.iter().find(|(at, ..)| *at == revision);
        let new_value = trim
            .map(|(_, floor, hash)| format!(r#"{{"entries":1,"floor":{floor},"hash":"{}"}}"#, hex_digits(hash)).into());
        let mut entry = Entry {
            id: Uuid::from_u128(revision as u128),
            revision: revision as Revision,
            timestamp: Timestamp::default(),
            user_id: None,
            user_email: "ann@example.com".into(),
            token_id: None,
            action: if new_value.is_some() { Action::LogTrimmed } else { Action::FlagUpdated },
            entity_type: EntityType::Log,
            entity_id: None,
            entity_key: "k".into(),
            entity_name: "n".into(),
            old_value: None,
            new_value,
            reason: None,
            request_id: None,
            method: "m".into(),
            peer: None,
            user_agent: None,
            previous_entity_revision: None,
            reverts: None,
            environment: None,
            hash_version: 1,
            hash: GENESIS,
            created_at: Timestamp::default(),
        };
        entry.hash = entry_hash(&log.last().map_or(GENESIS, |last| last.hash), LOG, &entry);
        log.push(entry);
    }
    log
}

fn verify(start: Start, known: Vec<KnownHash>, log: &[Entry]) -> Result<Verified, (Revision, &'static str)> {
    let mut verifier = Verifier::new(LOG, start, None, known);
    let pushed = log.iter().try_for_each(|entry| verifier.push(entry.clone()));
    pushed.and_then(|()| verifier.finish()).map_err(|fault| (fault.revision, fault.problem.kind()))
}

#[test]
fn trimmed_log_confirms_its_start() {
    let hash = log(20, &[])[9].hash;
    let whole = log(20, &[(15, 10, hash)]);
    let kept = &whole[10..];
    for start in [Start::Anywhere, Start::At(11)] {
        let verified = verify(start, Vec::new(), kept).unwrap();
        assert_eq!((verified.after, verified.entries, verified.last), (10, 10, 20));
        let floor = |hash| vec![KnownHash { revision: 10, hash, source: HashSource::Floor }];
        assert!(verify(start, floor(hash), kept).is_ok());
        assert_eq!(verify(start, floor([1; 32]), kept), Err((10, "forked")));
        let mut altered = kept.to_vec();
        altered[0].reason = Some("x".into());
        assert_eq!(verify(start, Vec::new(), &altered), Err((11, "altered")));
    }
    assert!(verify(Start::After(10, hash), Vec::new(), kept).is_ok());
    assert_eq!(verify(Start::After(10, [1; 32]), Vec::new(), kept), Err((11, "altered")));
    // The first kept entry may itself confirm the start.
    let first = log(20, &[(11, 10, hash)]);
    assert!(verify(Start::Anywhere, Vec::new(), &first[10..]).is_ok());
}

#[test]
fn unconfirmed_start_is_missing() {
    let hash = log(20, &[])[9].hash;
    for trims in [vec![], vec![(15, 10, [1; 32])], vec![(15, 9, hash)]] {
        let whole = log(20, &trims);
        let kind = if trims.iter().any(|(_, floor, _)| *floor == 10) { (11, "altered") } else { (10, "missing") };
        assert_eq!(verify(Start::Anywhere, Vec::new(), &whole[10..]), Err(kind), "{trims:?}");
        assert!(verify(Start::Anywhere, Vec::new(), &whole).is_ok(), "nothing is missing: {trims:?}");
    }
    let whole = log(20, &[(15, 10, hash)]);
    assert_eq!(verify(Start::At(11), Vec::new(), &whole[11..]), Err((11, "missing")));
    assert_eq!(verify(Start::After(0, GENESIS), Vec::new(), &whole[10..]), Err((1, "missing")));
}

#[test]
fn entry_moved_beyond_window_is_missing() {
    let whole = log(2 * WINDOW + 100, &[]);
    let moved = |to: usize| {
        let mut moved = whole.clone();
        let entry = moved.remove(4);
        moved.insert(to, entry);
        verify(Start::Anywhere, Vec::new(), &moved)
    };
    assert_eq!(moved(4 + WINDOW - 1), Err((5, "reordered")));
    assert_eq!(moved(4 + WINDOW), Err((5, "missing")));
}

#[test]
fn renumbered_entries_are_classified() {
    let whole = log(40, &[]);
    let renumbered = |mut log: Vec<Entry>| {
        log.iter_mut().zip(1..).for_each(|(entry, revision)| entry.revision = revision);
        verify(Start::Anywhere, Vec::new(), &log)
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
    // The next entry was hashed after the removed one, so it looks altered.
    assert_eq!(renumbered(removed), Err((10, "altered")));
}

#[test]
fn known_hash_is_compared_at_any_revision() {
    let whole = log(20, &[]);
    let known =
        |revision: usize, hash| vec![KnownHash { revision: revision as Revision, hash, source: HashSource::Stored }];
    for at in [1, 10, 20] {
        assert!(verify(Start::Anywhere, known(at, whole[at - 1].hash), &whole).is_ok(), "{at}");
        assert_eq!(verify(Start::Anywhere, known(at, [1; 32]), &whole), Err((at as Revision, "forked")));
    }
    assert_eq!(verify(Start::Anywhere, known(21, [1; 32]), &whole), Err((21, "truncated")));
    let start = Start::After(10, whole[9].hash);
    assert_eq!(verify(start, known(10, [1; 32]), &whole[10..]), Err((10, "forked")));
    assert_eq!(verify(start, known(10, [1; 32]), &[]), Err((10, "forked")));
}

#[test]
fn given_hash_is_compared_once_start_is_confirmed() {
    let hash = log(20, &[])[9].hash;
    let whole = log(20, &[(15, 10, hash)]);
    let verify = |start, revision: usize, hash, log: &[Entry]| {
        let known = KnownHash { revision: revision as Revision, hash, source: HashSource::Given };
        let mut verifier = Verifier::new(LOG, start, Some(known.revision), vec![known]);
        let pushed = log.iter().try_for_each(|entry| verifier.push(entry.clone()));
        let ended = pushed.and_then(|()| verifier.finish()).map(|verified| verified.last);
        ended.map_err(|fault| (fault.revision, fault.problem.kind()))
    };
    for start in [Start::Anywhere, Start::At(11)] {
        for at in [10, 12, 14, 15, 17] {
            let last = at.max(15) as Revision;
            assert_eq!(verify(start, at, whole[at - 1].hash, &whole[10..]), Ok(last), "{at}");
            assert_eq!(verify(start, at, [1; 32], &whole[10..]), Err((at as Revision, "forked")), "{at}");
        }
        // Nothing confirms the start.
        for at in [10, 12, 14] {
            assert_eq!(verify(start, at, whole[at - 1].hash, &whole[10..14]), Err((10, "missing")), "{at}");
            assert_eq!(verify(start, at, whole[at - 1].hash, &log(20, &[])[10..]), Err((10, "missing")), "{at}");
        }
        // A hash before the start cannot be compared.
        for (at, hash) in [(9, whole[8].hash), (1, [1; 32]), (0, GENESIS)] {
            assert_eq!(verify(start, at, hash, &whole[10..]), Err((at as Revision, "missing")), "{at}");
        }
    }
    // An empty log does not confirm its start.
    assert_eq!(verify(Start::At(11), 10, hash, &[]), Err((10, "missing")));
    assert_eq!(verify(Start::At(11), 12, hash, &[]), Err((11, "truncated")));
}

/// Verifies block by block, as segments where possible; also returns the number of entries pushed in segments.
fn verify_segments(
    start: Start,
    until: Option<Revision>,
    known: Vec<KnownHash>,
    blocks: &[&[Entry]],
) -> (Outcome, usize) {
    let (mut verifier, mut in_segments) = (Verifier::new(LOG, start, until, known), 0);
    let pushed = blocks.iter().try_for_each(|block| {
        let mut segment = Segment::new(LOG, block[0].clone());
        if block[1..].iter().all(|entry| segment.push(entry).is_ok()) && verifier.push_segment(&segment) {
            in_segments += block.len();
            return Ok(());
        }
        block.iter().try_for_each(|entry| verifier.push(entry.clone()))
    });
    let outcome = pushed.and_then(|()| verifier.finish());
    (outcome.map_err(|fault| (fault.revision, fault.problem.kind())), in_segments)
}

type Outcome = Result<Verified, (Revision, &'static str)>;

#[test]
fn segments_give_the_same_result_as_entries() {
    let hash = log(20, &[])[9].hash;
    let whole = log(20, &[(15, 10, hash)]);
    let mut altered = whole.clone();
    altered[12].reason = Some("x".into());
    let (mut swapped, mut cut) = (whole.clone(), whole.clone());
    swapped.swap(13, 14);
    cut.remove(13);
    let forged = KnownHash { revision: 13, hash: [1; 32], source: HashSource::Stored };
    let sound = KnownHash { hash: whole[12].hash, ..forged };
    let mut most = 0;
    for log in [&whole, &altered, &swapped, &cut] {
        for (kept, until) in [(0, None), (10, None), (11, None), (0, Some(13)), (10, Some(16))] {
            for known in [vec![], vec![forged], vec![sound]] {
                for start in [Start::Anywhere, Start::At(11), Start::After(10, hash), Start::After(0, GENESIS)] {
                    let mut verifier = Verifier::new(LOG, start, until, known.clone());
                    let pushed = log[kept..].iter().try_for_each(|entry| verifier.push(entry.clone()));
                    let finished = pushed.and_then(|()| verifier.finish());
                    let expected = finished.map_err(|fault| (fault.revision, fault.problem.kind()));
                    for size in 1..=8 {
                        let blocks: Vec<_> = log[kept..].chunks(size).collect();
                        let (outcome, in_segments) = verify_segments(start, until, known.clone(), &blocks);
                        assert_eq!(outcome, expected, "{start:?} {until:?} {known:?} by {size}");
                        most = most.max(in_segments);
                    }
                }
            }
        }
    }
    assert_eq!(most, 20, "a whole log is pushed in segments");
}

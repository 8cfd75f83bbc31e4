use flytrap_policy::AlertKind;

use super::*;
use crate::Anchor;

const NOW: u64 = 1_800_000_000;
const LIMITS: Limits = Limits { bans: 200, alerts: 200 };

fn ban(number: u8, until: u64) -> Ban {
    Ban {
        subject: BanSubject::Origin(B256::repeat_byte(number)),
        until,
        evidence: B256::ZERO,
        reason: "too many failures".into(),
    }
}

fn alert(number: u8, count: u32, at: u64) -> AlertRecord {
    AlertRecord {
        kind: AlertKind::PublishRefused,
        wallet: Address::repeat_byte(number),
        topic_id: B256::ZERO,
        count,
        first_at: at,
        last_at: at + 1,
        evidence: B256::repeat_byte(7),
    }
}

fn flight(sequences: Vec<u64>) -> Flight {
    let attempt = Attempt {
        raw: vec![1].into(),
        hash: B256::repeat_byte(1),
        max_fee: u128::MAX,
        priority: 1,
    };
    Flight {
        sequences,
        to: Address::repeat_byte(3),
        data: vec![2].into(),
        nonce: 5,
        gas: 21_000,
        attempts: vec![attempt],
    }
}

fn landed(number: u8) -> Landed {
    Landed {
        nonce: number.into(),
        raw: vec![number].into(),
        hash: B256::repeat_byte(number),
        height: number.into(),
        block: B256::repeat_byte(number),
    }
}

fn open(path: &Path) -> Queue {
    Queue::open(path, LIMITS, NOW).unwrap()
}

fn contents(batch: &Batch) -> usize {
    match &batch.content {
        Intent::Bans(bans) => bans.len(),
        Intent::Lifts(lifts) => lifts.len(),
        Intent::Alerts(alerts) => alerts.len(),
        Intent::Anchor(_) => 1,
    }
}

#[test]
fn a_lifted_ban_that_has_not_taken_off_goes_nowhere_and_its_neighbours_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60), ban(2, NOW + 60)])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 90)])).unwrap();
    let lifted = ban(1, 0).subject;
    assert!(queue.holds_ban(lifted, NOW + 90));
    assert!(!queue.holds_ban(lifted, NOW + 91), "one that ends sooner says nothing of this one");
    queue.push(Intent::Lifts(vec![lifted])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 120)])).unwrap();
    drop(queue);
    let mut queue = open(dir.path());
    // First what was before the lift, then the lift by itself, then what came after it.
    let mut land = |wanted: Intent| {
        let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
        assert_eq!(batch.content, wanted);
        queue.take_off(flight(batch.sequences), NOW * 1000).unwrap();
        queue.land(landed(1)).unwrap();
    };
    land(Intent::Bans(vec![ban(2, NOW + 60)]));
    land(Intent::Lifts(vec![lifted]));
    land(Intent::Bans(vec![ban(1, NOW + 120)]));
    assert!(!queue.holds_ban(lifted, 0));
    assert_eq!(queue.batch(NOW, usize::MAX, |_| false).unwrap(), None);
}

#[test]
fn a_ban_in_the_air_stays_what_it_is_and_is_lifted_after_it_has_landed() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    queue.take_off(flight(batch.sequences), NOW * 1000).unwrap();
    let lifted = ban(1, 0).subject;
    queue.push(Intent::Lifts(vec![lifted])).unwrap();
    assert!(queue.holds_ban(lifted, NOW + 60), "it may be mined at any moment");
    queue.land(landed(1)).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Lifts(vec![lifted]));
}

/// The chain still has the ban that is to be lifted: that must not make the one after the lift look needless.
#[test]
fn a_ban_behind_a_lift_of_the_same_is_kept_though_the_chain_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let lifted = ban(1, 0).subject;
    queue.push(Intent::Lifts(vec![lifted])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 120)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| true).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Lifts(vec![lifted]));
    queue.take_off(flight(batch.sequences), NOW * 1000).unwrap();
    queue.land(landed(1)).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Bans(vec![ban(1, NOW + 120)]));
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_was_taken_is_there_after_a_restart_in_the_same_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let mut ids = queue.push(Intent::Alerts(vec![alert(1, 2, 10)])).unwrap();
    ids.extend(queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap());
    ids.extend(queue.push(Intent::Bans(vec![ban(2, NOW + 60)])).unwrap());
    let before = queue.batch(NOW, usize::MAX, |_| false).unwrap();
    drop(queue);
    let mut queue = open(dir.path());
    assert_eq!(queue.batch(NOW, usize::MAX, |_| false).unwrap(), before);
    assert_eq!((queue.bans(), queue.alerts()), (2, 1));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each has an id of its own");
}

#[test]
fn a_second_process_is_refused_the_directory_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = Queue::open(dir.path(), LIMITS, NOW);
    assert!(matches!(second, Err(SubmitterError::Locked { .. })), "{second:?}");
    drop(first);
    open(dir.path());
}

#[test]
fn a_crash_before_the_rename_leaves_nothing_and_after_it_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    drop(queue);
    let intents = dir.path().join("intents");
    let whole = files(&intents).pop().unwrap();
    // As a process leaves it that dies while it writes the next one.
    let torn = intents.join("00000000000000000099.tmp");
    fs::write(&torn, &fs::read(&whole).unwrap()[..40]).unwrap();
    let queue = open(dir.path());
    assert_eq!(queue.bans(), 1);
    assert!(!torn.exists());
    assert_eq!(queue.losses(), Losses::default());
}

#[test]
fn a_damaged_intent_is_set_aside_and_never_read_as_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    drop(queue);
    let file = files(&dir.path().join("intents")).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    let mut cases = 0;
    for at in (0..whole.len()).step_by(7) {
        for damage in [None, Some(at)] {
            let mut octets = whole.clone();
            match damage {
                None => octets.truncate(at),
                Some(at) => octets[at] ^= 1,
            }
            fs::write(&file, &octets).unwrap();
            let mut queue = open(dir.path());
            match queue.batch(NOW, usize::MAX, |_| false).unwrap() {
                None => assert_eq!(queue.losses().refused, 1, "{damage:?} {at}"),
                // A flipped bit in what carries no meaning, such as the letter case of a hash.
                Some(batch) => assert_eq!(batch.content, Intent::Bans(vec![ban(1, NOW + 60)])),
            }
            for left in files(&dir.path().join("refused")) {
                fs::remove_file(left).unwrap();
            }
            cases += 1;
        }
    }
    assert!(cases > 40, "{cases}");
}

#[test]
fn a_damaged_flight_stops_the_start_rather_than_being_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.take_off(flight(vec![1]), NOW * 1000).unwrap();
    drop(queue);
    let file = dir.path().join("flight.json");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let refused = Queue::open(dir.path(), LIMITS, NOW);
    assert!(matches!(refused, Err(SubmitterError::Flight { .. })), "{refused:?}");
    fs::write(&file, &whole).unwrap();
    assert_eq!(open(dir.path()).flight(), Some(&flight(vec![1])));
}

#[test]
fn a_crash_while_landing_finds_the_flight_again_and_nothing_to_send_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    queue.push(Intent::Bans(vec![ban(2, NOW + 60)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    queue.take_off(flight(batch.sequences.clone()), NOW * 1000).unwrap();
    drop(queue);
    // Killed after the first of the two intents was removed.
    fs::remove_file(files(&dir.path().join("intents")).remove(0)).unwrap();
    let mut queue = open(dir.path());
    assert_eq!(queue.flight().map(|flight| flight.sequences.clone()), Some(batch.sequences));
    queue.land(landed(1)).unwrap();
    drop(queue);
    let mut queue = open(dir.path());
    assert_eq!((queue.flight(), queue.bans()), (None, 0));
    assert_eq!(queue.batch(NOW, usize::MAX, |_| false).unwrap(), None);
}

#[test]
fn what_a_failed_transaction_carried_waits_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap();
    queue.take_off(flight(batch.clone().unwrap().sequences), NOW * 1000).unwrap();
    queue.give_up().unwrap();
    assert_eq!(queue.batch(NOW, usize::MAX, |_| false).unwrap(), batch);
    drop(queue);
    assert_eq!(open(dir.path()).batch(NOW, usize::MAX, |_| false).unwrap(), batch);
}

#[test]
fn bans_go_before_alerts_and_equal_ones_are_folded() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Alerts(vec![alert(1, 2, 10), alert(2, 1, 10)])).unwrap();
    queue.push(Intent::Alerts(vec![alert(1, 3, 5)])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 60), ban(2, NOW + 60)])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 90)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Bans(vec![ban(1, NOW + 90), ban(2, NOW + 60)]));
    queue.take_off(flight(batch.sequences), NOW * 1000).unwrap();
    queue.land(landed(1)).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    let Intent::Alerts(alerts) = &batch.content else { panic!("{batch:?}") };
    let folded = AlertRecord { count: 5, first_at: 5, last_at: 11, ..alert(1, 2, 10) };
    assert_eq!(alerts, &[folded, alert(2, 1, 10)]);
    assert_eq!(batch.sequences.len(), 2);
}

#[test]
fn a_transaction_carries_as_much_as_the_contracts_take_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let many: Vec<Ban> = (0..65).map(|number| ban(number, NOW + 60)).collect();
    assert_eq!(queue.push(Intent::Bans(many)).unwrap().len(), 2);
    queue.push(Intent::Bans(vec![ban(100, NOW + 60)])).unwrap();
    let first = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    assert_eq!((contents(&first), first.sequences.len()), (64, 1));
    queue.take_off(flight(first.sequences), NOW * 1000).unwrap();
    queue.land(landed(1)).unwrap();
    let second = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    assert_eq!((contents(&second), second.sequences.len()), (2, 2));
    assert_eq!(queue.batch(NOW, 1, |_| false).unwrap().unwrap().sequences.len(), 1);
}

#[test]
fn a_ban_that_has_ended_while_it_waited_is_forgotten_and_one_that_has_not_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW)])).unwrap();
    queue.push(Intent::Bans(vec![ban(2, NOW + 1), ban(3, NOW)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Bans(vec![ban(2, NOW + 1)]));
    assert_eq!((queue.losses().expired, queue.bans()), (1, 2));
}

#[test]
fn of_too_many_alerts_the_oldest_are_dropped_and_counted_and_bans_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bans: 2, alerts: 2 };
    let mut queue = Queue::open(dir.path(), limits, NOW).unwrap();
    for number in 1..=3 {
        queue.push(Intent::Alerts(vec![alert(number, 10, 5)])).unwrap();
        let refused = queue.push(Intent::Bans(vec![ban(number, NOW + 60)]));
        if number < 3 {
            assert!(refused.is_ok());
        } else {
            assert!(
                matches!(refused, Err(SubmitError::Full { waiting: 2, most: 2 })),
                "{refused:?}"
            );
        }
    }
    assert_eq!((queue.alerts(), queue.bans(), queue.losses().dropped), (2, 2, 10));
    // What is on its way is not dropped.
    let bans = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    queue.take_off(flight(bans.sequences), NOW * 1000).unwrap();
    queue.land(landed(1)).unwrap();
    let alerts = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    queue.take_off(flight(alerts.sequences.clone()), NOW * 1000).unwrap();
    queue.push(Intent::Alerts(vec![alert(9, 1, 5)])).unwrap();
    assert_eq!(queue.alerts(), 3);
}

#[test]
fn an_intent_that_the_contracts_refuse_is_kept_out_of_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    queue.set_aside(batch.sequences[0]).unwrap();
    assert_eq!(queue.batch(NOW, usize::MAX, |_| false).unwrap(), None);
    assert_eq!(files(&dir.path().join("refused")).len(), 1);
}

#[test]
fn a_reason_is_cut_at_a_character_and_an_alert_of_nothing_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let long = Ban { reason: "ü".repeat(200), ..ban(1, NOW + 60) };
    queue.push(Intent::Bans(vec![long])).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    let Intent::Bans(bans) = &batch.content else { panic!("{batch:?}") };
    assert_eq!(bans[0].reason.len(), MAX_REASON_OCTETS);
    assert!(queue.push(Intent::Alerts(vec![alert(1, 0, 5)])).unwrap().is_empty());
}

#[test]
fn gas_and_wei_are_counted_per_day_across_restarts_and_each_transaction_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let (first, second) = (B256::repeat_byte(1), B256::repeat_byte(2));
    queue.spend(first, 70, U256::from(7), NOW).unwrap();
    queue.spend(second, 30, U256::from(3), NOW).unwrap();
    drop(queue);
    let mut queue = open(dir.path());
    // As after a crash between counting and forgetting.
    queue.spend(second, 30, U256::from(3), NOW).unwrap();
    let spent = queue.spent(NOW);
    assert_eq!((spent.gas, spent.wei), (100, U256::from(10)));
    assert_eq!(queue.spent(NOW + 86_400).gas, 0);
}

#[test]
fn equal_alerts_of_an_hour_without_a_node_become_one_and_none_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bans: 2, alerts: 1_000 };
    let mut queue = Queue::open(dir.path(), limits, NOW).unwrap();
    // An interval of 15 s, 100 different alerts in each.
    for at in 0..240 {
        let alerts = (0..100).map(|number| alert(number, 3, at)).collect();
        queue.push(Intent::Alerts(alerts)).unwrap();
    }
    assert!(queue.alerts() <= 1_000, "{}", queue.alerts());
    drop(queue);
    let mut queue = Queue::open(dir.path(), limits, NOW).unwrap();
    assert_eq!(queue.losses(), Losses::default());
    let mut counts = BTreeMap::<Address, u32>::new();
    let mut transactions = 0;
    while let Some(batch) = queue.batch(NOW, usize::MAX, |_| false).unwrap() {
        let Intent::Alerts(alerts) = &batch.content else { panic!("{batch:?}") };
        for alert in alerts {
            *counts.entry(alert.wallet).or_default() += alert.count;
        }
        queue.take_off(flight(batch.sequences), NOW * 1000).unwrap();
        queue.land(landed(1)).unwrap();
        transactions += 1;
    }
    assert_eq!(counts.len(), 100);
    assert!(counts.values().all(|count| *count == 720), "{counts:?}");
    assert!(transactions <= 20, "{transactions}");
}

#[test]
fn a_crash_while_folding_loses_nothing_and_counts_nothing_twice() {
    let sum = |queue: &Queue| -> u32 {
        let alerts = queue.waiting.values().flat_map(|intent| match intent {
            Intent::Alerts(alerts) => alerts.clone(),
            _ => Vec::new(),
        });
        alerts.map(|alert| alert.count).sum()
    };
    let before = tempfile::tempdir().unwrap();
    let mut queue = open(before.path());
    for _ in 0..4 {
        queue.push(Intent::Alerts(vec![alert(1, 5, 10), alert(2, 1, 10)])).unwrap();
    }
    let old = files(&before.path().join("intents"));
    let replaced: Vec<u64> = queue.waiting.keys().copied().collect();
    queue.fold_waiting().unwrap();
    assert_eq!((sum(&queue), queue.alerts()), (24, 2));
    let new = files(&before.path().join("intents"));
    assert_eq!((old.len(), new.len()), (4, 1));
    let by = vec![read::<Stored>(&new[0]).unwrap().unwrap()];
    drop(queue);
    // As it is on the disk after a crash at each of its steps: nothing done, the new file written, some of the old removed.
    let mut cases = 0;
    for has_new in [false, true] {
        for removed in 0..=4 {
            if removed > 0 && !has_new {
                continue;
            }
            let after = tempfile::tempdir().unwrap();
            drop(open(after.path()));
            let place = |file: &Path| after.path().join("intents").join(file.file_name().unwrap());
            for (stored, file) in replaced.iter().zip(&old).skip(removed) {
                let intent = Intent::Alerts(vec![alert(1, 5, 10), alert(2, 1, 10)]);
                write(&place(file), &Stored { sequence: *stored, intent }).unwrap();
            }
            if has_new {
                fs::copy(&new[0], place(&new[0])).unwrap();
            }
            let merge = Merge { replaced: replaced.clone(), by: by.clone() };
            write(&after.path().join("merge.json"), &merge).unwrap();
            let queue = open(after.path());
            assert_eq!((sum(&queue), queue.alerts()), (24, 2), "{has_new} {removed}");
            assert!(!after.path().join("merge.json").exists());
            cases += 1;
        }
    }
    assert_eq!(cases, 6);
}

#[test]
fn what_could_not_be_folded_in_the_files_holds_everything_up_until_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    for _ in 0..4 {
        queue.push(Intent::Alerts(vec![alert(1, 5, 10)])).unwrap();
    }
    // In the way of the merged file, as a disk that fails.
    let in_the_way = queue.intent(queue.next).with_extension("tmp");
    fs::create_dir(&in_the_way).unwrap();
    assert!(queue.fold_waiting().is_err());
    assert!(queue.batch(NOW, usize::MAX, |_| false).is_err());
    assert!(queue.push(Intent::Alerts(vec![alert(2, 1, 10)])).is_err());
    fs::remove_dir(&in_the_way).unwrap();
    let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Alerts(vec![alert(1, 20, 10)]));
}

#[test]
fn more_than_one_record_can_count_becomes_two() {
    let mut folded = Folded::default();
    folded.add(&alert(1, u32::MAX - 1, 10));
    folded.add(&alert(1, 1, 11));
    folded.add(&alert(1, 7, 12));
    let counts: Vec<u32> = folded.alerts.iter().map(|alert| alert.count).collect();
    assert_eq!(counts, [u32::MAX, 7]);
}

#[test]
fn bans_that_the_chain_has_already_are_forgotten_and_their_neighbours_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 60), ban(2, NOW + 60)])).unwrap();
    let known = |ban: &Ban| ban.subject == BanSubject::Origin(B256::repeat_byte(1));
    let batch = queue.batch(NOW, usize::MAX, known).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Bans(vec![ban(2, NOW + 60)]));
    assert_eq!((queue.losses().superseded, queue.losses().expired), (1, 0));
}

#[test]
fn the_last_confirmed_transactions_are_remembered_across_restarts_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    for number in 1..=20 {
        queue.land(landed(number)).unwrap();
        // As after a crash in the middle of it.
        queue.land(landed(number)).unwrap();
    }
    drop(queue);
    let queue = open(dir.path());
    let nonces: Vec<u64> = queue.landed().iter().map(|landed| landed.nonce).collect();
    assert_eq!(nonces, (5..=20).collect::<Vec<_>>());
}

#[test]
fn what_can_be_done_without_is_moved_away_when_damaged_and_told() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["landed.json", "spent.json"] {
        drop(open(dir.path()));
        fs::write(dir.path().join(name), "{}").unwrap();
        let queue = open(dir.path());
        assert_eq!(queue.damaged().len(), 1, "{name}");
        assert!(
            queue.damaged()[0].contains(name) && dir.path().join("refused").join(name).exists()
        );
    }
}

#[test]
fn an_anchor_is_kept_once_and_takes_turns_with_alerts() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let anchor = |sequence| {
        let (root, previous) = (B256::repeat_byte(7), B256::ZERO);
        Intent::Anchor(Anchor { sequence, root, previous, count: 3 })
    };
    assert_eq!(queue.push(anchor(1)).unwrap().len(), 1);
    assert!(queue.push(anchor(1)).unwrap().is_empty(), "it waits already");
    queue.push(Intent::Alerts(vec![alert(1, 5, 10)])).unwrap();
    queue.push(anchor(2)).unwrap();
    drop(queue);
    let mut queue = open(dir.path());
    let mut land = || {
        let batch = queue.batch(NOW, usize::MAX, |_| false).unwrap().unwrap();
        queue.take_off(flight(batch.sequences), NOW * 1000).unwrap();
        queue.land(landed(1)).unwrap();
        batch.content
    };
    assert_eq!(land(), anchor(1));
    assert!(matches!(land(), Intent::Alerts(_)));
    assert_eq!(land(), anchor(2));
}

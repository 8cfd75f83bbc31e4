use flytrap_policy::AlertKind;

use super::*;

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

fn open(path: &Path) -> Queue {
    Queue::open(path, LIMITS, NOW).unwrap()
}

fn contents(batch: &Batch) -> usize {
    match &batch.content {
        Intent::Bans(bans) => bans.len(),
        Intent::Lifts(lifts) => lifts.len(),
        Intent::Alerts(alerts) => alerts.len(),
    }
}

#[test]
fn a_lifted_ban_that_has_not_taken_off_goes_nowhere_and_its_neighbours_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60), ban(2, NOW + 60)])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 90)])).unwrap();
    let lifted = ban(1, 0).subject;
    assert!(queue.holds_ban(lifted));
    queue.push(Intent::Lifts(vec![lifted])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 120)])).unwrap();
    drop(queue);
    let mut queue = open(dir.path());
    // First what was before the lift, then the lift by itself, then what came after it.
    let mut land = |wanted: Intent| {
        let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
        assert_eq!(batch.content, wanted);
        queue.take_off(flight(batch.sequences)).unwrap();
        queue.land().unwrap();
    };
    land(Intent::Bans(vec![ban(2, NOW + 60)]));
    land(Intent::Lifts(vec![lifted]));
    land(Intent::Bans(vec![ban(1, NOW + 120)]));
    assert!(!queue.holds_ban(lifted));
    assert_eq!(queue.batch(NOW, usize::MAX).unwrap(), None);
}

#[test]
fn a_ban_in_the_air_stays_what_it_is_and_is_lifted_after_it_has_landed() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    queue.take_off(flight(batch.sequences)).unwrap();
    let lifted = ban(1, 0).subject;
    queue.push(Intent::Lifts(vec![lifted])).unwrap();
    assert!(queue.holds_ban(lifted), "it may be mined at any moment");
    queue.land().unwrap();
    let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Lifts(vec![lifted]));
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
    let before = queue.batch(NOW, usize::MAX).unwrap();
    drop(queue);
    let mut queue = open(dir.path());
    assert_eq!(queue.batch(NOW, usize::MAX).unwrap(), before);
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
            match queue.batch(NOW, usize::MAX).unwrap() {
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
    queue.take_off(flight(vec![1])).unwrap();
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
    let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    queue.take_off(flight(batch.sequences.clone())).unwrap();
    drop(queue);
    // Killed after the first of the two intents was removed.
    fs::remove_file(files(&dir.path().join("intents")).remove(0)).unwrap();
    let mut queue = open(dir.path());
    assert_eq!(queue.flight().map(|flight| flight.sequences.clone()), Some(batch.sequences));
    queue.land().unwrap();
    drop(queue);
    let mut queue = open(dir.path());
    assert_eq!((queue.flight(), queue.bans()), (None, 0));
    assert_eq!(queue.batch(NOW, usize::MAX).unwrap(), None);
}

#[test]
fn what_a_failed_transaction_carried_waits_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX).unwrap();
    queue.take_off(flight(batch.clone().unwrap().sequences)).unwrap();
    queue.give_up().unwrap();
    assert_eq!(queue.batch(NOW, usize::MAX).unwrap(), batch);
    drop(queue);
    assert_eq!(open(dir.path()).batch(NOW, usize::MAX).unwrap(), batch);
}

#[test]
fn bans_go_before_alerts_and_equal_ones_are_folded() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Alerts(vec![alert(1, 2, 10), alert(2, 1, 10)])).unwrap();
    queue.push(Intent::Alerts(vec![alert(1, 3, 5)])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 60), ban(2, NOW + 60)])).unwrap();
    queue.push(Intent::Bans(vec![ban(1, NOW + 90)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    assert_eq!(batch.content, Intent::Bans(vec![ban(1, NOW + 90), ban(2, NOW + 60)]));
    queue.take_off(flight(batch.sequences)).unwrap();
    queue.land().unwrap();
    let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
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
    let first = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    assert_eq!((contents(&first), first.sequences.len()), (64, 1));
    queue.take_off(flight(first.sequences)).unwrap();
    queue.land().unwrap();
    let second = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    assert_eq!((contents(&second), second.sequences.len()), (2, 2));
    assert_eq!(queue.batch(NOW, 1).unwrap().unwrap().sequences.len(), 1);
}

#[test]
fn a_ban_that_has_ended_while_it_waited_is_forgotten_and_one_that_has_not_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW)])).unwrap();
    queue.push(Intent::Bans(vec![ban(2, NOW + 1), ban(3, NOW)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
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
    let bans = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    queue.take_off(flight(bans.sequences)).unwrap();
    queue.land().unwrap();
    let alerts = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    queue.take_off(flight(alerts.sequences.clone())).unwrap();
    queue.push(Intent::Alerts(vec![alert(9, 1, 5)])).unwrap();
    assert_eq!(queue.alerts(), 3);
}

#[test]
fn an_intent_that_the_contracts_refuse_is_kept_out_of_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.push(Intent::Bans(vec![ban(1, NOW + 60)])).unwrap();
    let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    queue.set_aside(batch.sequences[0]).unwrap();
    assert_eq!(queue.batch(NOW, usize::MAX).unwrap(), None);
    assert_eq!(files(&dir.path().join("refused")).len(), 1);
}

#[test]
fn a_reason_is_cut_at_a_character_and_an_alert_of_nothing_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    let long = Ban { reason: "ü".repeat(200), ..ban(1, NOW + 60) };
    queue.push(Intent::Bans(vec![long])).unwrap();
    let batch = queue.batch(NOW, usize::MAX).unwrap().unwrap();
    let Intent::Bans(bans) = &batch.content else { panic!("{batch:?}") };
    assert_eq!(bans[0].reason.len(), MAX_REASON_OCTETS);
    assert!(queue.push(Intent::Alerts(vec![alert(1, 0, 5)])).unwrap().is_empty());
}

#[test]
fn gas_is_counted_per_day_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path());
    queue.spend(70, NOW).unwrap();
    queue.spend(30, NOW).unwrap();
    drop(queue);
    let queue = open(dir.path());
    assert_eq!(queue.spent(NOW), 100);
    assert_eq!(queue.spent(NOW + 86_400), 0);
}

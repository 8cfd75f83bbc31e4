use std::time::Duration;

use alloy_primitives::{B256, Bytes, U256};
use flytrap_chain::history::Entry;
use flytrap_policy::Event;
use flytrap_record::export::Line;
use flytrap_record::{Decision, Kind, Record, leaf};

use super::*;
use crate::audit::{Draft, Place, Retention, Store, file_in};
use crate::config::Secret;

const GATEWAY: Address = Address::repeat_byte(9);
const DAY: u64 = 86_400;

fn wallet(n: u8) -> Address {
    Address::with_last_byte(n)
}

fn draft(kind: Kind, of: u8, at: u64) -> Draft {
    let wallet = wallet(of);
    let record = Record {
        index: 0,
        kind,
        wallet,
        key: wallet,
        session: 1,
        topic_id: B256::repeat_byte(2),
        epoch: 1,
        count: 1,
        octets: 8,
        first_at: at,
        last_at: at,
        height: 3,
        rule: "grant".to_owned(),
        country: "DE".to_owned(),
        personal: Bytes::new(),
    };
    Draft { record, personal: None }
}

struct Ground {
    dir: tempfile::TempDir,
    store: Store,
    index: Index,
    follower: Follower,
}

impl Ground {
    fn new(drops_refusals: bool) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path());
        let index = Index::new(dir.path(), Place::File(file_in(dir.path(), GATEWAY)), GATEWAY);
        let follower = Follower::new(index.clone(), drops_refusals);
        Self { dir, store, index, follower }
    }

    /// Appends and closes.
    fn batch(&mut self, drafts: &[Draft]) {
        self.store.append(drafts).expect("appended");
        self.store.close((0, B256::ZERO)).expect("closed").expect("a batch");
    }

    /// Steps until all is done; how many.
    fn follow(&mut self) -> usize {
        let mut steps = 0;
        loop {
            steps += 1;
            assert!(steps < 10_000, "no end");
            match self.follower.step() {
                Ok(Step::Done) => return steps,
                Ok(Step::More) | Err(IndexError::Wrong(_) | IndexError::Database(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn search(&self) -> Search {
        let deadline = Instant::now() + Duration::from_secs(60);
        self.index.open(Arc::default(), deadline).expect("an index")
    }

    fn numbers(&self, wanted: &Wanted) -> Vec<u64> {
        let found = self.search().numbers(wanted, None, 1_000_000).expect("numbers");
        found.into_iter().map(|(index, _)| index).collect()
    }
}

fn open(dir: &Path) -> Store {
    Store::open(&Place::File(file_in(dir, GATEWAY)), GATEWAY, Secret::new([7; 32]))
        .expect("a store")
}

#[test]
fn only_closed_records_show_and_each_filter_finds_its_own() {
    let mut ground = Ground::new(false);
    ground.batch(&[draft(Kind::Delivered, 1, 10), draft(Kind::PublishRefused, 2, 20)]);
    let mut by_device = draft(Kind::Published, 1, 30);
    by_device.record.key = wallet(7);
    by_device.record.country = "FR".to_owned();
    by_device.record.topic_id = B256::repeat_byte(3);
    ground.batch(&[by_device]);
    ground.store.append(&[draft(Kind::Delivered, 1, 40)]).expect("appended, and not closed");
    ground.follow();
    let all = Wanted::default();
    assert_eq!(ground.numbers(&all), [1, 2, 3]);
    assert_eq!(ground.numbers(&Wanted { newest_first: true, ..all.clone() }), [3, 2, 1]);
    let cases = [
        (Wanted { wallet: Some(wallet(1)), ..all.clone() }, vec![1, 3]),
        (Wanted { device: Some(wallet(7)), ..all.clone() }, vec![3]),
        (Wanted { topic: Some(B256::repeat_byte(2)), ..all.clone() }, vec![1, 2]),
        (Wanted { decision: Some(Decision::Refused), ..all.clone() }, vec![2]),
        (Wanted { kind: Some(Kind::Published), ..all.clone() }, vec![3]),
        (Wanted { country: Some("FR".to_owned()), ..all.clone() }, vec![3]),
        (Wanted { from: Some(20), ..all.clone() }, vec![2, 3]),
        (Wanted { to: Some(20), ..all.clone() }, vec![1, 2]),
        (Wanted { from: Some(21), to: Some(29), ..all.clone() }, vec![]),
    ];
    for (wanted, found) in cases {
        assert_eq!(ground.numbers(&wanted), found, "{wanted:?}");
    }
    let coverage = ground.search().coverage().expect("coverage");
    assert_eq!(coverage, Coverage { first: 1, last: 3, sequence: 2 });
    assert!(!ground.index.is_behind());
}

/// More than one part, more than one step, and each end of both.
#[test]
fn every_record_of_a_large_interval_has_a_way_to_the_root_that_was_anchored() {
    let mut ground = Ground::new(false);
    ground.batch(&[draft(Kind::Delivered, 1, 1)]);
    let many: Vec<Draft> = (0..2_500).map(|n| draft(Kind::Delivered, 2, 10 + n)).collect();
    ground.store.append(&many).expect("appended");
    let closed = ground.store.close((0, B256::ZERO)).expect("closed").expect("a batch");
    assert!(ground.follow() > 3, "in small steps");
    let mut search = ground.search();
    let mut looked_at = 0;
    for index in [2, 3, 1_025, 1_026, 1_027, 2_049, 2_050, 2_500, 2_501] {
        let batch = search.batch_of(index).expect("found").expect("closed");
        assert_eq!((batch.sequence, batch.root, batch.count), (2, closed.root, 2_500));
        let Some(Line::Record(line)) = search.record(index).expect("read") else {
            panic!("no record {index}")
        };
        let leaf = leaf(&line.record.encode());
        let path = search.path(&batch, index, leaf).expect("a way");
        assert_eq!(path.place, index - 2);
        let wrong = search.path(&batch, index, B256::repeat_byte(1));
        assert!(matches!(wrong, Err(IndexError::Wrong(_))), "another leaf has no way: {wrong:?}");
        looked_at += 1;
    }
    assert_eq!(looked_at, 9);
    assert_eq!(search.batch_of(2_502).expect("asked"), None);
}

#[test]
fn a_stop_in_the_middle_of_an_interval_shows_nothing_of_it_and_goes_on() {
    let mut ground = Ground::new(false);
    let many: Vec<Draft> = (0..2_500).map(|n| draft(Kind::Delivered, 2, 10 + n)).collect();
    ground.batch(&many);
    for _ in 0..2 {
        assert_eq!(ground.follower.step().expect("a step"), Step::More);
    }
    assert!(ground.numbers(&Wanted::default()).is_empty());
    assert!(ground.index.is_behind());
    ground.follower = Follower::new(ground.index.clone(), false);
    ground.follow();
    assert_eq!(ground.numbers(&Wanted::default()).len(), 2_500);
    let cells = ground.search().cells((0, 0), None, 1, 0, 10).expect("cells");
    assert_eq!(cells.iter().map(|cell| cell.records).sum::<u64>(), 2_500, "counted once");
}

#[test]
fn a_missing_damaged_or_older_index_and_one_of_another_store_are_made_anew() {
    let spoils: [fn(&Path); 4] = [
        |file| std::fs::remove_file(file).expect("removed"),
        |file| std::fs::write(file, vec![0x5a; 8_192]).expect("overwritten"),
        |file| {
            let database = Connection::open(file).expect("the file");
            database.execute_batch("PRAGMA user_version = 99").expect("changed");
        },
        |file| {
            let database = Connection::open(file).expect("the file");
            let other = "UPDATE batch SET before = zeroblob(32), count = 7 WHERE sequence = 2";
            assert_eq!(database.execute(other, []).expect("changed"), 1);
        },
    ];
    for (n, spoil) in spoils.into_iter().enumerate() {
        let mut ground = Ground::new(false);
        ground.batch(&[draft(Kind::Delivered, 1, 10)]);
        ground.batch(&[draft(Kind::Delivered, 2, 10)]);
        ground.follow();
        // As after a restart.
        ground.follower = Follower::new(ground.index.clone(), false);
        let file = ground.dir.path().join(format!("api-index-{GATEWAY:#x}.sqlite"));
        for end in ["-wal", "-shm"] {
            let mut beside = file.as_os_str().to_owned();
            beside.push(end);
            let _ = std::fs::remove_file(beside);
        }
        spoil(&file);
        ground.follow();
        assert_eq!(ground.numbers(&Wanted::default()), [1, 2], "spoilt in way {n}");
    }
}

#[test]
fn an_index_that_is_taken_away_while_it_is_used_comes_back() {
    let mut ground = Ground::new(false);
    ground.batch(&[draft(Kind::Delivered, 1, 10)]);
    ground.follow();
    std::fs::remove_file(&ground.index.file).expect("removed");
    ground.follow();
    assert_eq!(ground.numbers(&Wanted::default()), [1]);
    // A reader that stumbles tells the writer.
    let database = Connection::open(&ground.index.file).expect("the file");
    database.execute_batch("DROP TABLE leaf").expect("dropped");
    let batch = ground.search().batch_of(1).expect("asked").expect("closed");
    assert!(ground.search().path(&batch, 1, B256::ZERO).is_err());
    ground.follow();
    let mut search = ground.search();
    let Some(Line::Record(line)) = search.record(1).expect("read") else { panic!("no record") };
    search.path(&batch, 1, leaf(&line.record.encode())).expect("a way");
}

#[test]
fn what_retention_removes_is_in_no_answer_and_no_sum_any_more() {
    let year = Some(Duration::from_secs(365 * DAY));
    let retention = Retention { all: year, refusals: Some(Duration::from_secs(90 * DAY)) };
    let mut ground = Ground::new(true);
    for day in 0..4 {
        let at = day * 100 * DAY;
        ground.batch(&[draft(Kind::Delivered, 1, at), draft(Kind::PublishRefused, 2, at)]);
    }
    ground.follow();
    let now = 400 * DAY;
    while ground.store.retain(retention, now, u64::MAX).expect("retained").more {}
    ground.follow();
    // Day 0 is gone, of 100 and 200 and 300 the refusals are; the newest is never older than it may be.
    assert_eq!(ground.numbers(&Wanted::default()), [3, 5, 7]);
    let refused = Wanted { decision: Some(Decision::Refused), ..Wanted::default() };
    assert!(ground.numbers(&refused).is_empty());
    assert_eq!(ground.search().coverage().expect("coverage").first, 3);
    let cells = ground.search().cells((0, 1_000), None, 1, 0, 100).expect("cells");
    let days: Vec<_> = cells.iter().map(|cell| (cell.day, cell.kind, cell.records)).collect();
    assert_eq!(days, [100, 200, 300].map(|day| (day, Kind::Delivered, 1)));
    // What is left of a refusal still proves that it was there.
    let mut search = ground.search();
    let batch = search.batch_of(4).expect("asked").expect("kept");
    let Some(Line::Removed(line)) = search.record(4).expect("read") else { panic!("not emptied") };
    search.path(&batch, 4, line.leaf).expect("a way");
}

/// Sums that could name a person are told together, or not at all; those that name nobody always.
#[test]
fn small_cells_are_folded_and_cells_that_stay_small_are_hidden() {
    let mut ground = Ground::new(false);
    let of = |kind, n, country: &str| {
        let mut draft = draft(kind, n, 10);
        draft.record.country = country.to_owned();
        draft
    };
    let mut drafts: Vec<Draft> = (1..=5).map(|n| of(Kind::Delivered, n, "DE")).collect();
    drafts.extend((6..=8).map(|n| of(Kind::Delivered, n, "FR")));
    drafts.extend((9..=10).map(|n| of(Kind::Delivered, n, "LI")));
    // The same wallet in two countries is one wallet.
    drafts.extend((1..=4).map(|n| of(Kind::Published, n, "DE")));
    drafts.push(of(Kind::Published, 1, "FR"));
    let mut failed = of(Kind::ProofFailed, 0, "LI");
    failed.record.key = Address::ZERO;
    drafts.push(failed);
    ground.batch(&drafts);
    ground.follow();
    let cells = ground.search().cells((0, 0), None, 5, 0, 100).expect("cells");
    let told: Vec<_> = cells
        .iter()
        .map(|cell| (cell.kind, cell.country.as_deref(), cell.wallets, cell.records))
        .collect();
    assert_eq!(
        told,
        [
            (Kind::Delivered, None, 5, 5),
            (Kind::Delivered, Some("DE"), 5, 5),
            (Kind::ProofFailed, None, 0, 1),
        ]
    );
    let all = ground.search().cells((0, 0), None, 1, 0, 100).expect("cells");
    assert_eq!(all.iter().map(|cell| cell.records).sum::<u64>(), 16);
    let paged: Vec<Cell> = (0..all.len())
        .flat_map(|skip| {
            let skip = u64::try_from(skip).expect("few");
            ground.search().cells((0, 0), None, 1, skip, 1).expect("cells")
        })
        .collect();
    assert_eq!(paged, all);
}

#[test]
fn who_did_what_around_a_second_is_added_up_and_who_ever_did_is_known() {
    let mut ground = Ground::new(false);
    ground.batch(&[
        draft(Kind::Delivered, 1, 10),
        draft(Kind::Delivered, 1, 12),
        draft(Kind::PublishRefused, 2, 12),
        draft(Kind::Delivered, 3, 99),
    ]);
    ground.follow();
    let (search, topic) = (ground.search(), B256::repeat_byte(2));
    let uses = search.uses(topic, 10, 12, 100).expect("uses");
    let told: Vec<_> = uses.iter().map(|of| (of.wallet, of.kind, of.records, of.octets)).collect();
    assert_eq!(
        told,
        [(wallet(1), Kind::Delivered, 2, 16), (wallet(2), Kind::PublishRefused, 1, 8)]
    );
    assert!(search.has_done(topic, wallet(3), Kind::Delivered).expect("asked"));
    assert!(!search.has_done(topic, wallet(3), Kind::Published).expect("asked"));
    assert!(!search.has_done(B256::ZERO, wallet(3), Kind::Delivered).expect("asked"));
}

#[test]
fn anchors_are_kept_in_order_and_forgotten_where_the_chain_was_another() {
    let mut ground = Ground::new(false);
    let entry = |height: u64, sequence| Entry {
        height,
        time: height,
        block: B256::ZERO,
        tx: B256::with_last_byte(1),
        log_index: 0,
        contract: Address::ZERO,
        event: Event::Anchored {
            broker_id: U256::ONE,
            gateway: GATEWAY,
            sequence,
            root: B256::repeat_byte(1),
            previous: B256::ZERO,
            count: 1,
        },
    };
    ground.follower.anchored(&[entry(5, 1), entry(9, 2)], 10).expect("taken");
    assert_eq!(ground.follower.anchors_to().expect("known"), 10);
    let sequences = |ground: &Ground, after| -> Vec<u64> {
        let found = ground.search().anchors(Some(GATEWAY), after, 10).expect("anchors");
        found.into_iter().map(|anchor| anchor.sequence).collect()
    };
    assert_eq!(sequences(&ground, None), [1, 2]);
    assert_eq!(sequences(&ground, Some((GATEWAY, 1))), [2]);
    ground.follower.unsettle(7).expect("forgotten");
    assert_eq!(
        (sequences(&ground, None), ground.follower.anchors_to().expect("known")),
        (vec![1], 7)
    );
}

#[test]
fn a_question_ends_when_its_time_is_over_or_nobody_waits() {
    let mut ground = Ground::new(false);
    let many: Vec<Draft> = (0..3_000).map(|n| draft(Kind::Delivered, 2, 10 + n)).collect();
    ground.batch(&many);
    ground.follow();
    let is_late = |stop: bool, deadline| {
        let search = ground.index.open(Arc::new(AtomicBool::new(stop)), deadline)?;
        search.numbers(
            &Wanted { country: Some("FR".to_owned()), from: Some(1), ..Wanted::default() },
            None,
            10,
        )?;
        search.uses(B256::repeat_byte(2), 0, u64::MAX, 10).map(drop)
    };
    let later = Instant::now() + Duration::from_secs(60);
    assert!(is_late(false, later).is_ok());
    assert!(matches!(is_late(true, later), Err(IndexError::Late)));
    assert!(matches!(is_late(false, Instant::now()), Err(IndexError::Late)));
}

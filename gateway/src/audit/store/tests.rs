//! What holds whatever the engine is, tried with each, and the ground that such tests stand on.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::Bytes;
use flytrap_record::Kind;
use flytrap_record::export::{BatchLine, Line};
use flytrap_site::Postgres as Server;
use rusqlite::Connection;
use tempfile::TempDir;

use super::schema::VERSION;
use super::*;

pub(super) const GATEWAY: Address = Address::repeat_byte(9);
pub(super) const NONE: (u64, B256) = (0, B256::ZERO);

/// One server for all tests of this process, each in a database of its own.
static SERVER: LazyLock<Mutex<Server>> =
    LazyLock::new(|| Mutex::new(Server::start().expect("a PostgreSQL server")));

/// An empty place for records.
pub(super) struct Bed {
    pub(super) place: Place,
    pub(super) dir: TempDir,
    database: Option<String>,
}

impl Bed {
    pub(super) fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { place: Place::File(file_in(dir.path(), GATEWAY)), dir, database: None }
    }

    pub(super) fn postgres() -> Self {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("test{number}");
        let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        let url = server.create(&name).expect("a database");
        let place = database(&url, server.password());
        Self { place, dir: tempfile::tempdir().expect("a directory"), database: Some(name) }
    }

    pub(super) fn open(&self) -> Result<Store, StoreError> {
        self.open_as(GATEWAY)
    }

    pub(super) fn open_as(&self, gateway: Address) -> Result<Store, StoreError> {
        Store::open(&self.place, gateway, Secret::new([7; 32]))
    }

    pub(super) fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.place, GATEWAY)
    }

    /// Has another connection do something to the tables.
    pub(super) fn sql(&self, statement: &str) {
        match (&self.place, &self.database) {
            (Place::File(path), _) => {
                Connection::open(path)
                    .expect("the file")
                    .execute_batch(statement)
                    .expect(statement);
            }
            (_, database) => {
                self.ask_server(database.as_deref().expect("a database"), statement);
            }
        }
    }

    /// The number that another connection is told.
    pub(super) fn number(&self, question: &str) -> u64 {
        match (&self.place, &self.database) {
            (Place::File(path), _) => {
                let file = Connection::open(path).expect("the file");
                let found: i64 = file.query_row(question, [], |row| row.get(0)).expect(question);
                u64::try_from(found).expect("no number below zero")
            }
            (_, database) => {
                let told = self.ask_server(database.as_deref().expect("a database"), question);
                told.parse().expect("a number")
            }
        }
    }

    fn ask_server(&self, database: &str, statement: &str) -> String {
        let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        server.sql(database, &format!("SET search_path = flytrap; {statement}")).expect(statement)
    }

    /// From now on no record is taken, or they are again.
    fn refuse(&self, refuses: bool) {
        self.sql(match (&self.place, refuses) {
            (Place::File(_), true) => {
                "CREATE TRIGGER refuse BEFORE INSERT ON record BEGIN SELECT RAISE(ABORT, 'no'); END"
            }
            (Place::File(_), false) => "DROP TRIGGER refuse",
            (_, true) => "ALTER TABLE record ADD CONSTRAINT refuse CHECK (idx < 0) NOT VALID",
            (_, false) => "ALTER TABLE record DROP CONSTRAINT refuse",
        });
    }

    fn set_version(&self, version: i64) {
        self.sql(&match &self.place {
            Place::File(_) => format!("PRAGMA user_version = {version}"),
            Place::Database(_) => format!("UPDATE version SET number = {version}"),
        });
    }

    fn records(&self, batch: &BatchLine) -> Vec<Record> {
        let mut all = Vec::new();
        let each = |line| {
            if let Line::Record(line) = line {
                all.push(line.record);
            }
            Ok::<_, StoreError>(())
        };
        self.reader().and_then(|reader| reader.records(batch, each)).expect("records");
        all
    }

    /// The key that is kept for the drafts' wallet.
    fn key(&self, store: &Store) -> Option<flytrap_record::seal::SubjectKey> {
        let tag = Subject::Wallet(Address::repeat_byte(1)).tag(&[7; 32]);
        let found = store.engine.keys(vec![tag]).expect("keys");
        found.into_iter().next().map(|row| row.key)
    }
}

/// The database of that URL.
pub(super) fn database(url: &str, password: &str) -> Place {
    let password = Some(Secret::new(password.as_bytes().to_vec()));
    Place::Database(Box::new(DatabaseConfig::new(url, password, None).expect("a database")))
}

/// Tests that are run against each engine, as `name::sqlite` and `name::postgres`.
macro_rules! with_each_engine {
    ($(#[test] fn $name:ident($bed:ident: &Bed) $body:block)*) => {$(
        mod $name {
            use super::*;

            fn test($bed: &Bed) $body

            #[test]
            fn sqlite() {
                test(&Bed::sqlite());
            }

            #[test]
            fn postgres() {
                test(&Bed::postgres());
            }
        }
    )*};
}
pub(super) use with_each_engine;

pub(super) fn draft(count: u64) -> Draft {
    let wallet = Address::repeat_byte(1);
    let record = Record {
        index: 0,
        kind: Kind::Delivered,
        wallet,
        key: wallet,
        session: 1,
        topic_id: B256::repeat_byte(2),
        epoch: 1,
        count,
        octets: 8,
        first_at: 10,
        last_at: 12,
        height: 3,
        rule: "grant".to_owned(),
        country: String::new(),
        personal: Bytes::new(),
    };
    let personal = Personal { client_id: "pump-7".to_owned(), ..Personal::default() };
    Draft { record, personal: Some((Subject::Wallet(wallet), personal)) }
}

with_each_engine! {
    #[test]
    fn records_are_numbered_chained_and_closed_in_batches_across_restarts(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        assert_eq!(store.close(NONE).expect("nothing"), None);
        assert_eq!(store.append(&[draft(1), draft(2)]).expect("appended"), 2);
        let first = store.close(NONE).expect("closed").expect("a batch");
        assert_eq!((first.sequence, first.count, first.previous), (1, 2, B256::ZERO));
        store.append(&[draft(3)]).expect("appended");
        drop(store);

        let mut store = bed.open().expect("a store");
        assert_eq!(store.append(&[draft(4)]).expect("appended"), 4);
        let second = store.close((1, first.root)).expect("closed").expect("a batch");
        assert_eq!((second.sequence, second.count, second.previous), (2, 2, first.root));
        assert_eq!(store.closed_after(0, 10).expect("batches"), [first, second]);
        assert_eq!(store.closed_after(1, 10).expect("batches"), [second]);
        let batches = bed.reader().and_then(|reader| reader.batches(1, 9)).expect("batches");
        let counts: Vec<u64> =
            batches.iter().flat_map(|batch| bed.records(batch)).map(|r| r.count).collect();
        assert_eq!(counts, [1, 2, 3, 4]);
    }

    #[test]
    fn many_records_are_read_as_they_were_written(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        let drafts: Vec<Draft> = (1..=2_500).map(draft).collect();
        assert_eq!(store.append(&drafts).expect("appended"), 2_500);
        store.close(NONE).expect("closed").expect("a batch");
        let batch = bed.reader().and_then(|reader| reader.batches(1, 1)).expect("batches").remove(0);
        let counts: Vec<u64> = bed.records(&batch).iter().map(|record| record.count).collect();
        assert_eq!(counts, (1..=2_500).collect::<Vec<_>>());
        let reader = bed.reader().expect("a reader");
        let alone = reader.record(1_700).expect("read");
        assert!(matches!(alone, Some(Line::Record(line)) if line.record.count == 1_700));
        assert_eq!(reader.record(2_501).expect("read"), None);
        drop((store, reader));
        assert_eq!(bed.open().expect("whole").append(&[draft(1)]).expect("appended"), 2_501);
    }

    #[test]
    fn a_gateway_that_lost_its_records_goes_on_after_its_last_anchor_on_chain(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        store.append(&[draft(1)]).expect("appended");
        let root = B256::repeat_byte(5);
        let closed = store.close((6, root)).expect("closed").expect("a batch");
        assert_eq!((closed.sequence, closed.previous), (7, root));
    }

    #[test]
    fn an_older_copy_goes_on_after_the_last_anchor_on_chain_too(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        store.append(&[draft(1)]).expect("appended");
        let first = store.close(NONE).expect("closed").expect("a batch");
        store.append(&[draft(2)]).expect("appended");
        let root = B256::repeat_byte(5);
        let closed = store.close((4, root)).expect("closed").expect("a batch");
        assert_eq!((closed.sequence, closed.previous), (5, root));
        assert_eq!(store.closed_after(0, 9).expect("batches"), [first, closed]);
        // What the chain has not seen settled yet does not count less than what is known here.
        store.append(&[draft(3)]).expect("appended");
        let next = store.close((4, root)).expect("closed").expect("a batch");
        assert_eq!((next.sequence, next.previous), (6, closed.root));
    }

    #[test]
    fn a_record_that_was_changed_is_found_at_the_next_start(bed: &Bed) {
        bed.spoiled("UPDATE record SET octets = (SELECT octets FROM record WHERE idx = 3) WHERE idx = 2");
    }

    #[test]
    fn a_link_that_was_changed_is_found_at_the_next_start(bed: &Bed) {
        bed.spoiled("UPDATE record SET link = (SELECT link FROM record WHERE idx = 2) WHERE idx = 1");
    }

    #[test]
    fn a_record_that_was_emptied_before_its_interval_was_closed_is_found_at_the_next_start(bed: &Bed) {
        bed.spoiled("UPDATE record SET octets = link WHERE idx = 2");
    }

    #[test]
    fn records_that_were_stored_as_they_are_hashed_go_on_in_the_same_chain(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        store.append(&[draft(1), draft(2)]).expect("appended");
        let mut whole = Vec::new();
        let each = &mut |row: engine::Row<'_>| {
            whole.push(Stored::whole(row.octets).expect("whole").into_owned());
            true
        };
        store.engine.records(1, 2, each).expect("read");
        drop(store);
        for (index, octets) in (1..).zip(&whole) {
            let hex = alloy_primitives::hex::encode(octets);
            let octets = match &bed.place {
                Place::File(_) => format!("x'{hex}'"),
                Place::Database(_) => format!("'\\x{hex}'"),
            };
            bed.sql(&format!("UPDATE record SET octets = {octets} WHERE idx = {index}"));
        }
        let longest = "SELECT max(length(octets)) FROM record";
        let before = bed.number(longest);
        bed.set_version(2);
        let mut store = bed.open().expect("taken over");
        assert_eq!(store.append(&[draft(3)]).expect("appended"), 3);
        store.close(NONE).expect("closed").expect("a batch");
        let packed = bed.number("SELECT length(octets) FROM record WHERE idx = 3");
        assert!(packed * 3 < before * 2, "{packed} and {before} octets");
        let batch = bed.reader().and_then(|reader| reader.batches(1, 1)).expect("batches").remove(0);
        let counts: Vec<u64> = bed.records(&batch).iter().map(|record| record.count).collect();
        assert_eq!(counts, [1, 2, 3]);
        assert_eq!(whole[0], bed.records(&batch)[0].encode());
    }

    #[test]
    fn a_record_that_was_taken_out_is_found_at_the_next_start(bed: &Bed) {
        bed.spoiled("DELETE FROM record WHERE idx = 1");
    }

    #[test]
    fn without_its_subjects_key_a_record_proves_the_same_and_says_no_more(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        // Another's key before it, so that the page with the keys stays.
        let mut other = draft(1);
        other.personal = Some((Subject::Wallet(Address::repeat_byte(2)), Personal::default()));
        store.append(&[other]).expect("appended");
        store.append(&[draft(1)]).expect("appended");
        let closed = store.close(NONE).expect("closed").expect("a batch");
        let subject = Subject::Wallet(Address::repeat_byte(1));
        let key = bed.key(&store).expect("the key");
        let batch = bed.reader().and_then(|reader| reader.batches(1, 1)).expect("batches").remove(0);
        let sealed = &bed.records(&batch)[1];
        assert_eq!(key.open(GATEWAY, 2, &sealed.personal).expect("readable").client_id, "pump-7");

        let told = Draft { personal: None, ..draft(1) };
        assert!(store.erase(subject, &told).expect("erased"));
        let places = match &bed.place {
            Place::File(_) => bed.dir.path().to_owned(),
            Place::Database(_) => {
                bed.sql("CHECKPOINT");
                let server = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
                server.tables(bed.database.as_deref().expect("a database")).expect("its tables")
            }
        };
        let files = files(&places);
        assert!(!files.is_empty(), "nothing was looked through");
        for file in files {
            let left = std::fs::read(&file).unwrap_or_default();
            assert!(!left.windows(32).any(|part| part == key.octets()), "the key is in {file:?}");
        }
        assert_eq!(store.append(&[]).expect("nothing"), 3, "that it was erased is a record");
        assert!(!store.erase(subject, &told).expect("erased"), "there is nothing left");
        // Who comes again is recorded under a new key.
        store.append(&[draft(1)]).expect("appended");
        let again = bed.key(&store).expect("a new key");
        assert_eq!(again.open(GATEWAY, 2, &sealed.personal), None);
        let leaves = bed.records(&batch).into_iter().map(|r| leaf(&r.encode()));
        let batch = Batch { first: 1, count: 2, before: B256::ZERO, top: top(leaves) };
        assert_eq!(batch.root(), closed.root);
    }

    #[test]
    fn keys_outlive_restarts_and_their_second_moves_with_their_use(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        let at = |second: u64| {
            let mut draft = draft(1);
            draft.record.last_at = second;
            draft
        };
        store.append(&[at(100), at(90)]).expect("appended");
        let key = bed.key(&store).expect("a key");
        store.append(&[at(200)]).expect("appended");
        let second = || bed.number("SELECT last_at FROM subject");
        assert_eq!(second(), 100, "it need not be written with each record");
        store.append(&[at(101 + keys::BEHIND)]).expect("appended");
        assert_eq!(second(), 101 + keys::BEHIND);
        drop(store);
        let mut store = bed.open().expect("a store");
        store.append(&[at(50)]).expect("appended");
        assert_eq!(bed.key(&store).expect("a key").octets(), key.octets());
        assert_eq!(second(), 101 + keys::BEHIND, "it never moves back");
    }

    #[test]
    fn a_failed_transaction_leaves_nothing_and_the_next_goes_on_as_if_it_had_not_been(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        store.append(&[draft(1)]).expect("appended");
        bed.refuse(true);
        // Its wallet is new: the key goes with the records that are not taken.
        let mut other = draft(2);
        other.personal = Some((Subject::Wallet(Address::repeat_byte(2)), Personal::default()));
        for _ in 0..2 {
            let refused = store.append(&[other.clone()]);
            let words = refused.as_ref().expect_err("refused").to_string();
            assert!(
                matches!(refused, Err(StoreError::Sqlite { .. } | StoreError::Postgres { .. })),
                "{words}"
            );
        }
        assert_eq!(bed.number("SELECT count(*) FROM subject"), 1);
        bed.refuse(false);
        assert_eq!(store.append(&[draft(3), other]).expect("appended"), 3);
        assert_eq!(bed.number("SELECT count(*) FROM subject"), 2);
        drop(store);
        assert_eq!(bed.open().expect("whole").append(&[draft(4)]).expect("appended"), 4);
    }

    #[test]
    fn tables_of_another_version_are_left_alone(bed: &Bed) {
        drop(bed.open().expect("a store"));
        bed.set_version(VERSION + 1);
        let newer = VERSION + 1;
        assert!(matches!(bed.open(), Err(StoreError::Version { found, .. }) if found == newer));
        let read = bed.reader();
        assert!(matches!(read, Err(StoreError::Version { found, .. }) if found == newer));
        assert_eq!(bed.number("SELECT count(*) FROM record"), 0);
    }

    #[test]
    fn tables_of_the_version_before_are_taken_over(bed: &Bed) {
        let mut store = bed.open().expect("a store");
        store.append(&[draft(1)]).expect("appended");
        drop(store);
        bed.sql("DROP TABLE retention");
        bed.set_version(1);
        bed.reader().expect("an older one can be read");
        let mut store = bed.open().expect("taken over");
        assert_eq!(store.append(&[draft(2)]).expect("appended"), 2);
        let retention = Retention { all: None, refusals: Some(Duration::from_secs(1)) };
        assert_eq!(store.retain(retention, 100, 0).expect("done"), Retained::default());
    }
}

impl Bed {
    fn spoiled(&self, spoil: &str) {
        let mut store = self.open().expect("a store");
        store.append(&[draft(1), draft(2), draft(3)]).expect("appended");
        drop(store);
        self.sql(spoil);
        let found = self.open();
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "{spoil}: {found:?}");
    }
}

/// All files below.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

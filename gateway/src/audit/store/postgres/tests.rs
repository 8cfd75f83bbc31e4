//! What only a server can do: be shared, be away, hang, and not say any more what it has done.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use flytrap_record::seal::Subject;
use flytrap_site::Postgres as Server;

use super::*;
use crate::audit::store::tests::{Bed, GATEWAY, NONE, database, draft};
use crate::audit::store::{Draft, Place, Reader, Store};
use crate::config::Secret;

const OTHER: Address = Address::repeat_byte(8);

#[test]
fn two_gateways_share_a_database_and_neither_sees_the_others_records() {
    let bed = Bed::postgres();
    let mut stores = [GATEWAY, OTHER].map(|gateway| bed.open_as(gateway).expect("a store"));
    for (n, store) in (1..).zip(&mut stores) {
        for _ in 0..n {
            store.append(&[draft(n)]).expect("appended");
        }
    }
    let closed =
        stores.each_mut().map(|store| store.close(NONE).expect("closed").expect("a batch"));
    assert_eq!(closed.map(|closed| (closed.sequence, closed.count)), [(1, 1), (1, 2)]);
    // Each has keys of its own, and erasing one leaves the other.
    let subject = Subject::Wallet(Address::repeat_byte(1));
    let told = Draft { personal: None, ..draft(1) };
    assert!(stores[0].erase(subject, &told).expect("erased"));
    assert_eq!(bed.number("SELECT count(*) FROM subject"), 1);
    drop(stores);
    let mut again = [GATEWAY, OTHER].map(|gateway| bed.open_as(gateway).expect("whole"));
    let last = again.each_mut().map(|store| store.append(&[draft(1)]).expect("appended"));
    assert_eq!(last, [3, 3]);
}

#[test]
fn a_second_writer_of_the_same_gateway_is_refused_until_the_first_has_ended() {
    let bed = Bed::postgres();
    let mut first = bed.open().expect("a store");
    let second = bed.open();
    assert!(matches!(second, Err(StoreError::Held { gateway: GATEWAY, .. })), "{second:?}");
    bed.reader().expect("who reads is in nobody's way");
    first.append(&[draft(1)]).expect("appended");
    drop(first);
    assert_eq!(bed.open().expect("free").append(&[draft(2)]).expect("appended"), 2);
}

#[test]
fn gateways_that_start_at_once_on_an_empty_database_make_its_tables_once() {
    let bed = Bed::postgres();
    let together = Barrier::new(4);
    thread::scope(|scope| {
        for n in 1..=4 {
            let (bed, together) = (&bed, &together);
            scope.spawn(move || {
                together.wait();
                let mut store = bed.open_as(Address::repeat_byte(n)).expect("a store");
                store.append(&[draft(1)]).expect("appended");
            });
        }
    });
    assert_eq!(bed.number("SELECT count(*) FROM record"), 4);
    assert_eq!(bed.number("SELECT count(*) FROM version"), 1);
}

#[test]
fn records_that_are_not_as_they_were_left_stop_a_writer_that_was_cut_off() {
    let bed = Bed::postgres();
    let mut store = bed.open().expect("a store");
    store.append(&[draft(1), draft(2)]).expect("appended");
    bed.sql("DELETE FROM record WHERE idx = 2");
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'flytrap-gateway'";
    assert_eq!(bed.number(end), 1);
    let gone = store.append(&[draft(3)]);
    let gone = if let Err(StoreError::Away { .. } | StoreError::Postgres { .. }) = gone {
        store.append(&[draft(3)])
    } else {
        gone
    };
    assert!(matches!(gone, Err(StoreError::Changed { found: 1, wanted: 2, .. })), "{gone:?}");
    let still = store.append(&[draft(3)]);
    assert!(matches!(still, Err(StoreError::Changed { .. })), "{still:?}");
    drop(store);
    assert_eq!(bed.open().expect("a start goes on").append(&[draft(3)]).expect("appended"), 2);
}

#[test]
fn a_wrong_password_is_refused_in_words_that_do_not_have_it() {
    let bed = Bed::postgres();
    let Place::Database(right) = &bed.place else { panic!("no database") };
    let url =
        format!("postgresql://flytrap@127.0.0.1:{}/postgres", right.connection().get_ports()[0]);
    let wrong = Store::open(&database(&url, "hunter2"), GATEWAY, Secret::new([7; 32]));
    let why = wrong.expect_err("refused").to_string();
    assert!(why.contains("28P01") && !why.contains("hunter2"), "{why}");
}

/// Cuts the connection where a transaction is committed.
struct Cutter {
    address: SocketAddr,
    cut: Arc<AtomicU8>,
}

const PASS: u8 = 0;
/// The server does not get the word.
const BEFORE: u8 = 1;
/// It gets it, and its answer does not come back.
const AFTER: u8 = 2;

impl Cutter {
    fn new(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let cut = Arc::new(AtomicU8::new(PASS));
        let how = cut.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else { continue };
                relay(client, server, &how);
            }
        });
        Self { address, cut }
    }
}

fn relay(client: TcpStream, server: TcpStream, cut: &Arc<AtomicU8>) {
    let both = || (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
    let (mut from, mut to) = both();
    let cut = cut.clone();
    thread::spawn(move || {
        let mut octets = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut octets) {
            let some = &octets[..count];
            let commits = some.windows(6).any(|part| part == b"COMMIT");
            let how = if commits { cut.swap(PASS, Ordering::SeqCst) } else { PASS };
            if how == AFTER {
                // Nothing comes back from here on.
                let _ = from.shutdown(Shutdown::Both);
            }
            if how == BEFORE || to.write_all(some).is_err() || how == AFTER {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Write));
    });
    let (mut to, mut from) = both();
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}

#[test]
fn a_connection_that_dies_around_a_commit_leaves_no_record_out_and_none_twice() {
    let bed = Bed::postgres();
    let Place::Database(direct) = &bed.place else { panic!("no database") };
    let port = direct.connection().get_ports()[0];
    let name = direct.connection().get_dbname().expect("a name").to_owned();
    let cutter = Cutter::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let url = format!("postgresql://flytrap@{}/{name}", cutter.address);
    let password = direct.connection().get_password().expect("a password").to_owned();
    let place = database(&url, std::str::from_utf8(&password).expect("text"));
    let mut store = Store::open(&place, GATEWAY, Secret::new([7; 32])).expect("a store");
    let mut last = store.append(&[draft(1)]).expect("appended");
    for (how, was_done) in [(BEFORE, false), (AFTER, true), (AFTER, true), (BEFORE, false)] {
        let drafts = [draft(last + 1), draft(last + 2)];
        cutter.cut.store(how, Ordering::SeqCst);
        let cut = store.append(&drafts);
        assert!(matches!(cut, Err(StoreError::Away { .. })), "{how}: {cut:?}");
        let deadline = Instant::now() + PATIENCE;
        let wanted = if was_done { last + 2 } else { last };
        while bed.number("SELECT max(idx) FROM record") != wanted {
            assert!(Instant::now() < deadline, "{how}: not {wanted} records");
        }
        // Asked again, it is there once.
        assert_eq!(store.append(&drafts).expect("appended"), last + 2, "{how}");
        last += 2;
    }
    // The same, but for something else than before: both are there.
    cutter.cut.store(AFTER, Ordering::SeqCst);
    store.append(&[draft(last + 1)]).expect_err("cut");
    assert_eq!(store.append(&[draft(last + 2)]).expect("appended"), last + 2);
    last += 2;
    // An erasure is told once, and says that there was a key.
    cutter.cut.store(AFTER, Ordering::SeqCst);
    let (subject, told) =
        (Subject::Wallet(Address::repeat_byte(1)), Draft { personal: None, ..draft(last + 1) });
    store.erase(subject, &told).expect_err("cut");
    assert!(store.erase(subject, &told).expect("erased"));
    assert_eq!(bed.number("SELECT count(*) FROM subject"), 0);
    last += 1;
    // And an interval is closed once.
    cutter.cut.store(AFTER, Ordering::SeqCst);
    store.close(NONE).expect_err("cut");
    assert_eq!(store.closed_after(0, 9).expect("batches").len(), 1);
    assert_eq!(store.close(NONE).expect("nothing new"), None);

    let reader = Reader::open(&place, GATEWAY).expect("a reader");
    let batch = reader.batches(1, 1).expect("batches").remove(0);
    let mut counts = Vec::new();
    let each = |line| {
        if let flytrap_record::export::Line::Record(line) = line {
            counts.push(line.record.count);
        }
        Ok::<_, StoreError>(())
    };
    reader.records(&batch, each).expect("records");
    assert_eq!(counts, (1..=last).collect::<Vec<_>>());
}

/// One server for all of it, as each start of one costs seconds.
#[test]
fn a_server_that_is_killed_or_hangs_is_missed_and_taken_again_when_it_is_back() {
    let mut server = Server::start().expect("a server");
    let url = server.create("records").expect("a database");
    let place = database(&url, server.password());
    let mut store = Store::open(&place, GATEWAY, Secret::new([7; 32])).expect("a store");
    store.append(&[draft(1)]).expect("appended");
    let reader = Reader::open(&place, GATEWAY).expect("a reader");

    server.kill();
    for _ in 0..2 {
        let away = store.append(&[draft(2)]);
        assert!(matches!(away, Err(StoreError::Away { .. })), "{away:?}");
    }
    let away = Store::open(&place, OTHER, Secret::new([7; 32]));
    assert!(matches!(away, Err(StoreError::Away { .. })), "{away:?}");
    server.restart().expect("back");
    assert_eq!(store.append(&[draft(2)]).expect("appended"), 2);
    store.close(NONE).expect("closed").expect("a batch");
    let batches = || reader.batches(1, 9).or_else(|_| reader.batches(1, 9)).expect("batches");
    assert_eq!(batches().len(), 1, "who reads connects again too");

    server.freeze(true).expect("frozen");
    let began = Instant::now();
    let away = store.append(&[draft(3)]);
    let took = began.elapsed();
    server.freeze(false).expect("thawed");
    assert!(matches!(away, Err(StoreError::Away { .. })), "{away:?}");
    assert!(took < 2 * PATIENCE, "it took {took:?}");
    assert_eq!(store.append(&[draft(3)]).expect("appended"), 3, "once, done before or not");

    // TLS, to a server that has proved itself and to one that has not.
    let ca = std::fs::read(server.ca_file()).expect("a CA");
    let url = format!("{url}?sslmode=require");
    crate::tls::install_provider();
    let with = |ca: Option<&[u8]>| {
        let password = Some(Secret::new(server.password().as_bytes().to_vec()));
        let config = DatabaseConfig::new(&url, password, ca).expect("a database");
        Store::open(&Place::Database(Box::new(config)), OTHER, Secret::new([7; 32]))
    };
    with(Some(&ca)).expect("a store").append(&[draft(1)]).expect("appended");
    let count = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = 'flytrap'";
    let held = with(Some(&ca)).expect("a store");
    assert_ne!(server.sql("records", count).expect("a number"), "0");
    drop(held);
    let stranger = with(None);
    assert!(matches!(stranger, Err(StoreError::Away { .. })), "{stranger:?}");

    // What it acknowledges is to be on its disk.
    server.sql("records", "ALTER DATABASE records SET synchronous_commit = off").expect("set");
    drop(store);
    let mut store = Store::open(&place, GATEWAY, Secret::new([7; 32])).expect("set for itself");
    store.append(&[draft(4)]).expect("appended");
    server.kill();
    server.restart().expect("back");
    let five = store.append(&[draft(5)]).or_else(|_| store.append(&[draft(5)]));
    assert_eq!(five.expect("appended"), 5);
    drop(store);
    server.sql("records", "ALTER SYSTEM SET fsync = off").expect("set");
    server.sql("records", "SELECT pg_reload_conf()").expect("read");
    let deadline = Instant::now() + PATIENCE;
    while server.sql("records", "SHOW fsync").expect("a word") != "off" {
        assert!(Instant::now() < deadline, "it is still on");
    }
    let refused = Store::open(&place, GATEWAY, Secret::new([7; 32]));
    assert!(matches!(refused, Err(StoreError::NotDurable { .. })), "{refused:?}");
}

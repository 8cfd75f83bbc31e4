//! The connection to a PostgreSQL server: made, watched, given up, and made again.
//!
//! It lives on a thread of its own, and whoever asks waits for the answer under a deadline, so that neither a server that hangs nor a network that
//! swallows holds anybody up. After any error the connection is dropped, with what was under way; the next one is made by [`Link::ready`].
//!
//! A gateway's writer holds a lock of the server's for as long as its connection lives, which nobody else can have meanwhile. So a new connection that has it
//! comes after everything that the old one did: what the server had been told to commit is there by then, or never will be.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use alloy_primitives::{Address, keccak256};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use crate::audit::store::StoreError;
use crate::audit::store::schema::{self, VERSION};
use crate::config::DatabaseConfig;

/// How long connecting may take, with the lock and the tables.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long the lock of a connection of before may still be held.
const LETTING_GO: Duration = Duration::from_secs(2);
/// Who waits for the lock looks again after this time.
const TICK: Duration = Duration::from_millis(20);

/// The server ends by itself what we have given up, and lets go the lock of a gateway that was cut off; see the wording of
/// [`StoreError::Held`].
const SETTINGS: &str = "
    SET search_path = flytrap;
    SET statement_timeout = '60s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '30s';
    SET client_connection_check_interval = '5s';
    SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 4;
    SET tcp_user_timeout = '30s';";

const COPY: &str = "COPY record (gateway, idx, link, kind, wallet, topic, first_at, last_at, octets) FROM STDIN (FORMAT binary)";

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::audit::store) enum Role {
    /// Appends; the only one of its gateway.
    Writer,
    /// Reads.
    Reader,
}

/// A server, and a connection to it where there is one.
pub(super) struct Link {
    /// Ended in the background, since a gateway may drop this where nobody may wait.
    runtime: Option<Runtime>,
    database: DatabaseConfig,
    gateway: Address,
    role: Role,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    /// The server's process for the last connection: its number and when it began.
    before: Option<(i32, String)>,
}

/// A connection that is ready to be used.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) copy: Statement,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state().session = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut link = f.debug_struct("Link");
        link.field("database", &self.database).field("gateway", &self.gateway);
        link.field("role", &self.role).finish_non_exhaustive()
    }
}

/// What can go wrong.
#[derive(Debug)]
pub(super) enum Fault {
    Server(tokio_postgres::Error),
    Late(Duration),
    Held,
    Version(i64),
    NotDurable(String),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Server(error)
    }
}

impl Link {
    pub(super) fn open(
        database: DatabaseConfig,
        gateway: Address,
        role: Role,
    ) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("records")
            .enable_all()
            .build();
        let mut link =
            Self { runtime: None, database, gateway, role, state: Mutex::new(State::default()) };
        match runtime {
            Ok(runtime) => link.runtime = Some(runtime),
            Err(error) => return Err(link.away(&error)),
        }
        link.ready()?;
        Ok(link)
    }

    /// Connects where there is no connection. True if there is a new one.
    pub(super) fn ready(&self) -> Result<bool, StoreError> {
        let mut state = self.state();
        if state.session.as_ref().is_some_and(|session| !session.client.is_closed()) {
            return Ok(false);
        }
        state.session = None;
        let (database, gateway, role) = (self.database.clone(), self.gateway, self.role);
        let before = state.before.take();
        let known = before.clone();
        let made = self.wait(CONNECTING, async move {
            connect(&database, gateway, role, before.as_ref()).await
        });
        match made {
            Ok((session, process)) => {
                *state = State { session: Some(Arc::new(session)), before: Some(process) };
                Ok(true)
            }
            Err(fault) => {
                state.before = known;
                Err(self.told(fault))
            }
        }
    }

    /// Does something with the connection. After an error there is none any more.
    pub(super) fn work<T, F>(
        &self,
        patience: Duration,
        work: impl FnOnce(Arc<Session>) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        // Whoever only reads has nothing to make sure of.
        if self.role == Role::Reader {
            self.ready()?;
        }
        let session = self.state().session.clone();
        let session = session.ok_or_else(|| self.away("the connection has ended"))?;
        self.wait(patience, work(session)).map_err(|fault| {
            self.state().session = None;
            self.told(fault)
        })
    }

    /// Waits here for what is done there.
    fn wait<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        let late = || Fault::Late(patience);
        let runtime = self.runtime.as_ref().ok_or_else(late)?;
        let (sender, receiver) = mpsc::sync_channel(1);
        runtime.spawn(async move {
            let done = tokio::time::timeout(patience, work).await;
            let _ = sender.send(done.unwrap_or(Err(Fault::Late(patience))));
        });
        // If that panicked there is nobody left who could send.
        receiver.recv().unwrap_or_else(|_| Err(late()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> String {
        self.database.to_string()
    }

    fn away(&self, why: impl fmt::Display) -> StoreError {
        StoreError::Away { place: self.place(), why: why.to_string() }
    }

    pub(super) fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { place: self.place(), what }
    }

    /// A column's value, which is of the kind that this program has given it.
    pub(super) fn read<T>(&self, value: Result<T, tokio_postgres::Error>) -> Result<T, StoreError> {
        value.map_err(|error| self.damaged(words(&error)))
    }

    fn told(&self, fault: Fault) -> StoreError {
        let place = self.place();
        match fault {
            Fault::Server(error) => match error.code().is_some_and(|code| !is_away(code)) {
                true => StoreError::Postgres { place, why: words(&error) },
                false => self.away(words(&error)),
            },
            Fault::Late(patience) => self.away(format_args!("no answer within {patience:?}")),
            Fault::Held => StoreError::Held { place, gateway: self.gateway },
            Fault::Version(found) => StoreError::Version { place, found },
            Fault::NotDurable(setting) => StoreError::NotDurable { place, setting },
        }
    }
}

/// Whether the server says that it is no server just now: it starts, recovers, shuts down, or has no room for another connection.
fn is_away(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    class == "08"
        || [
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::TOO_MANY_CONNECTIONS,
        ]
        .contains(code)
}

/// An error of the server in its own words, or one of the way to it with its causes; never with values of rows.
fn words(error: &tokio_postgres::Error) -> String {
    if let Some(told) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", told.message(), told.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

async fn connect(
    database: &DatabaseConfig,
    gateway: Address,
    role: Role,
    before: Option<&(i32, String)>,
) -> Result<(Session, (i32, String)), Fault> {
    let (client, driver) = dial(database).await?;
    // From here on an early end drops the client, with which the driver ends.
    client.batch_execute(SETTINGS).await?;
    match role {
        Role::Writer => {
            if let Some((process, began)) = before {
                let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2";
                let values: [(&(dyn ToSql + Sync), Type); 2] =
                    [(process, Type::INT4), (began, Type::TEXT)];
                client.query_typed(end, &values).await?;
            }
            lock(&client, gateway).await?;
            make_durable(&client).await?;
            migrate(&client).await?;
        }
        Role::Reader => {
            client.batch_execute("SET default_transaction_read_only = on").await?;
            let found = version(&client).await?;
            if !(1..=VERSION).contains(&found) {
                return Err(Fault::Version(found));
            }
        }
    }
    let own = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let own = client.query_typed_one(own, &[]).await?;
    let process = (own.try_get(0)?, own.try_get(1)?);
    let copy = client.prepare(COPY).await?;
    Ok((Session { client, copy, driver }, process))
}

async fn dial(database: &DatabaseConfig) -> Result<(Client, JoinHandle<()>), Fault> {
    let config = database.connection();
    let (client, driver) = match database.tls() {
        Some(tls) => {
            let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls.as_ref().clone());
            let (client, connection) = config.connect(tls).await?;
            (client, tokio::spawn(drive(connection)))
        }
        None => {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
            (client, tokio::spawn(drive(connection)))
        }
    };
    Ok((client, driver))
}

/// What ends a connection, whoever asks next is told.
async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    let _ = connection.await;
}

/// Takes the gateway's lock for as long as the connection lives.
async fn lock(client: &Client, gateway: Address) -> Result<(), Fault> {
    let take = "SELECT pg_try_advisory_lock($1)";
    let key = lock_key("records", gateway.as_slice());
    let deadline = tokio::time::Instant::now() + LETTING_GO;
    loop {
        let taken = client.query_typed_one(take, &[(&key, Type::INT8)]).await?;
        if taken.try_get(0)? {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Fault::Held);
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Locks of a database are numbers that all its users share.
fn lock_key(what: &str, whose: &[u8]) -> i64 {
    let hash = keccak256([b"FlyTrap ", what.as_bytes(), whose].concat());
    let [a, b, c, d, e, f, g, h, ..] = hash.0;
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What is committed is to be on the disk, whatever the database's own setting.
async fn make_durable(client: &Client) -> Result<(), Fault> {
    let question = "SELECT current_setting('fsync'), current_setting('synchronous_commit')";
    let settings = client.query_typed_one(question, &[]).await?;
    if settings.try_get::<_, &str>(0)? != "on" {
        return Err(Fault::NotDurable("fsync = off".to_owned()));
    }
    // Anything else than off waits for this server's disk at least, and some for other servers' too.
    if settings.try_get::<_, &str>(1)? == "off" {
        client.batch_execute("SET synchronous_commit = on").await?;
    }
    Ok(())
}

/// Steps that were taken; none where there is nothing yet.
async fn version(client: &Client) -> Result<i64, Fault> {
    let there = "SELECT to_regclass('flytrap.version') IS NOT NULL";
    if !client.query_typed_one(there, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let found = client.query_typed_opt("SELECT number FROM flytrap.version", &[]).await?;
    Ok(found.map_or(Ok(0), |row| row.try_get(0))?)
}

/// Takes the steps that are missing, all or none; of several gateways that start at once, one takes them.
async fn migrate(client: &Client) -> Result<(), Fault> {
    let found = version(client).await?;
    if schema::missing(found).ok_or(Fault::Version(found))?.is_empty() {
        return Ok(());
    }
    // Not a lock of the transaction's: one that has begun does not see which tables others have made while it waited.
    let key = lock_key("tables", &[]);
    client.batch_execute(&format!("SELECT pg_advisory_lock({key})")).await?;
    let found = version(client).await?;
    let steps = schema::missing(found).ok_or(Fault::Version(found))?;
    if !steps.is_empty() {
        let steps: String = steps.iter().map(|step| step.postgres).collect();
        let all = format!(
            "BEGIN; CREATE SCHEMA IF NOT EXISTS flytrap; CREATE TABLE IF NOT EXISTS version (number bigint NOT NULL); {steps}
             DELETE FROM version; INSERT INTO version VALUES ({VERSION}); COMMIT"
        );
        client.batch_execute(&all).await?;
    }
    client.batch_execute(&format!("SELECT pg_advisory_unlock({key})")).await?;
    Ok(())
}

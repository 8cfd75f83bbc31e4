//! `flytrap-gateway bans` and `erase`: what a person at the machine tells a running gateway, and what it answers.
//!
//! A Unix socket in the state directory, for the gateway's own user and root alone. One line of JSON asks, one answers; both are bounded
//! and have a deadline. What is told is in force, on open sessions too, when the answer comes.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use flytrap_record::seal;

use crate::audit::Audit;
use crate::bans::{Ban, Bans, By, OnChain, Subject};
use crate::conduct::Conduct;
use crate::door::Door;
use crate::mirror::Mirror;
use crate::outbox::Outbox;

/// Name of the socket in the state directory.
pub const SOCKET: &str = "control.sock";
/// Octets of a request.
const REQUEST_OCTETS: u64 = 4 * 1024;
/// Octets of an answer, as whoever asks takes it.
const ANSWER_OCTETS: u64 = 2 * 1024 * 1024;
/// Bans in one answer; the rest is asked for by its last.
const PAGE: usize = 500;
/// For one request and its answer, on either side.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests at a time; more wait.
const AT_ONCE: usize = 8;
/// Longest reason, as the contract takes it.
const REASON_OCTETS: usize = 256;
/// Longest ban in seconds: the contract takes 30 days of a gateway from the time of its block, which may be behind our clock.
const LONGEST: u64 = 29 * 86_400;
/// Longest path of a socket that the system takes.
const PATH_OCTETS: usize = 100;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// The bans in force behind this one, in order.
    List {
        /// The last that is known already.
        after: Option<Subject>,
    },
    /// A ban of so many seconds from now.
    Add {
        /// Whom.
        subject: Subject,
        /// Seconds.
        seconds: u64,
        /// Public for ever if it goes on chain.
        reason: String,
    },
    /// Ends one.
    Lift {
        /// Whose.
        subject: Subject,
    },
    /// Makes unreadable what is personal in the records about somebody.
    Erase {
        /// Whom; no network.
        subject: Subject,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Bans, and whether there are more behind the last.
    Bans {
        /// In order.
        bans: Vec<Listed>,
        /// Ask again behind the last.
        more: bool,
    },
    /// It is in force.
    Added {
        /// Unix second of its end.
        until: u64,
        /// Open sessions that it ended.
        ended: usize,
        /// What becomes of it on chain.
        chain: String,
    },
    /// It is in force here no longer.
    Lifted {
        /// Whether this gateway had it in its own book.
        here: bool,
        /// What becomes of it on chain.
        chain: String,
    },
    /// It cannot be read any more.
    Erased {
        /// Whether there was anything.
        found: bool,
    },
    /// Not done, and why.
    Refused(String),
}

/// A ban as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Against whom.
    pub subject: Subject,
    /// Unix second of its end.
    pub until: u64,
    /// What this gateway knows of it: nothing more where it learned of it from the chain.
    #[serde(flatten)]
    pub known: Option<Known>,
    /// Whether the chain has it.
    pub on_chain: bool,
}

/// What is known of a ban that this gateway made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Unix second of its beginning.
    pub since: u64,
    /// Who made it.
    pub by: By,
    /// Why.
    pub reason: String,
    /// What was found.
    pub evidence: String,
}

/// Everyone who has to know of what is told.
#[derive(Debug, Clone)]
pub struct Office {
    /// The book.
    pub bans: Arc<Bans>,
    /// Origins.
    pub door: Arc<Door>,
    /// Wallets and open sessions.
    pub conduct: Arc<Conduct>,
    /// The chain.
    pub mirror: Arc<Mirror>,
    /// The way there.
    pub outbox: Outbox,
    /// The record.
    pub audit: Audit,
}

impl Office {
    /// The mirror moved.
    pub fn follow(&self) {
        for subject in self.door.follow(&self.mirror.current(), self.mirror.now()) {
            self.forgive(&subject);
        }
    }

    fn forgive(&self, subject: &Subject) {
        match subject {
            Subject::Wallet(wallet) => self.conduct.forgive(*wallet),
            Subject::Origin(origin) => self.door.forgive(*origin),
            Subject::Network(_) | Subject::Pseudonym(_) => {}
        }
    }

    async fn answer(self, request: Request) -> io::Result<Answer> {
        let bans = self.bans.clone();
        let answer = match request {
            Request::Erase { subject } => self.erase(&subject).await,
            of_bans => tokio::task::spawn_blocking(move || self.of_bans(of_bans)).await?,
        };
        let mut answer = answer.unwrap_or_else(Answer::Refused);
        if let Answer::Added { chain, .. } | Answer::Lifted { chain, .. } = &mut answer
            && !bans.is_written().await
        {
            chain.push_str(
                "; it is not on the disk yet, so a restart would not know of it: see the log",
            );
        }
        Ok(answer)
    }

    fn of_bans(&self, request: Request) -> Result<Answer, String> {
        match request {
            Request::List { after } => Ok(self.list(after.as_ref())),
            Request::Add { subject, seconds, reason } => self.add(subject, seconds, reason),
            Request::Lift { subject } => self.lift(subject),
            Request::Erase { .. } => Err("not about a ban".to_owned()),
        }
    }

    async fn erase(&self, subject: &Subject) -> Result<Answer, String> {
        let whose = match (subject, self.bans.pseudonym(subject)) {
            (Subject::Wallet(wallet), _) => seal::Subject::Wallet(*wallet),
            (_, Some(origin)) => seal::Subject::Origin(origin),
            _ => return Err(format!("{subject} is a network: name each address")),
        };
        let found = self.audit.erase(whose).await?;
        info!(found, "records erased on the word of an operator");
        Ok(Answer::Erased { found })
    }

    /// The bans of the book and those that are only on chain, in one order.
    fn list(&self, after: Option<&Subject>) -> Answer {
        let (view, now) = (self.mirror.current(), self.mirror.now());
        let book = self.bans.page(after, PAGE + 1, now);
        let mut all: Vec<Listed> = book
            .into_iter()
            .map(|ban| Listed {
                subject: ban.subject,
                until: ban.until,
                on_chain: self.bans.is_on_chain(&ban.subject, &view, now),
                known: Some(Known {
                    since: ban.since,
                    by: ban.by,
                    reason: ban.reason,
                    evidence: ban.evidence,
                }),
            })
            .collect();
        let of_chain = |subject, until| Listed { subject, until, known: None, on_chain: true };
        let wallets = view.head.wallet_bans(now).into_iter();
        let wallets = wallets.map(|(wallet, until)| (Subject::Wallet(wallet), until));
        let known = self.bans.pseudonyms();
        let origins = view.head.origin_bans(now).filter(|(origin, _)| !known.contains(origin));
        let origins = origins.map(|(origin, until)| (Subject::Pseudonym(origin), until));
        let mut foreign: Vec<Listed> = wallets
            .chain(origins)
            .filter(|(subject, _)| after.is_none_or(|after| subject > after))
            .filter(|(subject, _)| self.bans.get(subject, now).is_none())
            .map(|(subject, until)| of_chain(subject, until))
            .collect();
        all.append(&mut foreign);
        all.sort_by_key(|listed| listed.subject);
        let more = all.len() > PAGE;
        all.truncate(PAGE);
        Answer::Bans { bans: all, more }
    }

    fn add(&self, subject: Subject, seconds: u64, reason: String) -> Result<Answer, String> {
        if !(1..=LONGEST).contains(&seconds) {
            return Err(format!(
                "a ban of {seconds} s, wanted 1 s to 29 d: the chain takes no longer one of a gateway"
            ));
        }
        if reason.len() > REASON_OCTETS || reason.chars().any(char::is_control) {
            return Err(format!(
                "the reason has {} octets, wanted at most {REASON_OCTETS} without control characters",
                reason.len()
            ));
        }
        if matches!(subject, Subject::Pseudonym(_)) {
            return Err("nobody can be found by a pseudonym: name the address".to_owned());
        }
        let (view, now) = (self.mirror.current(), self.mirror.now());
        if let (Subject::Wallet(wallet), Some(owner)) = (subject, view.head.owner())
            && wallet == owner
        {
            return Err(format!("{wallet} owns the broker and cannot be banned from it"));
        }
        let until = now.saturating_add(seconds);
        let name = self.bans.pseudonym(&subject).map_or(subject.to_string(), |p| p.to_string());
        let ban = Ban {
            subject,
            until,
            since: now,
            by: By::Operator,
            evidence: format!("flytrap ban of {name} by an operator at {now}: {reason}"),
            reason,
            chain: OnChain::Untold,
        };
        let (reason, hash) = (ban.reason.clone(), ban.evidence_hash());
        let ended = self.conduct.ban(ban).map_err(|full| full.to_string())?;
        warn!(reason, evidence_hash = %hash, ended, "banned {subject} by an operator until {until}");
        let chain = match (subject, self.outbox.records()) {
            (Subject::Network(_), _) => {
                "not on chain: it knows no networks, so this holds at this gateway alone"
            }
            (_, true) => "on its way to the chain, from where other gateways have it",
            (_, false) => {
                "not on chain: `gateway.record` is off, so this holds at this gateway alone"
            }
        };
        Ok(Answer::Added { until, ended, chain: chain.to_owned() })
    }

    fn lift(&self, subject: Subject) -> Result<Answer, String> {
        let (view, now) = (self.mirror.current(), self.mirror.now());
        let subject = match subject {
            Subject::Pseudonym(pseudonym) => self.bans.by_pseudonym(pseudonym).unwrap_or(subject),
            other => other,
        };
        let on_chain = self.bans.is_on_chain(&subject, &view, now);
        let was = self.bans.remove(&subject);
        self.forgive(&subject);
        let here = was.is_some();
        if !here && !on_chain {
            return Err(format!("{subject} is not banned: see `flytrap-gateway bans list`"));
        }
        // Also what was never seen there: it may be on its way.
        let may_be_there = on_chain || was.is_some_and(|ban| ban.chain >= OnChain::Queued);
        let asked = self.outbox.lift(&subject);
        self.audit.ban_lifted(&subject, "operator");
        let chain = match (on_chain, may_be_there, asked) {
            (true, _, true) => {
                "the end of the ban is on its way to the chain, until then it holds; if the broker's owner made it, only the owner lifts it, with `flytrap ban lift`"
            }
            (true, _, false) => {
                "the ban is on chain and this gateway does not write there: the broker's owner lifts it, with `flytrap ban lift`"
            }
            (false, true, true) => "the ban was on its way to the chain: so is its end",
            (false, ..) => "the chain has no such ban",
        };
        info!(here, on_chain, "ban of {subject} lifted by an operator");
        Ok(Answer::Lifted { here, chain: chain.to_owned() })
    }
}

/// The socket, its name and place.
#[derive(Debug)]
pub struct Control {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        // So that whoever asks next is told at once that nobody is here.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds the socket in a state directory that is locked for this process, so that one which is there is left over.
///
/// # Errors
/// What the system says.
pub fn bind(state_dir: &Path) -> io::Result<Control> {
    let path = state_dir.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = through(state_dir, |short| UnixListener::bind(short))?;
    // Nobody is answered before: what connects meanwhile is asked who it is as well.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(Control { socket, path })
}

/// The system takes only short paths of sockets. A longer one is reached through the directory, opened.
fn through<T>(state_dir: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = state_dir.join(SOCKET);
    if path.as_os_str().len() <= PATH_OCTETS {
        return act(&path);
    }
    let directory = fs::File::open(state_dir)?;
    act(&PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())))
}

/// Answers until `stop`.
pub async fn serve(control: Control, office: Office, stop: CancellationToken) {
    let (mut answering, room) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    let own = fs::metadata(&control.path).map(|found| std::os::unix::fs::MetadataExt::uid(&found));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async {
                // Held until the answer is given, so that no more connections wait in here than are answered.
                let room = room.clone().acquire_owned().await;
                (control.socket.accept().await, room)
            } => accepted,
            Some(_) = answering.join_next() => continue,
        };
        let (Ok((stream, _)), Ok(seat)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let asks = stream.peer_cred().map(|peer| peer.uid());
        if !matches!((&asks, &own), (Ok(0), _))
            && !matches!((&asks, &own), (Ok(a), Ok(b)) if a == b)
        {
            warn!("a stranger at the control socket was turned away");
            continue;
        }
        let office = office.clone();
        answering.spawn(async move {
            let _seat = seat;
            let _ = timeout(PATIENCE, converse(stream, office)).await;
        });
    }
    answering.abort_all();
}

async fn converse(stream: UnixStream, office: Office) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    BufReader::new(read.take(REQUEST_OCTETS)).read_until(b'\n', &mut line).await?;
    let answer = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => office.answer(request).await?,
        Err(error) => Answer::Refused(format!("the request makes no sense: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

/// Why a running gateway did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nobody listens.
    #[error("no gateway runs on \"{state_dir}\": start it, or name the configuration of the one that runs", state_dir = .0.display())]
    Nobody(PathBuf),
    /// Not for this user.
    #[error("the gateway on \"{state_dir}\" answers only its own user and root: use `sudo`", state_dir = .0.display())]
    Forbidden(PathBuf),
    /// Not in time.
    #[error("the gateway on \"{state_dir}\" did not answer in {PATIENCE:?}", state_dir = .0.display())]
    Silent(PathBuf),
    /// Something else.
    #[error("the gateway on \"{state_dir}\": {error}", state_dir = .0.display(), error = .1)]
    Broken(PathBuf, io::Error),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the gateway that runs on this state directory.
///
/// # Errors
/// [`Unanswered`], a refusal included.
pub async fn ask(state_dir: &Path, request: &Request) -> Result<Answer, Unanswered> {
    let place = || state_dir.to_owned();
    let exchange = async {
        let stream = through(state_dir, |short| std::os::unix::net::UnixStream::connect(short))?;
        stream.set_nonblocking(true)?;
        let (read, mut write) = UnixStream::from_std(stream)?.into_split();
        let mut text = serde_json::to_vec(request)?;
        text.push(b'\n');
        write.write_all(&text).await?;
        let mut answer = Vec::new();
        read.take(ANSWER_OCTETS).read_to_end(&mut answer).await?;
        if answer.is_empty() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok::<Answer, io::Error>(serde_json::from_slice(&answer)?)
    };
    match timeout(PATIENCE, exchange).await {
        Err(_) => Err(Unanswered::Silent(place())),
        Ok(Ok(Answer::Refused(why))) => Err(Unanswered::Refused(why)),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Unanswered::Nobody(place())
            }
            io::ErrorKind::PermissionDenied => Unanswered::Forbidden(place()),
            _ => Unanswered::Broken(place(), error),
        }),
    }
}

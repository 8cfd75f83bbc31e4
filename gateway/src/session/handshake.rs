//! From a connection to a session: the proof, the will, the broker's consent.
//!
//! Nothing is asked of the broker before the proof, and nothing of a node at all. Everything up to the broker's CONNACK has one deadline
//! that counts from accept; the broker has one of its own.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::hex;
use flytrap_mqtt::{
    ConnAck, ConnAckChange, Connect, ConnectChange, ConnectError, FromBroker, Version, encode,
    frame, read_connect, read_from_broker, reason, rewrite_connack, rewrite_connect,
};
use flytrap_policy::credential::{Claim, Refusal, authenticate};
use flytrap_policy::{Action, AlertKind, CredentialKind, Denial, Principal, View};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};
use tracing::{debug, info, warn};

use super::consent::{self, Consent};
use super::machine::{Clock, Machine, Terms};
use super::pump::{Pump, Side};
use crate::config::BrokerCredentials;
use crate::shared::{Peer, Shared};
use crate::upstream::Stream;
use crate::upstreams::Carried;

/// Live subscriptions of one session; each is judged again whenever the mirror moves.
const MOST_SUBSCRIPTIONS: usize = 10_000;

/// A session that the broker has accepted.
pub(super) struct Opened {
    pub(super) pump: Pump<Stream, Stream>,
    pub(super) machine: Machine,
    pub(super) principal: Principal,
    pub(super) carried: Carried,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("no CONNECT: {0}")]
    NoConnect(&'static str),
    #[error("{0}")]
    Malformed(#[from] ConnectError),
    #[error("enhanced authentication by an unknown method")]
    Method { version: Version },
    #[error("proof refused: {refusal}")]
    Proof { version: Version, refusal: Refusal },
    #[error("its origin was banned meanwhile")]
    Banned { version: Version },
    #[error("a bearer secret on a listener without TLS")]
    Plain { version: Version },
    #[error("{denial}")]
    Denied { version: Version, denial: Denial },
    #[error("the mirror of the chain is {state}")]
    Unfit { version: Version, state: &'static str },
    #[error("client identifier of {octets} octets, {most} can be passed on")]
    ClientId { version: Version, octets: usize, most: usize },
    #[error("{why}")]
    Broker { version: Version, code: u8, why: String },
    /// The broker's own refusal, on its way to the client as it came.
    #[error("the broker refused with {code:#04x}")]
    ByBroker { code: u8, connack: Vec<u8> },
}

impl Refused {
    /// What the client is told; nothing where there is no packet for it. `takes`: octets of the largest packet that it wants [MQTT-3.2.2-19].
    fn answer(&self, takes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let told = match self {
            Self::NoConnect(_) => None,
            Self::Malformed(error) => error.connack().map(|(version, code)| (version, code, None)),
            Self::Method { version } => Some((*version, reason::BAD_AUTHENTICATION_METHOD, None)),
            // Never which check failed: that would help who guesses.
            Self::Proof { version, .. } => {
                Some((*version, reason::BAD_USER_NAME_OR_PASSWORD, None))
            }
            Self::Banned { version } => Some((*version, reason::BANNED, None)),
            Self::Plain { version } => Some((
                *version,
                reason::NOT_AUTHORIZED,
                Some("tokens are only taken over TLS here".to_owned()),
            )),
            Self::Denied { version, denial: denial @ Denial::Banned { .. } } => {
                Some((*version, reason::BANNED, Some(denial.to_string())))
            }
            Self::Denied { version, denial } => {
                Some((*version, reason::NOT_AUTHORIZED, Some(denial.to_string())))
            }
            Self::Unfit { version, .. } => Some((*version, reason::SERVER_UNAVAILABLE, None)),
            Self::ClientId { version, .. } => {
                Some((*version, reason::CLIENT_IDENTIFIER_NOT_VALID, None))
            }
            Self::Broker { version, code, .. } => Some((*version, *code, None)),
            Self::ByBroker { connack, .. } => return connack.clone(),
        };
        if let Some((version, code, sentence)) = told {
            // What is wrong with the packet itself comes in the numbers of its version already.
            let is_translated = version.is_v5() || matches!(self, Self::Malformed(_));
            let code = if is_translated { code } else { reason::v3_connack(code) };
            encode::connack_refused(version, code, sentence.as_deref(), &mut out);
            if out.len() > takes {
                out.clear();
                encode::connack_refused(version, code, None, &mut out);
            }
        }
        out
    }
}

/// Reads CONNECT, decides, and opens the session at the broker. `None`: the client has been told why not.
pub(super) async fn open(mut client: Stream, peer: &Peer, shared: &Shared) -> Option<Opened> {
    let mut takes = usize::MAX;
    match negotiate(&mut client, peer, shared, &mut takes).await {
        Ok((broker, machine, principal, carried, carry, broker_carry)) => {
            let pump =
                Pump { client: Side::new(client, carry), broker: Side::new(broker, broker_carry) };
            Some(Opened { pump, machine, principal, carried })
        }
        Err(refused) => {
            match &refused {
                Refused::Broker { why, .. } => {
                    warn!(peer = %peer.addr, why, "session refused, the broker is to blame");
                }
                Refused::NoConnect(_) => debug!(peer = %peer.addr, why = %refused, "no session"),
                _ => info!(peer = %peer.addr, why = %refused, "session refused"),
            }
            turn_away(client, &refused.answer(takes)).await;
            None
        }
    }
}

type Negotiated = (Stream, Machine, Principal, Carried, Vec<u8>, Vec<u8>);

async fn negotiate(
    client: &mut Stream,
    peer: &Peer,
    shared: &Shared,
    takes: &mut usize,
) -> Result<Negotiated, Refused> {
    let limits = &shared.config.limits;
    let mut octets = Vec::new();
    let length = timeout_at(
        peer.deadline(&shared.config),
        read_frame(client, &mut octets, limits.connect_max_octets),
    )
    .await
    .map_err(|_| Refused::NoConnect("the deadline passed"))??;
    // What follows belongs to the session and stays unread until there is one.
    let carry = octets.split_off(length);
    let connect = match frame(&octets, limits.connect_max_octets) {
        Ok(Some(frame)) => read_connect(frame)?,
        _ => return Err(Refused::NoConnect("it changed under our eyes")),
    };
    let version = connect.version;
    if let Some(most) = connect.maximum_packet_size {
        *takes = usize::try_from(most.get()).unwrap_or(usize::MAX);
    }

    let view = shared.mirror.current();
    let fitness = shared.mirror.fitness();
    if !fitness.admits() {
        // Ours to mend, so it counts against nobody.
        return Err(Refused::Unfit { version, state: fitness.word() });
    }
    let now = shared.mirror.now();
    let principal = prove(&connect, peer, shared, &view, now)?;
    view.standing(&principal, now).map_err(|denial| Refused::Denied { version, denial })?;
    if let Some(will) = &connect.will {
        let action = Action::Publish { retain: will.retain };
        // Asked again when it would fire, so this permit is not kept.
        let _ = view.authorize(&principal, action, will.topic, now).map_err(|denial| {
            shared.metrics.authorized("will", denial.rule());
            shared.outbox.alert(
                AlertKind::WillRefused,
                principal.wallet,
                denial.topic_id(),
                1,
                now,
            );
            Refused::Denied { version, denial }
        })?;
    }

    let (client_id, assigned) = client_id_for_broker(&connect, &principal)?;
    let (wallet, mut towards) = (format!("{:#x}", principal.wallet), Vec::new());
    let mut change = ConnectChange::new(&client_id);
    // The broker would not ask whether the will may still fire when the delay is over.
    change.remove_will_delay = true;
    match shared.upstreams.credentials() {
        BrokerCredentials::None => {}
        BrokerCredentials::Fixed { user_name, password } => {
            change.user_name = Some(user_name);
            change.password = Some(password.expose());
        }
        BrokerCredentials::Wallet => change.user_name = Some(&wallet),
    }
    rewrite_connect(&connect, &change, &mut towards);

    let Consent { broker, connack: answer, carry: broker_carry, carried } =
        consent::ask(&connect, &client_id, &towards, shared).await?;
    let connack = read_connack(version, &answer)?;
    if connack.code != reason::SUCCESS {
        return Err(Refused::ByBroker { code: connack.code, connack: answer });
    }
    let mut told = Vec::new();
    if assigned.is_some() || connack.assigned_client_id.is_some() {
        let change =
            ConnAckChange { assigned_client_id: assigned.as_deref(), ..ConnAckChange::default() };
        rewrite_connack(&connack, &change, &mut told);
    } else {
        told.extend_from_slice(&answer);
    }
    let sent = timeout(shared.upstreams.connect_timeout(), async {
        client.write_all(&told).await?;
        client.flush().await
    });
    if !matches!(sent.await, Ok(Ok(()))) {
        return Err(Refused::NoConnect("the client left before CONNACK"));
    }
    let terms = Terms {
        deny_action: peer.listener.deny_action,
        max_packet_octets: limits.max_packet_octets,
        max_subscriptions: MOST_SUBSCRIPTIONS,
    };
    let clock = Clock { now, elapsed: Duration::ZERO };
    let machine = Machine::new(principal, &connect, &connack, terms, view, clock);
    Ok((broker, machine, principal, carried, carry, broker_carry))
}

/// Only what a signature proves counts.
fn prove(
    connect: &Connect<'_>,
    peer: &Peer,
    shared: &Shared,
    view: &Arc<View>,
    now: u64,
) -> Result<Principal, Refused> {
    let version = connect.version;
    let failed = |refusal: Refusal| {
        shared.metrics.authenticated("credential", refusal.rule());
        if refusal.blames_client() {
            shared.door.failed(peer, refusal.rule());
        }
        Refused::Proof { version, refusal }
    };
    if connect.authentication_method.is_some() {
        shared.metrics.authenticated("enhanced", "unknown_method");
        shared.door.failed(peer, "unknown_method");
        return Err(Refused::Method { version });
    }
    let (Some(user_name), Some(password)) = (connect.user_name, connect.password) else {
        return Err(failed(Refusal::Missing));
    };
    if !peer.tls && !peer.listener.allow_tokens_without_tls {
        shared.metrics.authenticated("credential", "plain_text");
        return Err(Refused::Plain { version });
    }
    // Of many connections of one origin at once only as many proofs are looked at as it has failures left.
    if !shared.door.may_try(peer) {
        return Err(Refused::Banned { version });
    }
    let claim = Claim { client_id: connect.client_id, user_name, password };
    let longest = shared.config.limits.longest_token_life.as_secs();
    let principal = authenticate(&claim, &shared.site, view, now, longest).map_err(failed)?;
    shared.metrics.authenticated(method_word(principal.credential.kind), "accepted");
    shared.door.succeeded(peer);
    Ok(principal)
}

fn method_word(kind: CredentialKind) -> &'static str {
    match kind {
        CredentialKind::Token => "token",
        CredentialKind::DevicePassword => "device_password",
    }
}

/// `<wallet, 40 hex>-<client id>`, so that no wallet can take over another's session. For a client that gave none the gateway makes one
/// up, and returns it to be told to an MQTT 5 client.
fn client_id_for_broker(
    connect: &Connect<'_>,
    principal: &Principal,
) -> Result<(String, Option<String>), Refused> {
    let wallet = hex::encode(principal.wallet);
    let assigned = connect.client_id.is_empty().then(|| format!("{:032x}", rand::random::<u128>()));
    let client_id = format!("{wallet}-{}", assigned.as_deref().unwrap_or(connect.client_id));
    let most = usize::from(u16::MAX);
    if client_id.len() > most {
        let (version, octets) = (connect.version, connect.client_id.len());
        return Err(Refused::ClientId { version, octets, most: most - wallet.len() - 1 });
    }
    Ok((client_id, assigned))
}

fn read_connack(version: Version, octets: &[u8]) -> Result<ConnAck<'_>, Refused> {
    let refused = |why: String| Refused::Broker { version, code: reason::UNSPECIFIED_ERROR, why };
    let frame = frame(octets, usize::MAX)
        .map_err(|fault| refused(format!("the broker's first packet is malformed: {fault}")))?
        .ok_or_else(|| refused("the broker's first packet was cut short".to_owned()))?;
    match read_from_broker(version, frame) {
        Ok(FromBroker::ConnAck(connack)) => Ok(connack),
        Ok(_) => Err(refused("the broker's first packet is no CONNACK".to_owned())),
        // A broker without MQTT 5 answers with the code of 3.1.1, "unacceptable protocol version", mostly in its shape.
        Err(_) if version.is_v5() && matches!(octets, [0x20, _, _, 1, ..]) => {
            Err(Refused::Broker {
                version,
                code: reason::UNSUPPORTED_PROTOCOL_VERSION,
                why: "the broker does not speak MQTT 5".to_owned(),
            })
        }
        Err(fault) => Err(refused(format!("the broker's CONNACK is malformed: {fault}"))),
    }
}

/// Reads until `octets` starts with a whole frame and returns its length; what came behind it is in `octets` too.
///
/// The first octet alone tells whether a packet can be the one that is awaited, so a wrong one is not waited for.
pub(super) async fn read_frame(
    stream: &mut Stream,
    octets: &mut Vec<u8>,
    limit: usize,
) -> Result<usize, Refused> {
    loop {
        match frame(octets, limit) {
            Ok(Some(frame)) => return Ok(frame.octets().len()),
            Ok(None) => {}
            Err(_) => return Err(Refused::NoConnect("malformed, or too large before a proof")),
        }
        if octets.first().is_some_and(|first| !matches!(first, 0x10 | 0x20)) {
            return Err(Refused::NoConnect("another packet came first"));
        }
        match stream.read_buf(octets).await {
            Ok(0) => return Err(Refused::NoConnect("closed")),
            Ok(_) => {}
            Err(_) => return Err(Refused::NoConnect("lost")),
        }
    }
}

/// Tells the client why and closes, in a way that the answer arrives although octets of the client lie unread.
async fn turn_away(mut client: Stream, answer: &[u8]) {
    let patience = Duration::from_millis(500);
    let _ = timeout(patience, async {
        client.write_all(answer).await?;
        client.shutdown().await?;
        let (mut unread, mut most) = ([0; 1024], 64);
        while most > 0 && client.read(&mut unread).await? > 0 {
            most -= 1;
        }
        std::io::Result::Ok(())
    })
    .await;
}

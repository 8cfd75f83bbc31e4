//! From a connection to a session: the proof, the will, the broker's consent.
//!
//! Nothing is asked of the broker before the proof, and of a node only whether a contract wallet has signed, where the site takes those.
//! What is awaited of the client has one deadline that counts from accept; the broker has one of its own.

use std::num::NonZeroU16;
use std::time::Duration;

use alloy_primitives::{B256, hex};
use flytrap_mqtt::{
    ConnAck, ConnAckChange, Connect, ConnectChange, ConnectError, FromBroker, FromClient,
    Malformed, Version, encode, frame, kind, read_connect, read_from_broker, read_from_client,
    reason, rewrite_connack, rewrite_connect,
};
use flytrap_policy::credential::{
    ADDRESS_PROPERTY, Challenge, METHOD, Presented, Refusal, TOKEN_PROPERTY,
};
use flytrap_policy::{Action, Denial, HappeningKind, Offence, Principal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{timeout, timeout_at};
use tracing::{debug, info, warn};

use super::consent::{self, Consent};
use super::machine::{Clock, Machine, Terms};
use super::proof::{Prover, Step, Unproven};
use super::pump::{Pump, Side};
use crate::audit::{Happening, Who};
use crate::conduct::{Stay, Turned};
use crate::config::BrokerCredentials;
use crate::shared::{Peer, Shared};
use crate::upstream::Stream;
use crate::upstreams::Carried;

/// Room for a read: a CONNECT with a token comes in one, and those who connect and say nothing take little.
const READ_OCTETS: usize = 512;

/// A session that the broker has accepted.
pub(super) struct Opened {
    pub(super) pump: Pump<Stream, Stream>,
    pub(super) machine: Machine,
    pub(super) principal: Principal,
    /// By which databases it is known where the principal is, see [`Countries::generation`](crate::countries::Countries::generation).
    pub(super) located: u64,
    pub(super) carried: Carried,
    pub(super) stay: Stay,
    /// Client id as sent: signatures cover it, and the record names it.
    pub(super) client_id: Box<str>,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("no CONNECT: {0}")]
    NoConnect(&'static str),
    #[error("{0}")]
    Malformed(#[from] ConnectError),
    #[error("{why}")]
    Unproven { version: Version, why: Unproven },
    /// Enhanced authentication leaves no room for anything but AUTH before CONNACK [MQTT-3.1.2-30].
    #[error("protocol fault during authentication: {fault}")]
    Authenticating { code: u8, fault: Malformed },
    #[error("{denial}")]
    Denied { version: Version, denial: Denial },
    #[error("it opens sessions too fast")]
    TooFast { version: Version },
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
    /// Something came that has to wait until there is a session.
    fn early() -> Self {
        Self::Authenticating { code: reason::PROTOCOL_ERROR, fault: Malformed::BeforeConnAck }
    }

    /// What the client is told; nothing where there is no packet for it. `takes`: octets of the largest packet that it wants [MQTT-3.2.2-19].
    fn answer(&self, takes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let told = match self {
            Self::NoConnect(_) => None,
            Self::Malformed(error) => error.connack().map(|(version, code)| (version, code, None)),
            Self::Unproven { version, why } => {
                let (code, sentence) = why.connack();
                Some((*version, code, sentence.map(str::to_owned)))
            }
            Self::Authenticating { code, .. } => Some((Version::V5, *code, None)),
            Self::Denied { version, denial: denial @ Denial::Banned { .. } } => {
                Some((*version, reason::BANNED, Some(denial.to_string())))
            }
            Self::Denied { version, denial } => {
                Some((*version, reason::NOT_AUTHORIZED, Some(denial.to_string())))
            }
            Self::TooFast { version } => Some((*version, reason::CONNECTION_RATE_EXCEEDED, None)),
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
        Ok(Negotiated {
            broker,
            machine,
            principal,
            located,
            client_id,
            carried,
            stay,
            carry,
            broker_carry,
        }) => {
            let pump =
                Pump { client: Side::new(client, carry), broker: Side::new(broker, broker_carry) };
            Some(Opened { pump, machine, principal, located, client_id, carried, stay })
        }
        Err(refused) => {
            match &refused {
                Refused::NoConnect(_) => debug!(peer = %peer.addr, why = %refused, "no session"),
                _ if !shared.log.may_say() => {}
                Refused::Broker { why, .. } => {
                    warn!(peer = %peer.addr, why, "session refused, the broker is to blame");
                }
                _ => info!(peer = %peer.addr, why = %refused, "session refused"),
            }
            client.turn_away(&refused.answer(takes)).await;
            None
        }
    }
}

struct Negotiated {
    broker: Stream,
    machine: Machine,
    principal: Principal,
    located: u64,
    client_id: Box<str>,
    carried: Carried,
    stay: Stay,
    /// What followed the last packet of the handshake, of either side.
    carry: Vec<u8>,
    broker_carry: Vec<u8>,
}

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
        read_frame(client, &mut octets, limits.connect_max_octets, |kind| kind == kind::CONNECT),
    )
    .await
    .map_err(|_| Refused::NoConnect("the deadline passed"))??;
    // What follows belongs to the session and stays unread until there is one.
    let mut carry = octets.split_off(length);
    let connect = match frame(&octets, limits.connect_max_octets) {
        Ok(Some(frame)) => read_connect(frame)?,
        _ => return Err(Refused::NoConnect("it changed under our eyes")),
    };
    let version = connect.version;
    if let Some(most) = connect.maximum_packet_size {
        *takes = usize::try_from(most.get()).unwrap_or(usize::MAX);
    }

    let fitness = shared.mirror.fitness();
    if !fitness.admits() {
        // Ours to mend, so it counts against nobody.
        return Err(Refused::Unfit { version, state: fitness.word() });
    }
    let unproven = |why| Refused::Unproven { version, why };
    let prover = Prover { peer, shared };
    let are_passed_on = matches!(shared.upstreams.credentials(), BrokerCredentials::Client);
    let presented = Presented::in_connect(&connect, are_passed_on)
        .map_err(|refusal| unproven(prover.refuse(Step::Secret, refusal)))?;
    let is_enhanced = connect.authentication_method.is_some();
    if is_enhanced && !carry.is_empty() {
        return Err(Refused::early());
    }
    let mut principal = match &presented {
        Presented::Login(claim) | Presented::Carried(claim) => {
            prover.by_secret(claim).await.map_err(unproven)?
        }
        Presented::Challenge => challenge(client, &mut carry, &connect, prover, *takes).await?,
    };
    let located = shared.countries.generation();
    principal.country = shared.countries.country_of_client(peer);
    // The world may have moved while a wallet was asked or the client was awaited.
    let (view, now) = (shared.mirror.current(), shared.mirror.now());
    view.standing(&principal, now).map_err(|denial| Refused::Denied { version, denial })?;
    let stay = shared.conduct.enter(&principal, peer.addr).map_err(|turned| match turned {
        Turned::Banned(until) => Refused::Denied { version, denial: Denial::Banned { until } },
        Turned::TooFast => {
            shared.metrics.throttled("connects");
            Refused::TooFast { version }
        }
    })?;
    if let Some(will) = &connect.will {
        let action = Action::Publish { retain: will.retain };
        // Asked again when it would fire, so this permit is not kept.
        let _ = view.authorize(&principal, action, will.topic, now).map_err(|denial| {
            shared.metrics.authorized("will", denial.rule());
            if matches!(denial, Denial::Country { .. }) {
                shared.countries.refused_by_rule();
            }
            if denial.blames_client() {
                let rule = denial.rule();
                shared.conduct.offended(&principal, Offence::Refused, 1, rule, peer.addr);
            }
            let origin = shared.door.pseudonym(peer.origin);
            let client_id = connect.client_id.into();
            let penalty = shared.audit.note(&Happening {
                kind: HappeningKind::WillRefused,
                rule: denial.rule(),
                topic_id: denial.topic_id(),
                count: 1,
                at: now,
                height: view.height,
                who: Some(&Who { principal, session: 0, origin, client_id }),
                country: principal.country,
                origin,
                blames_client: denial.blames_client(),
            });
            if let Some(penalty) = penalty {
                shared.conduct.punish(&principal, &penalty, peer.addr);
            }
            Refused::Denied { version, denial }
        })?;
    }

    let (client_id, assigned) = client_id_for_broker(&connect, &principal)?;
    let (wallet, mut towards) = (format!("{:#x}", principal.wallet), Vec::new());
    let mut change = ConnectChange::new(&client_id);
    // The broker would not ask whether the will may still fire when the delay is over.
    change.remove_will_delay = true;
    change.remove_user_properties = &[ADDRESS_PROPERTY, TOKEN_PROPERTY];
    change.session_expiry_cap = Some(limits.session_expiry_cap);
    match shared.upstreams.credentials() {
        BrokerCredentials::None => {}
        BrokerCredentials::Client if matches!(presented, Presented::Login(_)) => {}
        BrokerCredentials::Client => {
            change.user_name = connect.user_name;
            change.password = connect.password;
        }
        BrokerCredentials::Fixed { user_name, password } => {
            change.user_name = Some(user_name);
            change.password = Some(password.expose());
        }
        BrokerCredentials::Wallet => change.user_name = Some(&wallet),
    }
    rewrite_connect(&connect, &change, &mut towards);

    let asked = consent::ask(&connect, &client_id, &towards, peer, shared);
    let Consent { broker, connack: answer, carry: broker_carry, carried } = tokio::select! {
        asked = asked => asked?,
        // A ban that comes while the broker is asked: the connection to it just ends.
        () = stay.ended.cancelled() => return Err(match stay.banned_until() {
            Some(until) => Refused::Denied { version, denial: Denial::Banned { until } },
            None => Refused::NoConnect("the gateway stops"),
        }),
    };
    let connack = read_connack(version, &answer)?;
    if connack.code != reason::SUCCESS {
        return Err(Refused::ByBroker { code: connack.code, connack: answer });
    }
    let mut told = Vec::new();
    // What the client asked for and does not get, it must be told [MQTT-3.2.2-21 of 5.0].
    let capped = (version.is_v5() && connect.session_expiry > limits.session_expiry_cap)
        .then(|| connack.session_expiry.unwrap_or(u32::MAX).min(limits.session_expiry_cap));
    let in_flight = NonZeroU16::new(limits.max_in_flight).unwrap_or(NonZeroU16::MAX);
    let is_narrower = version.is_v5() && in_flight < connack.receive_maximum;
    let is_changed = assigned.is_some()
        || connack.assigned_client_id.is_some()
        || is_enhanced
        || capped.is_some()
        || is_narrower;
    if is_changed {
        let change = ConnAckChange {
            assigned_client_id: assigned.as_deref(),
            authentication_method: connect.authentication_method,
            session_expiry: capped,
            receive_maximum_cap: is_narrower.then_some(in_flight),
            ..ConnAckChange::default()
        };
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
        max_subscriptions: limits.max_subscriptions,
        max_in_flight: limits.max_in_flight,
        session_expiry_cap: limits.session_expiry_cap,
    };
    let clock = Clock { now, elapsed: Duration::ZERO };
    let machine = Machine::new(principal, &connect, &connack, terms, view, clock);
    let client_id = connect.client_id.into();
    Ok(Negotiated {
        broker,
        machine,
        principal,
        located,
        client_id,
        carried,
        stay,
        carry,
        broker_carry,
    })
}

/// Asks the client to sign a nonce, and judges its answer. `carry` is what is read and not looked at.
async fn challenge(
    client: &mut Stream,
    carry: &mut Vec<u8>,
    connect: &Connect<'_>,
    prover: Prover<'_>,
    takes: usize,
) -> Result<Principal, Refused> {
    let (version, shared) = (connect.version, prover.shared);
    let unproven = |why| Refused::Unproven { version, why };
    let Some(server) = shared.config.name.as_deref() else {
        return Err(unproven(prover.refuse(Step::Secret, Refusal::Method)));
    };
    let nonce = B256::from(rand::random::<[u8; 32]>());
    let mut question = Vec::new();
    encode::auth(reason::CONTINUE_AUTHENTICATION, METHOD, Some(nonce.as_slice()), &mut question);
    if question.len() > takes {
        let (octets, limit) = (question.len(), takes);
        let fault = Malformed::TooLarge { octets, limit };
        return Err(Refused::Authenticating { code: fault.reason_code(), fault });
    }
    let limit = shared.config.limits.connect_max_octets;
    let length = timeout_at(prover.peer.deadline(&shared.config), async {
        client.write_all(&question).await.map_err(|_| Refused::NoConnect("lost"))?;
        client.flush().await.map_err(|_| Refused::NoConnect("lost"))?;
        let may_come = |kind| matches!(kind, kind::AUTH | kind::DISCONNECT);
        read_frame(client, carry, limit, may_come).await.map_err(|unread| match unread {
            Unread::Malformed | Unread::Another => Refused::early(),
            gone => gone.into(),
        })
    });
    let length =
        length.await.map_err(|_| Refused::NoConnect("no answer before the deadline"))??;
    let rest = carry.split_off(length);
    let octets = std::mem::replace(carry, rest);
    let frame = match frame(&octets, limit) {
        Ok(Some(frame)) => frame,
        _ => return Err(Refused::NoConnect("it changed under our eyes")),
    };
    let fault = |code, fault| Refused::Authenticating { code, fault };
    let auth = match read_from_client(version, frame) {
        Ok(FromClient::Auth(auth)) => auth,
        Ok(_) => return Err(Refused::NoConnect("it left during authentication")),
        Err(wrong) => return Err(fault(wrong.connack_code(), wrong)),
    };
    if auth.reason != reason::CONTINUE_AUTHENTICATION {
        return Err(fault(reason::PROTOCOL_ERROR, Malformed::ReasonCode { code: auth.reason }));
    }
    if auth.method != Some(METHOD) {
        let another = Malformed::AnotherMethod;
        return Err(fault(reason::BAD_AUTHENTICATION_METHOD, another));
    }
    if !carry.is_empty() {
        return Err(Refused::early());
    }
    let challenge = Challenge { client_id: connect.client_id, nonce, server };
    prover.by_answer(auth.data.unwrap_or_default(), &challenge).await.map_err(unproven)
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

/// Why there is no frame.
pub(super) enum Unread {
    Malformed,
    Another,
    Closed,
    Lost,
}

impl From<Unread> for Refused {
    fn from(unread: Unread) -> Self {
        Self::NoConnect(match unread {
            Unread::Malformed => "malformed, or too large before a proof",
            Unread::Another => "another packet came first",
            Unread::Closed => "closed",
            Unread::Lost => "lost",
        })
    }
}

/// Reads until `octets` starts with a whole frame and returns its length; what came behind it is in `octets` too.
///
/// The first octet alone tells whether a packet can be the one that is awaited, so a wrong one is not waited for.
pub(super) async fn read_frame(
    stream: &mut Stream,
    octets: &mut Vec<u8>,
    limit: usize,
    may_come: impl Fn(u8) -> bool,
) -> Result<usize, Unread> {
    loop {
        if octets.first().is_some_and(|first| !may_come(first >> 4)) {
            return Err(Unread::Another);
        }
        match frame(octets, limit) {
            Ok(Some(frame)) => return Ok(frame.octets().len()),
            Ok(None) => {}
            Err(_) => return Err(Unread::Malformed),
        }
        octets.reserve(READ_OCTETS);
        match stream.read_buf(octets).await {
            Ok(0) => return Err(Unread::Closed),
            Ok(_) => {}
            Err(_) => return Err(Unread::Lost),
        }
    }
}

//! The broker's consent: CONNECT goes to the broker that the session prefers, and on to the next while none answers.

use flytrap_mqtt::{Connect, Version, kind, reason};
use tokio::io::AsyncWriteExt;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use super::handshake::{Refused, Unread, read_frame};
use crate::shared::{Peer, Shared};
use crate::upstream::Stream;
use crate::upstreams::{Broker, Carried};

/// How a broker answered.
pub(super) struct Consent {
    pub(super) broker: Stream,
    /// Its CONNACK.
    pub(super) connack: Vec<u8>,
    /// What came behind it.
    pub(super) carry: Vec<u8>,
    pub(super) carried: Carried,
}

/// Asks one broker after the other with `towards`, the CONNECT for the session with this client id, until one answers it. Whatever the
/// answer is, it is final.
///
/// # Errors
/// The last broker's failure. Takes at most twice `broker.connect_timeout`, however many there are: as long as one that takes the
/// connection and says nothing takes, and another that is asked in its place.
pub(super) async fn ask(
    connect: &Connect<'_>,
    client_id: &str,
    towards: &[u8],
    peer: &Peer,
    shared: &Shared,
) -> Result<Consent, Refused> {
    let version = connect.version;
    let deadline = Instant::now() + 2 * shared.upstreams.connect_timeout();
    let mut refused = Refused::Broker {
        version,
        code: reason::UNSUPPORTED_PROTOCOL_VERSION,
        why: "no broker speaks MQTT 5".to_owned(),
    };
    for broker in shared.upstreams.for_session(client_id, version.is_v5()) {
        match one(broker, version, towards, peer, shared, deadline).await {
            Ok(consent) => return Ok(consent),
            Err(other) => refused = other,
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    Err(refused)
}

async fn one(
    broker: &Broker,
    version: Version,
    towards: &[u8],
    peer: &Peer,
    shared: &Shared,
    deadline: Instant,
) -> Result<Consent, Refused> {
    let upstream = &broker.upstream;
    let unavailable =
        |why: String| Refused::Broker { version, code: reason::SERVER_UNAVAILABLE, why };
    let mut stream = match timeout_at(deadline, upstream.dial(Some(peer.ends()))).await {
        Err(_) => return Err(unavailable("no broker answered in time".to_owned())),
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.metrics.dialled(upstream.label(), error.word());
            let why = error.to_string();
            broker.failed(&why);
            return Err(unavailable(why));
        }
    };
    let carried = broker.carry();
    let waited = upstream.connect_timeout();
    let most = shared.config.limits.max_packet_octets;
    let mut octets = Vec::new();
    let answered = timeout_at(deadline.min(Instant::now() + waited), async {
        stream.write_all(towards).await.map_err(|_| Unread::Lost)?;
        stream.flush().await.map_err(|_| Unread::Lost)?;
        read_frame(&mut stream, &mut octets, most, |found| found == kind::CONNACK).await
    });
    let (word, why) = match answered.await {
        Ok(Ok(length)) => {
            shared.metrics.dialled(upstream.label(), "ok");
            let carry = octets.split_off(length);
            return Ok(Consent { broker: stream, connack: octets, carry, carried });
        }
        // Not held against it: what a client wrote may be the cause.
        Ok(Err(_)) => ("hung_up", format!("the broker {} hung up on CONNECT", upstream.label())),
        Err(_) => {
            let why = format!("no CONNACK from the broker {} within {waited:?}", upstream.label());
            broker.failed(&why);
            ("silent", why)
        }
    };
    shared.metrics.dialled(upstream.label(), word);
    take_back(stream).await;
    Err(unavailable(why))
}

/// A broker that comes to read CONNECT late must not let the will fire for a session that is another's by then, or nobody's.
async fn take_back(mut stream: Stream) {
    const DISCONNECT: [u8; 2] = [0xE0, 0];
    let _ = timeout(Duration::from_millis(100), async {
        stream.write_all(&DISCONNECT).await?;
        stream.shutdown().await
    })
    .await;
}

//! Why sessions end.

use flytrap_mqtt::Malformed;
use flytrap_policy::Denial;

/// Why a session ended. Decides what the client is told, and whether its will is left to fire.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The client said DISCONNECT.
    #[error("the client left")]
    ClientLeft,
    /// The client's connection ended without DISCONNECT.
    #[error("the client was lost")]
    ClientLost,
    /// The broker ended the session, or its connection did.
    #[error("the broker ended it")]
    BrokerLeft,
    /// The client broke the protocol.
    #[error("protocol fault of the client: {0}")]
    ClientFault(Malformed),
    /// The client used a topic alias that it had not set, or that the broker does not take.
    #[error("a topic alias that means nothing")]
    ClientAlias,
    /// The client answered a QoS 2 delivery with a packet that is no answer to it [MQTT-4.3.3-8], [MQTT-4.3.3-11].
    #[error("a QoS 2 delivery was answered with the wrong packet")]
    ClientAnswer,
    /// The client went past a bound of the gateway; the sentence says which.
    #[error("excess of the client: {0}")]
    ClientExcess(&'static str),
    /// The client sends so much more than it may that holding it up would take too long.
    #[error("excess of the client: {0} at too high a rate")]
    ClientRate(&'static str),
    /// The client has more publishes under way than it may.
    #[error("excess of the client: more publishes under way than it may have")]
    ClientInFlight,
    /// The client takes nothing any more, for whatever reason: its network may be gone.
    #[error("the client took nothing for too long")]
    ClientStalled,
    /// The broker takes nothing any more.
    #[error("the broker took nothing for too long")]
    BrokerStalled,
    /// The broker sent what no broker may.
    #[error("protocol fault of the broker: {0}")]
    BrokerFault(Malformed),
    /// Nothing came from the client for one and a half keep alive intervals.
    #[error("the client was silent for too long")]
    KeepAlive,
    /// A right that the session stood on is gone.
    #[error("its right ended: {0}")]
    Denied(Denial),
    /// The client set out to prove itself again and did not.
    #[error("not proved again: {why}")]
    NotRenewed {
        /// Reason code for the client, who is told no more.
        code: u8,
        /// For the log.
        why: String,
    },
    /// An MQTT 3 client published what it may not, and the listener closes on that.
    #[error("closed on a refused publish: {0}")]
    Refused(Denial),
    /// The mirror is too old to decide on.
    #[error("the mirror is too old to decide on")]
    Distrusted,
    /// The gateway stops.
    #[error("the gateway stops")]
    Stopping,
}

impl End {
    /// A word for metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::ClientLeft => "left",
            Self::ClientLost => "lost",
            Self::BrokerLeft => "broker_left",
            Self::ClientFault(_) | Self::ClientAlias | Self::ClientAnswer => "client_fault",
            Self::ClientExcess(_) => "client_excess",
            Self::ClientRate(_) => "client_rate",
            Self::ClientInFlight => "client_in_flight",
            Self::ClientStalled => "client_stalled",
            Self::BrokerStalled => "broker_stalled",
            Self::BrokerFault(_) => "broker_fault",
            Self::KeepAlive => "keep_alive",
            Self::Denied(Denial::Banned { .. }) => "banned",
            Self::Denied(_) => "denied",
            Self::NotRenewed { .. } => "not_renewed",
            Self::Refused(_) => "refused",
            Self::Distrusted => "distrusted",
            Self::Stopping => "stopping",
        }
    }

    /// Whether the client alone brought it about, by what no right client does. A refusal is counted where it is noted.
    #[must_use]
    pub fn is_clients_fault(&self) -> bool {
        matches!(
            self,
            Self::ClientFault(_)
                | Self::ClientAlias
                | Self::ClientAnswer
                | Self::ClientExcess(_)
                | Self::ClientRate(_)
                | Self::ClientInFlight
        )
    }
}

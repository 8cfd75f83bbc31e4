//! A live session proves itself again (MQTT 5.0 section 4.12.1), so that it can outlive the credential that opened it.
//!
//! The machine takes AUTH apart and keeps the order of steps; who is asked about a proof is the driver's business. The session goes on
//! with its old proof meanwhile. It ends if the new one does not hold, or is that of another principal.

use std::time::Duration;

use alloy_primitives::B256;
use flytrap_mqtt::{Auth, Malformed, encode, reason};
use flytrap_policy::Principal;
use flytrap_policy::credential::METHOD;

use super::end::End;
use super::machine::Machine;

/// How long a client may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two renewals of one session: each costs a signature, maybe a node's answer and a write.
const GAP: Duration = Duration::from_secs(1);

/// Where a session stands in proving itself again.
#[derive(Debug, Default)]
pub(super) enum Renewal {
    /// Its CONNECT named no method, so there is nothing to do again.
    #[default]
    Impossible,
    /// Nothing is going on, and nothing may before this moment.
    Idle {
        /// Since the session began.
        not_before: Duration,
    },
    /// The driver has something of the client's to act on.
    Judged,
    /// The client was asked to sign, and has until then.
    Asked {
        /// Since the session began.
        until: Duration,
    },
}

impl Renewal {
    /// Gives a client that was asked its whole time from `now` on.
    pub(super) fn extend(&mut self, now: Duration) {
        if let Self::Asked { until } = self {
            *until = now + PATIENCE;
        }
    }
}

/// What the driver has to act on.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The client asks for a nonce.
    Begin,
    /// A secret, as in CONNECT.
    Secret(Vec<u8>),
    /// The answer to the nonce that it was sent last.
    Answer(Vec<u8>),
}

impl Machine {
    /// Takes what the client said in AUTH, if it was its turn.
    pub(super) fn client_auth(&mut self, auth: &Auth<'_>) -> Result<(), End> {
        let fault = |fault| Err(End::ClientFault(fault));
        if matches!(self.renewal, Renewal::Impossible) {
            return fault(Malformed::NoAuthenticationMethod);
        }
        if auth.method != Some(METHOD) {
            return fault(Malformed::AnotherMethod);
        }
        let step = match (&self.renewal, auth.reason) {
            (Renewal::Idle { not_before }, reason::REAUTHENTICATE) => {
                if self.clock.elapsed < *not_before {
                    return Err(End::ClientExcess(
                        "it authenticates again more than once a second",
                    ));
                }
                auth.data.map_or(Step::Begin, |data| Step::Secret(data.to_vec()))
            }
            (Renewal::Asked { .. }, reason::CONTINUE_AUTHENTICATION) => {
                Step::Answer(auth.data.unwrap_or_default().to_vec())
            }
            _ => return fault(Malformed::UnexpectedAuth),
        };
        self.renewal = Renewal::Judged;
        self.step = Some(step);
        // The driver looks at steps where it looks at deadlines.
        self.rearm = true;
        Ok(())
    }

    /// What the client wants to be judged, once.
    pub fn take_step(&mut self) -> Option<Step> {
        self.step.take()
    }

    /// Asks the client to sign.
    ///
    /// # Errors
    /// [`End::NotRenewed`] if the question is larger than what the client takes [MQTT-3.1.2-24].
    pub fn ask(&mut self, nonce: &B256, to_client: &mut Vec<u8>) -> Result<(), End> {
        self.renewal = Renewal::Asked { until: self.clock.elapsed + PATIENCE };
        let (start, code) = (to_client.len(), reason::CONTINUE_AUTHENTICATION);
        encode::auth(code, METHOD, Some(nonce.as_slice()), to_client);
        let octets = to_client.len() - start;
        if octets > self.client_takes {
            to_client.truncate(start);
            let why = format!("a question of {octets} octets, it takes {}", self.client_takes);
            return Err(End::NotRenewed { code: reason::PACKET_TOO_LARGE, why });
        }
        Ok(())
    }

    /// The new proof holds: what the session stands on is judged by it from now on.
    ///
    /// # Errors
    /// [`End::NotRenewed`] if it is that of somebody else.
    pub fn renew(&mut self, proved: Principal, to_client: &mut Vec<u8>) -> Result<(), End> {
        let old = &self.principal;
        if (proved.wallet, proved.key) != (old.wallet, old.key) {
            let why = "it is the proof of another principal".to_owned();
            return Err(End::NotRenewed { code: reason::NOT_AUTHORIZED, why });
        }
        self.principal = proved;
        self.renewal = Renewal::Idle { not_before: self.clock.elapsed + GAP };
        // Permits that were given until the end of the old proof are asked for again.
        self.judge_anew();
        encode::auth(reason::SUCCESS, METHOD, None, to_client);
        Ok(())
    }

    /// When the client must have answered.
    pub(super) fn answer_is_due(&self) -> Option<Duration> {
        match self.renewal {
            Renewal::Asked { until } => Some(until),
            _ => None,
        }
    }
}

//! Who a client is: every way to prove it, with what stands around the proof itself.
//!
//! The policy judges; here is asked whom it wants asked (the door before, a wallet's contract, the used tokens), and what came of it is
//! counted. Login and renewal of a live session come through the same functions, so that no way of failing counts less than another.

use flytrap_mqtt::reason;
use flytrap_policy::credential::{
    Accepts, Challenge, Claim, Finding, Proven, Refusal, authenticate, judge_answer,
};
use flytrap_policy::{CredentialKind, HappeningKind, Principal};

use crate::audit::Happening;
use crate::shared::{Peer, Shared};

/// Why nothing is proved.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unproven {
    /// Of what came in CONNECT, or was to be found there.
    #[error("proof refused: {0}")]
    Secret(Refusal),
    #[error("answer refused: {0}")]
    Answer(Refusal),
    #[error("its origin was banned meanwhile")]
    Banned,
    #[error("a bearer secret on a listener without TLS")]
    Plain,
    /// Ours to mend; counts against nobody.
    #[error("a proof that cannot be judged: {0}")]
    Undecided(String),
}

impl Unproven {
    /// The reason code of a CONNACK of MQTT 5, and a sentence where it helps an honest client and no other.
    pub(super) fn connack(&self) -> (u8, Option<&'static str>) {
        match self {
            Self::Secret(Refusal::Method) => (reason::BAD_AUTHENTICATION_METHOD, None),
            // Never which check failed: that would help who guesses.
            Self::Secret(_) => (reason::BAD_USER_NAME_OR_PASSWORD, None),
            // A signature in AUTH is neither user name nor password.
            Self::Answer(_) => (reason::NOT_AUTHORIZED, None),
            Self::Banned => (reason::BANNED, None),
            Self::Plain => (reason::NOT_AUTHORIZED, Some("tokens are only taken over TLS here")),
            Self::Undecided(_) => (reason::SERVER_UNAVAILABLE, None),
        }
    }

    /// The reason code of the DISCONNECT that ends a session whose renewal failed.
    pub(super) fn disconnect(&self) -> u8 {
        match self {
            Self::Undecided(_) => reason::SERVER_BUSY,
            _ => reason::NOT_AUTHORIZED,
        }
    }
}

/// In which step a proof comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// At once, as a secret.
    Secret,
    /// As the answer to a challenge.
    Answer,
}

impl Step {
    fn word(self) -> &'static str {
        match self {
            Self::Secret => "credential",
            Self::Answer => "challenge",
        }
    }
}

/// Judges the proofs of one connection.
#[derive(Clone, Copy)]
pub(super) struct Prover<'a> {
    pub(super) peer: &'a Peer,
    pub(super) shared: &'a Shared,
}

impl Prover<'_> {
    /// Counts a proof that is none.
    pub(super) fn refuse(&self, step: Step, refusal: Refusal) -> Unproven {
        self.shared.metrics.authenticated(step.word(), refusal.rule());
        if refusal.blames_client() {
            self.shared.door.failed(self.peer, refusal.rule());
            let mirror = &self.shared.mirror;
            let penalty = self.shared.audit.note(&Happening {
                kind: HappeningKind::ProofFailed,
                rule: refusal.rule(),
                topic_id: None,
                count: 1,
                at: mirror.now(),
                height: mirror.peek().height,
                who: None,
                country: self.shared.countries.country_of_client(self.peer),
                origin: self.shared.door.pseudonym(self.peer.origin),
                blames_client: true,
            });
            if let Some(penalty) = penalty {
                self.shared.door.punish(self.peer, &penalty);
            }
        }
        match step {
            Step::Secret => Unproven::Secret(refusal),
            Step::Answer => Unproven::Answer(refusal),
        }
    }

    /// By a token or a device password, wherever it came in.
    pub(super) async fn by_secret(&self, claim: &Claim<'_>) -> Result<Principal, Unproven> {
        if !self.peer.tls && !self.peer.listener.allow_tokens_without_tls {
            self.shared.metrics.authenticated("credential", "plain_text");
            return Err(Unproven::Plain);
        }
        self.may_try()?;
        let (view, now) = (self.shared.mirror.current(), self.shared.mirror.now());
        let found = authenticate(claim, &self.shared.site, &view, now, &self.accepts());
        self.conclude(Step::Secret, found).await
    }

    /// By the answer to a challenge. No secret passes, so it may be told without TLS.
    pub(super) async fn by_answer(
        &self,
        answer: &[u8],
        challenge: &Challenge<'_>,
    ) -> Result<Principal, Unproven> {
        self.may_try()?;
        let (view, now) = (self.shared.mirror.current(), self.shared.mirror.now());
        let site = &self.shared.site;
        let found = judge_answer(answer, challenge, site, &view, now, &self.accepts());
        self.conclude(Step::Answer, found).await
    }

    /// Of many connections of one origin at once only as many proofs are looked at as it has failures left.
    fn may_try(&self) -> Result<(), Unproven> {
        if self.shared.door.may_try(self.peer) { Ok(()) } else { Err(Unproven::Banned) }
    }

    fn accepts(&self) -> Accepts {
        let config = &self.shared.config;
        Accepts {
            longest_life: config.limits.longest_token_life.as_secs(),
            contract_wallets: self.shared.wallet_desk.is_some(),
        }
    }

    async fn conclude(
        &self,
        step: Step,
        found: Result<Finding, Refusal>,
    ) -> Result<Principal, Unproven> {
        let shared = self.shared;
        let undecided = |word, why: String| {
            shared.metrics.authenticated(step.word(), word);
            Unproven::Undecided(why)
        };
        let Proven { principal, token } = match found.map_err(|why| self.refuse(step, why))? {
            Finding::Proved(proven) => proven,
            Finding::Ask(question) => {
                let Some(desk) = &shared.wallet_desk else {
                    return Err(self.refuse(step, Refusal::Signer));
                };
                match desk
                    .ask(self.peer.origin, question.wallet, question.digest, &question.signature)
                    .await
                {
                    Ok(true) => question.answered_yes(),
                    Ok(false) => return Err(self.refuse(step, Refusal::Wallet)),
                    Err(why) => return Err(undecided("wallet_unanswered", why.to_string())),
                }
            }
        };
        if let (Some(used), Some(token)) = (&shared.used_tokens, token) {
            match used.take(token, shared.mirror.now()).await {
                Ok(true) => {}
                Ok(false) => return Err(self.refuse(step, Refusal::Used)),
                Err(why) => return Err(undecided("token_unwritten", why.to_string())),
            }
        }
        shared.metrics.authenticated(method_word(principal.credential.kind), "accepted");
        shared.door.succeeded(self.peer);
        Ok(principal)
    }
}

fn method_word(kind: CredentialKind) -> &'static str {
    match kind {
        CredentialKind::Token => "token",
        CredentialKind::DevicePassword => "device_password",
        CredentialKind::Challenge => "challenge",
    }
}

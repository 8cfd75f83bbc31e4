//! What people do with the contracts, as calls that end when the chain has taken them in.
//!
//! [`Contracts`] reads, [`Wallet`] also signs. Each change is estimated first, so that what a contract would refuse costs nothing and
//! is told in a sentence; then it is signed, sent, and waited for under a deadline.

mod access;
mod contracts;
mod devices;

use std::time::Duration;

pub use self::{
    access::Wanted,
    contracts::{Contracts, Quote},
    devices::{
        authorize_devices_digest, consent_digest, device_consent, revoke_all_devices_digest,
    },
};
use alloy::{
    eips::Encodable2718,
    primitives::{Address, B256, Bytes, FixedBytes, U256, aliases::U96},
    sol_types::SolCall,
};
use flytrap_policy::{
    Countries, CountryMode, CountryRule, Event, NamingPolicy, Offer, OfferMode, Right, Traits,
};
pub use flytrap_policy::{hidden_topic_id, name_commitment, topic_id};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use url::Url;

use crate::{
    Ban, Deployment,
    bindings::{
        IAccessMarket as market, IBrokerRegistry as broker, IDeviceRegistry as device,
        ITopicRegistry as topic,
    },
    keys::Key,
    transact::{self, Done, Draft, TransactError},
};

/// How long a transaction is waited for unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why a wallet call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// The transaction did not happen.
    #[error(transparent)]
    Transact(#[from] TransactError),
    /// The node is on another chain.
    #[error(
        "the node is on chain {found}, the deployment file is for chain {wanted}: correct the node's URL or the file"
    )]
    WrongChain {
        /// The node's chain id.
        found: u64,
        /// The deployment's.
        wanted: u64,
    },
    /// Nothing is at an address.
    #[error(
        "`{contract}` {address} has no code on chain {chain_id}: deploy with `make deploy`, or correct the address"
    )]
    NoCode {
        /// Field of the deployment.
        contract: &'static str,
        /// Its value.
        address: Address,
        /// The chain.
        chain_id: u64,
    },
    /// A contract answered with something else than its interface says.
    #[error(
        "the answer of {address} to {call} cannot be decoded: is the deployment file of this version?"
    )]
    Answer {
        /// The contract.
        address: Address,
        /// The call.
        call: &'static str,
    },
    /// The transaction happened and did not tell what it should have.
    #[error("transaction {tx} emitted no {event}: is the deployment file of this version?")]
    NoEvent {
        /// Its hash.
        tx: B256,
        /// What is missing.
        event: &'static str,
    },
    /// The price is above what the caller is ready to pay.
    #[error(
        "{periods} periods cost {cost_wei} wei, the limit is {limit_wei} wei: raise the limit, or take fewer periods"
    )]
    AboveLimit {
        /// How many periods.
        periods: u32,
        /// What they cost.
        cost_wei: U256,
        /// What may be paid.
        limit_wei: U256,
    },
}

impl From<crate::RpcError> for WalletError {
    fn from(error: crate::RpcError) -> Self {
        Self::Transact(error.into())
    }
}

/// Why something is done, for the auditor: public for ever, so never personal data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reason {
    /// First octet the lawful basis (GDPR Article 6(1) a to f as 1 to 6), then a short ASCII code.
    pub purpose: B256,
    /// At most 256 octets.
    pub note: String,
}

/// The contracts, with a key that pays and signs.
#[derive(Debug)]
pub struct Wallet {
    contracts: Contracts,
    key: Key,
    patience: Duration,
    max_fee_wei: Option<u128>,
    /// One transaction at a time from taking the nonce to handing it in.
    turn: Mutex<()>,
}

impl std::ops::Deref for Wallet {
    type Target = Contracts;

    fn deref(&self) -> &Contracts {
        &self.contracts
    }
}

impl Wallet {
    /// Checks that the node is on the chain and that there are contracts.
    ///
    /// # Errors
    /// As [`Contracts::connect`].
    pub async fn connect(
        urls: Vec<Url>,
        deployment: Deployment,
        key: Key,
    ) -> Result<Self, WalletError> {
        let contracts = Contracts::connect(urls, deployment).await?;
        Ok(Self { contracts, key, patience: PATIENCE, max_fee_wei: None, turn: Mutex::new(()) })
    }

    /// Waits so long for each transaction.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Pays at most so many wei per gas.
    #[must_use]
    pub const fn with_max_fee(mut self, max_fee_wei: u128) -> Self {
        self.max_fee_wei = Some(max_fee_wei);
        self
    }

    /// Who pays and signs.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.key.address()
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &Key {
        &self.key
    }

    /// Any call of the bindings as a transaction.
    ///
    /// # Errors
    /// [`WalletError`]; [`TransactError::Pending`] means that it may still happen.
    pub async fn send<C: SolCall>(
        &self,
        to: Address,
        call: &C,
        value: U256,
    ) -> Result<Done, WalletError> {
        let draft = Draft { to, data: call.abi_encode().into(), value };
        self.transact(&draft).await
    }

    /// Sends ether.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn transfer(&self, to: Address, value: U256) -> Result<Done, WalletError> {
        self.transact(&Draft { to, data: Bytes::new(), value }).await
    }

    async fn transact(&self, draft: &Draft) -> Result<Done, WalletError> {
        let rpc = &self.contracts.rpc;
        let tx = {
            let _turn = self.turn.lock().await;
            let from = self.address();
            let gas = transact::estimate(rpc, from, draft).await?;
            let fees = transact::fees(rpc, self.max_fee_wei).await?;
            transact::afford(rpc, from, draft, gas, fees).await?;
            let nonce = transact::nonce(rpc, from, "pending").await?;
            let chain = self.contracts.deployment.chain_id;
            let unsigned = transact::unsigned(chain, nonce, gas, fees, draft);
            let signed = transact::sign(&self.key, unsigned);
            transact::send(rpc, &signed.encoded_2718().into()).await?;
            *signed.tx_hash()
        };
        let deadline = Instant::now() + self.patience;
        let mut pause = Duration::from_millis(10);
        loop {
            // A node that does not answer at the moment is asked again until the deadline.
            if let Ok(Some(receipt)) = transact::receipt(rpc, tx).await {
                return Ok(receipt.done()?);
            }
            if Instant::now() + pause > deadline {
                return Err(TransactError::Pending { tx, waited: self.patience }.into());
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_secs(1));
        }
    }

    fn event<T>(
        &self,
        done: &Done,
        event: &'static str,
        wanted: impl Fn(&Event) -> Option<T>,
    ) -> Result<T, WalletError> {
        done.events(&self.contracts.deployment)
            .iter()
            .find_map(wanted)
            .ok_or(WalletError::NoEvent { tx: done.tx, event })
    }
}

/// Transactions that need no explanation beyond the interface's.
macro_rules! transactions {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) = $at:ident, $call:expr;)*) => {
        impl Wallet {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`WalletError`], with the contract's own reason if it refuses.
                pub async fn $name(&self, $($arg: $ty),*) -> Result<Done, WalletError> {
                    self.send(self.contracts.deployment.$at, &$call, U256::ZERO).await
                }
            )*
        }
    };
}

transactions! {
    /// Offers the broker to another owner; zero withdraws the offer.
    offer_broker_ownership(broker_id: U256, candidate: Address) = broker_registry,
        broker::offerBrokerOwnershipCall { brokerId: broker_id, candidate };
    /// Becomes the broker's owner.
    accept_broker_ownership(broker_id: U256) = broker_registry,
        broker::acceptBrokerOwnershipCall { brokerId: broker_id };
    /// Says who may register at the top of the name tree.
    set_naming_policy(broker_id: U256, policy: NamingPolicy) = broker_registry,
        broker::setNamingPolicyCall { brokerId: broker_id, policy: policy_number(policy) };
    /// Lets a wallet register topics at the top, or no longer.
    set_registrar(broker_id: U256, registrar: Address, allowed: bool) = broker_registry,
        broker::setRegistrarCall { brokerId: broker_id, registrar, allowed };
    /// Registers a gateway's key and where clients find it.
    set_gateway(broker_id: U256, gateway: Address, uri: &str) = broker_registry,
        broker::setGatewayCall { brokerId: broker_id, gateway, uri: uri.to_owned() };
    /// Switches a gateway's key off.
    remove_gateway(broker_id: U256, gateway: Address) = broker_registry,
        broker::removeGatewayCall { brokerId: broker_id, gateway };
    /// Sets what a publish grant costs per day. A rise takes effect a day later.
    set_publish_fee(broker_id: U256, wei_per_day: u64) = broker_registry,
        broker::setPublishFeeCall { brokerId: broker_id, weiPerDay: U96::from(wei_per_day) };
    /// Sets what the broker keeps of each sale. A rise takes effect a day later.
    set_sale_fee(broker_id: U256, basis_points: u64) = broker_registry,
        broker::setSaleFeeCall { brokerId: broker_id, basisPoints: U96::from(basis_points) };
    /// Records bans, all or none.
    ban(broker_id: U256, bans: &[Ban]) = broker_registry,
        broker::banCall { brokerId: broker_id, bans: bans.iter().map(Ban::encoded).collect() };
    /// Ends the ban of a wallet.
    unban(broker_id: U256, wallet: Address) = broker_registry,
        broker::unbanCall { brokerId: broker_id, kind: 0, subject: wallet.into_word() };
    /// Ends the ban of a network origin's pseudonym.
    unban_origin(broker_id: U256, origin: B256) = broker_registry,
        broker::unbanCall { brokerId: broker_id, kind: 1, subject: origin };
    /// Changes what holds for a topic whoever acts.
    set_traits(topic_id: B256, traits: Traits) = topic_registry,
        topic::setTraitsCall { topicId: topic_id, traits: encoded_traits(traits) };
    /// Changes the terms of one right.
    set_offer(topic_id: B256, right: Right, offer: Offer) = topic_registry,
        topic::setOfferCall { topicId: topic_id, right: number(right), offer: encoded_offer(offer) };
    /// Replaces the rule about the countries that a topic may be used from.
    set_countries(topic_id: B256, rule: &CountryRule) = topic_registry,
        topic::setCountriesCall { topicId: topic_id, mode: mode_number(rule), codes: codes(rule) };
    /// Lets a wallet manage a topic, or no longer.
    set_manager(topic_id: B256, manager: Address, allowed: bool) = topic_registry,
        topic::setManagerCall { topicId: topic_id, manager, allowed };
    /// Offers the topic to another owner; zero withdraws the offer.
    offer_topic_ownership(topic_id: B256, candidate: Address) = topic_registry,
        topic::offerTopicOwnershipCall { topicId: topic_id, candidate };
    /// Becomes the topic's owner.
    accept_topic_ownership(topic_id: B256) = topic_registry,
        topic::acceptTopicOwnershipCall { topicId: topic_id };
    /// Ends a topic with every grant, block and manager of it.
    delete_topic(topic_id: B256) = topic_registry, topic::deleteTopicCall { topicId: topic_id };
    /// Lets a wallet in again.
    unblock(topic_id: B256, wallet: Address) = access_market,
        market::unblockWalletCall { topicId: topic_id, wallet };
    /// Counts out a paid grant whose paid time is over, so that the topic can be deleted.
    settle(topic_id: B256, wallet: Address, right: Right) = access_market,
        market::settleCall { topicId: topic_id, wallet, right: number(right) };
    /// Chooses how the wallet is paid from now on: at once to an address (zero: to itself), or as a credit.
    set_payout(to: Address, is_pull: bool) = access_market,
        market::setPayoutCall { to, isPull: is_pull };
    /// Sends the wallet's credit to an address.
    withdraw(to: Address) = access_market, market::withdrawCall { to };
    /// Lets a device key, which has consented, act for the wallet.
    authorize_device(device: Address, until: u64, consent: &Bytes) = device_registry,
        device::authorizeDeviceCall { device, until, consent: consent.clone() };
    /// Lets device keys, which have consented, act for the wallet: all of them or none.
    authorize_devices(devices: &[Address], until: u64, consents: &[Bytes]) = device_registry,
        device::authorizeDevicesCall { devices: devices.to_vec(), until, consents: consents.to_vec() };
    /// As `authorize_devices` for another wallet, by its signature over [`authorize_devices_digest`].
    authorize_devices_for(wallet: Address, devices: &[Address], until: u64, consents: &[Bytes], deadline: u64, signature: &Bytes) = device_registry,
        device::authorizeDevicesForCall {
            wallet, devices: devices.to_vec(), until, consents: consents.to_vec(), deadline, signature: signature.clone(),
        };
    /// Ends one device key.
    revoke_device(device: Address) = device_registry, device::revokeDeviceCall { device };
    /// Ends device keys, all of them or none.
    revoke_devices(devices: &[Address]) = device_registry,
        device::revokeDevicesCall { devices: devices.to_vec() };
    /// Ends all device keys of the wallet.
    revoke_all_devices() = device_registry, device::revokeAllDevicesCall {};
    /// As `revoke_all_devices` for another wallet, by its signature over [`revoke_all_devices_digest`].
    revoke_all_devices_for(wallet: Address, deadline: u64, signature: &Bytes) = device_registry,
        device::revokeAllDevicesForCall { wallet, deadline, signature: signature.clone() };
    /// Uses up the wallet's next nonce, so that what was signed with it can no longer be handed in.
    cancel_nonce() = device_registry, device::cancelNonceCall {};
    /// Ends all tokens that the wallet signed before this second.
    invalidate_before(before: u64) = device_registry, device::invalidateBeforeCall { before };
}

impl Wallet {
    /// Creates a broker owned by the wallet. Returns its number.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn create_broker(
        &self,
        policy: NamingPolicy,
        name: &str,
    ) -> Result<(U256, Done), WalletError> {
        let call =
            broker::createBrokerCall { policy: policy_number(policy), name: name.to_owned() };
        let done = self.send(self.contracts.deployment.broker_registry, &call, U256::ZERO).await?;
        let id = self.event(&done, "BrokerCreated", |event| match event {
            Event::BrokerCreated { broker_id, .. } => Some(*broker_id),
            _ => None,
        })?;
        Ok((id, done))
    }

    /// Registers a topic owned by the wallet. Returns its id.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn register_topic(
        &self,
        broker_id: U256,
        name: &str,
        traits: Traits,
        publish_offer: Offer,
        subscribe_offer: Offer,
    ) -> Result<(B256, Done), WalletError> {
        let call = topic::registerTopicCall {
            brokerId: broker_id,
            name: name.to_owned(),
            traits: encoded_traits(traits),
            publishOffer: encoded_offer(publish_offer),
            subscribeOffer: encoded_offer(subscribe_offer),
        };
        let done = self.send(self.contracts.deployment.topic_registry, &call, U256::ZERO).await?;
        let id = self.event(&done, "TopicRegistered", |event| match event {
            Event::TopicRegistered { topic_id, .. } => Some(*topic_id),
            _ => None,
        })?;
        Ok((id, done))
    }

    /// Registers a topic below another, of whose name the chain sees no more than [`name_commitment`]. Returns its id.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn register_hidden_topic(
        &self,
        parent_id: B256,
        commitment: B256,
        traits: Traits,
        publish_offer: Offer,
        subscribe_offer: Offer,
    ) -> Result<(B256, Done), WalletError> {
        let call = topic::registerHiddenTopicCall {
            parentId: parent_id,
            commitment,
            traits: encoded_traits(traits),
            publishOffer: encoded_offer(publish_offer),
            subscribeOffer: encoded_offer(subscribe_offer),
        };
        let done = self.send(self.contracts.deployment.topic_registry, &call, U256::ZERO).await?;
        let id = self.event(&done, "HiddenTopicRegistered", |event| match event {
            Event::HiddenTopicRegistered { topic_id, .. } => Some(*topic_id),
            _ => None,
        })?;
        Ok((id, done))
    }
}

const fn number(right: Right) -> u8 {
    match right {
        Right::Publish => 0,
        Right::Subscribe => 1,
    }
}

const fn mode_number(rule: &CountryRule) -> u8 {
    match rule.mode() {
        CountryMode::Any => 0,
        CountryMode::Only => 1,
        CountryMode::Except => 2,
    }
}

/// Strictly ascending, as the contract wants them.
fn codes(rule: &CountryRule) -> Vec<FixedBytes<2>> {
    let countries = rule.countries().into_iter().flat_map(Countries::iter);
    countries.map(|country| country.code().into()).collect()
}

const fn policy_number(policy: NamingPolicy) -> u8 {
    match policy {
        NamingPolicy::OwnBranch => 0,
        NamingPolicy::Curated => 1,
        NamingPolicy::Open => 2,
    }
}

fn encoded_offer(offer: Offer) -> topic::Offer {
    let mode: u8 = match offer.mode {
        OfferMode::Closed => 0,
        OfferMode::Priced => 1,
        OfferMode::Public => 2,
    };
    topic::Offer { mode, period: offer.period, priceWei: offer.price_wei }
}

const fn encoded_traits(traits: Traits) -> topic::Traits {
    topic::Traits {
        retain: traits.retain,
        sensitive: traits.sensitive,
        ownBranch: traits.own_branch,
    }
}

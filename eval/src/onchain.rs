//! Transactions of the site's accounts, sent as any node user would, and who may send which.

use alloy_primitives::{Address, B256, Bytes, FixedBytes, U256};
use alloy_sol_types::SolCall;
use eyre::{Result, ensure};
use flytrap_chain::bindings::{IAccessMarket, IBrokerRegistry, IDeviceRegistry, ITopicRegistry};
use flytrap_chain::keys::Key;
use flytrap_chain::wallet::{consent_digest, topic_id};
use flytrap_policy::{Offer, OfferMode, Right, Traits};
use flytrap_site::Site;
use serde_json::{Value, json};

/// Grants that must not end meanwhile end then.
pub(crate) const FAR: u64 = 4_000_000_000;
/// Only the owner's grants open it.
pub(crate) const CLOSED: Offer = Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 };
/// Anyone with a proof may.
pub(crate) const PUBLIC: Offer = Offer { mode: OfferMode::Public, period: 0, price_wei: 0 };
/// Takes retained messages.
pub(crate) const RETAIN: Traits = Traits { retain: true, sensitive: false, own_branch: false };

/// A change on chain: who it is from, to which contract, with which octets.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) from: Address,
    to: Address,
    value: U256,
    data: Bytes,
    /// For a reader of the replay.
    pub(crate) words: String,
}

/// Makes changes for a site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scribe<'a>(pub(crate) &'a Site);

pub(crate) fn right_number(right: Right) -> u8 {
    match right {
        Right::Publish => 0,
        Right::Subscribe => 1,
    }
}

fn offer_of(offer: Offer) -> ITopicRegistry::Offer {
    let mode = match offer.mode {
        OfferMode::Closed => 0,
        OfferMode::Priced => 1,
        OfferMode::Public => 2,
    };
    ITopicRegistry::Offer { mode, period: offer.period, priceWei: offer.price_wei }
}

fn traits_of(traits: Traits) -> ITopicRegistry::Traits {
    ITopicRegistry::Traits {
        retain: traits.retain,
        sensitive: traits.sensitive,
        ownBranch: traits.own_branch,
    }
}

impl Scribe<'_> {
    /// The id of a topic of the site's broker.
    pub(crate) fn id(self, name: &str) -> B256 {
        topic_id(self.0.broker_id, name)
    }

    fn change(self, from: Address, to: Address, call: &impl SolCall, words: String) -> Change {
        Change { from, to, value: U256::ZERO, data: call.abi_encode().into(), words }
    }

    fn topics(self, from: Address, call: &impl SolCall, words: String) -> Change {
        self.change(from, self.0.deployment.topic_registry, call, words)
    }

    fn market(self, from: Address, call: &impl SolCall, words: String) -> Change {
        self.change(from, self.0.deployment.access_market, call, words)
    }

    fn broker(self, call: &impl SolCall, words: String) -> Change {
        let owner = self.0.wallets.broker_owner.address();
        self.change(owner, self.0.deployment.broker_registry, call, words)
    }

    fn devices(self, from: Address, call: &impl SolCall, words: String) -> Change {
        self.change(from, self.0.deployment.device_registry, call, words)
    }

    pub(crate) fn register(
        self,
        from: Address,
        name: &str,
        traits: Traits,
        publish: Offer,
        subscribe: Offer,
    ) -> Change {
        let call = ITopicRegistry::registerTopicCall {
            brokerId: self.0.broker_id,
            name: name.into(),
            traits: traits_of(traits),
            publishOffer: offer_of(publish),
            subscribeOffer: offer_of(subscribe),
        };
        let words = format!("register {name} {traits:?} {:?} {:?}", publish.mode, subscribe.mode);
        self.topics(from, &call, words)
    }

    pub(crate) fn delete(self, from: Address, name: &str) -> Change {
        let call = ITopicRegistry::deleteTopicCall { topicId: self.id(name) };
        self.topics(from, &call, format!("delete {name}"))
    }

    pub(crate) fn traits(self, from: Address, name: &str, traits: Traits) -> Change {
        let call =
            ITopicRegistry::setTraitsCall { topicId: self.id(name), traits: traits_of(traits) };
        self.topics(from, &call, format!("traits of {name}: {traits:?}"))
    }

    pub(crate) fn offer(self, from: Address, name: &str, right: Right, offer: Offer) -> Change {
        let call = ITopicRegistry::setOfferCall {
            topicId: self.id(name),
            right: right_number(right),
            offer: offer_of(offer),
        };
        self.topics(from, &call, format!("offer of {name}: {right:?} {:?}", offer.mode))
    }

    /// With codes a rule that admits only those, without none.
    pub(crate) fn countries(self, from: Address, name: &str, codes: &[&[u8; 2]]) -> Change {
        let call = ITopicRegistry::setCountriesCall {
            topicId: self.id(name),
            mode: u8::from(!codes.is_empty()),
            codes: codes.iter().map(|code| FixedBytes::from(**code)).collect(),
        };
        self.topics(from, &call, format!("countries of {name}: {}", codes.len()))
    }

    /// Offers a topic to another owner, and takes it.
    pub(crate) fn hand_over(self, from: Address, name: &str, to: Address) -> [Change; 2] {
        let id = self.id(name);
        let offer = ITopicRegistry::offerTopicOwnershipCall { topicId: id, candidate: to };
        let accept = ITopicRegistry::acceptTopicOwnershipCall { topicId: id };
        [
            self.topics(from, &offer, format!("offer {name} to {to}")),
            self.topics(to, &accept, format!("{to} takes {name}")),
        ]
    }

    pub(crate) fn grant(
        self,
        from: Address,
        name: &str,
        wallet: Address,
        right: Right,
        until: u64,
    ) -> Change {
        let call = IAccessMarket::grantCall {
            topicId: self.id(name),
            wallet,
            right: right_number(right),
            until,
            purpose: B256::ZERO,
            note: String::new(),
        };
        self.market(from, &call, format!("grant {name} {right:?} to {wallet} until {until}"))
    }

    /// Each of the names to each of the wallets.
    pub(crate) fn grant_many(
        self,
        from: Address,
        names: &[String],
        wallets: Vec<Address>,
        right: Right,
        until: u64,
    ) -> Change {
        let call = IAccessMarket::grantManyCall {
            topicIds: names.iter().map(|name| self.id(name)).collect(),
            wallets,
            right: right_number(right),
            until,
            purpose: B256::ZERO,
            note: String::new(),
        };
        self.market(from, &call, format!("grant {} topics", names.len()))
    }

    pub(crate) fn revoke(self, from: Address, name: &str, wallet: Address, right: Right) -> Change {
        let call = IAccessMarket::revokeCall {
            topicId: self.id(name),
            wallet,
            right: right_number(right),
            purpose: B256::ZERO,
            note: String::new(),
        };
        self.market(from, &call, format!("revoke {name} {right:?} of {wallet}"))
    }

    pub(crate) fn revoke_many(
        self,
        from: Address,
        names: &[String],
        wallets: Vec<Address>,
        right: Right,
    ) -> Change {
        let call = IAccessMarket::revokeManyCall {
            topicIds: names.iter().map(|name| self.id(name)).collect(),
            wallets,
            right: right_number(right),
            purpose: B256::ZERO,
            note: String::new(),
        };
        self.market(from, &call, format!("revoke {} topics", names.len()))
    }

    pub(crate) fn block(self, from: Address, name: &str, wallet: Address) -> Change {
        let call = IAccessMarket::blockWalletCall {
            topicId: self.id(name),
            wallet,
            purpose: B256::ZERO,
            note: String::new(),
        };
        self.market(from, &call, format!("block {wallet} on {name}"))
    }

    pub(crate) fn unblock(self, from: Address, name: &str, wallet: Address) -> Change {
        let call = IAccessMarket::unblockWalletCall { topicId: self.id(name), wallet };
        self.market(from, &call, format!("unblock {wallet} on {name}"))
    }

    /// Buys a period at the terms of this moment.
    pub(crate) async fn buy(self, from: Address, name: &str, right: Right) -> Result<Change> {
        let market = self.0.deployment.access_market;
        let id = self.id(name);
        let quote =
            IAccessMarket::quoteCall { topicId: id, right: right_number(right), periods: 1 };
        let call = json!([{"to": market, "data": Bytes::from(quote.abi_encode())}, "latest"]);
        let answer: Bytes = serde_json::from_value(self.0.chain.call("eth_call", call).await?)?;
        let quote = IAccessMarket::quoteCall::abi_decode_returns(&answer)?;
        let cost = quote.priceWei + quote.publishFeeWei;
        let order = IAccessMarket::Order {
            topicId: id,
            right: right_number(right),
            wallet: from,
            periods: 1,
            period: quote.period,
            epoch: quote.epoch,
            maxPriceWei: cost,
            purpose: B256::ZERO,
            note: String::new(),
        };
        let change = self.market(
            from,
            &IAccessMarket::buyCall { order },
            format!("{from} buys {name} {right:?}"),
        );
        Ok(Change { value: cost, ..change })
    }

    pub(crate) fn ban(self, wallet: Address, until: u64) -> Change {
        let ban = IBrokerRegistry::Ban {
            kind: 0,
            subject: wallet.into_word(),
            until,
            evidence: B256::ZERO,
            reason: String::new(),
        };
        let call = IBrokerRegistry::banCall { brokerId: self.0.broker_id, bans: vec![ban] };
        self.broker(&call, format!("ban {wallet} until {until}"))
    }

    pub(crate) fn unban(self, wallet: Address) -> Change {
        let call = IBrokerRegistry::unbanCall {
            brokerId: self.0.broker_id,
            kind: 0,
            subject: wallet.into_word(),
        };
        self.broker(&call, format!("lift the ban of {wallet}"))
    }

    pub(crate) fn authorize_device(self, wallet: Address, device: &Key, until: u64) -> Change {
        let digest = consent_digest(&self.0.deployment, wallet);
        let call = IDeviceRegistry::authorizeDeviceCall {
            device: device.address(),
            until,
            consent: Bytes::from(device.sign(&digest).to_vec()),
        };
        let words = format!("{wallet} authorizes {} until {until}", device.address());
        self.devices(wallet, &call, words)
    }

    pub(crate) fn revoke_device(self, wallet: Address, device: Address) -> Change {
        let call = IDeviceRegistry::revokeDeviceCall { device };
        self.devices(wallet, &call, format!("{wallet} revokes {device}"))
    }

    pub(crate) fn revoke_all_devices(self, wallet: Address) -> Change {
        let call = IDeviceRegistry::revokeAllDevicesCall {};
        self.devices(wallet, &call, format!("{wallet} revokes all devices"))
    }

    pub(crate) fn invalidate_before(self, wallet: Address, before: u64) -> Change {
        let call = IDeviceRegistry::invalidateBeforeCall { before };
        self.devices(wallet, &call, format!("{wallet} ends tokens before {before}"))
    }

    /// Sends it and does not wait. What a contract refuses gets into a block like on any chain, and changes nothing.
    pub(crate) async fn send(self, change: &Change) -> Result<Value> {
        let Change { from, to, value, data, .. } = change;
        let transaction =
            json!([{"from": from, "to": to, "value": value, "data": data, "gas": "0x989680"}]);
        self.0.chain.call("eth_sendTransaction", transaction).await
    }

    /// Sends it and waits until it is in a block and has done what it was to do. Returns the height.
    pub(crate) async fn done(self, change: &Change) -> Result<u64> {
        let hash = self.send(change).await?;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            let receipt =
                self.0.chain.call("eth_getTransactionReceipt", json!([hash.clone()])).await?;
            if receipt["blockNumber"].is_string() {
                ensure!(receipt["status"] == "0x1", "reverted: {}", change.words);
                let height: U256 = serde_json::from_value(receipt["blockNumber"].clone())?;
                return Ok(height.to());
            }
            ensure!(std::time::Instant::now() < deadline, "in no block: {}", change.words);
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

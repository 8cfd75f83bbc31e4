//! The chain as a test uses it: transactions of anvil's unlocked accounts, and what is in blocks afterwards.
//!
//! Only the generated call types come from the product. Sending, waiting and reading logs is done here, so that what a test finds on
//! chain is not what the code under test says about it.

use std::time::{Duration, Instant};

use alloy::sol_types::{SolCall, SolEvent};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use eyre::{Result, WrapErr, bail, eyre};
use flytrap_chain::bindings::{IAccessMarket, IBrokerRegistry, IDeviceRegistry, ITopicRegistry};
use flytrap_site::{Device, Login};
use serde_json::{Value, json};

use super::{CLOSED, FAR, Offer, OfferMode, PATIENCE, RETAIN, Right, Stage, Topic, Traits};

/// A transaction in a block.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Height of its block.
    pub height: u64,
    /// Did it do what it was to do?
    pub ok: bool,
    /// What it cost besides its value, wei.
    pub fee: U256,
    /// When a test could first see it, which is not before a gateway could.
    pub seen: Instant,
}

/// A log as `eth_getLogs` tells it.
#[derive(Clone, Debug)]
pub struct Log {
    /// Which contract.
    pub address: Address,
    /// First the event, then its indexed fields.
    pub topics: Vec<B256>,
    /// The other fields.
    pub data: Bytes,
    /// Height of its block.
    pub height: u64,
    /// Its transaction.
    pub tx: B256,
}

impl Log {
    /// Reads it as an event.
    ///
    /// # Errors
    /// If it is another.
    pub fn read<E: SolEvent>(&self) -> Result<E> {
        Ok(E::decode_raw_log(self.topics.iter().copied(), &self.data)?)
    }
}

fn right_number(right: Right) -> u8 {
    match right {
        Right::Publish => 0,
        Right::Subscribe => 1,
    }
}

fn offer_of(offer: Offer) -> ITopicRegistry::Offer {
    let mode: u8 = match offer.mode {
        OfferMode::Closed => 0,
        OfferMode::Priced => 1,
        OfferMode::Public => 2,
    };
    ITopicRegistry::Offer { mode, period: offer.period, priceWei: offer.price_wei }
}

/// The 32 octets of a ban's subject that stand for a wallet.
pub fn subject(wallet: Address) -> B256 {
    wallet.into_word()
}

impl Stage {
    /// Sends a call from one of anvil's accounts and waits for its block. A revert is a receipt that is not ok.
    ///
    /// # Errors
    /// If the node does not take it or no block does.
    pub async fn send(
        &self,
        from: Address,
        to: Address,
        value: U256,
        call: &impl SolCall,
    ) -> Result<Receipt> {
        let data = Bytes::from(call.abi_encode());
        // With the gas given nothing is estimated, so a call that reverts gets into a block like on any chain.
        let transaction =
            json!({"from": from, "to": to, "value": value, "data": data, "gas": "0x1e8480"});
        let hash = self.site.chain.send(transaction).await?;
        self.receipt(&hash).await
    }

    /// Waits for a transaction's block.
    ///
    /// # Errors
    /// If there is none in time.
    pub async fn receipt(&self, hash: &Value) -> Result<Receipt> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let receipt = self.site.chain.call("eth_getTransactionReceipt", json!([hash])).await?;
            if receipt["blockNumber"].is_string() {
                let seen = Instant::now();
                let gas: U256 = serde_json::from_value(receipt["gasUsed"].clone())?;
                let price: U256 = serde_json::from_value(receipt["effectiveGasPrice"].clone())?;
                let height: U256 = serde_json::from_value(receipt["blockNumber"].clone())?;
                return Ok(Receipt {
                    height: height.to(),
                    ok: receipt["status"] == "0x1",
                    fee: gas * price,
                    seen,
                });
            }
            if Instant::now() >= deadline {
                bail!("transaction {hash} is in no block after {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn done(
        &self,
        what: &str,
        from: Address,
        to: Address,
        value: U256,
        call: &impl SolCall,
    ) -> Result<Receipt> {
        let receipt = self.send(from, to, value, call).await.wrap_err_with(|| what.to_owned())?;
        if !receipt.ok {
            let data = Bytes::from(call.abi_encode());
            let why = self
                .site
                .chain
                .call(
                    "eth_call",
                    json!([{"from": from, "to": to, "value": value, "data": data}, "latest"]),
                )
                .await;
            bail!("{what} reverted: {why:?}");
        }
        Ok(receipt)
    }

    /// Reads from a contract.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn read<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return> {
        let answer = self
            .site
            .chain
            .call("eth_call", json!([{"to": to, "data": Bytes::from(call.abi_encode())}, "latest"]))
            .await?;
        let answer: Bytes = serde_json::from_value(answer)?;
        C::abi_decode_returns(&answer).map_err(|error| eyre!("{}: {error}", C::SIGNATURE))
    }

    /// Ether of a wallet, wei.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn balance(&self, wallet: Address) -> Result<U256> {
        Ok(serde_json::from_value(
            self.site.chain.call("eth_getBalance", json!([wallet, "latest"])).await?,
        )?)
    }

    /// Every log of the deployment's contracts whose event has this signature.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn logs(&self, signature: &str) -> Result<Vec<Log>> {
        let filter = json!([{"fromBlock": "0x0", "toBlock": "latest", "topics": [keccak256(signature.as_bytes())]}]);
        let logs = self.site.chain.call("eth_getLogs", filter).await?;
        let logs = logs.as_array().ok_or_else(|| eyre!("eth_getLogs gave no list"))?;
        let read = |log: &Value| -> Result<Log> {
            let height: U256 = serde_json::from_value(log["blockNumber"].clone())?;
            Ok(Log {
                address: serde_json::from_value(log["address"].clone())?,
                topics: serde_json::from_value(log["topics"].clone())?,
                data: serde_json::from_value(log["data"].clone())?,
                height: height.to(),
                tx: serde_json::from_value(log["transactionHash"].clone())?,
            })
        };
        logs.iter().map(read).collect()
    }

    /// The bans of origins on chain.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn origin_bans(&self) -> Result<Vec<Log>> {
        self.logs(IBrokerRegistry::OriginBanned::SIGNATURE).await
    }

    /// A transaction's sender and the octets it was called with.
    ///
    /// # Errors
    /// If there is no such transaction.
    pub async fn transaction(&self, tx: B256) -> Result<(Address, Bytes)> {
        let found = self.site.chain.call("eth_getTransactionByHash", json!([tx])).await?;
        Ok((
            serde_json::from_value(found["from"].clone())?,
            serde_json::from_value(found["input"].clone())?,
        ))
    }

    /// The topic owner.
    pub fn owner(&self) -> Address {
        self.site.wallets.topic_owner.address()
    }

    fn broker_id(&self) -> U256 {
        self.site.broker_id
    }

    /// Registers a topic that only grants open and that takes retained messages.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn topic(&self, name: &str) -> Result<Topic> {
        self.topic_with(name, RETAIN, CLOSED, CLOSED).await
    }

    /// Registers a topic of the topic owner.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn topic_with(
        &self,
        name: &str,
        traits: Traits,
        publish: Offer,
        subscribe: Offer,
    ) -> Result<Topic> {
        let traits = ITopicRegistry::Traits {
            retain: traits.retain,
            sensitive: traits.sensitive,
            ownBranch: traits.own_branch,
        };
        let call = ITopicRegistry::registerTopicCall {
            brokerId: self.broker_id(),
            name: name.into(),
            traits,
            publishOffer: offer_of(publish),
            subscribeOffer: offer_of(subscribe),
        };
        self.done(
            "registerTopic",
            self.owner(),
            self.site.deployment.topic_registry,
            U256::ZERO,
            &call,
        )
        .await?;
        let call = ITopicRegistry::topicIdOfCall { brokerId: self.broker_id(), name: name.into() };
        let id = self.read(self.site.deployment.topic_registry, &call).await?;
        Ok(Topic { name: name.into(), id })
    }

    /// Changes an offer.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn set_offer(&self, topic: &Topic, right: Right, offer: Offer) -> Result<Receipt> {
        let call = ITopicRegistry::setOfferCall {
            topicId: topic.id,
            right: right_number(right),
            offer: offer_of(offer),
        };
        self.done("setOffer", self.owner(), self.site.deployment.topic_registry, U256::ZERO, &call)
            .await
    }

    /// The owner grants a right for ever, as far as a test is concerned.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn grant(&self, topic: &Topic, wallet: Address, right: Right) -> Result<Receipt> {
        self.grant_until(topic, wallet, right, FAR).await
    }

    /// The owner grants a right until a second.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn grant_until(
        &self,
        topic: &Topic,
        wallet: Address,
        right: Right,
        until: u64,
    ) -> Result<Receipt> {
        let call = IAccessMarket::grantCall {
            topicId: topic.id,
            wallet,
            right: right_number(right),
            until,
            purpose: B256::ZERO,
            note: String::new(),
        };
        self.done("grant", self.owner(), self.site.deployment.access_market, U256::ZERO, &call)
            .await
    }

    /// The owner says from which countries a topic may be used: only from those with these codes, from any if there are none.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn set_countries(&self, topic: &Topic, only: &[[u8; 2]]) -> Result<Receipt> {
        let call = ITopicRegistry::setCountriesCall {
            topicId: topic.id,
            mode: u8::from(!only.is_empty()),
            codes: only.iter().map(|code| (*code).into()).collect(),
        };
        let registry = self.site.deployment.topic_registry;
        self.done("setCountries", self.owner(), registry, U256::ZERO, &call).await
    }

    /// The owner registers a hidden topic below one; answers its id.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn hide_below(&self, topic: &Topic, commitment: B256) -> Result<B256> {
        let call = ITopicRegistry::registerHiddenTopicCall {
            parentId: topic.id,
            commitment,
            traits: ITopicRegistry::Traits { retain: false, sensitive: true, ownBranch: false },
            publishOffer: offer_of(CLOSED),
            subscribeOffer: offer_of(CLOSED),
        };
        let registry = self.site.deployment.topic_registry;
        self.done("registerHiddenTopic", self.owner(), registry, U256::ZERO, &call).await?;
        Ok(flytrap_policy::hidden_topic_id(self.broker_id(), topic.id, commitment))
    }

    /// The owner ends a right.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn revoke(&self, topic: &Topic, wallet: Address, right: Right) -> Result<Receipt> {
        let call = IAccessMarket::revokeCall {
            topicId: topic.id,
            wallet,
            right: right_number(right),
            purpose: B256::ZERO,
            note: "end to end".into(),
        };
        self.done("revoke", self.owner(), self.site.deployment.access_market, U256::ZERO, &call)
            .await
    }

    /// The owner blocks a wallet.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn block_wallet(&self, topic: &Topic, wallet: Address) -> Result<Receipt> {
        let call = IAccessMarket::blockWalletCall {
            topicId: topic.id,
            wallet,
            purpose: B256::ZERO,
            note: String::new(),
        };
        self.done(
            "blockWallet",
            self.owner(),
            self.site.deployment.access_market,
            U256::ZERO,
            &call,
        )
        .await
    }

    /// The call that buys `periods` at the price as quoted now.
    ///
    /// # Errors
    /// If the contract refuses to quote.
    pub async fn order(
        &self,
        topic: &Topic,
        wallet: Address,
        right: Right,
        periods: u32,
    ) -> Result<(IAccessMarket::buyCall, U256)> {
        let quote =
            IAccessMarket::quoteCall { topicId: topic.id, right: right_number(right), periods };
        let quoted = self.read(self.site.deployment.access_market, &quote).await?;
        let cost = quoted.priceWei + quoted.publishFeeWei;
        let order = IAccessMarket::Order {
            topicId: topic.id,
            right: right_number(right),
            wallet,
            periods,
            period: quoted.period,
            epoch: quoted.epoch,
            maxPriceWei: cost,
            purpose: B256::ZERO,
            note: String::new(),
        };
        Ok((IAccessMarket::buyCall { order }, cost))
    }

    /// A wallet buys for itself.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn buy(
        &self,
        topic: &Topic,
        wallet: Address,
        right: Right,
        periods: u32,
    ) -> Result<Receipt> {
        let (call, cost) = self.order(topic, wallet, right, periods).await?;
        self.done("buy", wallet, self.site.deployment.access_market, cost, &call).await
    }

    /// What waits to be withdrawn.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn credit(&self, payee: Address) -> Result<U256> {
        let call = IAccessMarket::creditOfCall { payee };
        self.read(self.site.deployment.access_market, &call).await
    }

    /// End of a grant on chain, 0 if there never was one.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn granted_until(&self, topic: &Topic, wallet: Address, right: Right) -> Result<u64> {
        let call = IAccessMarket::grantedUntilCall {
            topicId: topic.id,
            wallet,
            right: right_number(right),
        };
        self.read(self.site.deployment.access_market, &call).await
    }

    /// The broker owner sets the fee on sales.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn set_sale_fee(&self, basis_points: u64) -> Result<Receipt> {
        let call = IBrokerRegistry::setSaleFeeCall {
            brokerId: self.broker_id(),
            basisPoints: alloy_primitives::Uint::from(basis_points),
        };
        self.done(
            "setSaleFee",
            self.broker_owner(),
            self.site.deployment.broker_registry,
            U256::ZERO,
            &call,
        )
        .await
    }

    /// The broker owner.
    pub fn broker_owner(&self) -> Address {
        self.site.wallets.broker_owner.address()
    }

    /// The broker owner bans a wallet.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn ban_wallet(&self, wallet: Address, until: u64) -> Result<Receipt> {
        let ban = IBrokerRegistry::Ban {
            kind: 0,
            subject: subject(wallet),
            until,
            evidence: B256::ZERO,
            reason: "end to end".into(),
        };
        let call = IBrokerRegistry::banCall { brokerId: self.broker_id(), bans: vec![ban] };
        self.done(
            "ban",
            self.broker_owner(),
            self.site.deployment.broker_registry,
            U256::ZERO,
            &call,
        )
        .await
    }

    /// The broker owner lifts a ban, of a wallet (`origin` false) or an origin.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn unban(&self, origin: bool, subject: B256) -> Result<Receipt> {
        let call =
            IBrokerRegistry::unbanCall { brokerId: self.broker_id(), kind: origin.into(), subject };
        self.done(
            "unban",
            self.broker_owner(),
            self.site.deployment.broker_registry,
            U256::ZERO,
            &call,
        )
        .await
    }

    /// A wallet lets a device act for it.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn authorize_device(
        &self,
        wallet: Address,
        device: &Device,
        until: u64,
    ) -> Result<Receipt> {
        let digest = self
            .read(
                self.site.deployment.device_registry,
                &IDeviceRegistry::consentDigestCall { wallet },
            )
            .await?;
        let consent = Bytes::from(device.key.sign(&digest).to_vec());
        let call =
            IDeviceRegistry::authorizeDeviceCall { device: device.address(), until, consent };
        self.done(
            "authorizeDevice",
            wallet,
            self.site.deployment.device_registry,
            U256::ZERO,
            &call,
        )
        .await
    }

    /// A wallet ends a device key.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn revoke_device(&self, wallet: Address, device: Address) -> Result<Receipt> {
        let call = IDeviceRegistry::revokeDeviceCall { device };
        self.done("revokeDevice", wallet, self.site.deployment.device_registry, U256::ZERO, &call)
            .await
    }

    /// A wallet ends all tokens signed before a second.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn invalidate_before(&self, wallet: Address, before: u64) -> Result<Receipt> {
        let call = IDeviceRegistry::invalidateBeforeCall { before };
        self.done(
            "invalidateBefore",
            wallet,
            self.site.deployment.device_registry,
            U256::ZERO,
            &call,
        )
        .await
    }

    /// A token that proves nothing here: signed for another client id.
    ///
    /// # Errors
    /// If signing fails.
    pub fn wrong_proof(&self, client_id: &str) -> Result<Login> {
        let mut login = self.site.token(&self.site.wallets.stranger, "another")?;
        login.client_id = client_id.into();
        Ok(login)
    }
}

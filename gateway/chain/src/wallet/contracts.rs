//! The contracts, for reading: no key, no cost.

use alloy::{
    primitives::{Address, B256, Bytes, U64, U256},
    sol_types::SolCall,
};
use flytrap_policy::{Country, CountryMode, CountryRule, Right};
use serde_json::json;
use url::Url;

use super::{WalletError, number};
use crate::{
    Deployment,
    bindings::{
        IAccessMarket as market, IAuditLog as audit, IBrokerRegistry as broker,
        IDeviceRegistry as device, ITopicRegistry as topic,
    },
    rpc::Rpc,
    transact::TransactError,
};

/// What a purchase costs at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// For the topic's owner, the broker's sale fee included.
    pub price_wei: U256,
    /// For the broker's owner; nothing for a subscription.
    pub publish_fee_wei: U256,
    /// Seconds of one period.
    pub period: u32,
    /// Epoch of the topic.
    pub epoch: u64,
}

impl Quote {
    /// What has to be paid.
    #[must_use]
    pub fn cost_wei(&self) -> U256 {
        self.price_wei.saturating_add(self.publish_fee_wei)
    }
}

/// The contracts, for reading.
#[derive(Debug)]
pub struct Contracts {
    pub(super) rpc: Rpc,
    pub(super) deployment: Deployment,
}

impl Contracts {
    /// Checks that the node is on the chain and that there are contracts.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers, on another chain, or without code at an address.
    pub async fn connect(urls: Vec<Url>, deployment: Deployment) -> Result<Self, WalletError> {
        let rpc = Rpc::new(urls);
        let found = rpc.call::<U64>("eth_chainId", json!([])).await?.to();
        let wanted = deployment.chain_id;
        if found != wanted {
            return Err(WalletError::WrongChain { found, wanted });
        }
        for (contract, address) in deployment.addresses() {
            let code: Bytes = rpc.call("eth_getCode", json!([address, "latest"])).await?;
            if code.is_empty() {
                return Err(WalletError::NoCode { contract, address, chain_id: wanted });
            }
        }
        Ok(Self { rpc, deployment })
    }

    /// Where they are.
    #[must_use]
    pub const fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// The nodes behind.
    #[must_use]
    pub const fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// Any view call of the bindings.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers, the contract refuses, or it answers something else.
    pub async fn read<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, WalletError> {
        let params = json!([{"to": to, "data": Bytes::from(call.abi_encode())}, "latest"]);
        let answer: Bytes =
            self.rpc.call("eth_call", params).await.map_err(TransactError::of_call)?;
        C::abi_decode_returns_validate(&answer)
            .map_err(|_| WalletError::Answer { address: to, call: C::SIGNATURE })
    }

    /// Ether of a wallet.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers.
    pub async fn balance(&self, wallet: Address) -> Result<U256, WalletError> {
        Ok(self.rpc.call("eth_getBalance", json!([wallet, "latest"])).await?)
    }

    /// Time of the newest block, Unix seconds.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers.
    pub async fn block_time(&self) -> Result<u64, WalletError> {
        #[derive(Debug, serde::Deserialize)]
        struct Timed {
            timestamp: U64,
        }
        let block: Timed = self.rpc.call("eth_getBlockByNumber", json!(["latest", false])).await?;
        Ok(block.timestamp.to())
    }
}

/// View calls that need no explanation beyond the interface's.
macro_rules! views {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty => $as:expr),*) -> $out:ty = $at:ident, $module:ident::$call:ident { $($field:ident),* };)*) => {
        impl Contracts {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`WalletError`] if no node answers or the contract refuses.
                pub async fn $name(&self, $($arg: $ty),*) -> Result<$out, WalletError> {
                    let call = $module::$call { $($field: $as),* };
                    self.read(self.deployment.$at, &call).await
                }
            )*
        }
    };
}

views! {
    /// Owner of a broker, zero if there is none.
    broker_owner(broker_id: U256 => broker_id) -> Address = broker_registry, broker::brokerOwnerCall { brokerId };
    /// How many brokers there are.
    broker_count() -> U256 = broker_registry, broker::brokerCountCall {};
    /// Is the key a gateway of the broker?
    is_gateway(broker_id: U256 => broker_id, key: Address => key) -> bool = broker_registry, broker::isGatewayCall { brokerId, wallet };
    /// Owner of a topic, zero if it is not registered.
    topic_owner(topic_id: B256 => topic_id) -> Address = topic_registry, topic::topicOwnerCall { topicId };
    /// End of a grant, 0 if there never was one.
    granted_until(topic_id: B256 => topic_id, wallet: Address => wallet, right: Right => number(right)) -> u64 = access_market, market::grantedUntilCall { topicId, wallet, right };
    /// The decision of the chain by the gateways' own rule.
    may_access(topic_id: B256 => topic_id, wallet: Address => wallet, right: Right => number(right)) -> bool = access_market, market::mayAccessCall { topicId, wallet, right };
    /// What a grant until then costs its giver.
    grant_fee(topic_id: B256 => topic_id, wallet: Address => wallet, right: Right => number(right), until: u64 => until) -> U256 = access_market, market::grantFeeCall { topicId, wallet, right, until };
    /// What ending a grant pays back.
    refund_of(topic_id: B256 => topic_id, wallet: Address => wallet, right: Right => number(right)) -> U256 = access_market, market::refundOfCall { topicId, wallet, right };
    /// What waits to be withdrawn.
    credit_of(payee: Address => payee) -> U256 = access_market, market::creditOfCall { payee };
    /// Is the wallet shut out of the topic?
    is_blocked(topic_id: B256 => topic_id, wallet: Address => wallet) -> bool = access_market, market::isBlockedCall { topicId, wallet };
    /// The latest end of time that was paid for on a topic and neither paid back nor settled, 0 if there is none.
    paid_until(topic_id: B256 => topic_id) -> u64 = access_market, market::paidUntilCall { topicId };
    /// The wallet that a device key acts for now, zero if none.
    wallet_of(key: Address => key) -> Address = device_registry, device::walletOfCall { device };
    /// Tokens signed before this second are worthless.
    tokens_valid_from(wallet: Address => wallet) -> u64 = device_registry, device::tokensValidFromCall { wallet };
    /// The nonce that the wallet signs next.
    nonce_of(wallet: Address => wallet) -> U256 = device_registry, device::noncesCall { wallet };
}

impl Contracts {
    /// Where the payee is paid, and whether it wishes credits instead.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers.
    pub async fn payout_of(&self, payee: Address) -> Result<(Address, bool), WalletError> {
        let call = market::payoutOfCall { payee };
        let answer = self.read(self.deployment.access_market, &call).await?;
        Ok((answer.to, answer.isPull))
    }

    /// Broker, epoch and owner of a topic; the owner is zero if it is not registered.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers.
    pub async fn topic_of(&self, topic_id: B256) -> Result<(U256, u64, Address), WalletError> {
        let call = topic::topicOfCall { topicId: topic_id };
        let answer = self.read(self.deployment.topic_registry, &call).await?;
        Ok((answer.brokerId, answer.epoch, answer.owner))
    }

    /// The rule about the countries that a topic may be used from.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers, or the contract answers something that is no rule.
    pub async fn countries_of(&self, topic_id: B256) -> Result<CountryRule, WalletError> {
        let call = topic::countriesOfCall { topicId: topic_id };
        let address = self.deployment.topic_registry;
        let answer = self.read(address, &call).await?;
        let codes: Option<Vec<_>> = answer.codes.iter().map(|code| Country::new(code.0)).collect();
        let mode = match answer.mode {
            0 => Some(CountryMode::Any),
            1 => Some(CountryMode::Only),
            2 => Some(CountryMode::Except),
            _ => None,
        };
        mode.zip(codes)
            .map(|(mode, codes)| CountryRule::new(mode, &codes))
            .ok_or(WalletError::Answer { address, call: topic::countriesOfCall::SIGNATURE })
    }

    /// Sequence number of the last anchor of a gateway, 0 if it made none.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers.
    pub async fn last_anchor(&self, broker_id: U256, gateway: Address) -> Result<u64, WalletError> {
        let call = audit::lastAnchorCall { brokerId: broker_id, gateway };
        Ok(self.read(self.deployment.audit_log, &call).await?.sequence)
    }

    /// What a purchase of so many periods costs now.
    ///
    /// # Errors
    /// [`WalletError`] if it is not for sale, or no node answers.
    pub async fn quote(
        &self,
        topic_id: B256,
        right: Right,
        periods: u32,
    ) -> Result<Quote, WalletError> {
        let call = market::quoteCall { topicId: topic_id, right: number(right), periods };
        let answer = self.read(self.deployment.access_market, &call).await?;
        Ok(Quote {
            price_wei: answer.priceWei,
            publish_fee_wei: answer.publishFeeWei,
            period: answer.period,
            epoch: answer.epoch,
        })
    }
}

//! Access given, sold and taken, one right or many in one transaction, with the money that has to go along.

use alloy::primitives::{Address, B256, U256};
use flytrap_policy::{Event, Right};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Contracts, Reason, Wallet, WalletError, number};
use crate::{bindings::IAccessMarket as market, transact::Done};

/// Questions to the node under way at once.
const AT_ONCE: usize = 8;

/// One thing to buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What is bought.
    pub topic_id: B256,
    /// Which right.
    pub right: Right,
    /// Who gets it.
    pub wallet: Address,
    /// How many periods.
    pub periods: u32,
}

impl Contracts {
    /// What a grant of the right on each of the topics to each of the wallets costs its giver.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers or a contract refuses.
    pub async fn grant_fees(
        &self,
        topic_ids: &[B256],
        wallets: &[Address],
        right: Right,
        until: u64,
    ) -> Result<U256, WalletError> {
        // Only publishers pay the broker.
        if right == Right::Subscribe {
            return Ok(U256::ZERO);
        }
        stream::iter(pairs(topic_ids, wallets))
            .map(|(topic_id, wallet)| self.grant_fee(topic_id, wallet, right, until))
            .buffered(AT_ONCE)
            .try_fold(U256::ZERO, |sum, fee| async move { Ok(sum.saturating_add(fee)) })
            .await
    }

    /// What ending the rights of each of the wallets on each of the topics pays back.
    ///
    /// # Errors
    /// [`WalletError`] if no node answers or a contract refuses.
    pub async fn refunds_of(
        &self,
        topic_ids: &[B256],
        wallets: &[Address],
        rights: &[Right],
    ) -> Result<U256, WalletError> {
        let each = pairs(topic_ids, wallets)
            .flat_map(|(topic, wallet)| rights.iter().map(move |right| (topic, wallet, *right)));
        stream::iter(each)
            .map(|(topic_id, wallet, right)| self.refund_of(topic_id, wallet, right))
            .buffered(AT_ONCE)
            .try_fold(U256::ZERO, |sum, refund| async move { Ok(sum.saturating_add(refund)) })
            .await
    }

    /// The order that buys at the terms of this moment or not at all, and what it costs.
    async fn order(
        &self,
        wanted: &Wanted,
        reason: &Reason,
    ) -> Result<(market::Order, U256), WalletError> {
        let Wanted { topic_id, right, wallet, periods } = *wanted;
        let quote = self.quote(topic_id, right, periods).await?;
        let cost_wei = quote.cost_wei();
        let order = market::Order {
            topicId: topic_id,
            right: number(right),
            wallet,
            periods,
            period: quote.period,
            epoch: quote.epoch,
            maxPriceWei: cost_wei,
            purpose: reason.purpose,
            note: reason.note.clone(),
        };
        Ok((order, cost_wei))
    }
}

impl Wallet {
    /// Gives a wallet a right until a second; pays the broker's publish fee, where there is one.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn grant(
        &self,
        topic_id: B256,
        wallet: Address,
        right: Right,
        until: u64,
        reason: &Reason,
    ) -> Result<Done, WalletError> {
        let fee = self.grant_fee(topic_id, wallet, right, until).await?;
        let call = market::grantCall {
            topicId: topic_id,
            wallet,
            right: number(right),
            until,
            purpose: reason.purpose,
            note: reason.note.clone(),
        };
        self.send(self.deployment().access_market, &call, fee).await
    }

    /// As [`Self::grant`], of the right on each of the topics to each of the wallets, all or nothing.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn grant_many(
        &self,
        topic_ids: &[B256],
        wallets: &[Address],
        right: Right,
        until: u64,
        reason: &Reason,
    ) -> Result<Done, WalletError> {
        let fees = self.grant_fees(topic_ids, wallets, right, until).await?;
        let call = market::grantManyCall {
            topicIds: topic_ids.to_vec(),
            wallets: wallets.to_vec(),
            right: number(right),
            until,
            purpose: reason.purpose,
            note: reason.note.clone(),
        };
        self.send(self.deployment().access_market, &call, fees).await
    }

    /// Buys a right for a wallet, at the terms of a quote or not at all. Returns its end.
    ///
    /// # Errors
    /// [`WalletError::AboveLimit`] if it costs more than `limit_wei`, before anything is sent; else [`WalletError`].
    pub async fn buy(
        &self,
        topic_id: B256,
        right: Right,
        wallet: Address,
        periods: u32,
        limit_wei: Option<U256>,
        reason: &Reason,
    ) -> Result<(u64, Done), WalletError> {
        let wanted = Wanted { topic_id, right, wallet, periods };
        let (order, cost_wei) = self.order(&wanted, reason).await?;
        within(cost_wei, limit_wei, periods)?;
        let call = market::buyCall { order };
        let done = self.send(self.deployment().access_market, &call, cost_wei).await?;
        let until = self.event(&done, "AccessBought", |event| match event {
            Event::AccessBought { until, .. } => Some(*until),
            _ => None,
        })?;
        Ok((until, done))
    }

    /// As [`Self::buy`], of each, all or nothing; the limit is for all of them together.
    ///
    /// # Errors
    /// As [`Self::buy`].
    pub async fn buy_many(
        &self,
        wanted: &[Wanted],
        limit_wei: Option<U256>,
        reason: &Reason,
    ) -> Result<Done, WalletError> {
        let priced: Vec<(market::Order, U256)> = stream::iter(wanted)
            .map(|wanted| self.order(wanted, reason))
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let costs = priced.iter().map(|(_, cost_wei)| *cost_wei);
        let cost_wei = costs.fold(U256::ZERO, U256::saturating_add);
        let periods = wanted.iter().map(|wanted| wanted.periods).fold(0, u32::saturating_add);
        within(cost_wei, limit_wei, periods)?;
        let orders = priced.into_iter().map(|(order, _)| order).collect();
        let call = market::buyManyCall { orders };
        self.send(self.deployment().access_market, &call, cost_wei).await
    }

    /// Ends a right now; pays back the unused part of what was paid for it.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn revoke(
        &self,
        topic_id: B256,
        wallet: Address,
        right: Right,
        reason: &Reason,
    ) -> Result<Done, WalletError> {
        let refund = self.refund_of(topic_id, wallet, right).await?;
        let call = market::revokeCall {
            topicId: topic_id,
            wallet,
            right: number(right),
            purpose: reason.purpose,
            note: reason.note.clone(),
        };
        self.send(self.deployment().access_market, &call, refund).await
    }

    /// As [`Self::revoke`], of the right of each of the wallets on each of the topics, all or nothing.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn revoke_many(
        &self,
        topic_ids: &[B256],
        wallets: &[Address],
        right: Right,
        reason: &Reason,
    ) -> Result<Done, WalletError> {
        let refunds = self.refunds_of(topic_ids, wallets, &[right]).await?;
        let call = market::revokeManyCall {
            topicIds: topic_ids.to_vec(),
            wallets: wallets.to_vec(),
            right: number(right),
            purpose: reason.purpose,
            note: reason.note.clone(),
        };
        self.send(self.deployment().access_market, &call, refunds).await
    }

    /// Shuts a wallet out of a topic; pays back the unused part of what it paid for either right, which ends.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn block(
        &self,
        topic_id: B256,
        wallet: Address,
        reason: &Reason,
    ) -> Result<Done, WalletError> {
        let both = [Right::Publish, Right::Subscribe];
        let refund = self.refunds_of(&[topic_id], &[wallet], &both).await?;
        let call = market::blockWalletCall {
            topicId: topic_id,
            wallet,
            purpose: reason.purpose,
            note: reason.note.clone(),
        };
        self.send(self.deployment().access_market, &call, refund).await
    }
}

fn pairs(topic_ids: &[B256], wallets: &[Address]) -> impl Iterator<Item = (B256, Address)> {
    topic_ids.iter().flat_map(|topic| wallets.iter().map(|wallet| (*topic, *wallet)))
}

fn within(cost_wei: U256, limit_wei: Option<U256>, periods: u32) -> Result<(), WalletError> {
    match limit_wei.filter(|limit| cost_wei > *limit) {
        Some(limit_wei) => Err(WalletError::AboveLimit { periods, cost_wei, limit_wei }),
        None => Ok(()),
    }
}

//! ACCEPTANCE US4: the owner of a topic collects payments from readers.
//!
//! Price 0.01 ether per 10 s, sale fee 5 %, a block each second. Access opens with the purchase's block and closes with the paid time,
//! on the session that is open; every wei is where it belongs.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::raw::{Got, Publish};
use crate::common::{
    BOUND, CLOSED, Offer, OfferMode, RETAIN, Right, Stage, TICK, V5, V311, Way, run,
};
use alloy_primitives::U256;
use eyre::{Result, WrapErr, bail, ensure, eyre};
use flytrap_chain::bindings::IAccessMarket;
use flytrap_site::{ChainOptions, SiteOptions};
use tokio::sync::OnceCell;

const PRICE: u128 = 10_000_000_000_000_000;
const BLOCK: Duration = Duration::from_secs(1);

fn offer(period: u32) -> Offer {
    Offer { mode: OfferMode::Priced, period, price_wei: PRICE }
}

static STAGE: OnceCell<Stage> = OnceCell::const_new();

/// A chain with a block each second.
async fn stage() -> Result<&'static Stage> {
    STAGE
        .get_or_try_init(|| async {
            let chain = ChainOptions { block_time: Some(BLOCK), ..ChainOptions::default() };
            Stage::with(SiteOptions { chain, ..SiteOptions::default() }).await
        })
        .await
}

fn unix_now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

#[test]
fn a_refused_reader_is_told_the_price_and_served_within_a_block_of_buying_until_her_time_is_over()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        let reader_wallet = stage.site.wallets.reader.address();
        let topic = stage.topic_with("paid/v5", RETAIN, CLOSED, offer(4)).await?;
        stage.caught_up().await?;
        let mut reader = stage.session(Way::tls(V5), &stage.reader("buyer-5")?).await?;

        reader.send(crate::common::raw::subscribe(V5, 7, &[("paid/v5", 0)])).await?;
        let Got::SubAck { id: 7, codes, reason } = reader.get().await? else { bail!("no SUBACK") };
        assert_eq!(codes, [0x87]);
        let reason = reason.ok_or_else(|| eyre!("the refusal carries no reason"))?;
        ensure!(
            reason.contains("10000000000000000 wei per 4 s"),
            "the reason names no price: {reason}"
        );
        ensure!(
            !stage.site.recorder()?.saw_subscribe("paid/v5"),
            "the broker was asked before the purchase"
        );

        // A publisher at the broker, so that only the reader's right decides.
        let mut broker = stage.direct(V311, "").await?;
        let sent = Instant::now();
        let bought = stage.buy(&topic, reader_wallet, Right::Subscribe, 1).await?;
        let until = stage.granted_until(&topic, reader_wallet, Right::Subscribe).await?;
        // Without reconnecting: the first SUBSCRIBE that the bound allows is granted.
        loop {
            if reader.subscribe(&[("paid/v5", 0)]).await? == [0] {
                break;
            }
            ensure!(
                bought.seen.elapsed() < BOUND,
                "not served {BOUND:?} after the purchase was visible"
            );
            tokio::time::sleep(TICK).await;
        }
        eprintln!(
            "served {:?} after the block, {:?} after sending",
            bought.seen.elapsed(),
            sent.elapsed()
        );
        ensure!(sent.elapsed() < BLOCK + BLOCK + BOUND, "{:?}", sent.elapsed());

        let mut number = 0_u64;
        let mut last = Duration::ZERO;
        let over = loop {
            broker.publish(&Publish::new("paid/v5", number.to_string().as_bytes())).await?;
            number += 1;
            match tokio::time::timeout(Duration::from_millis(200), reader.get()).await {
                Err(_) => {}
                Ok(got) => match got.wrap_err_with(|| format!("after {number} messages"))? {
                    Got::Publish(_) => last = unix_now()?,
                    // The session was there for this subscription only, so it ends with a reason.
                    Got::Disconnect { code, reason } => break (code, reason),
                    other => bail!("got {other:?}"),
                },
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            ensure!(
                unix_now()? < Duration::from_secs(until + 5),
                "nothing told her that her time is over"
            );
        };
        assert_eq!(over.0, 0x87);
        ensure!(
            over.1.as_deref().is_some_and(|reason| reason.contains("ended at")),
            "{:?}",
            over.1
        );
        let end = Duration::from_secs(until);
        ensure!(
            last > Duration::ZERO && last <= end + Duration::from_secs(1),
            "last delivery {last:?}, end {end:?}"
        );
        ensure!(
            last + Duration::from_secs(1) >= end,
            "she was cut off {:?} before her time was over",
            end - last
        );
        stage
            .site
            .recorder()?
            .until(Duration::from_secs(2), |tape| tape.saw_unsubscribe("paid/v5"))
            .await?;
        Ok(())
    })
}

/// Which message this is, whose topic is `paid/v4`.
fn number(publish: &[u8]) -> Result<u64> {
    let name = publish.windows(7).position(|octets| octets == b"paid/v4");
    let payload = name.and_then(|at| publish.get(at + 7..));
    Ok(std::str::from_utf8(payload.ok_or_else(|| eyre!("another topic"))?)?.parse()?)
}

#[test]
fn buying_again_while_connected_goes_on_without_a_gap_for_3_1_1() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let wallet = stage.site.wallets.other_reader.address();
        let topic = stage.topic_with("paid/v4", RETAIN, CLOSED, offer(6)).await?;
        stage.buy(&topic, wallet, Right::Subscribe, 1).await?;
        stage.caught_up().await?;
        let login = stage.site.token(&stage.site.wallets.other_reader, "buyer-4")?;
        let mut reader = stage.session(Way::plain(V311), &login).await?;
        assert_eq!(reader.subscribe(&[("paid/v4", 1)]).await?, [1]);
        let first_end = stage.granted_until(&topic, wallet, Right::Subscribe).await?;
        stage.buy(&topic, wallet, Right::Subscribe, 1).await?;
        let second_end = stage.granted_until(&topic, wallet, Right::Subscribe).await?;
        assert_eq!(second_end, first_end + 6, "a purchase extends from the end, not from now");
        stage.caught_up().await?;

        let mut broker = stage.direct(V311, "").await?;
        let (mut sent, mut got, mut ended) = (0_u64, Vec::new(), None);
        while ended.is_none() {
            broker.publish(&Publish::new("paid/v4", sent.to_string().as_bytes())).await?;
            sent += 1;
            let at = unix_now()?;
            match tokio::time::timeout(
                Duration::from_millis(100),
                reader.next(Duration::from_secs(1)),
            )
            .await
            {
                Err(_) => {}
                Ok(octets) => match octets? {
                    Some(octets) => got.push((number(&octets)?, at)),
                    None => ended = Some(at),
                },
            }
            ensure!(
                at < Duration::from_secs(second_end + 5),
                "the session goes on after the paid time"
            );
        }
        let (_, last) = *got.last().ok_or_else(|| eyre!("nothing was delivered"))?;
        let end = Duration::from_secs(second_end);
        ensure!(
            got.iter().any(|(_, at)| *at > Duration::from_secs(first_end)),
            "nothing came after the first paid time"
        );
        let numbers: Vec<u64> = got.iter().map(|(number, _)| *number).collect();
        let whole: Vec<u64> = (0..).take(numbers.len()).collect();
        assert_eq!(numbers, whole, "something was withheld between the purchases");
        ensure!(last <= end + Duration::from_secs(1), "last delivery {last:?}, end {end:?}");
        Ok(())
    })
}

#[test]
fn every_wei_of_a_purchase_is_where_it_belongs() -> Result<()> {
    run(async {
        // A stage of its own, whose clock may leap over the day that a fee's rise is announced.
        let stage = Stage::new().await?;
        stage.set_sale_fee(500).await?;
        stage.site.chain.pass(86_401).await?;
        let topic = stage.topic_with("till", RETAIN, CLOSED, offer(10)).await?;
        let (reader, owner, broker_owner) =
            (stage.site.wallets.reader.address(), stage.owner(), stage.broker_owner());
        let market = stage.site.deployment.access_market;
        for purchase in 1..=2_u64 {
            let before = [
                stage.balance(reader).await?,
                stage.balance(owner).await?,
                stage.credit(broker_owner).await?,
            ];
            let bought = stage.buy(&topic, reader, Right::Subscribe, 2).await?;
            let after = [
                stage.balance(reader).await?,
                stage.balance(owner).await?,
                stage.credit(broker_owner).await?,
            ];
            let paid = U256::from(2 * PRICE);
            assert_eq!(
                before[0] - after[0],
                paid + bought.fee,
                "purchase {purchase}: the reader pays the price and her gas"
            );
            assert_eq!(
                after[1] - before[1],
                U256::from(19_000_000_000_000_000_u64),
                "the owner gets 95 %"
            );
            assert_eq!(
                after[2] - before[2],
                U256::from(1_000_000_000_000_000_u64),
                "the broker owner has 5 % more to withdraw"
            );
            assert_eq!(stage.balance(market).await?, after[2], "the contract holds what it owes");
        }
        let (before, owed) =
            (stage.balance(broker_owner).await?, stage.credit(broker_owner).await?);
        let call = IAccessMarket::withdrawCall { to: broker_owner };
        let sent = stage.send(broker_owner, market, U256::ZERO, &call).await?;
        ensure!(sent.ok, "the broker owner cannot withdraw");
        assert_eq!(
            stage.balance(broker_owner).await? + sent.fee - before,
            owed,
            "the broker owner gets all of it"
        );
        assert_eq!(stage.balance(market).await?, U256::ZERO, "nothing is left in the contract");
        // The terms change in the block before hers: she is not charged.
        let (order, cost) = stage.order(&topic, reader, Right::Subscribe, 2).await?;
        stage
            .set_offer(&topic, Right::Subscribe, Offer { price_wei: PRICE + 1, ..offer(10) })
            .await?;
        let before = stage.balance(reader).await?;
        let failed = stage.send(reader, market, cost, &order).await?;
        ensure!(!failed.ok, "she was charged another price than she had seen");
        assert_eq!(
            before - stage.balance(reader).await?,
            failed.fee,
            "it costs her the gas and no more"
        );

        // What the owner's contract cannot take is credited, and the contract holds exactly what it owes.
        assert_eq!(stage.credit(owner).await?, stage.balance(market).await?);
        Ok(())
    })
}

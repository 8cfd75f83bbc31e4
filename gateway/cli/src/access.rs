//! `flytrap access` and `flytrap token`: who may, and how clients log in.

use std::io::{IsTerminal, Write};

use alloy::primitives::{Address, B256, U256};
use eyre::{Result, WrapErr, bail, eyre};
use flytrap_chain::wallet::{Reason, Wanted};
use flytrap_chain::{Done, Wallet};
use flytrap_policy::{Event, Right, credential};
use serde_json::{Value, json};

use crate::args::{self, Global, Why};
use crate::broker::right_text;
use crate::context::{done, id_of};
use crate::tell;
use crate::units::{Amount, ether, span, utc};

impl Why {
    fn reason(&self) -> Reason {
        Reason { purpose: self.purpose(), note: self.note.clone() }
    }
}

/// `flytrap access …`
pub(crate) async fn access(global: &Global, command: &args::Access) -> Result<()> {
    use args::Access as A;
    match command {
        A::Grant { wallets, right, names, end, why } => {
            let (right, wallet) = (Right::from(*right), global.wallet().await?);
            let until = end.second(wallet.block_time().await?)?;
            let (reason, ids) = (why.reason(), ids_of(global, names));
            let sent = match (&ids[..], &wallets.0[..]) {
                ([id], [whom]) => wallet.grant(*id, *whom, right, until, &reason).await?,
                (ids, whom) => wallet.grant_many(ids, whom, right, until, &reason).await?,
            };
            let sentence = format!(
                "{} may {} {} until {}.",
                joined(&wallets.0),
                right_text(right),
                quoted(names),
                utc(until)
            );
            done(global, &sentence, &sent, json!({ "until": until }));
        }
        A::Buy { right, names, periods, wallets, max_price, yes, why } => {
            let order = Order {
                right: (*right).into(),
                names,
                periods: *periods,
                wallets: wallets.as_ref(),
                max_price: *max_price,
                yes: *yes,
            };
            buy(global, &order, &why.reason()).await?;
        }
        A::Revoke { wallets, right, names, why } => {
            let (right, wallet) = (Right::from(*right), global.wallet().await?);
            let (reason, ids) = (why.reason(), ids_of(global, names));
            let sent = match (&ids[..], &wallets.0[..]) {
                ([id], [whose]) => wallet.revoke(*id, *whose, right, &reason).await?,
                (ids, whose) => wallet.revoke_many(ids, whose, right, &reason).await?,
            };
            let refund = refunded(&sent, &wallet);
            let sentence = format!(
                "{} may no longer {} {}; {} went back for the unused part.",
                joined(&wallets.0),
                right_text(right),
                quoted(names),
                ether(refund)
            );
            done(global, &sentence, &sent, json!({ "refundWei": refund.to_string() }));
        }
        A::Block { wallet: whom, name, why } => {
            let wallet = global.wallet().await?;
            let sent = wallet.block(id_of(global, name), *whom, &why.reason()).await?;
            let refund = refunded(&sent, &wallet);
            let back = if refund.is_zero() {
                String::new()
            } else {
                format!("; {} went back for what it had paid and not used", ether(refund))
            };
            let sentence = format!("{whom} is blocked on `{name}`{back}.");
            done(global, &sentence, &sent, json!({ "refundWei": refund.to_string() }));
        }
        A::Unblock { wallet: whom, name } => {
            let sent = global.wallet().await?.unblock(id_of(global, name), *whom).await?;
            done(global, &format!("{whom} is no longer blocked on `{name}`."), &sent, json!({}));
        }
        A::Withdraw { to } => {
            let wallet = global.wallet().await?;
            let (credit, to) =
                (wallet.credit_of(wallet.address()).await?, to.unwrap_or(wallet.address()));
            let sent = wallet.withdraw(to).await?;
            done(
                global,
                &format!("{} went to {to}.", ether(credit)),
                &sent,
                json!({ "amountWei": credit.to_string() }),
            );
        }
        A::Show { wallet: whose, name } => show(global, *whose, name).await?,
    }
    Ok(())
}

/// What a transaction paid back in all.
fn refunded(sent: &Done, wallet: &Wallet) -> U256 {
    sent.events(wallet.deployment()).iter().fold(U256::ZERO, |sum, event| match event {
        Event::AccessRevoked { refund_wei, .. } => sum.saturating_add(*refund_wei),
        _ => sum,
    })
}

fn ids_of(global: &Global, names: &[String]) -> Vec<B256> {
    names.iter().map(|name| id_of(global, name)).collect()
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

pub(crate) fn joined(wallets: &[Address]) -> String {
    wallets.iter().map(Address::to_string).collect::<Vec<_>>().join(", ")
}

struct Order<'a> {
    right: Right,
    names: &'a [String],
    periods: u32,
    wallets: Option<&'a args::Wallets>,
    max_price: Option<Amount>,
    yes: bool,
}

async fn buy(global: &Global, order: &Order<'_>, reason: &Reason) -> Result<()> {
    let Order { right, names, periods, .. } = *order;
    let wallet = global.wallet().await?;
    let own = [wallet.address()];
    let receivers = order.wallets.map_or(&own[..], |wallets| &wallets.0);
    let (mut wanted, mut cost, mut rows) = (Vec::new(), U256::ZERO, Vec::new());
    for (name, topic_id) in names.iter().zip(ids_of(global, names)) {
        let quote = wallet.quote(topic_id, right, periods).await?;
        let many = U256::from(receivers.len());
        cost = cost.saturating_add(quote.cost_wei().saturating_mul(many));
        let length = span(u64::from(quote.period) * u64::from(periods));
        let each = if receivers.len() == 1 { "" } else { " for each" };
        let owner = wallet.topic_owner(topic_id).await?;
        let (price, fee) = (ether(quote.price_wei), ether(quote.publish_fee_wei));
        rows.push(vec!["right".to_owned(), format!("{} `{name}` for {length}", right_text(right))]);
        rows.push(vec!["price".into(), format!("{price}{each} to the topic's owner {owner}")]);
        rows.push(vec!["publish fee".into(), format!("{fee}{each} to the broker's owner")]);
        wanted.extend(receivers.iter().map(|receiver| Wanted {
            topic_id,
            right,
            wallet: *receiver,
            periods,
        }));
    }
    let limit = order.max_price.map_or(cost, |most| U256::from(most.0));
    let what = format!("{} to {} {}", plural(wanted.len()), right_text(right), quoted(names));
    if cost > limit {
        bail!("{what} cost {}, --max-price is {}", ether(cost), ether(limit));
    }
    if !order.yes {
        rows.extend([
            vec!["for".into(), joined(receivers)],
            vec!["in all".into(), format!("{}, from {}", ether(cost), wallet.address())],
            vec!["chain".into(), wallet.deployment().chain_id.to_string()],
        ]);
        if global.json || !std::io::stdin().is_terminal() {
            bail!(
                "buying for {} needs your word: repeat with --yes, and --max-price to be safe",
                ether(cost)
            );
        }
        tell::table(&rows);
        if !agreed("Buy?")? {
            bail!("nothing was bought");
        }
    }
    // The limit is what was shown, so that a price raised meanwhile buys nothing.
    let sent = match wanted[..] {
        [Wanted { topic_id, right, wallet: whom, periods }] => {
            wallet.buy(topic_id, right, whom, periods, Some(limit), reason).await?.1
        }
        _ => wallet.buy_many(&wanted, Some(limit), reason).await?,
    };
    let ends = sent.events(wallet.deployment());
    let ends = ends.iter().filter_map(|event| match event {
        Event::AccessBought { until, .. } => Some(*until),
        _ => None,
    });
    // Who had some time left already has it still.
    let until = ends.min().unwrap_or_default();
    let sentence = format!(
        "{} may {} {} until {}{}; paid {}.",
        joined(receivers),
        right_text(right),
        quoted(names),
        utc(until),
        if wanted.len() == 1 { "" } else { " at least" },
        ether(cost)
    );
    done(global, &sentence, &sent, json!({ "until": until, "paidWei": cost.to_string() }));
    Ok(())
}

fn plural(rights: usize) -> String {
    if rights == 1 { "the right".to_owned() } else { format!("{rights} rights") }
}

fn agreed(question: &str) -> Result<bool> {
    print!("{question} [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn show(global: &Global, whose: Address, name: &str) -> Result<()> {
    let state = global.state(&global.contracts().await?, &[]).await?;
    let (topic, now) = (state.topic(name)?, state.now());
    let rights = [Right::Publish, Right::Subscribe]
        .map(|right| (right, state.registry.grant(topic.id, whose, right)));
    let blocked = state.registry.is_blocked(topic.id, whose);
    if global.json {
        let rights: Vec<Value> = rights
            .iter()
            .map(|(right, until)| json!({ "right": right, "until": until, "valid": until.is_some_and(|until| now < until) }))
            .collect();
        let owner = topic.owner == whose;
        tell::line(json!({ "wallet": whose, "topic": name, "owner": owner, "blocked": blocked, "rights": rights }).to_string());
        return Ok(());
    }
    if topic.owner == whose {
        tell::line(format!("{whose} owns `{name}`"));
    }
    for (right, until) in rights {
        let text = match until {
            None => "never granted".to_owned(),
            Some(until) if now < until => format!("until {}", utc(until)),
            Some(until) => format!("ended {}", utc(until)),
        };
        tell::line(format!("{:<9}  {text}", right_text(right)));
    }
    if blocked {
        tell::line("blocked by the owner");
    }
    Ok(())
}

/// `flytrap payout …`
pub(crate) async fn payout(global: &Global, command: &args::Payout) -> Result<()> {
    use args::Payout as P;
    match command {
        P::To { address } => {
            let wallet = global.wallet().await?;
            // Zero is the wallet itself, as it was before anything was chosen.
            let to = if *address == wallet.address() { Address::ZERO } else { *address };
            let sent = wallet.set_payout(to, false).await?;
            let sentence = format!("{} is paid at once, to {address}.", wallet.address());
            done(global, &sentence, &sent, json!({ "to": address, "pull": false }));
        }
        P::Pull => {
            let wallet = global.wallet().await?;
            let sent = wallet.set_payout(Address::ZERO, true).await?;
            let sentence = format!(
                "What {} is paid is kept for it: take it with `flytrap access withdraw`.",
                wallet.address()
            );
            done(global, &sentence, &sent, json!({ "to": wallet.address(), "pull": true }));
        }
        P::Show { wallet } => {
            let whose = match wallet {
                Some(wallet) => *wallet,
                None => global.key().wrap_err("name a wallet with --wallet, or")?.address(),
            };
            let contracts = global.contracts().await?;
            let (to, is_pull) = contracts.payout_of(whose).await?;
            let credit = contracts.credit_of(whose).await?;
            if global.json {
                let credit = credit.to_string();
                tell::line(
                    json!({ "wallet": whose, "to": to, "pull": is_pull, "creditWei": credit })
                        .to_string(),
                );
                return Ok(());
            }
            let how = if is_pull {
                "kept until it is withdrawn".into()
            } else {
                format!("at once to {to}")
            };
            tell::table(&[
                vec!["wallet".to_owned(), whose.to_string()],
                vec!["is paid".into(), how],
                vec!["waiting".into(), ether(credit)],
            ]);
        }
    }
    Ok(())
}

/// `flytrap token …`
pub(crate) async fn token(global: &Global, command: &args::Token) -> Result<()> {
    match command {
        args::Token::Make { client_id, life, contract_wallet } => {
            make_token(global, client_id, life.0, *contract_wallet).await
        }
        args::Token::Invalidate { before } => {
            let wallet: Wallet = global.wallet().await?;
            let newest = wallet.block_time().await?;
            let before = match before {
                None => newest,
                Some(moment) => moment.second(newest).ok_or_else(|| {
                    eyre!("--before needs a date, Unix seconds or a span, not a block")
                })?,
            };
            let sent = wallet.invalidate_before(before).await?;
            let sentence = format!(
                "Every token that {} signed before {} is worthless.",
                wallet.address(),
                utc(before)
            );
            done(global, &sentence, &sent, json!({ "before": before }));
            Ok(())
        }
    }
}

async fn make_token(
    global: &Global,
    client_id: &str,
    life: u64,
    contract_wallet: Option<Address>,
) -> Result<()> {
    let (key, site) = (global.key()?, global.site().await?);
    let issued = flytrap_site::unix_now();
    let end = issued.checked_add(life).and_then(|end| u32::try_from(end).ok());
    let end = end.ok_or_else(|| eyre!("a token ends in 2106 at the latest: shorten --life"))?;
    let digest = match contract_wallet {
        None => credential::token_digest(&site, client_id, issued, end.into()),
        Some(wallet) => {
            credential::wallet_token_digest(&site, wallet, client_id, issued, end.into())
        }
    };
    let signature = key.sign(&digest);
    let password = credential::encode_token(u32::try_from(issued)?, end, &signature);
    let user = contract_wallet.unwrap_or(key.address()).to_string();
    if global.json {
        let answer = json!({ "clientId": client_id, "userName": user, "password": password, "issuedAt": issued, "expiresAt": end });
        tell::line(answer.to_string());
    } else {
        tell::line(format!("client id  {client_id}\nuser name  {user}\npassword   {password}"));
        let until = utc(end.into());
        tell::line(tell::faint(&format!(
            "Counts until {until}, at broker {} on chain {} only.",
            global.broker, site.chain_id
        )));
    }
    Ok(())
}

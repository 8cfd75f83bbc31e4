//! `flytrap access` and `flytrap token`: who may, and how clients log in.

use std::io::{IsTerminal, Write};

use alloy::primitives::{Address, U256};
use eyre::{Result, bail, eyre};
use flytrap_chain::Wallet;
use flytrap_chain::wallet::Reason;
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
        A::Grant { wallet: whom, right, name, end, why } => {
            let (right, wallet) = (Right::from(*right), global.wallet().await?);
            let until = end.second(wallet.block_time().await?)?;
            let sent =
                wallet.grant(id_of(global, name), *whom, right, until, &why.reason()).await?;
            let sentence =
                format!("{whom} may {} `{name}` until {}.", right_text(right), utc(until));
            done(global, &sentence, &sent, json!({ "until": until }));
        }
        A::Buy { right, name, periods, wallet, max_price, yes, why } => {
            let order = Order {
                right: (*right).into(),
                name,
                periods: *periods,
                wallet: *wallet,
                max_price: *max_price,
                yes: *yes,
            };
            buy(global, &order, &why.reason()).await?;
        }
        A::Revoke { wallet: whose, right, name, why } => {
            let (right, wallet) = (Right::from(*right), global.wallet().await?);
            let sent = wallet.revoke(id_of(global, name), *whose, right, &why.reason()).await?;
            let refund = sent.events(wallet.deployment()).iter().find_map(|event| match event {
                Event::AccessRevoked { refund_wei, .. } => Some(*refund_wei),
                _ => None,
            });
            let refund = refund.unwrap_or_default();
            let sentence = format!(
                "{whose} may no longer {} `{name}`; {} went back for the unused part.",
                right_text(right),
                ether(refund)
            );
            done(global, &sentence, &sent, json!({ "refundWei": refund.to_string() }));
        }
        A::Block { wallet: whom, name, why } => {
            let sent =
                global.wallet().await?.block(id_of(global, name), *whom, &why.reason()).await?;
            done(global, &format!("{whom} is blocked on `{name}`."), &sent, json!({}));
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

struct Order<'a> {
    right: Right,
    name: &'a str,
    periods: u32,
    wallet: Option<Address>,
    max_price: Option<Amount>,
    yes: bool,
}

async fn buy(global: &Global, order: &Order<'_>, reason: &Reason) -> Result<()> {
    let Order { right, name, periods, .. } = *order;
    let wallet = global.wallet().await?;
    let topic = id_of(global, name);
    let quote = wallet.quote(topic, right, periods).await?;
    let receiver = order.wallet.unwrap_or(wallet.address());
    let owner = wallet.topic_owner(topic).await?;
    let length = u64::from(quote.period) * u64::from(periods);
    let cost = quote.cost_wei();
    let limit = order.max_price.map_or(cost, |most| U256::from(most.0));
    if cost > limit {
        bail!(
            "{} of {} `{name}` cost {}, --max-price is {}",
            span(length),
            right_text(right),
            ether(cost),
            ether(limit)
        );
    }
    if !order.yes {
        let rows = [
            vec![
                "right".to_owned(),
                format!("{} `{name}` for {}", right_text(right), span(length)),
            ],
            vec!["for".into(), receiver.to_string()],
            vec![
                "price".into(),
                format!("{} to the topic's owner {owner}", ether(quote.price_wei)),
            ],
            vec![
                "publish fee".into(),
                format!("{} to the broker's owner", ether(quote.publish_fee_wei)),
            ],
            vec!["in all".into(), format!("{}, from {}", ether(cost), wallet.address())],
            vec!["chain".into(), wallet.deployment().chain_id.to_string()],
        ];
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
    let (until, sent) = wallet.buy(topic, right, receiver, periods, Some(limit), reason).await?;
    let sentence = format!(
        "{receiver} may {} `{name}` until {}; paid {}.",
        right_text(right),
        utc(until),
        ether(cost)
    );
    done(global, &sentence, &sent, json!({ "until": until, "paidWei": cost.to_string() }));
    Ok(())
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

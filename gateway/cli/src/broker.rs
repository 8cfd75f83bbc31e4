//! `flytrap broker`, `flytrap topic`, `flytrap ban`: what owners of brokers and topics set.

use alloy::primitives::{Address, B256, U256};
use eyre::{Result, WrapErr, bail};
use flytrap_chain::wallet::{hidden_topic_id, name_commitment};
use flytrap_chain::{Ban, BanSubject};
use flytrap_policy::{
    CountryMode, CountryRule, NamingPolicy, Offer, Right, Topic, Traits, is_topic_name,
};
use rand::TryRngCore;
use serde_json::{Value, json};

use crate::args::{self, End, Global, Subject};
use crate::context::{State, done, id_of};
use crate::countries::rule_text;
use crate::names;
use crate::tell::{self, safe};
use crate::units::{self, ether, offer_text, utc};

/// `flytrap broker …`
pub(crate) async fn broker(global: &Global, command: &args::Broker) -> Result<()> {
    use args::Broker as B;
    let id = global.broker_id();
    match command {
        B::Create { name, policy } => {
            let (id, sent) = global.wallet().await?.create_broker((*policy).into(), name).await?;
            let sentence = format!(
                "Broker {id} is yours: add a gateway with `flytrap --broker {id} broker set-gateway`."
            );
            done(global, &sentence, &sent, json!({ "brokerId": id.to_string() }));
        }
        B::Show => show(global).await?,
        B::SetGateway { gateway, uri } => {
            let sent = global.wallet().await?.set_gateway(id, *gateway, uri).await?;
            done(
                global,
                &format!("{gateway} is a gateway of broker {id}, found at {uri}."),
                &sent,
                json!({}),
            );
        }
        B::RemoveGateway { gateway } => {
            let sent = global.wallet().await?.remove_gateway(id, *gateway).await?;
            done(
                global,
                &format!("{gateway} is no gateway of broker {id} any more."),
                &sent,
                json!({}),
            );
        }
        B::SetRegistrar { wallet } => {
            let sent = global.wallet().await?.set_registrar(id, *wallet, true).await?;
            done(
                global,
                &format!("{wallet} registers topics anywhere at broker {id}."),
                &sent,
                json!({}),
            );
        }
        B::RemoveRegistrar { wallet } => {
            let sent = global.wallet().await?.set_registrar(id, *wallet, false).await?;
            done(
                global,
                &format!("{wallet} is no registrar of broker {id} any more."),
                &sent,
                json!({}),
            );
        }
        B::SetFee { publish_per_day, sale } => {
            let wallet = global.wallet().await?;
            if let Some(amount) = publish_per_day {
                let wei = u64::try_from(amount.0).wrap_err_with(|| {
                    format!("{amount} per day is more than any broker may charge")
                })?;
                let sent = wallet.set_publish_fee(id, wei).await?;
                done(
                    global,
                    &format!(
                        "A publish grant costs {amount} a day (a rise counts from tomorrow on)."
                    ),
                    &sent,
                    json!({}),
                );
            }
            if let Some(points) = sale {
                let sent = wallet.set_sale_fee(id, u64::try_from(*points)?).await?;
                let sentence = format!(
                    "The broker keeps {} of each sale (a rise counts from tomorrow on).",
                    per_cent(*points)
                );
                done(global, &sentence, &sent, json!({}));
            }
        }
        B::SetPolicy { policy } => {
            let sent = global.wallet().await?.set_naming_policy(id, (*policy).into()).await?;
            done(global, &format!("{}.", policy_text((*policy).into())), &sent, json!({}));
        }
    }
    Ok(())
}

async fn show(global: &Global) -> Result<()> {
    let state = global.state(&global.contracts().await?, &[]).await?;
    let (registry, now) = (&state.registry, state.now());
    let owner = registry.owner().unwrap_or_default();
    if global.json {
        let gateways: Vec<Value> =
            registry.gateways().map(|(key, uri)| json!({ "gateway": key, "uri": uri })).collect();
        tell::line(
            json!({
                "brokerId": global.broker, "name": registry.name(), "owner": owner, "policy": registry.naming_policy(),
                "publishFeeWeiPerDay": registry.publish_fee(now).to_string(),
                "saleFeeBasisPoints": registry.sale_fee(now).to_string(),
                "gateways": gateways, "registrars": registry.registrars().collect::<Vec<_>>(),
                "topics": registry.topics().count(), "block": state.height,
            })
            .to_string(),
        );
        return Ok(());
    }
    tell::line(tell::strong(&format!("Broker {}, {}", global.broker, safe(registry.name()))));
    let mut rows = vec![
        vec!["owner".to_owned(), owner.to_string()],
        vec!["naming".into(), policy_text(registry.naming_policy()).into()],
        vec![
            "publish fee".into(),
            format!("{} a day", ether(U256::from(registry.publish_fee(now)))),
        ],
        vec!["sale fee".into(), per_cent(registry.sale_fee(now))],
        vec!["topics".into(), registry.topics().count().to_string()],
    ];
    rows.extend(
        registry
            .gateways()
            .map(|(key, uri)| vec!["gateway".into(), format!("{key} at {}", safe(uri))]),
    );
    rows.extend(registry.registrars().map(|wallet| vec!["registrar".into(), wallet.to_string()]));
    tell::table(&rows);
    Ok(())
}

pub(crate) fn policy_text(policy: NamingPolicy) -> &'static str {
    match policy {
        NamingPolicy::OwnBranch => {
            "own-branch: at the top, anyone registers below their own address, registrars anywhere"
        }
        NamingPolicy::Curated => "curated: at the top, only registrars register",
        NamingPolicy::Open => "open: at the top, whoever comes first registers",
    }
}

pub(crate) fn per_cent(points: u128) -> String {
    let (whole, rest) = (points / 100, points % 100);
    if rest == 0 {
        format!("{whole}%")
    } else {
        format!("{whole}.{}%", format!("{rest:02}").trim_end_matches('0'))
    }
}

/// `flytrap topic …`
pub(crate) async fn topic(global: &Global, command: &args::Topic) -> Result<()> {
    use args::Topic as T;
    match command {
        T::Register { name, publish, subscribe, traits } => {
            let wallet = global.wallet().await?;
            let (id, sent) = wallet
                .register_topic(global.broker_id(), name, (*traits).into(), *publish, *subscribe)
                .await?;
            let sentence = format!(
                "`{name}` is yours, and with it every name below: publish {}, subscribe {}.",
                offer_text(publish),
                offer_text(subscribe)
            );
            done(global, &sentence, &sent, json!({ "topicId": id, "name": name }));
        }
        T::Hide { parent, name, publish, subscribe, traits } => {
            hide(global, parent, name, (*traits).into(), [*publish, *subscribe]).await?;
        }
        T::Disclose { id, name, salt, gateways } => {
            names::ask(global, *id, Some((*salt, name)), &gateways.urls).await?;
        }
        T::ForgetName { id, gateways } => {
            names::ask(global, *id, None, &gateways.urls).await?;
        }
        T::Countries { name, only, except, any: _ } => {
            let rule = match (only, except) {
                (Some(only), _) => CountryRule::new(CountryMode::Only, &only.0),
                (None, Some(except)) => CountryRule::new(CountryMode::Except, &except.0),
                (None, None) => CountryRule::Any,
            };
            let sent = global.wallet().await?.set_countries(id_of(global, name), &rule).await?;
            let sentence = format!("`{name}` may be used from: {}.", rule_text(&rule));
            done(global, &sentence, &sent, countries_json(&rule));
        }
        T::Show { name } => {
            let state = global.state(&global.contracts().await?, &[]).await?;
            show_topic(global, &state, state.topic(name)?);
        }
        T::List { owner } => list(global, *owner).await?,
        T::SetOffer { name, right, offer } => {
            let right = Right::from(*right);
            let sent = global.wallet().await?.set_offer(id_of(global, name), right, *offer).await?;
            done(
                global,
                &format!("`{name}`: {} {}.", right_text(right), offer_text(offer)),
                &sent,
                json!({}),
            );
        }
        T::SetTraits { name, traits } => {
            let sent =
                global.wallet().await?.set_traits(id_of(global, name), (*traits).into()).await?;
            done(
                global,
                &format!("`{name}`: {}.", traits_text((*traits).into())),
                &sent,
                json!({}),
            );
        }
        T::SetManager { name, wallet } => {
            let sent =
                global.wallet().await?.set_manager(id_of(global, name), *wallet, true).await?;
            done(global, &format!("{wallet} manages `{name}`."), &sent, json!({}));
        }
        T::RemoveManager { name, wallet } => {
            let sent =
                global.wallet().await?.set_manager(id_of(global, name), *wallet, false).await?;
            done(global, &format!("{wallet} manages `{name}` no more."), &sent, json!({}));
        }
        T::Delete { name } => {
            let sent = global.wallet().await?.delete_topic(id_of(global, name)).await?;
            done(
                global,
                &format!("`{name}` is deleted, and every grant and block on it is dead."),
                &sent,
                json!({}),
            );
        }
    }
    Ok(())
}

/// Registers a hidden topic. What is needed to tell the name later is printed, and kept nowhere.
async fn hide(
    global: &Global,
    parent: &str,
    name: &str,
    traits: Traits,
    [publish, subscribe]: [Offer; 2],
) -> Result<()> {
    if !is_topic_name(name) {
        bail!(
            "`{}` is no topic name: visible ASCII without + and #, no leading $, no empty level, at most 256 octets and 16 levels",
            safe(name)
        );
    }
    let (parent_id, is_named) = (id_of(global, parent), units::word(parent).is_err());
    if is_named && name.strip_prefix(parent).is_none_or(|below| !below.starts_with('/')) {
        bail!("`{name}` is not below `{parent}`: write the whole name, such as `{parent}/{name}`");
    }
    let mut salt = B256::ZERO;
    rand::rngs::OsRng
        .try_fill_bytes(salt.as_mut_slice())
        .wrap_err("the system gives no randomness")?;
    let commitment = name_commitment(salt, name);
    let id = hidden_topic_id(global.broker_id(), parent_id, commitment);
    let wallet = global.wallet().await?;
    let sent = wallet
        .register_hidden_topic(parent_id, commitment, traits, publish, subscribe)
        .await
        // The transaction may still happen, and without its salt nobody could ever tell the name.
        .wrap_err_with(|| format!("topic {id} with salt {salt} was not registered"))?
        .1;
    let sentence = format!(
        "id    {id}\nsalt  {salt}\n\nThe topic is yours: publish {}, subscribe {}. Keep both lines and the name: they are shown this once, and \
         without the salt no gateway will know the name. Tell each gateway with `flytrap topic disclose {id} NAME --salt SALT --url URL`.",
        offer_text(&publish),
        offer_text(&subscribe)
    );
    done(
        global,
        &sentence,
        &sent,
        json!({ "topicId": id, "salt": salt, "commitment": commitment }),
    );
    Ok(())
}

async fn list(global: &Global, owner: Option<Address>) -> Result<()> {
    let state = global.state(&global.contracts().await?, &[]).await?;
    let mut hidden: Vec<&Topic> = state.registry.hidden_topics().collect();
    hidden.sort_unstable_by_key(|topic| topic.id);
    let topics = state.registry.topics().chain(hidden);
    let topics = topics.filter(|topic| owner.is_none_or(|owner| topic.owner == owner));
    if global.json {
        tell::line(Value::Array(topics.map(topic_json).collect()).to_string());
        return Ok(());
    }
    let mut rows =
        vec![vec!["TOPIC".to_owned(), "PUBLISH".into(), "SUBSCRIBE".into(), "OWNER".into()]];
    rows.extend(topics.map(|topic| {
        let (publish, subscribe) =
            (offer_text(&topic.publish_offer), offer_text(&topic.subscribe_offer));
        vec![topic_text(topic), publish, subscribe, topic.owner.to_string()]
    }));
    tell::table(&rows);
    Ok(())
}

fn show_topic(global: &Global, state: &State, topic: &Topic) {
    let grants: Vec<_> = state.registry.grants().filter(|(of, ..)| of.id == topic.id).collect();
    if global.json {
        let mut answer = topic_json(topic);
        answer["grants"] = grants
            .iter()
            .map(|(_, wallet, right, until)| json!({ "wallet": wallet, "right": right, "until": until }))
            .collect();
        tell::line(answer.to_string());
        return;
    }
    tell::line(tell::strong(&topic_text(topic)));
    let mut rows = vec![
        vec!["owner".to_owned(), topic.owner.to_string()],
        vec!["publish".into(), offer_text(&topic.publish_offer)],
        vec!["subscribe".into(), offer_text(&topic.subscribe_offer)],
        vec!["traits".into(), traits_text(topic.traits)],
        vec!["countries".into(), rule_text(&topic.countries)],
        vec!["epoch".into(), topic.epoch.to_string()],
        vec!["id".into(), topic.id.to_string()],
    ];
    let now = state.now();
    rows.extend(grants.into_iter().map(|(_, wallet, right, until)| {
        let verb = if now < until { "until" } else { "ended" };
        vec!["grant".into(), format!("{wallet} {} {verb} {}", right_text(right), utc(until))]
    }));
    tell::table(&rows);
}

/// Its name, or what is known instead.
fn topic_text(topic: &Topic) -> String {
    match &topic.hidden {
        None => safe(&topic.name),
        Some(hidden) => format!("{} (hidden below {})", topic.id, safe(&hidden.below)),
    }
}

fn countries_json(rule: &CountryRule) -> Value {
    let codes: Vec<_> = rule.countries().into_iter().flat_map(|set| set.iter()).collect();
    json!({ "mode": rule.mode(), "codes": codes })
}

fn topic_json(topic: &Topic) -> Value {
    let hidden = topic.hidden.as_ref();
    json!({
        "topicId": topic.id, "name": topic.name.to_string(), "owner": topic.owner, "epoch": topic.epoch, "traits": topic.traits,
        "publishOffer": topic.publish_offer, "subscribeOffer": topic.subscribe_offer,
        "countries": countries_json(&topic.countries),
        "hidden": hidden.map(|hidden| json!({ "parentId": hidden.parent_id, "commitment": hidden.commitment, "below": *hidden.below })),
    })
}

pub(crate) const fn right_text(right: Right) -> &'static str {
    match right {
        Right::Publish => "publish",
        Right::Subscribe => "subscribe",
    }
}

pub(crate) fn traits_text(traits: flytrap_policy::Traits) -> String {
    let set = [
        (traits.retain, "messages may be retained"),
        (traits.sensitive, "sensitive, every access is recorded"),
        (traits.own_branch, "each key in its own branch only"),
    ];
    let set: Vec<&str> = set.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
    if set.is_empty() { "no retained messages, not sensitive".into() } else { set.join("; ") }
}

/// `flytrap ban …`
pub(crate) async fn ban(global: &Global, command: &args::Ban) -> Result<()> {
    let id = global.broker_id();
    match command {
        args::Ban::Add { subject, end, reason } => {
            let wallet = global.wallet().await?;
            let until = end.second(wallet.block_time().await?)?;
            let subject = match subject {
                Subject::Wallet(wallet) => BanSubject::Wallet(*wallet),
                Subject::Origin(origin) => BanSubject::Origin(*origin),
            };
            let ban = Ban { subject, until, evidence: B256::ZERO, reason: reason.clone() };
            let sent = wallet.ban(id, &[ban]).await?;
            done(
                global,
                &format!("Banned at broker {id} until {}.", utc(until)),
                &sent,
                json!({ "until": until }),
            );
        }
        args::Ban::List => {
            let state = global.state(&global.contracts().await?, &[]).await?;
            let now = state.now();
            let wallets: Vec<_> = state.registry.wallet_bans(now);
            let origins: Vec<_> = state.registry.origin_bans(now).collect();
            if global.json {
                let wallets =
                    wallets.iter().map(|(who, until)| json!({ "wallet": who, "until": until }));
                let origins =
                    origins.iter().map(|(who, until)| json!({ "origin": who, "until": until }));
                tell::line(Value::Array(wallets.chain(origins).collect()).to_string());
                return Ok(());
            }
            let mut rows = vec![vec!["BANNED".to_owned(), "UNTIL".into()]];
            rows.extend(
                wallets.iter().map(|(who, until)| vec![format!("wallet {who}"), utc(*until)]),
            );
            rows.extend(
                origins.iter().map(|(who, until)| vec![format!("origin {who}"), utc(*until)]),
            );
            tell::table(&rows);
        }
        args::Ban::Lift { subject } => {
            let wallet = global.wallet().await?;
            let sent = match subject {
                Subject::Wallet(who) => wallet.unban(id, *who).await?,
                Subject::Origin(origin) => wallet.unban_origin(id, *origin).await?,
            };
            done(global, &format!("The ban at broker {id} is lifted."), &sent, json!({}));
        }
    }
    Ok(())
}

impl End {
    /// The second it means, counted from the block time `now`.
    pub(crate) fn second(&self, now: u64) -> Result<u64> {
        // A chain that makes blocks only for transactions may lag behind the wall clock by hours.
        let now = now.max(flytrap_site::unix_now());
        let end = match (self.life, self.until) {
            (Some(life), _) => now.checked_add(life.0),
            (None, Some(args::Moment::Ago(_) | args::Moment::Block(_))) => {
                bail!("--until needs a date or Unix seconds; for a span from now on use --life")
            }
            (None, Some(moment)) => moment.second(now),
            (None, None) => None,
        };
        match end {
            Some(end) if end > now => Ok(end),
            Some(end) => bail!("{} is over: the end must lie in the future", utc(end)),
            None => bail!("this needs an end: --life 30d, or --until 2027-01-01"),
        }
    }
}

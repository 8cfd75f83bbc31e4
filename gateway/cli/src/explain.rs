//! `flytrap can`: a decision explained, by the gateways' own code over a registry rebuilt from the chain's events.

use std::process::ExitCode;
use std::sync::Arc;

use alloy::primitives::{Address, U256};
use eyre::Result;
use flytrap_policy::{
    Action, Basis, Concern, Country, Credential, CredentialKind, Denial, OfferMode, Options,
    Principal, Reach, Registry, Right, View,
};
use serde_json::json;

use crate::args::{Can, Global};
use crate::context::{self, State};
use crate::tell::{self, bad, good, safe};
use crate::units::{ether, offer_text, span, utc};

/// Exit code of `can` where the answer is no; errors have 1, a wrong command line 2.
const NO: u8 = 3;

/// The decision, in words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) allowed: bool,
    pub(crate) because: String,
    pub(crate) advice: Option<String>,
    pub(crate) rule: &'static str,
    pub(crate) until: Option<u64>,
}

/// `flytrap can …`
pub(crate) async fn can(global: &Global, args: &Can) -> Result<ExitCode> {
    let contracts = global.contracts().await?;
    let ask = async |wallets: &[Address]| {
        context::state(&contracts, global.broker_id(), wallets, args.at).await
    };
    let mut state = ask(&[args.wallet]).await?;
    if let Some(owner) = state.registry.wallet_of(args.wallet, state.now()) {
        // A device key: whether it still acts depends on what its wallet did, too.
        state = ask(&[args.wallet, owner]).await?;
    }
    let (right, name) = (args.right.into(), &args.name);
    let answer = explain(&state, args.wallet, args.from, right, name, args.retain);
    if global.json {
        let (because, advice) = (&answer.because, &answer.advice);
        tell::line(
            json!({
                "allowed": answer.allowed, "rule": answer.rule, "because": because, "advice": advice,
                "until": answer.until, "block": state.height, "time": state.now(), "country": args.from,
            })
            .to_string(),
        );
    } else {
        let verdict = if answer.allowed { good("yes") } else { bad("no") };
        tell::line(format!("{verdict}: {}", answer.because));
        if let Some(advice) = &answer.advice {
            tell::line(advice);
        }
        tell::line(tell::faint(&format!(
            "as of block {}, {}, {}, with the gateways' default options",
            state.height,
            utc(state.now()),
            args.from.map_or_else(
                || "from a country that is not known".to_owned(),
                |from| format!("from {from}")
            )
        )));
    }
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// Judges as a gateway would whose client has proved to be `key` and comes from `country`.
pub(crate) fn explain(
    state: &State,
    key: Address,
    country: Option<Country>,
    right: Right,
    name: &str,
    retain: bool,
) -> Answer {
    let now = state.now();
    let registry = Arc::new(state.registry.clone());
    let view = View {
        settled: registry.clone(),
        head: registry.clone(),
        height: state.height,
        time: state.time,
        version: 0,
        concern: Concern::EVERYONE,
        options: Options::default(),
    };
    // A proof made this second, which is all that is assumed.
    let credential =
        Credential { kind: CredentialKind::Token, issued_at: now, expires_at: u64::MAX };
    let who =
        Principal { wallet: registry.wallet_of(key, now).unwrap_or(key), key, credential, country };
    let acts = if who.wallet == key {
        String::new()
    } else {
        format!("{key} is a device key of {}; ", who.wallet)
    };
    if let Err(denial) = view.standing(&who, now) {
        return refused(&acts, &denial, &registry, who.wallet, right);
    }
    let verdict = match right {
        Right::Publish => {
            view.authorize(&who, Action::Publish { retain }, name, now).map(|permit| {
                let basis = basis_text(permit.basis(), &registry, name);
                (basis, permit.until())
            })
        }
        Right::Subscribe => view.authorize_filter(&who, name, now).map(|permit| {
            let reach = match permit.reach() {
                Reach::Exact => "this name may be read",
                Reach::Covered => "every name it can match may be read",
                Reach::Narrowed => {
                    "some of the names it can match may be read, the others are withheld"
                }
            };
            (reach.to_owned(), permit.until())
        }),
    };
    match verdict {
        Ok((basis, until)) => {
            let end =
                if until == u64::MAX { String::new() } else { format!(", until {}", utc(until)) };
            let because = format!("{acts}{basis}{end}");
            let until = (until != u64::MAX).then_some(until);
            Answer { allowed: true, because, advice: None, rule: "allowed", until }
        }
        Err(denial) => refused(&acts, &denial, &registry, who.wallet, right),
    }
}

fn basis_text(basis: Basis, registry: &Registry, name: &str) -> String {
    let topic = registry
        .governing(name)
        .map_or_else(String::new, |topic| format!(" `{}`", safe(&topic.name)));
    match basis {
        Basis::Owner => format!("owner of{topic}"),
        Basis::Public => format!("open to every wallet on{topic}"),
        Basis::Grant => format!("granted or bought on{topic}"),
        Basis::Ungoverned => "no topic governs it".into(),
    }
}

fn refused(
    acts: &str,
    denial: &Denial,
    registry: &Registry,
    wallet: Address,
    right: Right,
) -> Answer {
    let topic = denial.topic_id().and_then(|id| registry.topic_by_id(id));
    let mut because = denial.to_string();
    if let Some(topic) = topic {
        // The price follows as advice, in the units of people.
        let price = [", price ", ", free to claim "].iter().find_map(|word| because.find(word));
        because.truncate(price.unwrap_or(because.len()));
        // People know topics by name.
        because =
            because.replace(&format!("topic {}", topic.id), &format!("`{}`", safe(&topic.name)));
    }
    let advice = topic.and_then(|topic| match denial {
        Denial::NoGrant { .. } | Denial::GrantEnded { .. } => {
            let offer = topic.offer(right);
            let name = safe(&topic.name);
            let word = crate::broker::right_text(right);
            Some(match offer.mode {
                OfferMode::Priced => {
                    let price = if offer.price_wei == 0 { "nothing".to_owned() } else { ether(U256::from(offer.price_wei)) };
                    format!(
                        "{} of access costs {price}{}: flytrap access buy {word} {name} --for {wallet}",
                        span(offer.period.into()),
                        if right == Right::Publish { " and the broker's publish fee" } else { "" }
                    )
                }
                _ => format!("the offer is {}: ask the owner {} for a grant", offer_text(offer), topic.owner),
            })
        }
        Denial::Country { .. } => Some(format!(
            "it may be used from {}; a gateway that does not know a client's country lets nobody in there",
            crate::countries::rule_text(&topic.countries)
        )),
        Denial::HiddenName { .. } => Some(
            "a topic with a hidden name lies below: only a gateway that was told the name can judge others there"
                .to_owned(),
        ),
        Denial::Blocked { .. } => Some(format!("only the owner {} can lift the block", topic.owner)),
        Denial::RetainNotAllowed { .. } => {
            Some("without the retain flag, or once the owner lets messages be retained there".to_owned())
        }
        Denial::OtherBranch { .. } => Some(format!(
            "below `{}/<address of the key, in lower case>/` it may",
            safe(&topic.name)
        )),
        _ => None,
    });
    let advice = advice.or_else(|| match denial {
        Denial::Banned { until } => {
            Some(format!("the ban ends {}, or when the broker's owner lifts it", utc(*until)))
        }
        Denial::Ungoverned => Some("register a topic there, or one above it".to_owned()),
        Denial::DeviceEnded => Some("only the wallet can let the key act for it again".to_owned()),
        _ => None,
    });
    let rule = denial.rule();
    Answer { allowed: false, because: format!("{acts}{because}"), advice, rule, until: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy::primitives::B256;
    use flytrap_policy::{Event, NamingPolicy, Offer, Stamp, Traits};

    const OWNER: Address = Address::with_last_byte(1);
    const READER: Address = Address::with_last_byte(2);

    fn state(events: &[Event]) -> State {
        let broker_id = U256::from(1);
        let created = Event::BrokerCreated {
            broker_id,
            owner: OWNER,
            policy: NamingPolicy::Open,
            name: "Test".into(),
        };
        let registered = Event::TopicRegistered {
            broker_id,
            topic_id: flytrap_policy::topic_id(broker_id, "farm"),
            owner: OWNER,
            epoch: 1,
            name: "farm".into(),
            traits: Traits::default(),
            publish_offer: Offer::default(),
            subscribe_offer: Offer {
                mode: OfferMode::Priced,
                period: 86_400,
                price_wei: 10_000_000_000_000_000,
            },
        };
        let mut registry = Registry::new(broker_id);
        for event in [created, registered].iter().chain(events) {
            registry.apply(event, Stamp { height: 1, time: 1 }).expect("a consistent history");
        }
        State { registry, height: 1, time: 1, at: None, entries: Vec::new() }
    }

    #[test]
    fn the_price_is_told_to_whom_it_is_refused() {
        let answer = explain(&state(&[]), READER, None, Right::Subscribe, "farm/north", false);
        assert!(!answer.allowed);
        assert_eq!(answer.rule, "no-grant");
        assert!(answer.because.contains("`farm`"), "{}", answer.because);
        let advice = answer.advice.expect("advice");
        assert!(
            advice.starts_with("1d of access costs 0.01 ether: flytrap access buy subscribe farm"),
            "{advice}"
        );
    }

    #[test]
    fn who_cannot_buy_is_sent_to_the_owner() {
        let answer = explain(&state(&[]), READER, None, Right::Publish, "farm/north", false);
        let advice = answer.advice.expect("advice");
        assert!(
            advice.contains("ask the owner 0x0000000000000000000000000000000000000001"),
            "{advice}"
        );
    }

    #[test]
    fn owners_and_grantees_hear_why_they_may() {
        assert_eq!(
            explain(&state(&[]), OWNER, None, Right::Publish, "farm/north", false).because,
            "owner of `farm`"
        );
        let until = flytrap_site::unix_now() + 1_000;
        let granted = Event::AccessGranted {
            broker_id: U256::from(1),
            topic_id: flytrap_policy::topic_id(U256::from(1), "farm"),
            wallet: READER,
            right: Right::Subscribe,
            epoch: 1,
            until,
            by: OWNER,
            fee_wei: U256::ZERO,
            purpose: B256::ZERO,
            note: String::new(),
        };
        let answer = explain(&state(&[granted]), READER, None, Right::Subscribe, "farm/#", false);
        assert_eq!((answer.allowed, answer.until), (true, Some(until)));
    }

    #[test]
    fn another_country_and_another_second_are_other_questions() {
        let broker_id = U256::from(1);
        let topic_id = flytrap_policy::topic_id(broker_id, "farm");
        let [gb, us] = [*b"GB", *b"US"].map(|code| Country::new(code).expect("a country"));
        let rule = Event::CountriesSet {
            broker_id,
            topic_id,
            mode: flytrap_policy::CountryMode::Only,
            codes: vec![gb],
        };
        let granted = Event::AccessGranted {
            broker_id,
            topic_id,
            wallet: READER,
            right: Right::Subscribe,
            epoch: 1,
            until: 5_000,
            by: OWNER,
            fee_wei: U256::ZERO,
            purpose: B256::ZERO,
            note: String::new(),
        };
        let mut state = state(&[rule, granted]);
        let mut ask = |from, second| {
            state.at = Some(second);
            explain(&state, READER, from, Right::Subscribe, "farm/north", false)
        };
        assert_eq!(ask(Some(gb), 4_999).rule, "allowed");
        assert_eq!(ask(Some(us), 4_999).rule, "country");
        let unknown = ask(None, 4_999);
        assert_eq!(unknown.rule, "country");
        assert!(unknown.advice.is_some_and(|advice| advice.contains("only GB")));
        assert_eq!(ask(Some(gb), 5_000).rule, "grant-ended", "half-open, as everywhere");
    }
}

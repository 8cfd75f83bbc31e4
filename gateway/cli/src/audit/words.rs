//! Events in sentences: who did what, on which ground.

use std::collections::HashMap;

use alloy::primitives::{Address, B256, U256};
use flytrap_policy::{AlertKind, CountryRule, Event, Right};

use crate::broker::{per_cent, policy_text, right_text, traits_text};
use crate::countries::rule_text;
use crate::tell::safe;
use crate::units::{ether, offer_text, span, utc};

/// Names for topics and, where the teller knows them, wallets.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) topics: HashMap<B256, String>,
    pub(crate) wallets: HashMap<Address, String>,
}

impl Names {
    pub(super) fn wallet(&self, wallet: Address) -> String {
        match self.wallets.get(&wallet) {
            Some(name) => format!("{} ({name})", short(wallet)),
            None => wallet.to_string(),
        }
    }

    pub(super) fn topic(&self, topic: B256) -> String {
        match self.topics.get(&topic) {
            Some(name) => format!("`{}`", safe(name)),
            None if topic.is_zero() => "a name that no topic governs".into(),
            None => format!("topic {topic}"),
        }
    }
}

/// An address whose owner is named beside it.
fn short(wallet: Address) -> String {
    let text = wallet.to_string();
    format!("{}…{}", &text[..6], &text[38..])
}

/// The topic that it is about.
pub(super) const fn topic_of(event: &Event) -> Option<B256> {
    match event {
        Event::TopicRegistered { topic_id, .. }
        | Event::HiddenTopicRegistered { topic_id, .. }
        | Event::TraitsSet { topic_id, .. }
        | Event::CountriesSet { topic_id, .. }
        | Event::OfferSet { topic_id, .. }
        | Event::ManagerSet { topic_id, .. }
        | Event::TopicOwnershipOffered { topic_id, .. }
        | Event::TopicOwnershipTransferred { topic_id, .. }
        | Event::TopicDeleted { topic_id, .. }
        | Event::AccessGranted { topic_id, .. }
        | Event::AccessBought { topic_id, .. }
        | Event::AccessRevoked { topic_id, .. }
        | Event::WalletBlocked { topic_id, .. }
        | Event::WalletUnblocked { topic_id, .. }
        | Event::AlertRaised { topic_id, .. } => Some(*topic_id),
        _ => None,
    }
}

/// Who did what.
pub(super) fn what(event: &Event, sender: Option<Address>, names: &Names) -> String {
    let who = |wallet: &Address| names.wallet(*wallet);
    let topic = |id: &B256| names.topic(*id);
    let by = sender.map_or_else(|| "someone".to_owned(), |sender| names.wallet(sender));
    let may = |right: &Right| right_text(*right);
    match event {
        Event::BrokerCreated { broker_id, owner, policy, name } => {
            format!(
                "{} created broker {broker_id}, \"{}\"; {}",
                who(owner),
                safe(name),
                policy_text(*policy)
            )
        }
        Event::BrokerOwnershipOffered { broker_id, owner, candidate } if candidate.is_zero() => {
            format!("{} withdrew the offer of broker {broker_id}", who(owner))
        }
        Event::BrokerOwnershipOffered { broker_id, owner, candidate } => {
            format!("{} offered broker {broker_id} to {}", who(owner), who(candidate))
        }
        Event::BrokerOwnershipTransferred { broker_id, previous_owner, new_owner } => {
            format!("broker {broker_id} went from {} to {}", who(previous_owner), who(new_owner))
        }
        Event::NamingPolicySet { policy, .. } => {
            format!("{by} set the naming policy; {}", policy_text(*policy))
        }
        Event::RegistrarSet { registrar, allowed: true, .. } => {
            format!("{by} made {} a registrar", who(registrar))
        }
        Event::RegistrarSet { registrar, .. } => {
            format!("{by} ended {} as registrar", who(registrar))
        }
        Event::GatewaySet { gateway, uri, .. } => {
            format!("{by} registered gateway {}, found at {}", who(gateway), safe(uri))
        }
        Event::GatewayRemoved { gateway, .. } => {
            format!("{by} switched off gateway {}", who(gateway))
        }
        Event::PublishFeeSet { wei_per_day, effective_from, .. } => {
            format!(
                "{by} set the publish fee to {} a day from {}",
                ether(U256::from(*wei_per_day)),
                utc(*effective_from)
            )
        }
        Event::SaleFeeSet { basis_points, effective_from, .. } => {
            format!(
                "{by} set the sale fee to {} from {}",
                per_cent(*basis_points),
                utc(*effective_from)
            )
        }
        Event::WalletBanned { wallet, by, until, .. } => {
            format!("{} banned wallet {} until {}", who(by), who(wallet), utc(*until))
        }
        Event::WalletUnbanned { wallet, by, .. } => {
            format!("{} lifted the ban of wallet {}", who(by), who(wallet))
        }
        Event::OriginBanned { origin, by, until, .. } => {
            format!(
                "{} banned the network origin with pseudonym {origin} until {}",
                who(by),
                utc(*until)
            )
        }
        Event::OriginUnbanned { origin, by, .. } => {
            format!("{} lifted the ban of the network origin with pseudonym {origin}", who(by))
        }
        Event::TopicRegistered {
            owner,
            epoch,
            name,
            traits,
            publish_offer,
            subscribe_offer,
            ..
        } => {
            let again = if *epoch > 1 { format!(" again (epoch {epoch})") } else { String::new() };
            format!(
                "{} registered topic `{}`{again}: publish {}, subscribe {}; {}",
                who(owner),
                safe(name),
                offer_text(publish_offer),
                offer_text(subscribe_offer),
                traits_text(*traits)
            )
        }
        Event::HiddenTopicRegistered {
            topic_id,
            owner,
            epoch,
            parent_id,
            traits,
            publish_offer,
            subscribe_offer,
            ..
        } => {
            let again = if *epoch > 1 { format!(" again (epoch {epoch})") } else { String::new() };
            format!(
                "{} registered hidden topic {topic_id} below {}{again}: publish {}, subscribe {}; {}",
                who(owner),
                topic(parent_id),
                offer_text(publish_offer),
                offer_text(subscribe_offer),
                traits_text(*traits)
            )
        }
        Event::CountriesSet { topic_id, mode, codes, .. } => {
            let rule = rule_text(&CountryRule::new(*mode, codes));
            format!("{by} let {} be used from: {rule}", topic(topic_id))
        }
        Event::TraitsSet { topic_id, traits, .. } => {
            format!("{by} changed {}: {}", topic(topic_id), traits_text(*traits))
        }
        Event::OfferSet { topic_id, right, offer, .. } => {
            format!(
                "{by} set the price to {} {}: {}",
                may(right),
                topic(topic_id),
                offer_text(offer)
            )
        }
        Event::ManagerSet { topic_id, manager, allowed, .. } => {
            let verb = if *allowed { "made" } else { "ended" };
            format!("{by} {verb} {} as manager of {}", who(manager), topic(topic_id))
        }
        Event::TopicOwnershipOffered { topic_id, candidate, owner, .. } => {
            format!("{} offered {} to {}", who(owner), topic(topic_id), who(candidate))
        }
        Event::TopicOwnershipTransferred { topic_id, new_owner, previous_owner, .. } => {
            format!("{} went from {} to {}", topic(topic_id), who(previous_owner), who(new_owner))
        }
        Event::TopicDeleted { topic_id, owner, .. } => {
            format!("{} deleted {}, with every grant and block", who(owner), topic(topic_id))
        }
        Event::AccessGranted { topic_id, wallet, right, until, by, fee_wei, .. } => {
            let fee = if fee_wei.is_zero() {
                String::new()
            } else {
                format!(", publish fee {}", ether(*fee_wei))
            };
            format!(
                "{} let {} {} {} until {}{fee}",
                who(by),
                who(wallet),
                may(right),
                topic(topic_id),
                utc(*until)
            )
        }
        Event::AccessBought {
            topic_id,
            wallet,
            right,
            until,
            payer,
            price_wei,
            sale_fee_wei,
            publish_fee_wei,
            ..
        } => {
            let whom =
                if payer == wallet { String::new() } else { format!(" for {}", who(wallet)) };
            format!(
                "{} bought the right to {} {}{whom} until {}: price {}, of which {} to the broker; publish fee {}",
                who(payer),
                may(right),
                topic(topic_id),
                utc(*until),
                ether(*price_wei),
                ether(*sale_fee_wei),
                ether(*publish_fee_wei)
            )
        }
        Event::AccessRevoked { topic_id, wallet, right, was, refund_wei, by, .. } => format!(
            "{} ended the right of {} to {} {}, which would have lasted until {}; {} went back",
            who(by),
            who(wallet),
            may(right),
            topic(topic_id),
            utc(*was),
            ether(*refund_wei)
        ),
        Event::WalletBlocked { topic_id, wallet, by, .. } => {
            format!("{} blocked {} on {}", who(by), who(wallet), topic(topic_id))
        }
        Event::WalletUnblocked { topic_id, wallet, by, .. } => {
            format!("{} unblocked {} on {}", who(by), who(wallet), topic(topic_id))
        }
        Event::Credited { payee, amount_wei } => {
            format!(
                "{} was not paid {} at once, which waits to be withdrawn",
                who(payee),
                ether(*amount_wei)
            )
        }
        Event::PayoutSet { payee, is_pull: true, .. } => {
            format!("{} is paid nothing at once any more, but withdraws", who(payee))
        }
        Event::PayoutSet { payee, to, .. } => {
            let to = if to.is_zero() { payee } else { to };
            format!("{} is paid at {}", who(payee), who(to))
        }
        Event::Withdrawn { payee, to, amount_wei } => {
            format!("{} withdrew {} to {}", who(payee), ether(*amount_wei), who(to))
        }
        Event::DeviceAuthorized { wallet, device, until, .. } => {
            format!(
                "{} lets device key {} act for it until {}",
                who(wallet),
                who(device),
                utc(*until)
            )
        }
        Event::DeviceRevoked { wallet, device } => {
            format!("{} ended device key {}", who(wallet), who(device))
        }
        Event::AllDevicesRevoked { wallet, .. } => {
            format!("{} ended all its device keys", who(wallet))
        }
        Event::TokensInvalidated { wallet, before } => {
            format!("{} ended every token it signed before {}", who(wallet), utc(*before))
        }
        Event::NonceUsed { wallet, nonce } => {
            format!("{by} handed in what {} signed as number {nonce}, or gave it up", who(wallet))
        }
        Event::AlertRaised {
            topic_id, wallet, gateway, kind, count, first_at, last_at, ..
        } => format!(
            "gateway {} reports: {} {}, {} on {} ({} within {})",
            who(gateway),
            who(wallet),
            alert_text(*kind),
            utc(*first_at),
            topic(topic_id),
            if *count == 1 { "once".to_owned() } else { format!("{count} times") },
            span(last_at.saturating_sub(*first_at).max(1)),
        ),
        Event::Anchored { gateway, sequence, root, count, .. } => {
            format!(
                "gateway {} anchored {count} records as number {sequence}, root {root}",
                who(gateway)
            )
        }
    }
}

const fn alert_text(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::PublishRefused => "was refused to publish",
        AlertKind::SubscribeRefused => "was refused to subscribe",
        AlertKind::WillRefused => "was refused a will",
        AlertKind::DeliveryWithheld => "was not delivered a message",
        AlertKind::SessionEnded => "had a session ended",
    }
}

/// On which ground.
pub(super) fn why(event: &Event) -> Option<String> {
    let (purpose, note) = match event {
        Event::AccessGranted { purpose, note, .. }
        | Event::AccessBought { purpose, note, .. }
        | Event::AccessRevoked { purpose, note, .. }
        | Event::WalletBlocked { purpose, note, .. } => (*purpose, note.as_str()),
        Event::WalletBanned { reason, evidence, .. }
        | Event::OriginBanned { reason, evidence, .. } => {
            let evidence =
                if evidence.is_zero() { String::new() } else { format!("evidence {evidence}") };
            return joined(&[&quoted(reason), &evidence]);
        }
        _ => return None,
    };
    joined(&[basis_text(purpose[0]), &safe(&code(purpose)), &quoted(note)])
}

/// Lawful basis and short code of the purpose, for events that have one.
pub(super) fn purpose(event: &Event) -> Option<(&'static str, String)> {
    match event {
        Event::AccessGranted { purpose, .. }
        | Event::AccessBought { purpose, .. }
        | Event::AccessRevoked { purpose, .. }
        | Event::WalletBlocked { purpose, .. } => Some((basis_text(purpose[0]), code(*purpose))),
        _ => None,
    }
}

fn joined(parts: &[&str]) -> Option<String> {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\"{}\"", safe(text)) }
}

/// The short code after the first octet of a purpose.
fn code(purpose: B256) -> String {
    let code: Vec<u8> = purpose[1..].iter().copied().take_while(|octet| *octet != 0).collect();
    String::from_utf8_lossy(&code).into_owned()
}

const fn basis_text(octet: u8) -> &'static str {
    match octet {
        0 => "",
        1 => "consent",
        2 => "contract",
        3 => "legal obligation",
        4 => "vital interests",
        5 => "public task",
        6 => "legitimate interests",
        _ => "a lawful basis that is not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Basis, Why};

    fn granted(note: &str, purpose: B256) -> Event {
        Event::AccessGranted {
            broker_id: U256::from(1),
            topic_id: B256::repeat_byte(1),
            wallet: Address::with_last_byte(2),
            right: Right::Publish,
            epoch: 1,
            until: 1_700_000_000,
            by: Address::with_last_byte(3),
            fee_wei: U256::ZERO,
            purpose,
            note: note.into(),
        }
    }

    #[test]
    fn a_grant_is_told_with_who_what_and_why() {
        let why_args = Why { basis: Basis::Contract, purpose: "care".into(), note: String::new() };
        let event = granted("ward 1", why_args.purpose());
        let mut names = Names::default();
        names.topics.insert(B256::repeat_byte(1), "ward/hr".into());
        names.wallets.insert(Address::with_last_byte(2), "reader".into());
        let told = what(&event, None, &names);
        assert!(
            told.contains("(reader) publish `ward/hr` until 2023-11-14 22:13:20 UTC"),
            "{told}"
        );
        assert!(told.starts_with("0x0000000000000000000000000000000000000003 let"), "{told}");
        assert_eq!(why(&event).as_deref(), Some("contract, care, \"ward 1\""));
    }

    #[test]
    fn an_event_without_a_ground_has_no_why() {
        assert_eq!(why(&granted("", B256::ZERO)), None);
    }

    #[test]
    fn what_strangers_wrote_cannot_steer_the_terminal() {
        let event = granted("\x1b[2Jgone", B256::ZERO);
        assert_eq!(why(&event).as_deref(), Some("\"\\u{1b}[2Jgone\""));
    }
}

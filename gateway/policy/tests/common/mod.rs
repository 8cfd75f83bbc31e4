//! A broker in the making: shorthand for events, and views of the state they lead to.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure")]

pub mod model;

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256, keccak256};
use flytrap_policy::{
    Concern, Country, CountryMode, Credential, CredentialKind, Event, Offer, OfferMode, Options,
    Principal, Registry, Right, Stamp, Traits, Ungoverned, View, Wildcards,
};

pub const BROKER: U256 = U256::from_limbs([1, 0, 0, 0]);
/// Time of the first block.
pub const GENESIS: u64 = 1_700_000_000;

/// A wallet by a number.
pub fn wallet(number: u8) -> Address {
    Address::repeat_byte(number)
}

pub fn topic_id(name: &str) -> B256 {
    let mut encoded = BROKER.to_be_bytes_vec();
    encoded.extend(U256::from(64).to_be_bytes_vec());
    encoded.extend(U256::from(name.len()).to_be_bytes_vec());
    encoded.extend(name.as_bytes());
    encoded.resize(encoded.len().next_multiple_of(32), 0);
    keccak256(encoded)
}

/// The id of a hidden topic, whose commitment is a number here.
pub fn hidden_id(parent_id: B256, number: u8) -> B256 {
    keccak256([BROKER.into(), parent_id, B256::repeat_byte(number)].concat())
}

pub fn country(code: &str) -> Country {
    Country::new(code.as_bytes().try_into().unwrap()).unwrap()
}

/// A principal by a token that does not end soon.
pub fn principal(wallet: Address, key: Address) -> Principal {
    let credential = Credential {
        kind: CredentialKind::Token,
        issued_at: GENESIS,
        expires_at: GENESIS + 1_000_000_000,
    };
    Principal { wallet, key, credential, country: None }
}

pub fn own(wallet: Address) -> Principal {
    principal(wallet, wallet)
}

/// The same, connecting from there.
pub fn from(code: &str, who: Principal) -> Principal {
    Principal { country: Some(country(code)), ..who }
}

pub const CLOSED: Offer = Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 };
pub const PUBLIC: Offer = Offer { mode: OfferMode::Public, period: 0, price_wei: 0 };
pub const PRICED: Offer = Offer { mode: OfferMode::Priced, period: 60, price_wei: 5 };

/// One broker, one block per event.
#[derive(Clone)]
pub struct Broker {
    pub registry: Registry,
    pub at: Stamp,
    pub options: Options,
}

impl Broker {
    pub fn new() -> Self {
        let at = Stamp { height: 1, time: GENESIS };
        let mut broker = Self { registry: Registry::new(BROKER), at, options: Options::default() };
        broker.apply(&created());
        broker
    }

    pub fn with(ungoverned: Ungoverned, wildcards: Wildcards) -> Self {
        Self { options: Options { ungoverned, wildcards, ..Options::default() }, ..Self::new() }
    }

    /// Applies an event in a block of its own, a second after the last.
    pub fn apply(&mut self, event: &Event) -> &mut Self {
        self.at = Stamp { height: self.at.height + 1, time: self.at.time + 1 };
        self.registry.apply(event, self.at).unwrap();
        self
    }

    pub fn now(&self) -> u64 {
        self.at.time
    }

    pub fn view(&self) -> View {
        self.view_settled_at(self)
    }

    /// A view whose settled state is that of an earlier broker.
    pub fn view_settled_at(&self, settled: &Self) -> View {
        let head = Arc::new(self.registry.clone());
        let settled = if std::ptr::eq(self, settled) {
            Arc::clone(&head)
        } else {
            Arc::new(settled.registry.clone())
        };
        View {
            settled,
            head,
            height: self.at.height,
            time: self.at.time,
            version: self.at.height,
            concern: Concern::EVERYONE,
            options: self.options,
        }
    }

    pub fn epoch(&self, name: &str) -> u64 {
        self.registry.topic(name).map_or(1, |topic| topic.epoch)
    }

    pub fn register(&mut self, name: &str, owner: Address) -> &mut Self {
        self.register_with(name, owner, Traits::default(), CLOSED, CLOSED)
    }

    pub fn register_with(
        &mut self,
        name: &str,
        owner: Address,
        traits: Traits,
        publish_offer: Offer,
        subscribe_offer: Offer,
    ) -> &mut Self {
        self.apply(&registered(name, owner, self.at.height, traits, publish_offer, subscribe_offer))
    }

    pub fn delete(&mut self, name: &str) -> &mut Self {
        self.delete_id(topic_id(name))
    }

    pub fn delete_id(&mut self, topic_id: B256) -> &mut Self {
        let topic = self.registry.topic_by_id(topic_id).unwrap();
        let (owner, epoch) = (topic.owner, topic.epoch);
        self.apply(&Event::TopicDeleted { broker_id: BROKER, topic_id, owner, epoch })
    }

    /// Registers a hidden topic; answers its id.
    pub fn hide(&mut self, parent_id: B256, number: u8, owner: Address) -> B256 {
        self.apply(&hidden(parent_id, number, owner, self.at.height, CLOSED, CLOSED));
        hidden_id(parent_id, number)
    }

    pub fn countries(&mut self, name: &str, mode: CountryMode, codes: &[&str]) -> &mut Self {
        self.apply(&countries(topic_id(name), mode, codes))
    }

    pub fn grant(&mut self, name: &str, to: Address, right: Right, until: u64) -> &mut Self {
        self.apply(&granted(name, to, right, self.epoch(name), until))
    }

    pub fn revoke(&mut self, name: &str, of: Address, right: Right) -> &mut Self {
        let was = self.registry.grant(topic_id(name), of, right).unwrap();
        self.apply(&revoked(name, of, right, self.epoch(name), was))
    }

    pub fn block(&mut self, name: &str, who: Address) -> &mut Self {
        self.apply(&blocked(name, who))
    }

    pub fn ban(&mut self, who: Address, until: u64) -> &mut Self {
        self.apply(&banned(who, until))
    }

    pub fn device(&mut self, of: Address, device: Address, until: u64) -> &mut Self {
        let generation = 0;
        self.apply(&Event::DeviceAuthorized { wallet: of, device, until, generation })
    }
}

pub fn created() -> Event {
    Event::BrokerCreated {
        broker_id: BROKER,
        owner: wallet(0xB0),
        policy: flytrap_policy::NamingPolicy::OwnBranch,
        name: "test".into(),
    }
}

pub fn registered(
    name: &str,
    owner: Address,
    epoch: u64,
    traits: Traits,
    publish_offer: Offer,
    subscribe_offer: Offer,
) -> Event {
    Event::TopicRegistered {
        broker_id: BROKER,
        topic_id: topic_id(name),
        owner,
        epoch,
        name: name.into(),
        traits,
        publish_offer,
        subscribe_offer,
    }
}

pub fn hidden(
    parent_id: B256,
    number: u8,
    owner: Address,
    epoch: u64,
    publish_offer: Offer,
    subscribe_offer: Offer,
) -> Event {
    Event::HiddenTopicRegistered {
        broker_id: BROKER,
        topic_id: hidden_id(parent_id, number),
        owner,
        epoch,
        parent_id,
        commitment: B256::repeat_byte(number),
        traits: Traits::default(),
        publish_offer,
        subscribe_offer,
    }
}

pub fn countries(topic_id: B256, mode: CountryMode, codes: &[&str]) -> Event {
    let codes = codes.iter().map(|code| country(code)).collect();
    Event::CountriesSet { broker_id: BROKER, topic_id, mode, codes }
}

pub fn granted(name: &str, wallet: Address, right: Right, epoch: u64, until: u64) -> Event {
    granted_id(topic_id(name), wallet, right, epoch, until)
}

pub fn granted_id(topic_id: B256, wallet: Address, right: Right, epoch: u64, until: u64) -> Event {
    Event::AccessGranted {
        broker_id: BROKER,
        topic_id,
        wallet,
        right,
        epoch,
        until,
        by: Address::ZERO,
        fee_wei: U256::ZERO,
        purpose: B256::ZERO,
        note: String::new(),
    }
}

pub fn revoked(name: &str, wallet: Address, right: Right, epoch: u64, was: u64) -> Event {
    Event::AccessRevoked {
        broker_id: BROKER,
        topic_id: topic_id(name),
        wallet,
        right,
        epoch,
        was,
        refund_wei: U256::ZERO,
        by: Address::ZERO,
        purpose: B256::ZERO,
        note: String::new(),
    }
}

pub fn blocked(name: &str, wallet: Address) -> Event {
    Event::WalletBlocked {
        broker_id: BROKER,
        topic_id: topic_id(name),
        wallet,
        by: Address::ZERO,
        purpose: B256::ZERO,
        note: String::new(),
    }
}

pub fn unblocked(name: &str, wallet: Address) -> Event {
    Event::WalletUnblocked {
        broker_id: BROKER,
        topic_id: topic_id(name),
        wallet,
        by: Address::ZERO,
    }
}

pub fn banned(wallet: Address, until: u64) -> Event {
    Event::WalletBanned {
        broker_id: BROKER,
        wallet,
        by: Address::ZERO,
        until,
        evidence: B256::ZERO,
        reason: String::new(),
    }
}

pub fn unbanned(wallet: Address) -> Event {
    Event::WalletUnbanned { broker_id: BROKER, wallet, by: Address::ZERO }
}

pub fn transferred(name: &str, previous_owner: Address, new_owner: Address) -> Event {
    Event::TopicOwnershipTransferred {
        broker_id: BROKER,
        topic_id: topic_id(name),
        new_owner,
        previous_owner,
    }
}

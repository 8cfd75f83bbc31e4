//! The registry against a naive model over random histories, with forks, and filters against all the names there are.

#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use common::model::Model;
use common::*;
use flytrap_mqtt::topic::matches;
use flytrap_policy::{
    Action, Concern, CountryMode, Denial, Event, NameEntry, Names, NamingPolicy, Offer, OfferMode,
    Options, Principal, Reach, Registry, Right, Stamp, Traits, Ungoverned, View, Wildcards,
};
use proptest::prelude::*;

const NAMES: [&str; 6] = ["a", "a/b", "a/b/c", "a/a", "b", "b/a/b"];
const CODES: [&[&str]; 3] = [&["GB"], &["GB", "US"], &["FR"]];
const WALLETS: u8 = 4;
/// Keys that are device keys now and then.
const DEVICES: [u8; 2] = [0x0D, 0x0E];

/// What someone tries. Whether the contracts would take it is for [`event_of`] to say.
#[derive(Debug, Clone)]
enum Step {
    Register {
        name: usize,
        owner: u8,
        traits: u8,
        offers: (u8, u8),
    },
    Delete {
        name: usize,
    },
    Traits {
        name: usize,
        traits: u8,
    },
    Offer {
        name: usize,
        right: bool,
        mode: u8,
    },
    Countries {
        name: usize,
        mode: u8,
        codes: usize,
    },
    /// A hidden topic below a visible one, or below one of the hidden ones there are.
    Hide {
        below: usize,
        number: u8,
        owner: u8,
    },
    /// One of the hidden topics there are is deleted.
    Reveal {
        hidden: usize,
    },
    Transfer {
        name: usize,
        to: u8,
    },
    Grant {
        name: usize,
        to: u8,
        right: bool,
        seconds: u64,
    },
    Revoke {
        name: usize,
        of: u8,
        right: bool,
    },
    Block {
        name: usize,
        who: u8,
        is_block: bool,
    },
    Ban {
        who: u8,
        seconds: u64,
    },
    Device {
        of: u8,
        key: usize,
        seconds: u64,
    },
    RevokeDevice {
        key: usize,
    },
    RevokeAll {
        of: u8,
    },
    Invalidate {
        of: u8,
        before: u64,
    },
    /// A gateway anchors its records.
    Anchor {
        by: u8,
        root: u8,
    },
    Wait {
        seconds: u64,
    },
    /// The chain forks: this many blocks are orphaned.
    Orphan {
        blocks: usize,
    },
}

fn some_step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    let who = || 1..=WALLETS;
    let soon = || 1..40_u64;
    let offers = || (0..3_u8, 0..3_u8);
    prop_oneof![
        4 => (name(), who(), 0..8_u8, offers())
            .prop_map(|(name, owner, traits, offers)| Step::Register { name, owner, traits, offers }),
        2 => name().prop_map(|name| Step::Delete { name }),
        1 => (name(), 0..8_u8).prop_map(|(name, traits)| Step::Traits { name, traits }),
        1 => (name(), any::<bool>(), 0..3_u8).prop_map(|(name, right, mode)| Step::Offer { name, right, mode }),
        1 => (name(), 0..3_u8, 0..CODES.len())
            .prop_map(|(name, mode, codes)| Step::Countries { name, mode, codes }),
        4 => (0..NAMES.len() + 2, 1..4_u8, who())
            .prop_map(|(below, number, owner)| Step::Hide { below, number, owner }),
        2 => (0..4_usize).prop_map(|hidden| Step::Reveal { hidden }),
        1 => (name(), who()).prop_map(|(name, to)| Step::Transfer { name, to }),
        6 => (name(), who(), any::<bool>(), soon())
            .prop_map(|(name, to, right, seconds)| Step::Grant { name, to, right, seconds }),
        2 => (name(), who(), any::<bool>()).prop_map(|(name, of, right)| Step::Revoke { name, of, right }),
        2 => (name(), who(), any::<bool>()).prop_map(|(name, who, is_block)| Step::Block { name, who, is_block }),
        1 => (prop_oneof![who(), Just(DEVICES[0])], 0..30_u64).prop_map(|(who, seconds)| Step::Ban { who, seconds }),
        2 => (who(), 0..2_usize, soon()).prop_map(|(of, key, seconds)| Step::Device { of, key, seconds }),
        1 => (0..2_usize).prop_map(|key| Step::RevokeDevice { key }),
        1 => who().prop_map(|of| Step::RevokeAll { of }),
        1 => (who(), 0..20_u64).prop_map(|(of, before)| Step::Invalidate { of, before }),
        1 => (who(), any::<u8>()).prop_map(|(by, root)| Step::Anchor { by, root }),
        2 => soon().prop_map(|seconds| Step::Wait { seconds }),
        2 => (1..6_usize).prop_map(|blocks| Step::Orphan { blocks }),
    ]
}

fn traits(bits: u8) -> Traits {
    // Own branches make most names unusable, so they are rarer.
    Traits { retain: bits & 1 != 0, sensitive: false, own_branch: bits & 6 == 6 }
}

fn offer(mode: u8) -> Offer {
    let mode = [OfferMode::Closed, OfferMode::Priced, OfferMode::Public][usize::from(mode)];
    Offer { mode, ..CLOSED }
}

fn right(is_publish: bool) -> Right {
    if is_publish { Right::Publish } else { Right::Subscribe }
}

fn anchored(gateway: Address, sequence: u64, root: u8) -> Event {
    Event::Anchored {
        broker_id: BROKER,
        gateway,
        sequence,
        root: B256::repeat_byte(root),
        previous: B256::ZERO,
        count: 1,
    }
}

/// The event of a step, if the contracts let it happen, by what the model knows.
fn event_of(step: &Step, model: &Model, at: Stamp) -> Option<Event> {
    let topic = |name: usize| model.topic(NAMES[name]);
    let (broker_id, evidence, purpose) = (BROKER, B256::ZERO, B256::ZERO);
    Some(match *step {
        Step::Register { name, owner, traits: bits, offers } => {
            if topic(name).is_some() {
                return None;
            }
            registered(
                NAMES[name],
                wallet(owner),
                at.height,
                traits(bits),
                offer(offers.0),
                offer(offers.1),
            )
        }
        Step::Delete { name } => {
            let topic = topic(name)?;
            Event::TopicDeleted {
                broker_id,
                topic_id: topic_id(NAMES[name]),
                owner: topic.owner,
                epoch: topic.epoch,
            }
        }
        Step::Traits { name, traits: bits } => {
            topic(name)?;
            Event::TraitsSet { broker_id, topic_id: topic_id(NAMES[name]), traits: traits(bits) }
        }
        Step::Offer { name, right: is_publish, mode } => {
            topic(name)?;
            let (right, offer) = (right(is_publish), offer(mode));
            Event::OfferSet { broker_id, topic_id: topic_id(NAMES[name]), right, offer }
        }
        Step::Countries { name, mode: mode_number, codes } => {
            topic(name)?;
            let mode = [CountryMode::Any, CountryMode::Only, CountryMode::Except];
            let mode = mode[usize::from(mode_number)];
            let codes = if mode == CountryMode::Any { &[] } else { CODES[codes] };
            countries(topic_id(NAMES[name]), mode, codes)
        }
        Step::Hide { below, number, owner } => {
            let there = model.hidden();
            let parent_id = match NAMES.get(below) {
                Some(name) => model.topic(name).map(|_| topic_id(name))?,
                None => there.get(below - NAMES.len())?.id,
            };
            if there.iter().any(|hidden| hidden.id == hidden_id(parent_id, number)) {
                return None;
            }
            hidden(parent_id, number, wallet(owner), at.height, offer(number - 1), CLOSED)
        }
        Step::Reveal { hidden } => {
            let hidden = model.hidden().get(hidden)?.clone();
            Event::TopicDeleted {
                broker_id,
                topic_id: hidden.id,
                owner: hidden.owner,
                epoch: hidden.epoch,
            }
        }
        Step::Transfer { name, to } => transferred(NAMES[name], topic(name)?.owner, wallet(to)),
        Step::Grant { name, to, right: is_publish, seconds } => {
            let topic = topic(name)?;
            let until = at.time + seconds;
            if is_publish && seconds % 2 == 0 {
                return Some(Event::AccessBought {
                    broker_id,
                    topic_id: topic_id(NAMES[name]),
                    wallet: wallet(to),
                    right: Right::Publish,
                    epoch: topic.epoch,
                    until,
                    payer: Address::ZERO,
                    price_wei: U256::ZERO,
                    sale_fee_wei: U256::ZERO,
                    publish_fee_wei: U256::ZERO,
                    purpose,
                    note: String::new(),
                });
            }
            granted(NAMES[name], wallet(to), right(is_publish), topic.epoch, until)
        }
        Step::Revoke { name, of, right: is_publish } => {
            let topic = topic(name)?;
            let was =
                model.grant(&topic, wallet(of), right(is_publish)).filter(|&was| at.time < was)?;
            revoked(NAMES[name], wallet(of), right(is_publish), topic.epoch, was)
        }
        Step::Block { name, who, is_block } => {
            topic(name)?;
            if is_block {
                blocked(NAMES[name], wallet(who))
            } else {
                unblocked(NAMES[name], wallet(who))
            }
        }
        Step::Ban { who, seconds: 0 } => unbanned(wallet(who)),
        Step::Ban { who, seconds } => Event::WalletBanned {
            broker_id,
            wallet: wallet(who),
            by: Address::ZERO,
            until: at.time + seconds,
            evidence,
            reason: String::new(),
        },
        Step::Device { of, key, seconds } => {
            let device = wallet(DEVICES[key]);
            let is_taken =
                model.device(device).is_some_and(|(by, until)| by != wallet(of) && at.time < until);
            if is_taken {
                return None;
            }
            let generation = model.generation(wallet(of));
            Event::DeviceAuthorized {
                wallet: wallet(of),
                device,
                until: at.time + seconds,
                generation,
            }
        }
        Step::RevokeDevice { key } => {
            let device = wallet(DEVICES[key]);
            let (wallet, _) = model.device(device).filter(|&(_, until)| at.time < until)?;
            Event::DeviceRevoked { wallet, device }
        }
        Step::RevokeAll { of } => {
            let wallet = wallet(of);
            Event::AllDevicesRevoked { wallet, generation: model.generation(wallet) + 1 }
        }
        Step::Invalidate { of, before } => {
            let (wallet, before) = (wallet(of), at.time.saturating_sub(before));
            if before <= model.tokens_valid_from(wallet) {
                return None;
            }
            Event::TokensInvalidated { wallet, before }
        }
        Step::Anchor { by, root } => anchored(wallet(by), at.height, root),
        Step::Wait { .. } | Step::Orphan { .. } => return None,
    })
}

/// One chain of blocks, followed: the state after each block, as a follower keeps them.
struct Chain {
    states: Vec<(Registry, usize)>,
    model: Model,
    at: Stamp,
}

impl Chain {
    fn new() -> Self {
        let at = Stamp { height: 1, time: GENESIS };
        let mut registry = Registry::new(BROKER);
        registry.apply(&created(), at).unwrap();
        let model = Model { facts: vec![(created(), at)] };
        Self { states: vec![(registry, 1)], model, at }
    }

    fn head(&self) -> &Registry {
        &self.states.last().unwrap().0
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Orphan { blocks } => {
                let left = self.states.len().saturating_sub(blocks).max(1);
                self.states.truncate(left);
                let facts = self.states[left - 1].1;
                self.model.facts.truncate(facts);
                self.at.height += 1;
            }
            Step::Wait { seconds } => self.at.time += seconds,
            _ => {
                self.at = Stamp { height: self.at.height + 1, time: self.at.time + 1 };
                let Some(event) = event_of(step, &self.model, self.at) else { return };
                let mut state = self.head().clone();
                state.apply(&event, self.at).unwrap();
                self.model.facts.push((event, self.at));
                self.states.push((state, self.model.facts.len()));
            }
        }
    }

    /// The view of a follower that is `confirmations` states behind, and what the model knew then.
    fn view(&self, confirmations: usize, options: Options) -> (View, Model) {
        let (settled, facts) = &self.states[self.states.len().saturating_sub(confirmations + 1)];
        let mut then = self.model.clone();
        then.facts.truncate(*facts);
        let head = Arc::new(self.head().clone());
        let settled =
            if confirmations == 0 { Arc::clone(&head) } else { Arc::new(settled.clone()) };
        let at = self.at;
        (
            View {
                settled,
                head,
                height: at.height,
                time: at.time,
                version: at.height,
                concern: Concern::EVERYONE,
                options,
            },
            then,
        )
    }

    fn followed(steps: &[Step]) -> Self {
        let mut chain = Self::new();
        for step in steps {
            chain.take(step);
        }
        chain
    }
}

fn principals() -> Vec<Principal> {
    let wallets = (1..=WALLETS).map(|number| somewhere(number, own(wallet(number))));
    let keys = DEVICES.map(wallet);
    let devices =
        keys.iter().flat_map(|key| (1..=WALLETS).map(|number| principal(wallet(number), *key)));
    let devices = devices.map(|who| somewhere(who.wallet.0[0], who));
    wallets.chain(devices).chain(keys.map(own)).collect()
}

/// From where a wallet is used: each from another country, and one from nobody knows where.
fn somewhere(number: u8, who: Principal) -> Principal {
    match ["GB", "US", "FR"].get(usize::from(number) - 1) {
        Some(code) => from(code, who),
        None => who,
    }
}

fn names_to_ask() -> Vec<String> {
    let asked = [
        "a", "a/b", "a/b/c", "a/b/c/x", "a/bb", "a/a/b", "b", "b/a", "b/a/b", "c", "a/", "a//b",
        "/a", "$a", "A",
    ];
    let own = ["a", "a/b", "b"].map(|name| format!("{name}/{:#x}/x", wallet(1)));
    asked
        .map(str::to_owned)
        .into_iter()
        .chain(own)
        .chain([format!("a/{:#x}", wallet(DEVICES[0]))])
        .collect()
}

const ACTIONS: [Action; 3] =
    [Action::Publish { retain: false }, Action::Publish { retain: true }, Action::Deliver];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Each decision at the head and behind it, at several moments, equals that of the model.
    #[test]
    fn decisions_are_those_of_the_model_over_any_history(
        steps in prop::collection::vec(some_step(), 1..60),
        confirmations in 0..4_usize,
        allow in any::<bool>(),
    ) {
        let ungoverned = if allow { Ungoverned::Allow } else { Ungoverned::Deny };
        let chain = Chain::followed(&steps);
        let (view, then) = chain.view(confirmations, Options { ungoverned, ..Options::default() });
        let mut allowed = 0;
        for now in [chain.at.time, chain.at.time + 7, chain.at.time + 25] {
            for who in principals() {
                for name in names_to_ask() {
                    for action in ACTIONS {
                        let wanted = [&chain.model, &then]
                            .iter()
                            .all(|model| model.allows(&who, action, &name, now, ungoverned));
                        let answer = view.authorize(&who, action, &name, now);
                        prop_assert_eq!(answer.is_ok(), wanted, "{:?} {:?} {} {}: {:?}", who, action, name, now, answer);
                        if let Ok(permit) = answer {
                            allowed += 1;
                            // It holds to its end, unless nothing changes before that.
                            prop_assert!(now < permit.until());
                            let last = permit.until().min(now + 1_000) - 1;
                            let again = view.authorize(&who, action, &name, last);
                            prop_assert!(again.is_ok());
                            if permit.until() < now + 1_000 {
                                prop_assert!(view.authorize(&who, action, &name, permit.until()).is_err());
                            }
                        }
                    }
                }
            }
        }
        prop_assume!(allowed > 0 || steps.len() < 20);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A followed state, forks and all, is that of a fresh replay; each kept snapshot is still what it was.
    #[test]
    fn the_digest_after_any_forks_is_that_of_a_fresh_replay(
        steps in prop::collection::vec(some_step(), 1..120),
    ) {
        let chain = Chain::followed(&steps);
        for (state, facts) in &chain.states {
            let mut replayed = Registry::new(BROKER);
            for (event, at) in &chain.model.facts[..*facts] {
                replayed.apply(event, *at).unwrap();
            }
            prop_assert_eq!(state.digest(), replayed.digest());
        }
        // Every state differs from the one before unless the event said nothing new.
        let last = chain.states.last().unwrap();
        let mut other = last.0.clone();
        other.apply(&banned(wallet(0x77), chain.at.time + 1), chain.at).unwrap();
        prop_assert_ne!(other.digest(), last.0.digest());
    }

    /// A state that was stored and read again is the same, decides the same, and goes on the same.
    #[test]
    fn a_state_that_was_stored_goes_on_as_the_one_it_was(
        steps in prop::collection::vec(some_step(), 1..120),
        part in 0.0..1.0_f64,
    ) {
        let chain = Chain::followed(&steps);
        let facts = &chain.model.facts;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let until = 1 + ((facts.len() - 1) as f64 * part) as usize;
        let mut whole = Registry::new(BROKER);
        for (event, at) in &facts[..until] {
            whole.apply(event, *at).unwrap();
        }
        let mut octets = Vec::new();
        whole.store(&mut octets).unwrap();
        let mut restored = Registry::restore(&mut octets.as_slice()).unwrap();
        prop_assert_eq!(whole.digest(), restored.digest());
        for (event, at) in &facts[until..] {
            whole.apply(event, *at).unwrap();
            restored.apply(event, *at).unwrap();
        }
        prop_assert_eq!(whole.digest(), restored.digest());
        let view = |registry: Registry| {
            let head = Arc::new(registry);
            let settled = Arc::clone(&head);
            View { settled, head, height: 1, time: 1, version: 1, concern: Concern::EVERYONE, options: Options::default() }
        };
        let (whole, restored) = (view(whole), view(restored));
        for now in [chain.at.time, chain.at.time + 7] {
            for who in principals() {
                for name in names_to_ask() {
                    for action in ACTIONS {
                        prop_assert_eq!(
                            whole.authorize(&who, action, &name, now),
                            restored.authorize(&who, action, &name, now),
                            "{:?} {:?} {}", who, action, name
                        );
                    }
                }
            }
        }
    }

    /// Whatever a file holds, reading it ends, with a state or an error.
    #[test]
    fn octets_that_were_not_stored_are_refused_or_read_and_nothing_else(
        steps in prop::collection::vec(some_step(), 1..60),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let chain = Chain::followed(&steps);
        let mut octets = Vec::new();
        chain.head().store(&mut octets).unwrap();
        let torn = &octets[..cut.index(octets.len())];
        prop_assert!(Registry::restore(&mut &*torn).is_err(), "cut to {}", torn.len());
        for (at, octet) in flips {
            let at = at.index(octets.len());
            octets[at] = octet;
        }
        drop(Registry::restore(&mut octets.as_slice()));
    }

    /// What cannot follow is refused and changes nothing.
    #[test]
    fn events_that_cannot_follow_are_refused_and_leave_the_state_as_it_was(
        steps in prop::collection::vec(some_step(), 1..60),
    ) {
        let chain = Chain::followed(&steps);
        let mut state = chain.head().clone();
        let before = state.digest();
        let mut refused = 0;
        let mut refuse = |event: Event| {
            let is_refused = state.apply(&event, chain.at).is_err();
            refused += 1;
            is_refused && state.digest() == before
        };
        prop_assert!(refuse(created()));
        let of_another = Event::NamingPolicySet { broker_id: U256::from(9), policy: NamingPolicy::Open };
        prop_assert!(refuse(of_another));
        for name in NAMES {
            let Some(topic) = chain.model.topic(name) else {
                prop_assert!(refuse(granted(name, wallet(1), Right::Publish, 0, 1)));
                prop_assert!(refuse(blocked(name, wallet(1))));
                prop_assert!(refuse(transferred(name, wallet(1), wallet(2))));
                continue;
            };
            prop_assert!(refuse(registered(name, wallet(1), topic.epoch + 1, Traits::default(), CLOSED, CLOSED)));
            prop_assert!(refuse(granted(name, wallet(1), Right::Publish, topic.epoch + 1, 1)));
            prop_assert!(refuse(revoked(name, wallet(1), Right::Publish, topic.epoch, 3)));
            prop_assert!(refuse(transferred(name, wallet(0x66), wallet(2))));
        }
        for hidden_topic in chain.model.hidden() {
            prop_assert!(refuse(granted_id(hidden_topic.id, wallet(1), Right::Publish, hidden_topic.epoch + 1, 1)));
        }
        prop_assert!(refuse(hidden(B256::ZERO, 1, wallet(1), 1, CLOSED, CLOSED)));
        prop_assert!(refuse(countries(topic_id("c"), CountryMode::Only, &["GB"])));
        let mut wrong_id = registered("c", wallet(1), 1, Traits::default(), CLOSED, CLOSED);
        if let Event::TopicRegistered { topic_id, .. } = &mut wrong_id {
            topic_id.0[31] ^= 1;
        }
        prop_assert!(refuse(wrong_id));
        let not_theirs = Event::DeviceRevoked { wallet: wallet(0x66), device: wallet(DEVICES[0]) };
        prop_assert!(refuse(not_theirs));
        let not_later = Event::TokensInvalidated { wallet: wallet(1), before: 0 };
        prop_assert!(refuse(not_later));
        prop_assert!(refused > 8);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// No decision changes that an event does not concern, whatever came before it.
    #[test]
    fn an_event_changes_decisions_of_those_it_concerns_and_of_nobody_else(
        steps in prop::collection::vec(some_step(), 1..40),
        filters in prop::collection::vec(some_filter(), 4),
    ) {
        // Most grants are taken back at once, or nearly none would be while it holds.
        let steps = steps.into_iter().flat_map(|step| {
            let taken_back = match step {
                Step::Grant { name, to, right, seconds } if seconds % 4 != 0 => {
                    Some(Step::Revoke { name, of: to, right })
                }
                _ => None,
            };
            [Some(step), taken_back].into_iter().flatten()
        });
        let mut chain = Chain::new();
        for step in steps {
            let before = chain.view(0, Options::default()).0;
            let told = chain.model.facts.len();
            chain.take(&step);
            let after = chain.view(0, Options::default()).0;
            let Some((event, _)) = chain.model.facts.get(told) else { continue };
            let mut concern = Concern::NOBODY;
            concern.add(event);
            let now = chain.at.time;
            for who in principals() {
                let decided = |view: &View| {
                    let names = names_to_ask();
                    let asked = names.iter().flat_map(|name| ACTIONS.map(|action| (action, name)));
                    let packets = asked.map(|(action, name)| {
                        let permit = view.authorize(&who, action, name, now).ok()?;
                        let traits = (permit.is_sensitive(), permit.basis());
                        Some((permit.until(), permit.topic_id(), Some(traits), None))
                    });
                    let filters = filters.iter().map(|filter| {
                        let permit = view.authorize_filter(&who, filter, now).ok()?;
                        Some((permit.until(), permit.topic_id(), None, Some(permit.reach())))
                    });
                    let standing = view.standing(&who, now).ok();
                    let standing = standing.map(|until| (until, None, None, None));
                    packets.chain(filters).chain([standing]).collect::<Vec<_>>()
                };
                // What was refused is held by nobody, and asked for again.
                let mut both = decided(&before).into_iter().zip(decided(&after));
                let is_same = both.all(|(before, after)| before == after || before.is_none());
                prop_assert!(is_same || concern.includes(&who), "{event:?} and {who:?}");
            }
        }
    }
}
/// The history in which some hidden topics were registered under names that everybody reads.
fn as_if_named(model: &Model, told: &BTreeMap<B256, (u64, String)>) -> Model {
    let mut facts = model.facts.clone();
    for (event, _) in &mut facts {
        match event {
            Event::HiddenTopicRegistered {
                topic_id,
                owner,
                epoch,
                traits,
                publish_offer,
                subscribe_offer,
                ..
            } if told.get(topic_id).is_some_and(|(of, _)| of == epoch) => {
                let (_, name) = &told[topic_id];
                // Under its own id, so that what was hidden below it finds it.
                *event = Event::TopicRegistered {
                    broker_id: BROKER,
                    topic_id: *topic_id,
                    owner: *owner,
                    epoch: *epoch,
                    name: name.clone(),
                    traits: *traits,
                    publish_offer: *publish_offer,
                    subscribe_offer: *subscribe_offer,
                };
            }
            Event::TopicDeleted { topic_id: id, epoch, .. }
                if told.get(id).is_some_and(|(of, _)| of == epoch) =>
            {
                *id = topic_id(&told[id].1);
            }
            _ => (),
        }
    }
    Model { facts }
}

/// Some of the hidden topics there are, each with a name below that of the topic above it that nobody else has.
fn some_told(chain: &Chain, then: &Model, which: u16) -> BTreeMap<B256, (u64, String)> {
    let mut told: BTreeMap<B256, (u64, String)> = BTreeMap::new();
    let hidden = chain.model.hidden();
    for (at, topic) in hidden.iter().enumerate() {
        let parent = chain.head().topic_by_id(topic.id).unwrap().hidden.clone().unwrap();
        let above = match parent.is_nested(BROKER) {
            false => topic.below.clone(),
            true => match told.get(&parent.parent_id) {
                Some((_, name)) => name.clone(),
                None => continue,
            },
        };
        let name = format!("{above}/{}", if at % 2 == 0 { "b" } else { "h" });
        let is_taken = told.values().any(|(_, other)| *other == name)
            || [&chain.model, then].iter().any(|model| model.topic(&name).is_some());
        if which >> (at % 16) & 1 == 1 && !is_taken {
            told.insert(topic.id, (topic.epoch, name));
        }
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// A hidden topic whose name is known decides as one that was registered under it; where one that is not known lies below a hidden
    /// one, less may be allowed and nothing more.
    #[test]
    fn hidden_topics_that_are_told_of_decide_as_if_their_names_were_on_chain(
        steps in prop::collection::vec(some_step(), 1..60),
        confirmations in 0..3_usize,
        allow in any::<bool>(),
        which in any::<u16>(),
    ) {
        let ungoverned = if allow { Ungoverned::Allow } else { Ungoverned::Deny };
        let chain = Chain::followed(&steps);
        let (view, then) = chain.view(confirmations, Options { ungoverned, ..Options::default() });
        let told = some_told(&chain, &then, which);
        let names: Names = told
            .iter()
            .map(|(id, (epoch, name))| {
                (*id, NameEntry { epoch: *epoch, at: 1, name: Some(name.as_str().into()) })
            })
            .collect();
        let digests = (view.head.digest(), view.settled.digest());
        let view = view.with_names(&names);
        prop_assert_eq!(digests, (view.head.digest(), view.settled.digest()));
        let models = [&chain.model, &then].map(|model| as_if_named(model, &told));
        let strays = |state: &Registry| {
            state.hidden_topics().any(|topic| {
                topic.hidden.as_ref().unwrap().is_nested(BROKER) && !told.contains_key(&topic.id)
            })
        };
        let is_exact = !strays(&view.head) && !strays(&view.settled);
        let mut asked = names_to_ask();
        for (_, name) in told.values() {
            asked.extend([name.clone(), format!("{name}/x"), format!("{name}x"), format!("{name}/b/c")]);
        }
        let now = chain.at.time;
        for who in principals() {
            for name in &asked {
                for action in ACTIONS {
                    let wanted = models.iter().all(|model| model.allows(&who, action, name, now, ungoverned));
                    let answer = view.authorize(&who, action, name, now);
                    prop_assert!(answer.is_err() || wanted, "{:?} {:?} {} {:?}", who, action, name, told);
                    prop_assert!(!is_exact || !wanted || answer.is_ok(), "{:?} {:?} {} {:?} {:?}", who, action, name, told, answer);
                }
            }
        }
    }
}

/// Every name of up to four levels over what the topics are made of.
fn all_names() -> Vec<String> {
    let levels = ["a".to_owned(), "b".to_owned(), "c".to_owned(), format!("{:#x}", wallet(1))];
    let mut names: Vec<String> = levels.to_vec();
    let mut last = names.clone();
    for _ in 0..3 {
        last = last
            .iter()
            .flat_map(|name| levels.iter().map(move |level| format!("{name}/{level}")))
            .collect();
        names.extend(last.iter().cloned());
    }
    names
}

fn some_filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        2 => Just("a".to_owned()),
        2 => Just("b".to_owned()),
        1 => Just(format!("{:#x}", wallet(1))),
        2 => Just("+".to_owned()),
    ];
    (prop::collection::vec(level, 0..4), any::<bool>(), 0..4_u8).prop_map(
        |(mut levels, has_hash, share)| {
            if has_hash || levels.is_empty() {
                levels.push("#".to_owned());
            }
            let prefix = if share == 0 { "$share/g/" } else { "" };
            format!("{prefix}{}", levels.join("/"))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A covered filter matches nothing that may not be read, and a refused one under `narrow` nothing that may.
    #[test]
    fn filters_are_judged_as_all_the_names_they_match(
        steps in prop::collection::vec(some_step(), 1..40),
        filters in prop::collection::vec(some_filter(), 30),
        confirmations in 0..3_usize,
        allow in any::<bool>(),
    ) {
        let chain = Chain::followed(&steps);
        let ungoverned = if allow { Ungoverned::Allow } else { Ungoverned::Deny };
        let names = all_names();
        let now = chain.at.time;
        for (filter, number) in filters.iter().zip((1..=WALLETS).cycle()) {
            let who = somewhere(number, own(wallet(number)));
            let inner = filter.strip_prefix("$share/g/").unwrap_or(filter);
            let matched: Vec<&String> = names.iter().filter(|name| matches(inner, name)).collect();
            let judge = |wildcards| {
                let options = Options { ungoverned, wildcards, ..Options::default() };
                let (view, _) = chain.view(confirmations, options);
                let may_read = |name: &&&String, now| view.authorize(&who, Action::Deliver, name, now).is_ok();
                let readable = matched.iter().filter(|name| may_read(name, now)).count();
                let answer = view.authorize_filter(&who, filter, now);
                let last = answer.as_ref().map_or(now, |permit| permit.until().min(now + 1_000) - 1);
                let readable_at_end = matched.iter().filter(|name| may_read(name, last)).count();
                (answer.map(|permit| permit.reach()), readable, readable_at_end)
            };
            let (covered, readable, readable_at_end) = judge(Wildcards::Covered);
            if let Ok(reach) = &covered {
                prop_assert_ne!(*reach, Reach::Narrowed);
                prop_assert_eq!(readable, matched.len(), "{} by {}", filter, who.wallet);
                prop_assert_eq!(readable_at_end, matched.len(), "{} by {}", filter, who.wallet);
            }
            let (narrowed, readable, _) = judge(Wildcards::Narrow);
            match (&covered, &narrowed) {
                (Ok(covered), Ok(narrowed)) => prop_assert_eq!(covered, narrowed),
                (Ok(_), Err(denial)) => prop_assert!(false, "covered, but narrow says {}", denial),
                // A shared filter is never narrowed: what one member may not read would be lost to all.
                (Err(_), narrowed) if filter.starts_with("$share/") => prop_assert!(narrowed.is_err()),
                // Each of the two states may allow something else, so nothing may be left to read of both.
                (Err(_), Ok(reach)) => prop_assert_eq!(*reach, Reach::Narrowed),
                (Err(_), Err(_)) => prop_assert_eq!(readable, 0, "{} by {}", filter, who.wallet),
            }
        }
    }
}

/// The memory of grants of deleted topics comes back.
#[test]
fn grants_of_deleted_topics_are_swept_out() {
    let mut broker = Broker::new();
    broker.register("kept", wallet(1)).register("gone", wallet(1));
    for number in 0..5_000_u32 {
        let mut to = Address::ZERO;
        to.0[..4].copy_from_slice(&number.to_be_bytes());
        broker.grant("kept", to, Right::Publish, u64::MAX);
        broker.grant("gone", to, Right::Publish, u64::MAX);
    }
    let manage = |name: &str| Event::ManagerSet {
        broker_id: BROKER,
        topic_id: topic_id(name),
        manager: wallet(7),
        allowed: true,
    };
    for name in ["kept", "gone"] {
        broker.block(name, wallet(8)).apply(&manage(name));
    }
    assert_eq!(broker.registry.grant_count(), 10_000);
    let before = broker.clone();
    broker.delete("gone");
    let digest = broker.registry.digest();
    for _ in 0..4_096 {
        broker.block("kept", wallet(9));
        broker.apply(&unblocked("kept", wallet(9)));
    }
    assert_eq!(broker.registry.grant_count(), 5_000);
    assert_eq!(broker.registry.digest(), digest);
    assert_eq!(before.registry.grant_count(), 10_000);
    let last = Address::left_padding_from(&[0]);
    assert!(broker.registry.grant(topic_id("kept"), last, Right::Publish).is_some());
}

/// A digest that leaves a fact out would prove nothing.
#[test]
fn every_fact_moves_the_digest() {
    let mut broker = Broker::new();
    broker.register("t", wallet(1)).grant("t", wallet(2), Right::Publish, GENESIS + 100);
    broker.device(wallet(1), wallet(0xD1), GENESIS + 100).ban(wallet(3), GENESIS + 100);
    let (broker_id, id, by) = (BROKER, topic_id("t"), Address::ZERO);
    let origin_banned = |until| Event::OriginBanned {
        broker_id,
        origin: B256::ZERO,
        by,
        until,
        evidence: B256::ZERO,
        reason: String::new(),
    };
    let epoch = broker.epoch("t");
    let retain = Traits { retain: true, ..Traits::default() };
    let sensitive = Traits { sensitive: true, ..Traits::default() };
    let gateway = wallet(5);
    let device = wallet(0xD1);
    let events = [
        Event::BrokerOwnershipTransferred {
            broker_id,
            previous_owner: wallet(0xB0),
            new_owner: wallet(1),
        },
        Event::NamingPolicySet { broker_id, policy: NamingPolicy::Open },
        Event::RegistrarSet { broker_id, registrar: wallet(5), allowed: true },
        Event::GatewaySet { broker_id, gateway, uri: "mqtt://a".into() },
        Event::GatewaySet { broker_id, gateway, uri: "mqtt://b".into() },
        Event::PublishFeeSet { broker_id, wei_per_day: 7, effective_from: GENESIS + 500 },
        Event::PublishFeeSet { broker_id, wei_per_day: 7, effective_from: GENESIS + 501 },
        Event::SaleFeeSet { broker_id, basis_points: 7, effective_from: GENESIS + 500 },
        banned(wallet(3), GENESIS + 101),
        unbanned(wallet(3)),
        origin_banned(GENESIS + 100),
        origin_banned(GENESIS + 101),
        Event::TraitsSet { broker_id, topic_id: id, traits: retain },
        Event::TraitsSet { broker_id, topic_id: id, traits: sensitive },
        Event::OfferSet { broker_id, topic_id: id, right: Right::Publish, offer: PRICED },
        Event::OfferSet { broker_id, topic_id: id, right: Right::Subscribe, offer: PRICED },
        Event::OfferSet { broker_id, topic_id: id, right: Right::Publish, offer: PUBLIC },
        Event::ManagerSet { broker_id, topic_id: id, manager: wallet(2), allowed: true },
        transferred("t", wallet(1), wallet(2)),
        granted("t", wallet(2), Right::Publish, epoch, GENESIS + 101),
        granted("t", wallet(2), Right::Subscribe, epoch, GENESIS + 101),
        revoked("t", wallet(2), Right::Publish, epoch, GENESIS + 100),
        blocked("t", wallet(2)),
        Event::DeviceAuthorized { wallet: wallet(1), device, until: GENESIS + 101, generation: 0 },
        Event::DeviceAuthorized { wallet: wallet(2), device, until: GENESIS + 100, generation: 0 },
        Event::DeviceRevoked { wallet: wallet(1), device },
        Event::AllDevicesRevoked { wallet: wallet(1), generation: 1 },
        Event::TokensInvalidated { wallet: wallet(1), before: 1 },
        Event::TopicDeleted { broker_id, topic_id: id, owner: wallet(1), epoch },
        countries(id, CountryMode::Only, &["GB"]),
        countries(id, CountryMode::Except, &["GB"]),
        countries(id, CountryMode::Only, &["GB", "US"]),
        hidden(id, 1, wallet(1), 1, CLOSED, CLOSED),
        hidden(id, 2, wallet(1), 1, CLOSED, CLOSED),
        hidden(id, 1, wallet(1), 2, CLOSED, CLOSED),
        registered("u", wallet(1), 1, Traits::default(), CLOSED, CLOSED),
        registered("u", wallet(1), 2, Traits::default(), CLOSED, CLOSED),
    ];
    let digest_after = |event: &Event| {
        let mut after = broker.clone();
        after.apply(event);
        after.registry.digest()
    };
    let digests: std::collections::BTreeSet<B256> =
        events.iter().map(digest_after).chain([broker.registry.digest()]).collect();
    assert_eq!(digests.len(), events.len() + 1);

    // What is anchored is remembered, and decides nothing.
    let anchors = [
        anchored(wallet(5), 1, 1),
        anchored(wallet(5), 1, 2),
        anchored(wallet(5), 2, 1),
        anchored(wallet(6), 1, 1),
    ];
    let of_anchors: std::collections::BTreeSet<B256> = anchors.iter().map(digest_after).collect();
    assert_eq!(of_anchors.len(), anchors.len());
    assert!(of_anchors.is_disjoint(&digests));
    assert!(anchors.iter().all(|anchor| anchor.is_remembered() && !anchor.changes_state()));

    let nothing_new = [
        Event::Credited { payee: wallet(1), amount_wei: U256::from(1) },
        Event::PayoutSet { payee: wallet(1), to: wallet(2), is_pull: true },
        Event::NonceUsed { wallet: wallet(1), nonce: U256::ZERO },
    ];
    for event in nothing_new {
        assert!(!event.changes_state());
        assert_eq!(digest_after(&event), broker.registry.digest());
    }
    assert!(events.iter().all(Event::changes_state));
}

#[test]
fn a_fee_that_is_announced_counts_from_its_moment_on() {
    let mut broker = Broker::new();
    let set = |wei_per_day, effective_from| Event::PublishFeeSet {
        broker_id: BROKER,
        wei_per_day,
        effective_from,
    };
    broker.apply(&set(5, GENESIS));
    broker.apply(&set(9, GENESIS + 100));
    let fee = |broker: &Broker, now| broker.registry.publish_fee(now);
    assert_eq!([fee(&broker, GENESIS + 99), fee(&broker, GENESIS + 100)], [5, 9]);
    // Announcing another before that moment leaves what is in force.
    broker.apply(&set(7, GENESIS + 50));
    assert_eq!(
        [fee(&broker, GENESIS + 49), fee(&broker, GENESIS + 50), fee(&broker, GENESIS + 100)],
        [5, 7, 7]
    );
}

/// Ended bans of origins do not pile up, and those in force are never dropped.
#[test]
fn ended_origin_bans_are_dropped_in_time() {
    let mut broker = Broker::new();
    let ban = |number: u64, until| Event::OriginBanned {
        broker_id: BROKER,
        origin: B256::from(U256::from(number)),
        by: Address::ZERO,
        until,
        evidence: B256::ZERO,
        reason: String::new(),
    };
    for number in 0..500 {
        broker.apply(&ban(number, u64::MAX));
    }
    for number in 500..10_000 {
        broker.apply(&ban(number, broker.now() + 5));
    }
    assert_eq!(broker.registry.origin_bans(broker.now() + 100).count(), 500);
    assert!(broker.registry.origin_bans(0).count() < 1_200);
}

/// Denials are short enough for a reason string.
#[test]
fn denials_fit_a_reason_string() {
    let longest = Denial::GrantEnded {
        topic_id: B256::repeat_byte(0xFF),
        until: u64::MAX,
        price_hint: Some((u128::MAX, u32::MAX)),
    };
    assert!(longest.to_string().len() < 240, "{longest}");
    assert!(longest.to_string().contains(&"f".repeat(64)), "{longest}");
}

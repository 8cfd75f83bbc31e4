//! Hidden names that their owners have told: which requests count, and what is decided then.

#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure")]

mod common;

use alloy_primitives::{Address, B256, U256, address};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use common::*;
use flytrap_policy::credential::{Site, name_request_digest};
use flytrap_policy::{
    Action, Basis, CountryMode, Denial, Event, NameRefusal, NameRequest, NameWish, Names, Permit,
    Reach, Registry, Right, Traits, View, hidden_topic_id, name_commitment,
};
use k256::ecdsa::SigningKey;

const SITE: Site = Site {
    chain_id: 31_337,
    broker_registry: address!("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
    broker_id: BROKER,
};
const PUBLISH: Action = Action::Publish { retain: false };
const OWNER: u8 = 0x0A;
const JANE: u8 = 0x0B;
const SALT: B256 = B256::repeat_byte(0x5A);
const DAY: u64 = 86_400;

/// A broker on which names are hidden and told.
struct Ward {
    broker: Broker,
    names: Names,
}

impl Ward {
    fn new() -> Self {
        let mut broker = Broker::new();
        broker.register("p", wallet(OWNER));
        Self { broker, names: Names::default() }
    }

    fn hide(&mut self, parent: B256, name: &str, owner: u8) -> B256 {
        self.hide_with(parent, name, owner, Traits::default())
    }

    fn hide_with(&mut self, parent_id: B256, name: &str, owner: u8, traits: Traits) -> B256 {
        let commitment = name_commitment(SALT, name);
        let topic_id = hidden_topic_id(BROKER, parent_id, commitment);
        self.broker.apply(&Event::HiddenTopicRegistered {
            broker_id: BROKER,
            topic_id,
            owner: wallet(owner),
            epoch: self.broker.at.height,
            parent_id,
            commitment,
            traits,
            publish_offer: CLOSED,
            subscribe_offer: CLOSED,
        });
        topic_id
    }

    fn view(&self) -> View {
        self.broker.view().with_names(&self.names)
    }

    fn request<'a>(&self, topic_id: B256, wish: NameWish<'a>) -> NameRequest<'a> {
        let topic = self.broker.registry.topic_by_id(topic_id).unwrap();
        let at = self.broker.now();
        NameRequest {
            owner: topic.owner,
            topic_id,
            epoch: topic.epoch,
            issued_at: at,
            expires_at: at + 600,
            wish,
        }
    }

    /// Does what a gateway does with a signed request; answers whether anything changed.
    fn ask(&mut self, request: &NameRequest<'_>) -> Result<bool, NameRefusal> {
        let view = self.view();
        request.check(&view, self.broker.now())?;
        let entry = self.names.judge(request, &view)?;
        let is_new = entry.is_some();
        if let Some(entry) = entry {
            self.names.put(request.topic_id, entry);
        }
        Ok(is_new)
    }

    fn tell(&mut self, topic_id: B256, name: &str) -> Result<bool, NameRefusal> {
        self.wait(1);
        let request = self.request(topic_id, NameWish::Disclose { salt: SALT, name });
        self.ask(&request)
    }

    fn erase(&mut self, topic_id: B256) -> Result<bool, NameRefusal> {
        self.wait(1);
        let request = self.request(topic_id, NameWish::Erase);
        self.ask(&request)
    }

    fn wait(&mut self, seconds: u64) {
        self.broker.at.time += seconds;
    }

    fn grant(&mut self, topic_id: B256, to: u8, right: Right) {
        let epoch = self.broker.registry.topic_by_id(topic_id).unwrap().epoch;
        self.broker.apply(&granted_id(topic_id, wallet(to), right, epoch, u64::MAX));
    }
}

fn may(view: &View, who: Address, name: &str) -> Result<Permit, Denial> {
    view.authorize(&own(who), PUBLISH, name, view.time)
}

fn basis(view: &View, who: u8, name: &str) -> Result<Basis, Denial> {
    may(view, wallet(who), name).map(|permit| permit.basis())
}

fn reach(view: &View, who: u8, filter: &str) -> Result<Reach, Denial> {
    view.authorize_filter(&own(wallet(who)), filter, view.time).map(|permit| permit.reach())
}

fn hides(name: &str) -> Denial {
    Denial::HiddenName { topic_id: topic_id(name) }
}

#[test]
fn a_topic_whose_name_was_told_governs_its_branch_and_frees_the_names_beside_it() {
    let mut ward = Ward::new();
    let jane = ward.hide(topic_id("p"), "p/jane", JANE);
    ward.grant(jane, 1, Right::Publish);
    for name in ["p/jane", "p/jane/pulse", "p/john"] {
        assert_eq!(basis(&ward.view(), JANE, name), Err(hides("p")), "{name}");
    }
    assert_eq!(ward.tell(jane, "p/jane"), Ok(true));
    let view = ward.view();
    for name in ["p/jane", "p/jane/pulse"] {
        assert_eq!(basis(&view, JANE, name), Ok(Basis::Owner), "{name}");
        assert_eq!(basis(&view, 1, name), Ok(Basis::Grant), "{name}");
        // The topic above has another owner.
        assert_eq!(basis(&view, OWNER, name), Err(hides("p")), "{name}");
    }
    assert_eq!(basis(&view, OWNER, "p/john"), Ok(Basis::Owner));
    assert_eq!(reach(&view, JANE, "p/jane/#"), Ok(Reach::Covered));
    assert_eq!(reach(&view, OWNER, "p/#"), Err(hides("p")));
    // Only the one who hid knows: what the chain tells is found as before, and hashed as before.
    assert_eq!(view.head.digest(), ward.broker.registry.digest());
    assert!(view.head.topics().all(|topic| topic.hidden.is_none()));
    assert_eq!(&*view.head.topic_by_id(jane).unwrap().name, "");

    assert_eq!(ward.erase(jane), Ok(true));
    for (who, name) in [(JANE, "p/jane"), (1, "p/jane/pulse"), (OWNER, "p/john")] {
        assert_eq!(basis(&ward.view(), who, name), Err(hides("p")), "{name}");
    }
}

/// Whoever could tell a right guess from a wrong one would find the name by a dictionary, and with its id all that is on chain about it.
#[test]
fn a_stranger_who_guesses_a_name_is_told_what_a_wrong_guess_is_told() {
    let mut ward = Ward::new();
    let jane = ward.hide(topic_id("p"), "p/jane", JANE);
    let pulse = ward.hide(jane, "p/jane/pulse", JANE);
    ward.tell(jane, "p/jane").unwrap();
    ward.tell(pulse, "p/jane/pulse").unwrap();
    let epoch = ward.broker.registry.topic_by_id(jane).unwrap().epoch;
    let end = ward.broker.now() + 5;
    ward.broker.apply(&granted_id(jane, wallet(1), Right::Publish, epoch, end));
    let is_same = |ward: &Ward, who: u8| {
        let view = ward.view();
        for (right, wrong) in
            [("p/jane", "p/john"), ("p/jane/pulse", "p/jane/other"), ("p/jane/pulse", "p/x/y")]
        {
            let said = basis(&view, who, right);
            assert_eq!(said, basis(&view, who, wrong), "{right} {wrong}");
            let filters = [right, wrong].map(|name| reach(&view, who, &format!("{name}/#")));
            assert_eq!(filters[0], filters[1], "{right} {wrong}");
            let exact = [right, wrong].map(|name| reach(&view, who, name));
            assert_eq!(exact[0], exact[1], "{right} {wrong}");
            assert!(!format!("{said:?}{filters:?}{exact:?}").contains(&format!("{jane}")));
        }
    };
    is_same(&ward, 9);
    assert_eq!(
        basis(&ward.view(), 9, "p/jane"),
        Err(Denial::NoGrant { topic_id: topic_id("p"), price_hint: None })
    );
    // While another is not told of, all names below are refused as one that may be that.
    ward.hide(topic_id("p"), "p/jim", JANE);
    is_same(&ward, 9);
    assert_eq!(basis(&ward.view(), 9, "p/jane"), Err(hides("p")));
    // Who has had a grant knows of the topic.
    ward.wait(5);
    assert!(
        matches!(basis(&ward.view(), 1, "p/jane"), Err(Denial::GrantEnded { topic_id, .. }) if topic_id == jane)
    );
}

/// Or it would stay in the file within another, and govern.
#[test]
fn a_name_that_is_taken_back_takes_those_along_that_begin_with_it() {
    let mut ward = Ward::new();
    let jane = ward.hide(topic_id("p"), "p/jane", OWNER);
    let pulse = ward.hide(jane, "p/jane/pulse", JANE);
    let janet = ward.hide(topic_id("p"), "p/janet", JANE);
    for (id, name) in [(jane, "p/jane"), (pulse, "p/jane/pulse"), (janet, "p/janet")] {
        ward.tell(id, name).unwrap();
    }
    let below = ward.names.below(jane);
    assert_eq!(below.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [pulse]);
    assert!(ward.names.below(pulse).is_empty());
    let told = ward.request(pulse, NameWish::Disclose { salt: SALT, name: "p/jane/pulse" });
    for (id, entry) in below {
        assert_eq!((entry.name.as_deref(), entry.at), (None, told.issued_at - 1));
        ward.names.put(id, entry);
    }
    ward.erase(jane).unwrap();
    assert_eq!(ward.names.count(), 1);
    // What told it does not count again; a newer one does, once the name above is known.
    let again = NameRequest { issued_at: told.issued_at - 1, ..told };
    assert!(matches!(ward.ask(&again), Err(NameRefusal::Superseded { .. })));
    assert_eq!(ward.tell(pulse, "p/jane/pulse"), Err(NameRefusal::Above));
}

/// A reorganisation may bring an earlier epoch back, and with it a request that was overtaken.
#[test]
fn what_was_taken_back_stays_so_in_whatever_epoch_until_all_that_could_tell_it_has_ended() {
    let mut ward = Ward::new();
    let jane = ward.hide(topic_id("p"), "p/jane", JANE);
    let first = ward.broker.registry.clone();
    ward.wait(1);
    let told = ward.request(jane, NameWish::Disclose { salt: SALT, name: "p/jane" });
    assert_eq!(ward.ask(&told), Ok(true));
    ward.broker.delete_id(jane);
    ward.hide(topic_id("p"), "p/jane", JANE);
    assert_eq!(ward.names.told_in(jane), Some(told.epoch));
    assert_eq!(ward.erase(jane), Ok(true));
    assert_eq!(ward.names.told_in(jane), None);
    ward.broker.registry = first;
    assert!(matches!(ward.ask(&told), Err(NameRefusal::Superseded { .. })));
    let now = ward.broker.now();
    assert_eq!(ward.names.over(now + DAY).count(), 0);
    assert_eq!(ward.names.over(now + DAY + 1).collect::<Vec<_>>(), [jane]);
}

#[test]
fn while_one_hidden_topic_is_not_told_of_names_that_no_known_one_governs_stay_refused() {
    let mut ward = Ward::new();
    let jane = ward.hide(topic_id("p"), "p/jane", OWNER);
    let john = ward.hide(topic_id("p"), "p/john", OWNER);
    ward.tell(jane, "p/jane").unwrap();
    let view = ward.view();
    assert_eq!(basis(&view, OWNER, "p/jane/pulse"), Ok(Basis::Owner));
    for name in ["p/john", "p/jim", "p/janes"] {
        assert_eq!(basis(&view, OWNER, name), Err(hides("p")), "{name}");
    }
    assert_eq!(reach(&view, OWNER, "p/jane/#"), Ok(Reach::Covered));
    assert_eq!(reach(&view, OWNER, "p/#"), Err(hides("p")));
    ward.tell(john, "p/john").unwrap();
    assert_eq!(reach(&ward.view(), OWNER, "p/#"), Ok(Reach::Covered));
}

/// A hidden topic below a hidden one lies somewhere below a name that may be any.
#[test]
fn a_hidden_topic_below_a_hidden_one_is_told_after_it_and_keeps_names_below_it_refused_until_then()
{
    let mut ward = Ward::new();
    let jane = ward.hide(topic_id("p"), "p/jane", OWNER);
    let pulse = ward.hide(jane, "p/jane/pulse", JANE);
    assert_eq!(ward.tell(pulse, "p/jane/pulse"), Err(NameRefusal::Above));
    ward.tell(jane, "p/jane").unwrap();
    let view = ward.view();
    assert_eq!(basis(&view, OWNER, "p/jane"), Ok(Basis::Owner));
    for name in ["p/jane/pulse", "p/jane/other", "p/other"] {
        assert!(matches!(basis(&view, OWNER, name), Err(Denial::HiddenName { .. })), "{name}");
    }
    ward.tell(pulse, "p/jane/pulse").unwrap();
    let view = ward.view();
    assert_eq!(basis(&view, JANE, "p/jane/pulse/x"), Ok(Basis::Owner));
    assert_eq!(basis(&view, OWNER, "p/jane/other"), Ok(Basis::Owner));
    assert_eq!(basis(&view, OWNER, "p/other"), Ok(Basis::Owner));
    // The one above is deleted; the name of the one below is as known as before, and its place goes to the next above.
    ward.broker.delete_id(jane);
    let view = ward.view();
    assert_eq!(basis(&view, JANE, "p/jane/pulse"), Ok(Basis::Owner));
    assert_eq!(basis(&view, OWNER, "p/jane/other"), Ok(Basis::Owner));
    // Forgotten, it may again be anywhere.
    ward.erase(pulse).unwrap();
    assert_eq!(basis(&ward.view(), OWNER, "p/jane/other"), Err(hides("p")));
}

#[test]
fn a_name_that_lies_elsewhere_or_is_taken_is_refused() {
    let mut ward = Ward::new();
    ward.broker.register("q", wallet(1)).register("p/seen", wallet(1));
    for name in ["q/x", "p", "pp/x", "p/seen", "p/seen/x", "r"] {
        let id = ward.hide(topic_id("p"), name, OWNER);
        assert_eq!(ward.tell(id, name), Err(NameRefusal::Elsewhere), "{name}");
        ward.broker.delete_id(id);
    }
    for name in ["p/+", "p/#", "p//x", "p/ x", &format!("p/{}", "x/".repeat(15))] {
        let id = ward.hide(topic_id("p"), name, OWNER);
        assert_eq!(ward.tell(id, name), Err(NameRefusal::NoName), "{name}");
        ward.broker.delete_id(id);
    }
    let jane = ward.hide(topic_id("p"), "p/jane", OWNER);
    ward.tell(jane, "p/jane").unwrap();
    let below = ward.hide(topic_id("p"), "p/jane/pulse", OWNER);
    assert_eq!(ward.tell(below, "p/jane/pulse"), Err(NameRefusal::Elsewhere));
    assert_eq!(ward.tell(jane, "p/jane"), Ok(true), "once more, by a newer request");
    // Somebody who may registers the name on chain: everybody reads there who governs.
    ward.broker.delete_id(below);
    ward.broker.register("p/jane", wallet(2));
    assert_eq!(basis(&ward.view(), 2, "p/jane/x"), Ok(Basis::Owner));
}

#[test]
fn a_request_counts_for_its_owner_epoch_time_and_words_alone() {
    let mut ward = Ward::new();
    let id = ward.hide(topic_id("p"), "p/jane", JANE);
    let good = ward.request(id, NameWish::Disclose { salt: SALT, name: "p/jane" });
    let (at, end) = (good.issued_at, good.expires_at);
    let wish = |salt, name| NameWish::Disclose { salt, name };
    let wrong = [
        (NameRequest { expires_at: at, ..good }, NameRefusal::Life),
        (NameRequest { expires_at: at - 1, ..good }, NameRefusal::Life),
        (NameRequest { expires_at: at + DAY + 1, ..good }, NameRefusal::Life),
        (NameRequest { issued_at: at + 121, ..good }, NameRefusal::NotYetValid),
        (NameRequest { topic_id: topic_id("r"), ..good }, NameRefusal::Unknown),
        (NameRequest { topic_id: topic_id("p"), ..good }, NameRefusal::NotHidden),
        (NameRequest { owner: wallet(OWNER), ..good }, NameRefusal::Owner),
        (NameRequest { wish: wish(SALT, "p/john"), ..good }, NameRefusal::Commitment),
        (NameRequest { wish: wish(B256::ZERO, "p/jane"), ..good }, NameRefusal::Commitment),
    ];
    for (request, refusal) in wrong {
        assert_eq!(ward.ask(&request), Err(refusal), "{request:?}");
    }
    let other = NameRequest { epoch: good.epoch + 1, ..good };
    let (found, known) = (good.epoch + 1, good.epoch);
    assert_eq!(ward.ask(&other), Err(NameRefusal::Epoch { found, known }));
    ward.wait(599);
    assert_eq!(good.check(&ward.view(), end - 1), Ok(()));
    assert_eq!(good.check(&ward.view(), end), Err(NameRefusal::Expired));
    let day = NameRequest { expires_at: at + DAY, ..good };
    assert_eq!(ward.ask(&day), Ok(true), "a day is the most");
    assert_eq!(ward.ask(&day), Ok(false), "and once more changes nothing");
    let shown = format!("{good:?} {:?}", ward.names);
    assert!(!shown.contains("jane") && shown.contains("redacted"), "{shown}");
}

#[test]
fn what_was_taken_back_no_older_request_brings_back() {
    let mut ward = Ward::new();
    let id = ward.hide(topic_id("p"), "p/jane", JANE);
    ward.wait(10);
    let tell = ward.request(id, NameWish::Disclose { salt: SALT, name: "p/jane" });
    let erase = ward.request(id, NameWish::Erase);
    let at = tell.issued_at;
    let early = NameRequest { issued_at: at - 1, ..erase };
    assert_eq!(ward.ask(&tell), Ok(true));
    assert_eq!(ward.ask(&early), Err(NameRefusal::Superseded { at }));
    assert_eq!(ward.ask(&erase), Ok(true), "in the same second taking back is the later");
    assert_eq!(ward.ask(&erase), Ok(false));
    assert_eq!(ward.ask(&early), Ok(false));
    for at_most in [tell, NameRequest { issued_at: at - 5, ..tell }] {
        assert_eq!(ward.ask(&at_most), Err(NameRefusal::Superseded { at }));
    }
    assert_eq!(ward.names.count(), 0);
    let newer = NameRequest { issued_at: at + 1, ..tell };
    assert_eq!(ward.ask(&newer), Ok(true));
    // Taken back where nothing was told, an older request is as worthless.
    let mut other = Ward::new();
    assert_eq!(other.hide(topic_id("p"), "p/jane", JANE), id);
    other.wait(10);
    assert_eq!(other.ask(&erase), Ok(true));
    assert_eq!(other.ask(&tell), Err(NameRefusal::Superseded { at }));
}

#[test]
fn a_name_is_told_for_one_epoch_and_comes_again_with_the_block_that_registered_it() {
    let mut ward = Ward::new();
    let before = ward.broker.clone();
    let id = ward.hide(topic_id("p"), "p/jane", JANE);
    ward.tell(id, "p/jane").unwrap();
    let told = ward.broker.clone();
    // The block is orphaned, and another has the same.
    ward.broker = before;
    assert_eq!(basis(&ward.view(), OWNER, "p/jane"), Ok(Basis::Owner));
    assert_eq!(ward.names.without_topic(&ward.view()).collect::<Vec<_>>(), [id]);
    ward.broker = told;
    assert_eq!(basis(&ward.view(), JANE, "p/jane"), Ok(Basis::Owner));
    assert_eq!(ward.names.without_topic(&ward.view()).count(), 0);
    // Registered again, it is another epoch, of whoever did it.
    ward.broker.delete_id(id);
    ward.hide(topic_id("p"), "p/jane", OWNER);
    assert_eq!(basis(&ward.view(), OWNER, "p/jane"), Err(hides("p")));
    assert_eq!(ward.names.without_topic(&ward.view()).collect::<Vec<_>>(), [id]);
    ward.tell(id, "p/jane").unwrap();
    assert_eq!(basis(&ward.view(), OWNER, "p/jane"), Ok(Basis::Owner));
}

#[test]
fn the_new_owner_of_a_topic_has_its_name_and_alone_takes_it_back() {
    let mut ward = Ward::new();
    let id = ward.hide(topic_id("p"), "p/jane", OWNER);
    ward.tell(id, "p/jane").unwrap();
    let by_old = ward.request(id, NameWish::Erase);
    let before = ward.broker.clone();
    ward.broker.apply(&Event::TopicOwnershipTransferred {
        broker_id: BROKER,
        topic_id: id,
        new_owner: wallet(JANE),
        previous_owner: wallet(OWNER),
    });
    assert_eq!(basis(&ward.view(), JANE, "p/jane"), Ok(Basis::Owner));
    assert!(basis(&ward.view(), OWNER, "p/jane").is_err());
    assert_eq!(ward.ask(&by_old), Err(NameRefusal::Owner));
    // Before that has settled the new owner may take back and not tell.
    let view = ward.broker.view_settled_at(&before).with_names(&ward.names);
    let now = ward.broker.now();
    let tell = ward.request(id, NameWish::Disclose { salt: SALT, name: "p/jane" });
    assert_eq!(tell.check(&view, now), Err(NameRefusal::NotSettled));
    assert_eq!(ward.request(id, NameWish::Erase).check(&view, now), Ok(()));
    assert_eq!(ward.erase(id), Ok(true));
}

#[test]
fn a_known_name_allows_nothing_before_its_topic_has_settled() {
    let mut ward = Ward::new();
    let before = ward.broker.clone();
    let id = ward.hide(topic_id("p"), "p/jane", JANE);
    ward.tell(id, "p/jane").unwrap();
    let view = ward.broker.view_settled_at(&before).with_names(&ward.names);
    assert_eq!(basis(&view, JANE, "p/jane"), Err(Denial::NotSettled));
    assert_eq!(basis(&view, OWNER, "p/jane"), Err(hides("p")));
    let there = ward.broker.clone();
    ward.broker.delete_id(id);
    let view = ward.broker.view_settled_at(&there).with_names(&ward.names);
    assert_eq!(basis(&view, OWNER, "p/jane"), Err(Denial::NotSettled));
    assert!(basis(&view, JANE, "p/jane").is_err());
}

#[test]
fn traits_and_countries_hold_on_a_told_name_and_its_octets_are_told_apart() {
    let mut ward = Ward::new();
    let traits = Traits { sensitive: true, own_branch: true, ..Traits::default() };
    let id = ward.hide_with(topic_id("p"), "p/jane", JANE, traits);
    ward.grant(id, 1, Right::Publish);
    ward.tell(id, "p/jane").unwrap();
    let view = ward.view();
    let own_branch = format!("p/jane/{:#x}/x", wallet(1));
    let permit = may(&view, wallet(1), &own_branch).unwrap();
    assert!(permit.is_sensitive());
    assert_eq!((permit.topic_id(), permit.veiled()), (Some(id), "p/jane".len()));
    assert_eq!(basis(&view, 1, "p/jane/x"), Err(Denial::OtherBranch { topic_id: id }));
    assert_eq!(may(&view, wallet(OWNER), "p").unwrap().veiled(), 0);
    ward.broker.apply(&countries(id, CountryMode::Only, &["GB"]));
    assert_eq!(basis(&ward.view(), JANE, "p/jane"), Err(Denial::Country { topic_id: id }));
}

#[test]
fn no_more_names_are_remembered_than_fit_and_one_that_is_known_can_still_be_taken_back() {
    let mut ward = Ward::new();
    let id = ward.hide(topic_id("p"), "p/jane", JANE);
    let first = ward.hide(topic_id("p"), "p/first", JANE);
    ward.tell(first, "p/first").unwrap();
    let entry = ward.request(first, NameWish::Erase);
    let filler = ward.names.judge(&entry, &ward.view()).unwrap().unwrap();
    for number in 1..Names::MOST {
        ward.names.put(B256::from(U256::from(number)), filler.clone());
    }
    assert_eq!(ward.tell(id, "p/jane"), Err(NameRefusal::Full));
    assert_eq!(ward.erase(first), Ok(true));
    ward.names.remove(first);
    assert_eq!(ward.tell(id, "p/jane"), Ok(true));
}

sol! {
    struct DiscloseName { address owner; bytes32 topicId; uint64 epoch; bytes32 salt; string name; uint64 issuedAt; uint64 expiresAt; }
    struct EraseName { address owner; bytes32 topicId; uint64 epoch; uint64 issuedAt; uint64 expiresAt; }
}

#[test]
fn digests_are_those_of_eip_712_and_only_the_owners_own_signature_over_them_counts() {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let (owner, topic_id) = (Address::from_public_key(key.verifying_key()), B256::repeat_byte(9));
    let wish = NameWish::Disclose { salt: SALT, name: "p/jane" };
    let tell = NameRequest { owner, topic_id, epoch: 3, issued_at: 5, expires_at: 6, wish };
    let erase = NameRequest { wish: NameWish::Erase, ..tell };
    let domain = Eip712Domain::new(
        Some("FlyTrap".into()),
        Some("1".into()),
        Some(U256::from(SITE.chain_id)),
        Some(SITE.broker_registry),
        Some(B256::from(SITE.broker_id)),
    );
    let (epoch, salt, name) = (3, SALT, "p/jane".to_owned());
    let disclosed =
        DiscloseName { owner, topicId: topic_id, epoch, salt, name, issuedAt: 5, expiresAt: 6 };
    let erased = EraseName { owner, topicId: topic_id, epoch, issuedAt: 5, expiresAt: 6 };
    let digests = [&tell, &erase].map(|request| name_request_digest(&SITE, request));
    assert_eq!(
        digests,
        [disclosed.eip712_signing_hash(&domain), erased.eip712_signing_hash(&domain)]
    );
    let (signature, parity) = key.sign_prehash_recoverable(digests[0].as_slice()).unwrap();
    let signature = [&signature.to_bytes()[..], &[27 + parity.to_byte()]].concat();
    assert!(tell.is_signed_by_owner(&SITE, &signature));
    let elsewhere = Site { broker_id: U256::from(2), ..SITE };
    let other = NameRequest { owner: wallet(1), ..tell };
    assert!(!tell.is_signed_by_owner(&elsewhere, &signature));
    assert!(!erase.is_signed_by_owner(&SITE, &signature));
    assert!(!other.is_signed_by_owner(&SITE, &signature));
    for changed in [
        NameRequest { epoch: 4, ..tell },
        NameRequest { issued_at: 4, ..tell },
        NameRequest { expires_at: 7, ..tell },
        NameRequest { wish: NameWish::Disclose { salt: B256::ZERO, name: "p/jane" }, ..tell },
        NameRequest { wish: NameWish::Disclose { salt: SALT, name: "p/john" }, ..tell },
    ] {
        assert!(!changed.is_signed_by_owner(&SITE, &signature), "{changed:?}");
    }
    for wrong in [&signature[..64], &[0; 65][..], &[]] {
        assert!(!tell.is_signed_by_owner(&SITE, wrong));
    }
}

#[test]
fn what_hides_below_hidden_ones_is_counted_after_a_restart_as_before() {
    let mut ward = Ward::new();
    let jane = ward.hide(topic_id("p"), "p/jane", OWNER);
    ward.hide(jane, "p/jane/pulse", JANE);
    ward.tell(jane, "p/jane").unwrap();
    let mut octets = Vec::new();
    ward.broker.registry.store(&mut octets).unwrap();
    ward.broker.registry = Registry::restore(&mut octets.as_slice()).unwrap();
    let view = ward.view();
    assert_eq!(basis(&view, OWNER, "p/jane"), Ok(Basis::Owner));
    assert!(matches!(basis(&view, OWNER, "p/jane/x"), Err(Denial::HiddenName { .. })));
}

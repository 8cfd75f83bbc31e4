//! Topics whose names are not on chain, while nobody has told the names.

#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure")]

mod common;

use alloy_primitives::{Address, B256};
use common::*;
use flytrap_policy::{
    Action, Basis, CountryMode, Denial, Event, Inconsistent, Reach, Registry, Right, Ungoverned,
    View, Wildcards, hidden_topic_id,
};

const PUBLISH: Action = Action::Publish { retain: false };
const OWNER: u8 = 0x0A;
const FOR_EVER: u64 = u64::MAX;

fn may(view: &View, who: Address, name: &str) -> Result<Basis, Denial> {
    view.authorize(&own(who), PUBLISH, name, view.time).map(|permit| permit.basis())
}

fn reach(view: &View, who: Address, filter: &str) -> Result<Reach, Denial> {
    view.authorize_filter(&own(who), filter, view.time).map(|permit| permit.reach())
}

fn hides(name: &str) -> Denial {
    Denial::HiddenName { topic_id: topic_id(name) }
}

#[test]
fn below_a_topic_with_a_hidden_one_nobody_may_do_anything_but_use_its_own_name() {
    let mut broker = Broker::new();
    broker.register_with("p", wallet(OWNER), Default::default(), PUBLIC, PUBLIC);
    broker.register("p/seen", wallet(1)).register("q", wallet(OWNER));
    let id = broker.hide(topic_id("p"), 1, wallet(OWNER));
    let view = broker.view();
    for who in [wallet(OWNER), wallet(1), wallet(7)] {
        for name in ["p/x", "p/x/y", "p/seem", "p/seenx"] {
            assert_eq!(may(&view, who, name), Err(hides("p")), "{name}");
            assert_eq!(reach(&view, who, name), Err(hides("p")), "{name}");
        }
        assert!(may(&view, who, "p").is_ok() && reach(&view, who, "p").is_ok());
    }
    // What another topic governs is none of its business.
    for name in ["p/seen", "p/seen/x"] {
        assert_eq!(may(&view, wallet(1), name), Ok(Basis::Owner), "{name}");
    }
    assert_eq!(may(&view, wallet(OWNER), "q/x"), Ok(Basis::Owner));
    broker.delete_id(id);
    assert_eq!(may(&broker.view(), wallet(OWNER), "p/x"), Ok(Basis::Owner));
}

#[test]
fn a_filter_that_reaches_below_is_refused_and_narrowed_only_to_names_that_are_judged() {
    let mut broker = Broker::new();
    broker.register("p", wallet(OWNER)).register("p/q", wallet(OWNER));
    broker.register("o", wallet(OWNER));
    broker.hide(topic_id("p/q"), 1, wallet(OWNER));
    let owner = wallet(OWNER);
    let view = broker.view();
    for filter in ["p/#", "p/q/#", "p/q/+", "p/+/x", "p/q/x/#"] {
        assert_eq!(reach(&view, owner, filter), Err(hides("p/q")), "{filter}");
    }
    for filter in ["p/+", "o/#", "o/+/x"] {
        assert_eq!(reach(&view, owner, filter), Ok(Reach::Covered), "{filter}");
    }
    broker.options.wildcards = Wildcards::Narrow;
    let view = broker.view();
    for filter in ["p/#", "p/q/#", "p/+/x"] {
        assert_eq!(reach(&view, owner, filter), Ok(Reach::Narrowed), "{filter}");
    }
    for filter in ["p/q/+", "p/q/x/#"] {
        assert_eq!(reach(&view, owner, filter), Err(hides("p/q")), "{filter}");
    }
    // Who may read nothing but the topic above the hidden one may read that one's name only.
    broker.register("p/r", wallet(2));
    broker.hide(topic_id("p/r"), 1, wallet(2));
    let view = broker.view();
    assert_eq!(reach(&view, wallet(2), "p/+"), Ok(Reach::Narrowed));
    assert!(reach(&view, wallet(2), "p/+/x").is_err());
    // Of a shared subscription what one may not read is lost to all.
    assert_eq!(reach(&view, owner, "$share/g/p/#"), Err(hides("p/q")));
}

#[test]
fn hidden_below_hidden_counts_for_the_nearest_name_that_is_known_until_each_is_deleted() {
    let mut broker = Broker::new();
    broker.register("p", wallet(OWNER)).register("p/q", wallet(OWNER));
    let first = broker.hide(topic_id("p/q"), 1, wallet(OWNER));
    let second = broker.hide(first, 1, wallet(OWNER));
    let third = broker.hide(second, 1, wallet(OWNER));
    for id in [second, first, third] {
        assert_eq!(may(&broker.view(), wallet(OWNER), "p/q/x"), Err(hides("p/q")));
        assert_eq!(may(&broker.view(), wallet(OWNER), "p/x"), Ok(Basis::Owner));
        broker.delete_id(id);
    }
    assert_eq!(may(&broker.view(), wallet(OWNER), "p/q/x"), Ok(Basis::Owner));
}

/// They keep their own topics, names unknown, so what comes to govern the name above cannot judge what is below.
#[test]
fn hidden_topics_outlive_the_one_above_them() {
    let mut broker = Broker::with(Ungoverned::Allow, Wildcards::Covered);
    broker.register("g", wallet(1)).register("g/p", wallet(OWNER)).register("p", wallet(OWNER));
    let below = broker.hide(topic_id("g/p"), 1, wallet(OWNER));
    let alone = broker.hide(topic_id("p"), 1, wallet(OWNER));
    broker.delete("g/p").delete("p");
    let view = broker.view();
    assert_eq!(may(&view, wallet(1), "g/p/x"), Err(hides("g/p")));
    assert_eq!(may(&view, wallet(1), "g/p"), Ok(Basis::Owner));
    assert_eq!(may(&view, wallet(1), "g/x"), Ok(Basis::Owner));
    assert_eq!(reach(&view, wallet(1), "g/#"), Err(hides("g/p")));
    assert_eq!(may(&view, wallet(1), "p/x"), Err(hides("p")));
    assert_eq!(may(&view, wallet(1), "p"), Ok(Basis::Ungoverned));
    assert_eq!(reach(&view, wallet(1), "p/#"), Err(hides("p")));
    let names = |registry: &Registry| -> Vec<String> {
        registry.topics().map(|topic| topic.name.to_string()).collect()
    };
    assert_eq!(names(&broker.registry), ["g"]);
    assert!(broker.registry.topic("p").is_none() && broker.registry.governing("p/x").is_none());
    // Registered again by somebody else, the names below are still not his.
    broker.register("p", wallet(2));
    assert_eq!(may(&broker.view(), wallet(2), "p/x"), Err(hides("p")));
    assert_eq!(may(&broker.view(), wallet(2), "p"), Ok(Basis::Owner));
    broker.delete_id(alone).delete_id(below);
    assert_eq!(may(&broker.view(), wallet(2), "p/x"), Ok(Basis::Owner));
    assert_eq!(may(&broker.view(), wallet(1), "g/p/x"), Ok(Basis::Owner));
}

#[test]
fn a_hidden_topic_acts_at_first_sight_and_its_deletion_when_it_has_settled() {
    let mut broker = Broker::new();
    broker.register("p", wallet(OWNER));
    let before = broker.clone();
    let id = broker.hide(topic_id("p"), 1, wallet(OWNER));
    let view = broker.view_settled_at(&before);
    assert_eq!(may(&view, wallet(OWNER), "p/x"), Err(hides("p")));
    let hidden = broker.clone();
    broker.delete_id(id);
    let view = broker.view_settled_at(&hidden);
    assert_eq!(may(&view, wallet(OWNER), "p/x"), Err(Denial::NotSettled));
    assert_eq!(may(&broker.view(), wallet(OWNER), "p/x"), Ok(Basis::Owner));
}

#[test]
fn grants_blocks_managers_and_countries_of_a_hidden_topic_are_kept_by_its_id() {
    let mut broker = Broker::new();
    broker.register("p", wallet(OWNER));
    let id = broker.hide(topic_id("p"), 1, wallet(OWNER));
    assert_eq!(id, hidden_topic_id(BROKER, topic_id("p"), B256::repeat_byte(1)));
    let epoch = broker.registry.topic_by_id(id).unwrap().epoch;
    broker.apply(&granted_id(id, wallet(1), Right::Subscribe, epoch, FOR_EVER));
    broker.apply(&countries(id, CountryMode::Only, &["GB"]));
    broker.apply(&Event::ManagerSet {
        broker_id: BROKER,
        topic_id: id,
        manager: wallet(3),
        allowed: true,
    });
    let topic = broker.registry.topic_by_id(id).unwrap();
    assert_eq!((&*topic.name, topic.owner), ("", wallet(OWNER)));
    assert_eq!(topic.countries.mode(), CountryMode::Only);
    assert_eq!(topic.hidden.as_ref().map(|hidden| &*hidden.below), Some("p"));
    assert_eq!(broker.registry.grant(id, wallet(1), Right::Subscribe), Some(FOR_EVER));
    assert!(broker.registry.is_manager(id, wallet(3)));
    assert_eq!(broker.registry.hidden_topics().count(), 1);
    broker.delete_id(id);
    broker.hide(topic_id("p"), 1, wallet(2));
    assert_eq!(broker.registry.grant(id, wallet(1), Right::Subscribe), None);
    assert_eq!(broker.registry.topic_by_id(id).unwrap().countries.mode(), CountryMode::Any);
}

#[test]
fn a_hidden_topic_whose_parent_or_id_is_not_what_it_says_is_inconsistent() {
    let mut broker = Broker::new();
    broker.register("p", wallet(OWNER));
    let orphan = hidden(topic_id("q"), 1, wallet(1), 1, CLOSED, CLOSED);
    let refused = broker.registry.apply(&orphan, broker.at);
    assert_eq!(refused, Err(Inconsistent::UnknownTopic { topic_id: topic_id("q") }));
    let mut wrong = hidden(topic_id("p"), 1, wallet(1), 1, CLOSED, CLOSED);
    if let Event::HiddenTopicRegistered { commitment, .. } = &mut wrong {
        *commitment = B256::repeat_byte(2);
    }
    let refused = broker.registry.apply(&wrong, broker.at);
    assert!(matches!(refused, Err(Inconsistent::TopicId { .. })), "{refused:?}");
    broker.hide(topic_id("p"), 1, wallet(1));
    let again = hidden(topic_id("p"), 1, wallet(1), 2, CLOSED, CLOSED);
    let refused = broker.registry.apply(&again, broker.at);
    assert!(matches!(refused, Err(Inconsistent::TopicExists { .. })), "{refused:?}");
}

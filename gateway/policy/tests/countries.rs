//! From which countries a topic may be used.

#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure")]

mod common;

use common::*;
use flytrap_policy::{
    Action, Basis, CountryMode, Denial, Lease, Principal, Reach, Right, Ungoverned, View, Wildcards,
};

const PUBLISH: Action = Action::Publish { retain: false };
const OWNER: u8 = 0x0A;
const FOR_EVER: u64 = u64::MAX;

fn may(view: &View, who: &Principal, name: &str) -> Result<Basis, Denial> {
    view.authorize(who, PUBLISH, name, view.time).map(|permit| permit.basis())
}

fn reach(view: &View, who: &Principal, filter: &str) -> Result<Reach, Denial> {
    view.authorize_filter(who, filter, view.time).map(|permit| permit.reach())
}

fn not_from_there(name: &str) -> Denial {
    Denial::Country { topic_id: topic_id(name) }
}

/// A topic, its owner, and a wallet with both rights.
fn broker() -> Broker {
    let mut broker = Broker::new();
    broker.register("t", wallet(OWNER));
    broker.grant("t", wallet(1), Right::Publish, FOR_EVER);
    broker.grant("t", wallet(1), Right::Subscribe, FOR_EVER);
    broker
}

#[test]
fn a_country_rule_binds_everyone_the_owner_too() {
    let mut broker = broker();
    broker.countries("t", CountryMode::Only, &["DE", "GB"]);
    let view = broker.view();
    for (number, basis) in [(OWNER, Basis::Owner), (1, Basis::Grant)] {
        let who = own(wallet(number));
        assert_eq!(may(&view, &from("GB", who), "t/x"), Ok(basis));
        assert_eq!(may(&view, &from("US", who), "t/x"), Err(not_from_there("t")));
        assert_eq!(may(&view, &from("US", who), "t"), Err(not_from_there("t")));
        assert_eq!(reach(&view, &from("GB", who), "t/#"), Ok(Reach::Covered));
        assert_eq!(reach(&view, &from("US", who), "t/#"), Err(not_from_there("t")));
    }
    broker.countries("t", CountryMode::Except, &["GB"]);
    let view = broker.view();
    assert_eq!(may(&view, &from("GB", own(wallet(OWNER))), "t"), Err(not_from_there("t")));
    assert_eq!(may(&view, &from("US", own(wallet(OWNER))), "t"), Ok(Basis::Owner));
}

#[test]
fn an_unknown_country_may_not_use_a_topic_with_a_rule_and_any_other_topic() {
    let mut broker = broker();
    broker.register("free", wallet(1));
    for mode in [CountryMode::Only, CountryMode::Except] {
        broker.countries("t", mode, &["GB"]);
        let view = broker.view();
        assert_eq!(may(&view, &own(wallet(OWNER)), "t"), Err(not_from_there("t")));
        assert_eq!(may(&view, &own(wallet(1)), "free"), Ok(Basis::Owner));
    }
    broker.countries("t", CountryMode::Any, &[]);
    assert_eq!(may(&broker.view(), &own(wallet(OWNER)), "t"), Ok(Basis::Owner));
}

#[test]
fn who_may_not_use_a_topic_from_there_is_told_so_before_a_price() {
    let mut broker = broker();
    broker.countries("t", CountryMode::Only, &["GB"]);
    let denial = may(&broker.view(), &from("US", own(wallet(7))), "t").unwrap_err();
    assert_eq!((denial.rule(), denial.topic_id()), ("country", Some(topic_id("t"))));
    assert!(!denial.ends_session());
}

#[test]
fn a_rule_is_that_of_one_topic_and_ends_with_it() {
    let mut broker = broker();
    broker.register("t/below", wallet(1));
    broker.countries("t", CountryMode::Only, &["GB"]);
    assert_eq!(may(&broker.view(), &own(wallet(1)), "t/below/x"), Ok(Basis::Owner));
    broker.delete("t").register("t", wallet(OWNER));
    assert_eq!(may(&broker.view(), &own(wallet(OWNER)), "t"), Ok(Basis::Owner));
}

#[test]
fn a_stricter_rule_acts_at_first_sight_and_a_laxer_one_when_it_has_settled() {
    let mut broker = broker();
    let gb = from("GB", own(wallet(1)));
    let before = broker.clone();
    broker.countries("t", CountryMode::Only, &["US"]);
    assert_eq!(may(&broker.view_settled_at(&before), &gb, "t"), Err(not_from_there("t")));
    let strict = broker.clone();
    broker.countries("t", CountryMode::Only, &["GB", "US"]);
    assert_eq!(may(&broker.view_settled_at(&strict), &gb, "t"), Err(Denial::NotSettled));
    assert_eq!(reach(&broker.view_settled_at(&strict), &gb, "t/#"), Err(Denial::NotSettled));
    assert_eq!(may(&broker.view(), &gb, "t"), Ok(Basis::Grant));
}

#[test]
fn a_lease_does_not_outlive_a_change_of_the_rule() {
    let mut broker = broker();
    let view = broker.view();
    let mut lease = Lease::new();
    let permit = view.authorize(&own(wallet(1)), PUBLISH, "t", view.time).unwrap();
    lease.keep(&permit, view.version, b"t");
    assert!(lease.permit(view.version, view.time, b"t", false).is_some());
    broker.countries("t", CountryMode::Only, &["GB"]);
    let view = broker.view();
    assert!(lease.permit(view.version, view.time, b"t", false).is_none());
}

#[test]
fn a_wide_filter_is_covered_or_narrowed_by_the_countries_of_each_topic() {
    let mut broker = Broker::with(Ungoverned::Deny, Wildcards::Narrow);
    broker.register("a", wallet(1)).register("a/b", wallet(1));
    broker.countries("a/b", CountryMode::Only, &["GB"]);
    let view = broker.view();
    assert_eq!(reach(&view, &from("GB", own(wallet(1))), "a/#"), Ok(Reach::Covered));
    assert_eq!(reach(&view, &from("US", own(wallet(1))), "a/#"), Ok(Reach::Narrowed));
    assert_eq!(reach(&view, &from("US", own(wallet(1))), "a/b/#"), Err(not_from_there("a/b")));
    broker.options.wildcards = Wildcards::Covered;
    let view = broker.view();
    assert_eq!(reach(&view, &from("US", own(wallet(1))), "a/#"), Err(not_from_there("a/b")));
}

//! Decisions, one claim at a time. Rows of the threat list that a claim is for stand in its doc comment.

mod common;

use std::net::IpAddr;

use alloy_primitives::{Address, B256, address};
use common::*;
use flytrap_policy::{
    Action, Basis, Denial, Dialect, Event, Lease, Origin, Reach, Right, Traits, Ungoverned, View,
    Wildcards,
};

const PUBLISH: Action = Action::Publish { retain: false };
const RETAIN: Action = Action::Publish { retain: true };
const OWNER: u8 = 0x0A;
const FOR_EVER: u64 = u64::MAX;

fn may(view: &View, who: Address, action: Action, name: &str) -> Result<Basis, Denial> {
    view.authorize(&own(who), action, name, view.time).map(|permit| permit.basis())
}

fn reach(view: &View, who: Address, filter: &str) -> Result<Reach, Denial> {
    view.authorize_filter(&own(who), filter, view.time).map(|permit| permit.reach())
}

fn no_grant(name: &str) -> Denial {
    Denial::NoGrant { topic_id: topic_id(name), price_hint: None }
}

/// B16: even the owner of a topic with such a name may not use it, since to the broker it is somebody else's.
#[test]
fn names_that_the_broker_takes_for_others_are_refused_whoever_asks_and_passed_where_it_does_not() {
    let mut broker = Broker::with(Ungoverned::Allow, Wildcards::Narrow);
    let traits = Traits { retain: true, ..Traits::default() };
    broker.register_with("secret.x", wallet(OWNER), traits, CLOSED, CLOSED);
    let plain = broker.view();
    broker.options.dialect = Dialect::RabbitMq;
    let view = broker.view();
    for name in ["secret.x", "secret.x/y", "else.where", "*", "a/*", "a*"] {
        let clash = Err(Denial::Clash { character: if name.contains('.') { '.' } else { '*' } });
        for action in [PUBLISH, RETAIN, Action::Deliver] {
            assert_eq!(may(&view, wallet(OWNER), action, name), clash, "{name}");
            assert!(may(&plain, wallet(OWNER), action, name).is_ok(), "{name}");
        }
        let filters =
            [name.to_owned(), format!("{name}/#"), format!("+/{name}"), format!("$share/g/{name}")];
        for filter in &filters {
            assert_eq!(
                reach(&view, wallet(OWNER), filter).map(drop),
                clash.clone().map(drop),
                "{filter}"
            );
            assert!(reach(&plain, wallet(OWNER), filter).is_ok(), "{filter}");
        }
    }
    assert_eq!(reach(&view, wallet(OWNER), "$share/a.b/c"), Err(Denial::Clash { character: '.' }));
    assert!(may(&view, wallet(OWNER), PUBLISH, "secret/x").is_ok());
    assert!(reach(&view, wallet(OWNER), "else/+/#").is_ok());
}

/// B27
#[test]
fn one_right_is_not_the_other() {
    let mut broker = Broker::new();
    broker.register("t", wallet(OWNER));
    broker.grant("t", wallet(1), Right::Publish, FOR_EVER);
    broker.grant("t", wallet(2), Right::Subscribe, FOR_EVER);
    let view = broker.view();
    assert_eq!(may(&view, wallet(1), PUBLISH, "t"), Ok(Basis::Grant));
    assert_eq!(may(&view, wallet(1), Action::Deliver, "t"), Err(no_grant("t")));
    assert_eq!(reach(&view, wallet(1), "t"), Err(no_grant("t")));
    assert_eq!(reach(&view, wallet(1), "t/#"), Err(no_grant("t")));
    assert_eq!(may(&view, wallet(2), Action::Deliver, "t"), Ok(Basis::Grant));
    assert_eq!(may(&view, wallet(2), PUBLISH, "t"), Err(no_grant("t")));
}

/// B29
#[test]
fn a_grant_holds_before_its_end_and_not_at_it() {
    let mut broker = Broker::new();
    let until = GENESIS + 100;
    broker.register("t", wallet(OWNER)).grant("t", wallet(1), Right::Publish, until);
    let view = broker.view();
    let at = |now| view.authorize(&own(wallet(1)), PUBLISH, "t", now);
    assert_eq!(at(until - 1).unwrap().until(), until);
    let ended = Denial::GrantEnded { topic_id: topic_id("t"), until, price_hint: None };
    assert_eq!(at(until), Err(ended.clone()));
    assert_eq!(at(until + 1), Err(ended));
}

#[test]
fn a_revoked_grant_ends_at_the_block_of_its_revocation_and_can_be_given_again() {
    let mut broker = Broker::new();
    broker.register("t", wallet(OWNER)).grant("t", wallet(1), Right::Publish, FOR_EVER);
    broker.revoke("t", wallet(1), Right::Publish);
    let until = broker.now();
    let ended = Denial::GrantEnded { topic_id: topic_id("t"), until, price_hint: None };
    assert_eq!(may(&broker.view(), wallet(1), PUBLISH, "t"), Err(ended));
    broker.grant("t", wallet(1), Right::Publish, FOR_EVER);
    assert_eq!(may(&broker.view(), wallet(1), PUBLISH, "t"), Ok(Basis::Grant));
}

/// B30
#[test]
fn the_rights_of_the_owner_move_with_the_ownership() {
    let mut broker = Broker::new();
    broker.register("t", wallet(OWNER));
    let actions = [PUBLISH, Action::Deliver];
    for action in actions {
        assert_eq!(may(&broker.view(), wallet(OWNER), action, "t/x"), Ok(Basis::Owner));
    }
    broker.apply(&Event::TopicOwnershipOffered {
        broker_id: BROKER,
        topic_id: topic_id("t"),
        candidate: wallet(1),
        owner: wallet(OWNER),
    });
    assert_eq!(may(&broker.view(), wallet(1), PUBLISH, "t"), Err(no_grant("t")));
    broker.apply(&transferred("t", wallet(OWNER), wallet(1)));
    for action in actions {
        assert_eq!(may(&broker.view(), wallet(OWNER), action, "t/x"), Err(no_grant("t")));
        assert_eq!(may(&broker.view(), wallet(1), action, "t/x"), Ok(Basis::Owner));
    }
}

/// B34: ban by the broker, block by the topic's owner, grant and ownership in every combination.
#[test]
fn a_ban_beats_everything_and_a_block_everything_but_the_owner() {
    let mut cases = 0;
    for bits in 0..16_u8 {
        let [is_banned, is_blocked, is_granted, is_owner] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
        let mut broker = Broker::new();
        let who = wallet(1);
        broker.register("t", if is_owner { who } else { wallet(OWNER) });
        if is_granted {
            broker.grant("t", who, Right::Publish, FOR_EVER);
        }
        if is_blocked {
            broker.block("t", who);
        }
        if is_banned {
            broker.ban(who, FOR_EVER);
        }
        let unbanned_answer = match (is_owner, is_blocked, is_granted) {
            (true, _, _) => Ok(Basis::Owner),
            (false, true, _) => Err(Denial::Blocked { topic_id: topic_id("t") }),
            (false, false, true) => Ok(Basis::Grant),
            (false, false, false) => Err(no_grant("t")),
        };
        let answer = if is_banned {
            Err(Denial::Banned { until: FOR_EVER })
        } else {
            unbanned_answer.clone()
        };
        assert_eq!(may(&broker.view(), who, PUBLISH, "t"), answer, "{bits:04b}");
        if is_banned {
            broker.apply(&unbanned(who));
            assert_eq!(may(&broker.view(), who, PUBLISH, "t"), unbanned_answer, "{bits:04b}");
        }
        if is_blocked {
            broker.apply(&unblocked("t", who));
            let answer = if is_owner {
                Ok(Basis::Owner)
            } else if is_granted {
                Ok(Basis::Grant)
            } else {
                Err(no_grant("t"))
            };
            assert_eq!(may(&broker.view(), who, PUBLISH, "t"), answer, "{bits:04b}");
        }
        cases += 1;
    }
    assert_eq!(cases, 16);
}

#[test]
fn a_block_beats_a_public_offer() {
    let mut broker = Broker::new();
    broker.register_with("t", wallet(OWNER), Traits::default(), CLOSED, PUBLIC);
    assert_eq!(may(&broker.view(), wallet(1), Action::Deliver, "t"), Ok(Basis::Public));
    broker.block("t", wallet(1));
    let blocked = Denial::Blocked { topic_id: topic_id("t") };
    assert_eq!(may(&broker.view(), wallet(1), Action::Deliver, "t"), Err(blocked));
}

#[test]
fn a_ban_ends_at_its_end_and_is_half_open() {
    let mut broker = Broker::new();
    let until = GENESIS + 50;
    broker.register_with("t", wallet(OWNER), Traits::default(), PUBLIC, CLOSED);
    broker.ban(wallet(1), until);
    let view = broker.view();
    let at = |now| view.authorize(&own(wallet(1)), PUBLISH, "t", now).map(|_| ());
    assert_eq!(at(until - 1), Err(Denial::Banned { until }));
    assert_eq!(at(until), Ok(()));
}

#[test]
fn a_device_key_can_be_banned_without_its_wallet() {
    let mut broker = Broker::new();
    broker.register("t", wallet(1)).device(wallet(1), wallet(0xD1), FOR_EVER);
    broker.ban(wallet(0xD1), FOR_EVER);
    let view = broker.view();
    let banned = Err(Denial::Banned { until: FOR_EVER });
    assert_eq!(view.standing(&principal(wallet(1), wallet(0xD1)), view.time), banned);
    assert!(view.standing(&own(wallet(1)), view.time).is_ok());
}

/// B41
#[test]
fn what_was_granted_blocked_and_managed_dies_with_the_epoch() {
    let mut broker = Broker::new();
    let eve = wallet(0xEE);
    broker.register("t", wallet(OWNER)).grant("t", wallet(1), Right::Publish, FOR_EVER);
    broker.block("t", wallet(2));
    broker.apply(&Event::ManagerSet {
        broker_id: BROKER,
        topic_id: topic_id("t"),
        manager: wallet(3),
        allowed: true,
    });
    assert!(broker.registry.is_manager(topic_id("t"), wallet(3)));
    let old = broker.epoch("t");
    broker.delete("t");
    assert_eq!(may(&broker.view(), wallet(1), PUBLISH, "t"), Err(Denial::Ungoverned));
    broker.register("t", eve);
    assert_eq!(may(&broker.view(), wallet(1), PUBLISH, "t"), Err(no_grant("t")));
    assert_eq!(may(&broker.view(), wallet(OWNER), PUBLISH, "t"), Err(no_grant("t")));
    assert_eq!(may(&broker.view(), eve, PUBLISH, "t"), Ok(Basis::Owner));
    assert!(!broker.registry.is_blocked(topic_id("t"), wallet(2)));
    assert!(!broker.registry.is_manager(topic_id("t"), wallet(3)));
    assert_eq!(broker.registry.grant(topic_id("t"), wallet(1), Right::Publish), None);
    let late = granted("t", wallet(1), Right::Publish, old, FOR_EVER);
    assert!(broker.registry.apply(&late, broker.at).is_err());
}

/// B17
#[test]
fn names_that_look_alike_inherit_nothing() {
    let mut broker = Broker::new();
    broker.register("secret/x", wallet(OWNER));
    for right in [Right::Publish, Right::Subscribe] {
        broker.grant("secret/x", wallet(1), right, FOR_EVER);
    }
    let view = broker.view();
    let mut cases = 0;
    for name in [
        "Secret/x",
        "secret/X",
        "/secret/x",
        "secret//x",
        "secret/x/",
        "secret/x//",
        "secret/x//y",
        "secret/x ",
        " secret/x",
        "secret/x\u{FEFF}",
        "\u{FEFF}secret/x",
        "secret/x\u{200D}",
        "secret\u{FF0F}x",
        "secret/xx",
        "secret",
        "secret/",
        "secret/x\u{301}",
        "secret/\u{445}",
        "s\u{435}cret/x",
    ] {
        for action in [PUBLISH, Action::Deliver] {
            assert!(may(&view, wallet(1), action, name).is_err(), "{name:?}");
        }
        assert!(reach(&view, wallet(1), name).is_err(), "{name:?}");
        cases += 1;
    }
    assert_eq!(cases, 19);
    for name in ["secret/x", "secret/x/y", "secret/x/ y", "secret/x/é", "secret/x/$y"] {
        assert_eq!(may(&view, wallet(1), PUBLISH, name), Ok(Basis::Grant), "{name:?}");
    }
    let deep = format!("secret/x{}", "/y".repeat(30_000));
    assert_eq!(may(&view, wallet(1), PUBLISH, &deep), Ok(Basis::Grant));
}

#[test]
fn composed_and_decomposed_letters_are_different_names() {
    let mut broker = Broker::new();
    broker.register("t", wallet(OWNER)).grant("t", wallet(1), Right::Publish, FOR_EVER);
    let view = broker.view();
    let mut lease = Lease::new();
    let permit = view.authorize(&own(wallet(1)), PUBLISH, "t/\u{E9}", view.time).unwrap();
    lease.keep(&permit, view.version, "t/\u{E9}".as_bytes());
    assert!(lease.permit(view.version, view.time, "t/\u{E9}".as_bytes(), false).is_some());
    assert!(lease.permit(view.version, view.time, "t/e\u{301}".as_bytes(), false).is_none());
}

#[test]
fn the_nearest_topic_above_governs_alone() {
    let mut broker = Broker::new();
    broker.register("farm", wallet(OWNER)).register("farm/secret", wallet(OWNER));
    broker.register("farm/n1/ph", wallet(OWNER));
    broker.grant("farm", wallet(1), Right::Subscribe, FOR_EVER);
    broker.grant("farm/n1/ph", wallet(2), Right::Subscribe, FOR_EVER);
    let view = broker.view();
    for name in ["farm", "farm/n1", "farm/n1/x", "farm/secrets", "farm/n2/ph/x"] {
        assert_eq!(may(&view, wallet(1), Action::Deliver, name), Ok(Basis::Grant), "{name}");
        assert_eq!(may(&view, wallet(2), Action::Deliver, name), Err(no_grant("farm")), "{name}");
    }
    for name in ["farm/secret", "farm/secret/x/y"] {
        assert_eq!(may(&view, wallet(1), Action::Deliver, name), Err(no_grant("farm/secret")));
    }
    assert_eq!(may(&view, wallet(2), Action::Deliver, "farm/n1/ph/x"), Ok(Basis::Grant));
    let refused = view.authorize(&own(wallet(1)), Action::Deliver, "farm/n1/ph", view.time);
    assert_eq!(refused.unwrap_err().topic_id(), Some(topic_id("farm/n1/ph")));
}

/// B13: names that the contracts refuse, forged into a log.
#[test]
fn a_name_that_cannot_be_registered_governs_nothing_even_if_a_log_says_so() {
    let mut cases = 0;
    for name in ["#", "+/x", "$share/g/secret", "$SYS/#", "", "a//b", "/a", "a/", "é", "a b"] {
        let mut broker = Broker::with(Ungoverned::Deny, Wildcards::Narrow);
        broker.register("secret", wallet(OWNER)).register(name, wallet(0xEE));
        // Its other events are no contradiction.
        broker.apply(&granted(name, wallet(1), Right::Subscribe, broker.at.height - 1, FOR_EVER));
        assert!(broker.registry.topic(name).is_none());
        assert_eq!(broker.registry.topics().count(), 1);
        let view = broker.view();
        for who in [wallet(0xEE), wallet(1)] {
            for asked in [name, "secret", "x/x", "#", "+/x", "$SYS/x", "a/b"] {
                assert!(may(&view, who, Action::Deliver, asked).is_err(), "{name:?} {asked:?}");
                assert!(reach(&view, who, asked).is_err(), "{name:?} {asked:?}");
            }
        }
        cases += 1;
    }
    assert_eq!(cases, 10);
}

/// B08, B15
#[test]
fn names_that_start_with_a_dollar_are_refused_whoever_asks() {
    let view = Broker::with(Ungoverned::Allow, Wildcards::Narrow).view();
    for name in
        ["$SYS/x", "$CONTROL/dynamic-security/v1", "$queue/secret", "$delayed/1/secret", "$"]
    {
        assert_eq!(may(&view, wallet(1), PUBLISH, name), Err(Denial::ReservedName));
        assert_eq!(may(&view, wallet(1), Action::Deliver, name), Err(Denial::ReservedName));
        assert_eq!(reach(&view, wallet(1), name), Err(Denial::ReservedName));
    }
    for filter in ["$SYS/#", "$exclusive/secret", "$share/g/$SYS/#", "$share/g/$share/h/x"] {
        assert_eq!(reach(&view, wallet(1), filter), Err(Denial::ReservedName));
    }
    for filter in ["$share/g", "$share//x", "$share/+/x", "", "a#", "a/#/b"] {
        assert_eq!(reach(&view, wallet(1), filter), Err(Denial::InvalidName));
    }
    for name in ["", "a/#", "+", "a+b"] {
        assert_eq!(may(&view, wallet(1), PUBLISH, name), Err(Denial::InvalidName));
    }
    assert_eq!(may(&view, wallet(1), PUBLISH, "a/$SYS"), Ok(Basis::Ungoverned));
}

/// B12
#[test]
fn wildcards_over_more_than_exact_grants_are_refused_or_narrowed() {
    let mut broker = Broker::new();
    broker.register("secret/x", wallet(OWNER)).register("a", wallet(OWNER));
    broker.register("a/hidden", wallet(OWNER));
    broker.grant("secret/x", wallet(1), Right::Subscribe, FOR_EVER);
    broker.grant("a", wallet(1), Right::Subscribe, FOR_EVER);
    let view = broker.view();
    for filter in ["#", "+", "+/+", "+/x", "/#", "secret/+", "secret/#"] {
        assert_eq!(reach(&view, wallet(1), filter), Err(Denial::Ungoverned), "{filter}");
    }
    for filter in ["a/#", "a/+", "a/+/x", "$share/g/a/#"] {
        assert_eq!(reach(&view, wallet(1), filter), Err(no_grant("a/hidden")), "{filter}");
    }
    for filter in ["secret/x/#", "secret/x/+/y", "a/other/#", "$share/g/a/other/+"] {
        assert_eq!(reach(&view, wallet(1), filter), Ok(Reach::Covered), "{filter}");
    }
    assert_eq!(reach(&view, wallet(1), "a//+"), Err(Denial::EmptyLevel));
    broker.grant("a/hidden", wallet(1), Right::Subscribe, FOR_EVER);
    assert_eq!(reach(&broker.view(), wallet(1), "a/#"), Ok(Reach::Covered));

    broker.options.wildcards = Wildcards::Narrow;
    let view = broker.view();
    for filter in ["#", "+", "+/+", "+/x", "secret/+", "secret/#"] {
        assert_eq!(reach(&view, wallet(1), filter), Ok(Reach::Narrowed), "{filter}");
        assert_eq!(reach(&view, wallet(2), filter), Err(Denial::Ungoverned), "{filter}");
        // What a member may not read would be lost to the others of the group.
        let shared = format!("$share/g/{filter}");
        assert_eq!(reach(&view, wallet(1), &shared), Err(Denial::Ungoverned), "{shared}");
    }
    assert_eq!(reach(&view, wallet(1), "/#"), Err(Denial::Ungoverned));
    assert_eq!(reach(&view, wallet(1), "+/y/z"), Ok(Reach::Narrowed));
    assert_eq!(reach(&view, wallet(1), "secret/y/+"), Err(Denial::Ungoverned));
}

#[test]
fn a_covered_filter_ends_with_the_first_grant_under_it() {
    for (above, below) in [(500, 300), (300, 500)] {
        let mut broker = Broker::new();
        broker.register("a", wallet(OWNER)).register("a/b", wallet(OWNER));
        broker.grant("a", wallet(1), Right::Subscribe, GENESIS + above);
        broker.grant("a/b", wallet(1), Right::Subscribe, GENESIS + below);
        let view = broker.view();
        let permit = view.authorize_filter(&own(wallet(1)), "a/#", view.time).unwrap();
        assert_eq!((permit.reach(), permit.until()), (Reach::Covered, GENESIS + 300));
        assert_eq!(permit.topic_id(), Some(topic_id("a")));
        assert!(view.authorize_filter(&own(wallet(1)), "a/#", GENESIS + 299).is_ok());
        assert!(view.authorize_filter(&own(wallet(1)), "a/#", GENESIS + 300).is_err());

        let mut later = broker.clone();
        for name in ["a", "a/b"] {
            later.grant(name, wallet(1), Right::Subscribe, GENESIS + 900);
        }
        let view = later.view_settled_at(&broker);
        let permit = view.authorize_filter(&own(wallet(1)), "a/#", view.time).unwrap();
        assert_eq!(permit.until(), GENESIS + 300);
        let view = later.view();
        let mut soon = own(wallet(1));
        soon.credential.expires_at = GENESIS + 800;
        let permit = view.authorize_filter(&soon, "a/#", view.time).unwrap();
        assert_eq!(permit.until(), GENESIS + 800);
    }
}

#[test]
fn topics_below_a_name_are_those_of_whole_levels_in_order() {
    let mut broker = Broker::new();
    for name in ["a", "a!", "a/b", "a/b/c", "a/~", "a0", "ab", "b/a"] {
        broker.register(name, wallet(OWNER));
    }
    let below = |name: &str| {
        broker.registry.topics_below(name).map(|topic| topic.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(below("a"), ["a/b", "a/b/c", "a/~"]);
    assert_eq!(below("b"), ["b/a"]);
    assert_eq!(below("c"), [""; 0]);
    assert_eq!(below("").len(), 8);
}

#[test]
fn a_filter_over_too_many_topics_is_refused_after_a_bounded_look() {
    let mut broker = Broker::new();
    broker.register("t", wallet(OWNER));
    for number in 0..10_000 {
        broker.register(&format!("t/{number}"), wallet(OWNER));
    }
    assert_eq!(reach(&broker.view(), wallet(OWNER), "t/#"), Ok(Reach::Covered));
    broker.register("t/last", wallet(OWNER));
    let too_wide = Err(Denial::FilterTooWide { most: 10_000 });
    assert_eq!(reach(&broker.view(), wallet(OWNER), "t/#"), too_wide);
    assert_eq!(reach(&broker.view(), wallet(1), "t/#"), Err(no_grant("t")));
}

#[test]
fn ungoverned_names_pass_only_where_the_site_says_so() {
    let mut broker = Broker::new();
    broker.register("t", wallet(OWNER));
    assert_eq!(may(&broker.view(), wallet(1), PUBLISH, "other"), Err(Denial::Ungoverned));
    broker.options.ungoverned = Ungoverned::Allow;
    let view = broker.view();
    assert_eq!(may(&view, wallet(1), RETAIN, "other/"), Ok(Basis::Ungoverned));
    assert_eq!(may(&view, wallet(1), PUBLISH, "t/x"), Err(no_grant("t")));
    assert_eq!(may(&view, wallet(1), PUBLISH, "t/"), Err(Denial::EmptyLevel));
    assert_eq!(reach(&view, wallet(1), "other/#"), Ok(Reach::Covered));
    assert_eq!(reach(&view, wallet(1), "#"), Err(no_grant("t")));
    assert_eq!(reach(&view, wallet(OWNER), "#"), Ok(Reach::Covered));
}

/// B09
#[test]
fn retained_messages_need_the_trait() {
    let mut broker = Broker::new();
    let retain = Traits { retain: true, ..Traits::default() };
    broker.register("t", wallet(OWNER)).register_with("r", wallet(OWNER), retain, CLOSED, CLOSED);
    let view = broker.view();
    let refused = Denial::RetainNotAllowed { topic_id: topic_id("t") };
    assert_eq!(may(&view, wallet(OWNER), RETAIN, "t"), Err(refused));
    assert_eq!(may(&view, wallet(OWNER), PUBLISH, "t"), Ok(Basis::Owner));
    assert_eq!(may(&view, wallet(OWNER), RETAIN, "r"), Ok(Basis::Owner));
    assert_eq!(may(&view, wallet(1), RETAIN, "t"), Err(no_grant("t")));
}

#[test]
fn on_an_own_branch_topic_each_key_is_shut_in_its_branch() {
    let mut broker = Broker::new();
    let traits = Traits { own_branch: true, ..Traits::default() };
    let fleet = address!("0xABCDEFabcdefabcdefABCDEFabcdefABCDefabCD");
    let device = address!("0x00000000000000000000000000000000000000Ed");
    broker.register_with("f", wallet(OWNER), traits, CLOSED, CLOSED);
    broker.grant("f", fleet, Right::Publish, FOR_EVER).grant(
        "f",
        fleet,
        Right::Subscribe,
        FOR_EVER,
    );
    broker.device(fleet, device, FOR_EVER);
    let view = broker.view();
    let other = Denial::OtherBranch { topic_id: topic_id("f") };
    let of_wallet = format!("f/{fleet:#x}");
    let of_device = format!("f/{device:#x}");
    assert_eq!(of_wallet, "f/0xabcdefabcdefabcdefabcdefabcdefabcdefabcd");
    let by_device = principal(fleet, device);
    for (who, open, shut) in
        [(own(fleet), &of_wallet, &of_device), (by_device, &of_device, &of_wallet)]
    {
        for action in [PUBLISH, Action::Deliver] {
            let may = |name: &str| view.authorize(&who, action, name, view.time).map(|_| ());
            assert_eq!(may(open), Ok(()));
            assert_eq!(may(&format!("{open}/x")), Ok(()));
            for name in [
                "f",
                "f/x",
                shut,
                &format!("{shut}/x"),
                &format!("{open}0"),
                &open.to_uppercase().replace('F', "f"),
            ] {
                assert!(may(name).is_err(), "{name}");
            }
            assert_eq!(may("f/x"), Err(other.clone()));
        }
        let filter = |filter: &str| {
            view.authorize_filter(&who, filter, view.time).map(|permit| permit.reach())
        };
        assert_eq!(filter(&format!("{open}/#")), Ok(Reach::Covered));
        assert_eq!(filter(&format!("{open}/+/x")), Ok(Reach::Covered));
        for wide in ["f/#", "f/+", "f/+/x", &format!("{shut}/#")] {
            assert_eq!(filter(wide), Err(other.clone()), "{wide}");
        }
    }
    // The owner's own key reads and writes the whole fleet, the owner's device keys do not.
    assert_eq!(may(&view, wallet(OWNER), PUBLISH, "f/x"), Ok(Basis::Owner));
    assert!(view.authorize_filter(&own(wallet(OWNER)), "f/#", view.time).is_ok());
    broker.device(wallet(OWNER), wallet(77), FOR_EVER);
    let owners_device = principal(wallet(OWNER), wallet(77));
    let denied = broker.view().authorize(&owners_device, PUBLISH, "f/x", view.time).map(|_| ());
    assert_eq!(denied, Err(other));
    broker.options.wildcards = Wildcards::Narrow;
    let view = broker.view();
    assert_eq!(reach(&view, fleet, "f/+"), Ok(Reach::Narrowed));
    assert!(reach(&view, fleet, "f/x/+").is_err());
}

#[test]
fn a_refusal_names_the_price_of_a_right_that_is_for_sale() {
    let mut broker = Broker::new();
    broker.register_with("t", wallet(OWNER), Traits::default(), CLOSED, PRICED);
    let view = broker.view();
    let denial = may(&view, wallet(1), Action::Deliver, "t").unwrap_err();
    assert_eq!(denial, Denial::NoGrant { topic_id: topic_id("t"), price_hint: Some((5, 60)) });
    assert!(denial.to_string().ends_with("price 5 wei per 60 s"), "{denial}");
    assert_eq!(may(&view, wallet(1), PUBLISH, "t"), Err(no_grant("t")));
}

/// B40
#[test]
fn permissions_count_once_settled_and_restrictions_at_once() {
    let mut settled = Broker::new();
    settled.register("t", wallet(OWNER)).grant("t", wallet(1), Right::Publish, FOR_EVER);
    settled.apply(&blocked("t", wallet(3)));
    let mut head = settled.clone();
    head.revoke("t", wallet(1), Right::Publish);
    head.grant("t", wallet(2), Right::Publish, FOR_EVER);
    head.grant("t", wallet(3), Right::Publish, FOR_EVER).apply(&unblocked("t", wallet(3)));
    let view = head.view_settled_at(&settled);
    assert!(matches!(may(&view, wallet(1), PUBLISH, "t"), Err(Denial::GrantEnded { .. })));
    assert_eq!(may(&view, wallet(2), PUBLISH, "t"), Err(Denial::NotSettled));
    assert_eq!(may(&view, wallet(3), PUBLISH, "t"), Err(Denial::NotSettled));
    assert_eq!(reach(&view, wallet(2), "t/#"), Err(no_grant("t")));
    assert_eq!(may(&head.view(), wallet(2), PUBLISH, "t"), Ok(Basis::Grant));

    let mut banned = head.clone();
    banned.ban(wallet(2), FOR_EVER);
    let view = banned.view_settled_at(&head);
    assert_eq!(may(&view, wallet(2), PUBLISH, "t"), Err(Denial::Banned { until: FOR_EVER }));
    let mut unbanned_again = banned.clone();
    unbanned_again.apply(&unbanned(wallet(2)));
    let view = unbanned_again.view_settled_at(&banned);
    assert_eq!(may(&view, wallet(2), PUBLISH, "t"), Err(Denial::Banned { until: FOR_EVER }));
}

#[test]
fn a_permit_ends_with_the_first_of_what_it_stands_on() {
    let mut settled = Broker::new();
    settled.register("t", wallet(OWNER)).device(wallet(1), wallet(0xD1), GENESIS + 400);
    settled.grant("t", wallet(1), Right::Publish, GENESIS + 300);
    let mut head = settled.clone();
    head.grant("t", wallet(1), Right::Publish, GENESIS + 350);
    let view = head.view_settled_at(&settled);
    let by_device = principal(wallet(1), wallet(0xD1));
    let until = |who| view.authorize(&who, PUBLISH, "t", view.time).unwrap().until();
    assert_eq!(until(by_device), GENESIS + 300);
    let mut soon = by_device;
    soon.credential.expires_at = GENESIS + 200;
    assert_eq!(until(soon), GENESIS + 200);
    let at = |now| view.authorize(&soon, PUBLISH, "t", now).map(|_| ());
    assert_eq!(at(GENESIS + 199), Ok(()));
    assert_eq!(at(GENESIS + 200), Err(Denial::CredentialExpired));
    head.device(wallet(1), wallet(0xD1), GENESIS + 100);
    let view = head.view_settled_at(&settled);
    assert_eq!(view.standing(&by_device, view.time), Ok(GENESIS + 100));
}

#[test]
fn what_stood_on_a_device_key_ends_with_it() {
    let mut broker = Broker::new();
    let (owner, device) = (wallet(1), wallet(0xD1));
    let by_device = principal(owner, device);
    let stands = |broker: &Broker| broker.view().standing(&by_device, broker.now());
    assert_eq!(stands(&broker), Err(Denial::DeviceEnded));
    broker.device(owner, device, GENESIS + 1_000);
    assert_eq!(stands(&broker), Ok(GENESIS + 1_000));
    let view = broker.view();
    assert!(view.standing(&by_device, GENESIS + 999).is_ok());
    assert_eq!(view.standing(&by_device, GENESIS + 1_000), Err(Denial::DeviceEnded));

    let mut revoked = broker.clone();
    revoked.apply(&Event::DeviceRevoked { wallet: owner, device });
    assert_eq!(stands(&revoked), Err(Denial::DeviceEnded));
    revoked.device(wallet(2), device, FOR_EVER);
    assert_eq!(stands(&revoked), Err(Denial::DeviceEnded));

    let mut all = broker.clone();
    all.apply(&Event::AllDevicesRevoked { wallet: owner, generation: 1 });
    assert_eq!(stands(&all), Err(Denial::DeviceEnded));
    all.apply(&Event::DeviceAuthorized { wallet: owner, device, until: FOR_EVER, generation: 1 });
    assert!(stands(&all).is_ok());
}

#[test]
fn a_key_that_became_a_device_key_is_no_wallet_of_its_own() {
    let mut broker = Broker::new();
    let as_wallet = own(wallet(0xD1));
    assert!(broker.view().standing(&as_wallet, GENESIS).is_ok());
    broker.device(wallet(1), wallet(0xD1), GENESIS + 100);
    let view = broker.view();
    assert_eq!(view.standing(&as_wallet, GENESIS + 50), Err(Denial::KeyIsDevice));
    assert_eq!(view.standing(&as_wallet, GENESIS + 100), Err(Denial::DeviceEnded));
}

#[test]
fn invalidated_tokens_end_live_sessions_of_the_wallet_but_not_of_its_devices() {
    let mut broker = Broker::new();
    broker.device(wallet(1), wallet(0xD1), FOR_EVER);
    broker.apply(&Event::TokensInvalidated { wallet: wallet(1), before: GENESIS + 1 });
    let view = broker.view();
    let mut who = own(wallet(1));
    assert_eq!(view.standing(&who, view.time), Err(Denial::TokenInvalidated));
    who.credential.issued_at = GENESIS + 1;
    assert!(view.standing(&who, view.time).is_ok());
    assert!(view.standing(&principal(wallet(1), wallet(0xD1)), view.time).is_ok());
}

#[test]
fn an_origin_ban_counts_at_once_and_its_end_once_settled() {
    let origin = Origin::from(IpAddr::from([192, 0, 2, 7])).pseudonym(&[7; 32]);
    let until = GENESIS + 100;
    let ban = Event::OriginBanned {
        broker_id: BROKER,
        origin,
        by: Address::ZERO,
        until,
        evidence: B256::ZERO,
        reason: String::new(),
    };
    let before = Broker::new();
    let mut banned = before.clone();
    banned.apply(&ban);
    let mut after = banned.clone();
    after.apply(&Event::OriginUnbanned { broker_id: BROKER, origin, by: Address::ZERO });
    assert!(!before.view().origin_banned(origin, GENESIS));
    assert!(banned.view_settled_at(&before).origin_banned(origin, until - 1));
    assert!(!banned.view_settled_at(&before).origin_banned(origin, until));
    assert!(after.view_settled_at(&banned).origin_banned(origin, until - 1));
    assert!(!after.view().origin_banned(origin, GENESIS));
}

#[test]
fn a_lease_gives_the_permit_again_for_the_same_name_version_and_time_only() {
    let mut broker = Broker::new();
    let until = GENESIS + 100;
    broker.register("t", wallet(OWNER)).grant("t", wallet(1), Right::Publish, until);
    let view = broker.view();
    let permit = view.authorize(&own(wallet(1)), PUBLISH, "t/x", view.time).unwrap();
    let mut lease = Lease::new();
    assert!(lease.permit(view.version, view.time, b"t/x", false).is_none());
    lease.keep(&permit, view.version, b"t/x");
    assert_eq!(lease.permit(view.version, until - 1, b"t/x", false), Some(permit));
    assert_eq!(lease.permit(view.version, until, b"t/x", false), None);
    assert_eq!(lease.permit(view.version + 1, view.time, b"t/x", false), None);
    assert_eq!(lease.permit(view.version, view.time, b"t/xx", false), None);
    assert_eq!(lease.permit(view.version, view.time, b"t", false), None);
    assert_eq!(lease.permit(view.version, view.time, b"t/x", true), None);
    lease.forget();
    assert_eq!(lease.permit(view.version, view.time, b"t/x", false), None);
}

#[test]
fn a_lease_of_a_topic_that_retains_serves_retained_messages_too() {
    let mut broker = Broker::new();
    let retain = Traits { retain: true, ..Traits::default() };
    broker.register_with("t", wallet(OWNER), retain, PUBLIC, CLOSED);
    let view = broker.view();
    let permit = view.authorize(&own(wallet(1)), PUBLISH, "t", view.time).unwrap();
    let mut lease = Lease::new();
    lease.keep(&permit, view.version, b"t");
    assert!(lease.permit(view.version, view.time, b"t", true).is_some());
}
